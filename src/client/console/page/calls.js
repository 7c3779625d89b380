// The calls as cards: who with whom, how it stands, and what can be done about it.

import { callState, commandById, domainOf, isCancellable, isGone, liveCalls, refusalOf, refusalText, shortName, shortId, transferPreview } from "./protocol.js";
import { element, icon, attribute, say, show, keyedList, clock, copyText } from "./element.js";
import { addressField, nameCall, showRefusal } from "./forms.js";

const ENDED_SHOWN = 4;
const HUES = 6;

/** `world` is that of the forms, with `away()`: when the connection was lost, or null. Returns `{update(model), tick(now), cards}`. */
export function callCards(parent, world) {
  const cards = new Map();
  const sync = keyedList(parent, (call) => call.key, (call) => {
    const card = callCard(call, world);
    cards.set(call.key, card);
    return card;
  });
  return {
    update(model) {
      const live = liveCalls(model).reverse();
      const over = model.calls.filter(isGone).reverse().slice(0, ENDED_SHOWN);
      const stood = [...cards.values()].find((card) => card.root.contains(document.activeElement));
      sync([...live, ...over]);
      // Who stood on a button that is gone now stands on its call.
      const focused = document.activeElement;
      if (stood?.root.isConnected && (!stood.root.contains(focused) || focused.closest("[hidden]"))) {
        stood.root.focus({ preventScroll: true });
      }
      const kept = new Set([...live, ...over].map((call) => call.key));
      for (const key of cards.keys()) if (!kept.has(key)) cards.delete(key);
    },
    tick(now) {
      for (const card of cards.values()) card.tick(now);
    },
    /** The card that has the focus, or the only live one. */
    current() {
      const focused = [...cards.values()].find((card) => card.root.contains(document.activeElement));
      if (focused) return focused;
      const live = [...cards.values()].filter((card) => !isGone(card.call()));
      return live.length === 1 ? live[0] : undefined;
    },
    /** Moves the focus to the next (1) or previous (-1) card. */
    move(step) {
      const roots = [...parent.children];
      if (roots.length === 0) return;
      const at = roots.findIndex((root) => root.contains(document.activeElement));
      const next = at === -1 ? (step > 0 ? 0 : roots.length - 1) : Math.min(Math.max(at + step, 0), roots.length - 1);
      roots[next].focus();
    },
  };
}

function callCard(first, world) {
  let call = first;
  const caller = party();
  const callee = party();
  const pill = element("span.pill");
  const time = element("span.clock");
  const note = element("p.call-note", { hidden: true });
  const alert = element("p.form-alert", { role: "alert", hidden: true });
  const copy = element("button.quiet.call-id", { type: "button", "aria-label": "Copy the Call-ID" }, icon("copy"));
  copy.addEventListener("click", async () => {
    if (await copyText(call.callid)) world.announce("Call-ID copied");
  });

  const run = async (method, params) => {
    show(alert, false);
    const reply = await world.ask(method, params);
    const complain = (field, words) => {
      if (field === "destination") return; // said at the field
      alert.replaceChildren(field ? `${field}: ${words}` : words);
      show(alert, true);
    };
    if (reply.lost) complain(null, reply.lost);
    else if (reply.error) showRefusal(reply.error, complain, alert, world);
    return reply;
  };
  // Not `disabled` while the call is busy: that would take the focus from who just pressed it.
  const action = (name, words, act, kind = "quiet") => {
    const press = (event) => event.currentTarget.ariaDisabled === "true" || act();
    return element(`button.${kind}`, { type: "button", dataset: { action: name }, onclick: press }, icon(name), element("span", {}, words));
  };

  const hold = action("hold", "Hold", () =>
    run(hold.dataset.action === "hold" ? "CallHold" : "CallUnhold", { callid: call.callid }),
  );
  const transfer = action("transfer", "Transfer", () => (panel.root.hidden ? panel.open() : panel.close()));
  const end = action("end", "End", () => run("CallEnd", { callid: call.callid }), "danger");
  const cancel = action("end", "Cancel", () => run("CommandCancel", { cmd_id: call.busy }), "danger");
  cancel.dataset.action = "cancel";
  const panel = transferPanel(world, () => call, run, transfer);

  const root = element(
    "article.call",
    { tabindex: "0", dataset: { key: first.key } },
    element("div.parties", {}, caller.root, element("div.wire", {}, pill, time), callee.root),
    note,
    alert,
    element("div.actions", {}, hold, transfer, cancel, end, copy),
    panel.root,
  );

  const card = {
    root,
    call: () => call,
    update(next) {
      call = next;
      const model = world.model();
      const state = callState(call, model);
      const busy = commandById(model, call.busy);
      const over = isGone(call);
      // While a phone is moved it can be let go or stopped; the rest waits.
      const moves = Boolean(busy) && isCancellable(busy);
      const established = !over && call.callid !== undefined && (call.state === "talking" || call.state === "unknown");
      // In doubt the button that lets people talk again: it also finds out.
      const held = call.held.caller || call.held.callee || call.holdDoubt;
      root.dataset.state = state.name;
      root.classList.toggle("failed", state.failed === true);
      caller.update(call.caller, call.held.caller, call.callid);
      callee.update(call.callee, call.held.callee, call.callid);
      say(pill, state.words);
      attribute(root, "aria-label", `Call, ${shortName(call.caller)} and ${shortName(call.callee)}, ${state.words}`);
      say(note, call.note ? noteWords(call.note, over) : "");
      show(note, Boolean(call.note));
      show(hold, established && !moves);
      turn(hold, held ? "resume" : "hold", held ? "Resume" : "Hold");
      show(transfer, established && !moves);
      show(cancel, moves);
      show(end, established);
      for (const button of [hold, transfer]) attribute(button, "aria-disabled", busy ? "true" : null);
      attribute(copy, "title", call.callid && `Copy the Call-ID ${call.callid}`);
      show(copy, Boolean(call.callid));
      // Until it is accepted the form stays: the answer may name one of its fields.
      if (!established || (busy && busy.status !== "sending")) panel.close();
      panel.refresh();
      card.tick(Date.now());
    },
    tick(now) {
      // What was never answered has rung, but lasted no time.
      const from = call.answeredAt ?? (isGone(call) ? undefined : call.at);
      const away = isGone(call) ? null : world.away();
      const lasts = call.foreign || from === undefined ? "" : clock((call.endedAt ?? away ?? now) - from);
      say(time, away === null ? lasts : [lasts, "as last told"].filter(Boolean).join(" · "));
    },
    /** What a key does to the call this card shows. */
    act(name) {
      const button = { hold, transfer, end: end.hidden ? cancel : end }[name];
      if (button.hidden) return;
      // Ending is two keys: the first goes to the button, Enter presses it.
      if (name === "end") button.focus();
      else button.click();
    },
  };
  return card;
}

/** Makes a button do and say something else, without taking the focus from it. */
function turn(button, name, words) {
  if (button.dataset.action === name) return;
  button.dataset.action = name;
  button.replaceChildren(icon(name), element("span", {}, words));
}

function noteWords(note, over) {
  return over ? note.charAt(0).toUpperCase() + note.slice(1) : note;
}

function party() {
  const letter = element("span.avatar", { "aria-hidden": "true" });
  const name = element("span.party-name");
  const address = element("span.party-address");
  return {
    root: element("div.party", {}, letter, element("div.party-words", {}, name, address)),
    update(uri, held, callid) {
      const short = uri ? shortName(uri) : "?";
      say(letter, [...short][0].toUpperCase());
      letter.dataset.hue = String([...short].reduce((sum, c) => sum + c.codePointAt(0), 0) % HUES);
      say(name, uri ? short : "Not known");
      say(address, uri ? domainOf(uri) : shortId(callid));
      attribute(address, "title", uri ?? callid);
      letter.classList.toggle("on-hold", Boolean(held));
    },
  };
}

/** Transfer to an address, or join with another call, without a Call-ID in sight. */
function transferPanel(world, call, run, opener) {
  const name = `transfer-${++panels}`;
  const movers = {};
  const moverLabels = {};
  const mover = element(
    "fieldset.field.legs",
    { dataset: { field: "leg" } },
    element("legend", {}, "Who moves on"),
    element("div.choices", {}, ["caller", "callee"].map((leg) => radio(`${name}-leg`, leg, movers, moverLabels))),
  );
  movers.callee.checked = true;
  const destination = addressField(
    { name: "destination", label: "To", kind: "address", required: true },
    world,
    { chips: true },
  );
  const other = element("select");
  const others = {};
  const otherLabels = {};
  const joined = element(
    "div.joined",
    {},
    element("label.field", {}, element("span", {}, "With the call"), other),
    element(
      "fieldset.field.legs",
      {},
      element("legend", {}, "With whom of it"),
      element("div.choices", {}, ["caller", "callee"].map((leg) => radio(`${name}-other`, leg, others, otherLabels))),
    ),
  );
  others.callee.checked = true;
  const modes = {};
  const mode = element(
    "div.modes",
    { role: "radiogroup", "aria-label": "Kind of transfer" },
    radio(`${name}-mode`, "address", modes, {}, "To an address"),
    radio(`${name}-mode`, "call", modes, {}, "Join another call"),
  );
  modes.address.checked = true;
  const preview = element("p.preview-words", { "aria-live": "polite" });
  const root = element(
    "form.transfer",
    { hidden: true, novalidate: true, "aria-label": "Transfer" },
    mode,
    mover,
    destination.root,
    joined,
    preview,
    element(
      "div.form-end",
      {},
      element("button.primary", { type: "submit" }, "Transfer"),
      element("button.quiet", { type: "button", onclick: () => panel.close(true) }, "Not now"),
    ),
  );

  const chosen = (radios) => (radios.callee.checked ? "callee" : "caller");
  const partner = () => liveCalls(world.model()).find((candidate) => candidate.key === other.value);
  const panel = {
    root,
    open() {
      show(root, true);
      attribute(opener, "aria-expanded", "true");
      panel.refresh();
      destination.focus();
    },
    close(back = false) {
      if (root.hidden) return;
      show(root, false);
      attribute(opener, "aria-expanded", "false");
      destination.error(null);
      if (back) opener.focus();
    },
    refresh() {
      if (root.hidden) return;
      const own = call();
      const rest = liveCalls(world.model()).filter((c) => c.key !== own.key && c.state === "talking" && c.callid);
      show(mode, rest.length > 0);
      if (rest.length === 0) modes.address.checked = true;
      const joining = modes.call.checked;
      show(destination.root, !joining);
      show(joined, joining);
      const wanted = other.value;
      const listed = rest.map((c) => `${c.key}\n${nameCall(c, world.model())}`).join("\n\n");
      if (other.dataset.listed !== listed) {
        other.dataset.listed = listed;
        other.replaceChildren(...rest.map((c) => element("option", { value: c.key }, nameCall(c, world.model()))));
        if (rest.some((c) => c.key === wanted)) other.value = wanted;
      }
      for (const leg of ["caller", "callee"]) {
        say(moverLabels[leg], own[leg] ? shortName(own[leg]) : leg);
        say(otherLabels[leg], partner()?.[leg] ? shortName(partner()[leg]) : leg);
      }
      const leg = chosen(movers);
      const left = leg === "caller" ? "callee" : "caller";
      const typed = root.querySelector(".field[data-field=destination] input").value.trim();
      const target = joining ? partner()?.[chosen(others)] : typed;
      say(preview, transferPreview(own[leg] ?? leg, own[left] ?? left, target));
    },
  };
  root.addEventListener("input", panel.refresh);
  root.addEventListener("change", panel.refresh);
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    panel.close(true);
  });
  root.addEventListener("submit", async (event) => {
    event.preventDefault();
    const own = call();
    if (modes.call.checked) {
      const second = partner();
      if (!second) return;
      const reply = await run("CallAttendedTransfer", {
        callidA: own.callid,
        legA: chosen(movers),
        callidB: second.callid,
        legB: chosen(others),
      });
      if (reply.result) panel.close();
      return;
    }
    const to = destination.value();
    if (to === undefined) {
      destination.error("Where to?");
      destination.focus();
      return;
    }
    const reply = await run("CallBlindTransfer", { callid: own.callid, leg: chosen(movers), destination: to });
    if (reply.result) {
      world.book.remember(to);
      destination.set("");
      panel.close();
    } else if (reply.error && refusalOf(reply.error).field === "destination") {
      destination.error(refusalText(refusalOf(reply.error)));
      destination.focus();
    }
  });
  return panel;
}

let panels = 0;

function radio(group, value, inputs, labels, words = value) {
  inputs[value] = element("input", { type: "radio", name: group, value });
  labels[value] = element("span", {}, words);
  return element("label.choice", {}, inputs[value], labels[value]);
}
