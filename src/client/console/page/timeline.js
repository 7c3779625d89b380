// The timeline: every command of this session, newest first; each unfolds into its events.

import { commandById, describeEvent, isCancellable, isOver, shortId, stages, standing, subjectOf, titleOf } from "./protocol.js";
import { element, attribute, say, show, keyedList, duration, timeOfDay, copyText, icon } from "./element.js";

/** Returns `{update(model), tick(now), reveal(commandId)}`. */
export function timeline(parent, world) {
  const rows = new Map();
  const sync = keyedList(parent, (command) => command.id, (command) => {
    // The newest is open; the one before it folds itself, unless the person opened it.
    for (const row of rows.values()) row.yieldTo();
    const row = commandRow(command, world);
    rows.set(command.id, row);
    return row;
  });
  return {
    update(model) {
      sync(model.order.map((id) => model.commands[id]).reverse());
      for (const id of rows.keys()) if (!commandById(model, id)) rows.delete(id);
    },
    tick(now) {
      for (const row of rows.values()) row.tick(now);
    },
    reveal(commandId) {
      rows.get(commandId)?.reveal();
    },
  };
}

let made = 0;

function commandRow(first, world) {
  let command = first;
  let touched = false;
  let drawn = 0;
  const id = `command-${++made}`;
  const title = element("span.row-title");
  const subject = element("span.row-subject");
  const took = element("span.took");
  const word = element("span.word");
  const bar = element("span.bar", { "aria-hidden": "true" });
  const events = element("ol.events");
  const detail = element("p.row-detail");
  const deadline = element("p.row-deadline");
  const toggle = element(
    "button.row-head",
    { type: "button", "aria-controls": id },
    icon("open"),
    element("span.row-what", {}, title, subject),
    took,
    word,
  );
  const cancel = element(
    "button.text-button.row-cancel",
    { type: "button", onclick: () => world.ask("CommandCancel", { cmd_id: command.id }) },
    "Cancel",
  );
  const look = element(
    "button.text-button",
    { type: "button", onclick: () => world.ask("CommandGet", { cmd_id: command.id }) },
    "Ask again",
  );
  const copy = element("button.text-button", { type: "button", title: "Copy the command's id" });
  copy.addEventListener("click", async () => {
    if (await copyText(command.id)) world.announce("Command id copied");
  });
  const body = element(
    "div.row-body",
    { id },
    events,
    deadline,
    element("div.row-foot", {}, element("span.row-method", {}), copy, look),
  );
  const root = element("li.command", { tabindex: "-1" }, element("div.row-line", {}, toggle, cancel), bar, detail, body);

  const unfold = (open) => {
    attribute(toggle, "aria-expanded", String(open));
    show(body, open);
  };
  toggle.addEventListener("click", () => {
    touched = true;
    unfold(body.hidden);
  });
  unfold(true);

  const row = {
    root,
    update(next) {
      command = next;
      const model = world.model();
      const how = standing(command);
      root.dataset.tone = how.tone;
      root.dataset.method = command.method;
      root.dataset.command = command.id;
      say(title, titleOf(command.method));
      say(subject, subjectOf(command, model));
      say(word, how.word);
      say(detail, how.detail);
      show(detail, how.detail !== "");
      show(cancel, isCancellable(command));
      show(look, command.status === "unanswered" || command.outcome === "unknown");
      say(copy, shortId(command.id));
      say(body.querySelector(".row-method"), command.method);
      draw(model);
      row.tick(Date.now());
    },
    tick(now) {
      const end = command.endedAt ?? now;
      say(took, duration(end - command.at));
      const left = command.deadline - now;
      const waiting = !isOver(command) && command.deadline !== undefined;
      say(deadline, waiting ? `Ends within ${duration(Math.max(0, left))}` : "");
      show(deadline, waiting);
      drawBar(bar, stages(command, now));
    },
    yieldTo() {
      if (!touched) unfold(false);
    },
    reveal() {
      touched = true;
      unfold(true);
      root.scrollIntoView({ block: "nearest" });
      root.focus();
    },
  };

  const draw = (model) => {
    const accepted = command.acceptedAt === undefined ? [] : [{ name: "Started", at: command.acceptedAt }];
    const all = [...accepted, ...command.events];
    for (const event of all.slice(drawn)) events.append(eventRow(event, command, model));
    drawn = all.length;
  };
  return row;
}

function eventRow(event, command, model) {
  return element(
    "li.event",
    { dataset: { event: event.name } },
    element("time", { title: timeOfDay(event.at) }, `+${((event.at - command.at) / 1000).toFixed(3)}`),
    element("span.event-words", {}, describeEvent(event, command, model)),
    element("code.event-name", { title: event.data === undefined ? "" : JSON.stringify(event.data) }, eventName(event, command)),
  );
}

/** The name on the wire; of an error its word too, since that is what a program would look at. */
function eventName(event, command) {
  return event.name === "Error" && command.error?.code ? `Error ${command.error.code}` : event.name;
}

function drawBar(bar, parts) {
  while (bar.children.length > parts.length) bar.lastElementChild.remove();
  while (bar.children.length < parts.length) bar.append(element("span"));
  parts.forEach((part, i) => {
    const piece = bar.children[i];
    piece.dataset.stage = part.tone;
    piece.style.flexGrow = String(Math.max(part.to - part.from, 1));
  });
}
