// Forms made from the protocol's table of methods: fields, suggestions, and errors at the field
// they belong to.

import { METHODS, callById, callState, completeAddress, isCancellable, isGone, liveCalls, refusalOf, refusalText, request,
  shortId, shortName, subjectOf, titleOf } from "./protocol.js";
import { element, attribute, say, show } from "./element.js";

const OTHER = "\u0000other";
let made = 0;

/**
 * A form for one method. `world` gives `{model(), book, ask(method, params), reveal(commandId)}`;
 * `options` may hold `chips` (show suggestions), `preview` (show the request) and `verb`.
 */
export function commandForm(method, world, options = {}) {
  const spec = METHODS[method];
  const fields = spec.fields.map((field) => makeField(field, world, options));
  const byName = new Map(fields.map((field) => [field.name, field]));
  const alert = element("p.form-alert", { role: "alert", hidden: true });
  const answer = element("pre.answer", { hidden: true, tabindex: "0", "aria-label": "The answer" });
  const submit = element("button.primary", { type: "submit" }, options.verb ?? spec.verb);
  const preview = options.preview ? element("pre.preview", { "aria-label": "The request this sends" }) : null;
  const more = fields.filter((field) => field.more);
  const folded = more.length
    ? element("details.more", {}, element("summary", {}, "More options"), more.map((field) => field.root))
    : null;
  const root = element(
    "form.command-form",
    { novalidate: true, autocomplete: "off", "aria-label": spec.title, dataset: { method } },
    options.about === false ? null : element("p.about", {}, spec.about),
    fields.filter((field) => !field.more).map((field) => field.root),
    folded,
    alert,
    preview ? element("details.more", {}, element("summary", {}, "As it goes on the wire"), preview) : null,
    element("div.form-end", {}, submit, options.beside),
    answer,
  );

  const values = () => Object.fromEntries(fields.map((field) => [field.name, field.value()]));
  const form = {
    root,
    /** Puts the cursor in a field, by default the first. */
    focus: (name) => (byName.get(name) ?? fields[0])?.focus(),
    fill(given) {
      for (const [name, value] of Object.entries(given)) byName.get(name)?.set(value);
      form.refresh();
    },
    /** Brings choices of calls and commands up to date. */
    refresh() {
      for (const field of fields) field.refresh?.(byName);
      if (preview) say(preview, JSON.stringify(request("…", method, { ...values(), cmd_id: "…" }), null, 2));
    },
  };

  const clear = () => {
    fields.forEach((field) => field.error(null));
    show(alert, false);
    show(answer, false);
  };
  const complain = (field, words) => {
    const target = byName.get(field);
    if (!target) {
      alert.replaceChildren(field ? `${field}: ${words}` : words);
      show(alert, true);
      return;
    }
    if (target.more) folded.open = true;
    target.error(words);
    target.focus();
  };

  root.addEventListener("input", form.refresh);
  root.addEventListener("change", form.refresh);
  root.addEventListener("submit", async (event) => {
    event.preventDefault();
    clear();
    const empty = fields.filter((field) => field.required && field.value() === undefined);
    // From the last to the first, where the cursor stays.
    for (const field of empty.reverse()) complain(field.name, `${field.label} is needed.`);
    if (empty.length > 0) return;
    const params = values();
    const reply = await world.ask(method, params);
    if (reply.lost) complain(null, reply.lost);
    else if (reply.error) showRefusal(reply.error, complain, alert, world);
    else {
      for (const field of fields) if (field.kind === "address" && params[field.name]) world.book.remember(params[field.name]);
      if (spec.query) {
        say(answer, JSON.stringify(reply.result, null, 2));
        show(answer, true);
      }
      // What is typed next is a shortcut again.
      if (root.contains(document.activeElement)) document.activeElement.blur();
      options.accepted?.(reply.result);
    }
  });
  form.refresh();
  return form;
}

/** Shows a JSON-RPC error: at its field if it names one, else above the button. */
export function showRefusal(error, complain, alert, world) {
  const refusal = refusalOf(error);
  complain(refusal.field, refusalText(refusal));
  if (refusal.commandId !== undefined && !alert.hidden) {
    alert.append(
      " ",
      element("button.text-button", { type: "button", onclick: () => world.reveal(refusal.commandId) }, "Show that command"),
    );
  }
}

function makeField(spec, world, options) {
  switch (spec.kind) {
    case "address":
      return addressField(spec, world, options);
    case "call":
      return choiceField(spec, callChoices(world), "By its Call-ID…");
    case "command":
      return choiceField(spec, commandChoices(world, options.method), "By its id…");
    case "leg":
      return legField(spec, world);
    case "flag":
      return flagField(spec);
    case "seconds":
    case "text":
      return textField(spec);
  }
  throw new TypeError(`no field of kind ${spec.kind}`);
}

/** Label, control, note and error of a field, tied together for assistive technology. */
function frame(spec, control, ...after) {
  const id = `field-${++made}`;
  const note = spec.note ? element("p.field-note", { id: `${id}-note` }, spec.note) : null;
  const error = element("p.field-error", { id: `${id}-error`, hidden: true });
  control.id = id;
  attribute(control, "aria-describedby", [note?.id, error.id].filter(Boolean).join(" "));
  attribute(control, "aria-required", spec.required ? "true" : null);
  const root = element(
    "div.field",
    { dataset: { field: spec.name } },
    element("label", { for: id }, spec.label, spec.unit ? element("span.unit", {}, ` (${spec.unit})`) : null),
    control,
    ...after,
    note,
    error,
  );
  return {
    ...spec,
    root,
    focus: () => control.focus(),
    error(words) {
      say(error, words ?? "");
      show(error, words !== null);
      attribute(control, "aria-invalid", words === null ? null : "true");
      root.classList.toggle("wrong", words !== null);
      if (words !== null) control.addEventListener("input", () => this.error(null), { once: true });
    },
  };
}

function plainInput(extra = {}) {
  return element("input", { type: "text", spellcheck: "false", autocapitalize: "off", autocomplete: "off", ...extra });
}

const filled = (input) => input.value.trim() || undefined;

function textField(spec) {
  const numeric = spec.kind === "seconds";
  const input = plainInput(numeric ? { inputmode: "numeric", placeholder: "as the server is set" } : {});
  const field = frame(spec, input);
  return {
    ...field,
    set: (value) => (input.value = value ?? ""),
    value() {
      const typed = filled(input);
      // What isn't a number goes out as typed: the server's answer says what is wrong with it.
      return numeric && typed !== undefined && /^-?\d+$/.test(typed) ? Number(typed) : typed;
    },
  };
}

function flagField(spec) {
  const input = element("input", { type: "checkbox" });
  const field = frame(spec, input);
  field.root.classList.add("flag");
  return { ...field, set: (value) => (input.checked = value === true), value: () => (input.checked ? true : undefined) };
}

/** An address: what is known of addresses is offered, and a bare name is completed. */
export function addressField(spec, world, options = {}) {
  const input = plainInput({ list: "addresses", placeholder: "sip:name@domain", inputmode: "email" });
  const chips = element("div.chips", { role: "group", "aria-label": `Suggestions for ${spec.label.toLowerCase()}` });
  const field = frame(spec, input, options.chips ? chips : null);
  const complete = () => (input.value = completeAddress(input.value, world.book.domain()));
  const draw = () => {
    const offered = (world.book.suggested().length ? world.book.suggested() : world.book.all()).slice(0, 8);
    chips.replaceChildren(
      ...offered.map((address) =>
        element(
          "button.chip",
          {
            type: "button",
            title: address,
            onclick() {
              input.value = address;
              input.dispatchEvent(new Event("input", { bubbles: true }));
              options.chosen?.(spec.name);
            },
          },
          shortName(address),
        ),
      ),
    );
    show(chips, offered.length > 0);
  };
  input.addEventListener("change", complete);
  world.book.onchange(draw);
  draw();
  return {
    ...field,
    set: (value) => (input.value = value ?? ""),
    value() {
      complete();
      return filled(input);
    },
  };
}

/** One of what is there, or any other by its id. */
function choiceField(spec, choices, otherWords) {
  const select = element("select");
  const other = plainInput({ "aria-label": `${spec.label}, ${otherWords}`, hidden: true });
  const field = frame(spec, select, other);
  let drawn = "";
  const fieldRefresh = () => {
    const options = choices(spec);
    const signature = JSON.stringify(options);
    if (signature !== drawn) {
      const chosen = select.value;
      drawn = signature;
      select.replaceChildren(
        ...options.map(({ id, words }) => element("option", { value: id }, words)),
        element("option", { value: OTHER }, otherWords),
      );
      select.value = [...select.options].some((option) => option.value === chosen) ? chosen : select.options[0].value;
    }
    show(other, select.value === OTHER);
  };
  return {
    ...field,
    refresh: fieldRefresh,
    focus: () => (select.value === OTHER ? other : select).focus(),
    set(value) {
      fieldRefresh();
      const known = [...select.options].some((option) => option.value === value);
      select.value = known ? value : OTHER;
      if (!known) other.value = value ?? "";
      fieldRefresh();
    },
    value: () => (select.value === OTHER ? filled(other) : select.value),
  };
}

function callChoices(world) {
  return () =>
    liveCalls(world.model())
      .filter((call) => call.callid !== undefined)
      .map((call) => ({ id: call.callid, words: nameCall(call, world.model()) }))
      .reverse();
}

/** A call in a list: its parties and state, or its id if that is all there is. */
export function nameCall(call, model) {
  const who = call.foreign ? shortId(call.callid) : `${shortName(call.caller)} and ${shortName(call.callee)}`;
  return `${who} · ${callState(call, model).words.toLowerCase()}`;
}

function commandChoices(world) {
  return (spec) => {
    const model = world.model();
    return model.order
      .map((id) => model.commands[id])
      .filter((command) => spec.only !== "cancellable" || isCancellable(command))
      .map((command) => ({ id: command.id, words: `${titleOf(command.method)}: ${subjectOf(command, model)}` }))
      .reverse();
  };
}

/** Which party of a call: by name where the call is known. */
function legField(spec, world) {
  const id = `leg-${++made}`;
  const labels = {};
  const inputs = {};
  const error = element("p.field-error", { id: `${id}-error`, hidden: true });
  const choices = ["caller", "callee"].map((leg) => {
    inputs[leg] = element("input", { type: "radio", name: id, value: leg });
    labels[leg] = element("span", {}, leg);
    return element("label.choice", {}, inputs[leg], labels[leg]);
  });
  inputs.caller.checked = true;
  const root = element(
    "fieldset.field.legs",
    { dataset: { field: spec.name }, "aria-describedby": error.id },
    element("legend", {}, spec.label),
    element("div.choices", {}, choices),
    error,
  );
  return {
    ...spec,
    root,
    focus: () => (inputs.callee.checked ? inputs.callee : inputs.caller).focus(),
    error(words) {
      say(error, words ?? "");
      show(error, words !== null);
      root.classList.toggle("wrong", words !== null);
    },
    refresh(byName) {
      const call = callById(world.model(), byName.get(spec.of)?.value());
      for (const leg of ["caller", "callee"]) {
        say(labels[leg], call && !isGone(call) && call[leg] ? `${shortName(call[leg])} (${leg})` : leg);
      }
    },
    set: (value) => inputs[value] && (inputs[value].checked = true),
    value: () => (inputs.callee.checked ? "callee" : "caller"),
  };
}
