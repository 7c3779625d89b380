// The page: holds the model, sends requests, and has each part drawn when something changed.

import {
  HEARTBEAT, METHODS, closing, commandById, describeEvent, emptyModel, gapText, isOver, liveCalls, reduce, refusalOf,
  refusalText, request, resumeRequest, runningCommands, shortName, standing, subjectOf, titleOf,
} from "./protocol.js";
import { element, attribute, say, show } from "./element.js";
import { openConnection } from "./connection.js";
import { addressBook } from "./addresses.js";
import { commandForm } from "./forms.js";
import { callCards } from "./calls.js";
import { timeline } from "./timeline.js";
import { framesDrawer } from "./frames.js";
import { shortcuts } from "./shortcuts.js";

const SAVED = "callplane.session";
/** A request whose answer was lost is repeated, with the same id, only while it is still wanted. */
const REPEAT_WITHIN_MS = 30_000;
const HEARTBEAT_EVERY_MS = 5_000;
const TICK_MS = 250;

const byId = (id) => document.getElementById(id);

let model = restore();
let ready = false;
/** Since when nothing can be told; null while connected. */
let away = Date.now();
/** The commands whose outcome is being looked up. */
const sought = new Set();
let nextId = 1;
/** Those who wait for an answer: `resolve` by request id. */
const answers = new Map();
const book = addressBook();

const world = {
  book,
  model: () => model,
  away: () => away,
  ask,
  sendRaw,
  announce,
  reveal: (commandId) => rows.reveal(commandId),
};

/** Says something to those who don't see the page; what was said just before is not lost. */
function announce(words) {
  const live = byId("live");
  live.append(element("p", {}, words));
  if (live.children.length > 5) live.firstElementChild.remove();
}

// What the page shows

const startForm = commandForm("CallStart", world, {
  about: false,
  chips: true,
  chosen: (field) => startForm.focus(field === "caller" ? "callee" : undefined),
});
byId("start").append(startForm.root);
const cards = callCards(byId("calls"), world);
const rows = timeline(byId("timeline"), world);
const frames = framesDrawer(
  {
    drawer: byId("frames"),
    opener: byId("open-frames"),
    list: byId("frame-list"),
    position: byId("position"),
    heartbeat: byId("show-heartbeat"),
    copy: byId("copy-frames"),
    clear: byId("clear-frames"),
    close: byId("close-frames"),
    raw: byId("raw"),
    rawText: byId("raw-text"),
  },
  world,
);

let otherForm;
const methodSelect = byId("method");
methodSelect.append(
  ...Object.entries(METHODS).map(([method, { title }]) => element("option", { value: method }, `${title} (${method})`)),
);
const chooseMethod = (method) => {
  methodSelect.value = method;
  otherForm = commandForm(method, world, { preview: true, method });
  byId("command").replaceChildren(otherForm.root);
};
methodSelect.addEventListener("change", () => chooseMethod(methodSelect.value));
chooseMethod("CallHold");

const drawAddresses = (addresses) =>
  byId("addresses").replaceChildren(...addresses.map((address) => element("option", { value: address })));
book.onchange(drawAddresses);
drawAddresses(book.all());

byId("forget").addEventListener("click", () => dispatch({ type: "forget" }));
byId("notice-close").addEventListener("click", () => show(byId("notice"), false));

// Changes

let drawing = false;

function dispatch(action) {
  const before = model;
  model = reduce(model, action);
  if (model === before) return;
  tell(before, model);
  if (drawing) return;
  drawing = true;
  // Many frames at once are drawn once; a page nobody looks at gets no animation frames.
  if (document.visibilityState === "visible") requestAnimationFrame(draw);
  else setTimeout(draw, 100);
}

function draw() {
  drawing = false;
  const offered = byId("calls-empty").contains(document.activeElement);
  cards.update(model);
  rows.update(model);
  frames.update(model);
  startForm.refresh();
  otherForm.refresh();
  const live = liveCalls(model).length;
  const running = runningCommands(model).length;
  show(byId("calls-empty"), model.calls.length === 0);
  // Who took the offer stands on the call that came of it.
  if (offered && model.calls.length > 0) cards.move(1);
  for (const id of sought) if (isOver(commandById(model, id) ?? { status: "ended" })) sought.delete(id);
  if (sought.size === 0) say(byId("notice-more"), "");
  show(byId("timeline-empty"), model.order.length === 0);
  show(byId("forget"), model.order.some((id) => isOver(model.commands[id])));
  say(byId("calls-count"), live ? `${live} live, as last told` : "");
  say(byId("timeline-count"), running ? `${running} running` : "");
  document.title = live ? `${live} · callplane` : "callplane";
  save();
}

setInterval(() => {
  if (runningCommands(model).length === 0 && liveCalls(model).length === 0) return;
  const now = Date.now();
  cards.tick(now);
  rows.tick(now);
}, TICK_MS);

/** Says aloud, for those who don't see the page, what mattered in a change. */
function tell(before, after) {
  for (const id of after.order) {
    const now = after.commands[id];
    const then = commandById(before, id);
    if (now === then) continue;
    const newer = now.events.slice(then?.events.length ?? 0);
    const spoken = newer.filter((event) => /Answered$|Successful$|^Error$/.test(event.name));
    const words = spoken.map((event) => describeEvent(event, now, after));
    if (isOver(now) && !(then && isOver(then))) {
      const { word, detail } = standing(now);
      words.push(`${titleOf(now.method)}, ${subjectOf(now, after)}: ${word}. ${now.error ? now.undone ?? "" : detail}`);
    }
    if (words.length) announce(words.join(". "));
  }
}

// Requests and frames

/** Sends a request; resolves to `{result}`, `{error}` or `{lost: words}`, and never rejects. */
function ask(method, params) {
  if (!ready) return Promise.resolve({ lost: "Not connected to the server just now. Nothing was sent." });
  const query = METHODS[method]?.query || method === "Resume";
  return transmit(request(nextId++, method, query ? params : { ...params, cmd_id: freshId() }));
}

function transmit(frame) {
  return new Promise((resolve) => {
    answers.set(frame.id, resolve);
    const text = JSON.stringify(frame);
    const at = Date.now();
    if (!connection.send(text)) {
      answers.delete(frame.id);
      resolve({ lost: "Not connected to the server just now. Nothing was sent." });
      return;
    }
    frames.log("out", text, frame, at);
    dispatch({ type: "sent", at, frame });
  });
}

function sendRaw(text) {
  if (!connection.send(text)) return false;
  frames.log("out", text, undefined, Date.now());
  return true;
}

function receive(text) {
  const at = Date.now();
  let frame;
  try {
    frame = JSON.parse(text);
  } catch {
    frames.log("in", text, undefined, at);
    return;
  }
  frames.log("in", text, frame, at);
  dispatch({ type: "received", at, frame });
  for (const one of Array.isArray(frame) ? frame : [frame]) {
    const resolve = answers.get(one?.id);
    if (!resolve || !("result" in one || "error" in one)) continue;
    answers.delete(one.id);
    resolve("error" in one ? { error: one.error ?? {} } : { result: one.result });
  }
}

function freshId() {
  // crypto.randomUUID() is there only in secure contexts; this isn't a secret.
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The connection

async function opened() {
  const session = await takeUp();
  if (session === "lost") return;
  ready = true;
  setAway(null);
  if (session === "same") repeatUnanswered();
  else lookUp(runningCommands(model));
  heartbeat();
}

/**
 * Takes the session up again: "same" when nothing was missed, "other" when ids of before may mean
 * nothing here, so that a repeated start would be a second call; "lost" when the connection was.
 */
async function takeUp() {
  if (model.session === null || model.position === null) return "other";
  const { result, error, lost } = await transmit(resumeRequest(nextId++, model));
  if (lost) return "lost";
  if (result?.recovered === false) {
    if (given.demo === true && model.gap.reason === "restarted") dispatch({ type: "phones-gone", at: Date.now() });
    notify("bad", gapText(model.gap), stillRunning());
    return "other";
  }
  if (result) {
    notify("good", "Connected again. Nothing was missed.");
    return "same";
  }
  const refusal = refusalOf(error);
  const words = `The session could not be taken up again. ${refusalText(refusal)}`;
  if (refusal.kind !== "store_unavailable") {
    notify("bad", words, stillRunning());
    return "other";
  }
  notify("bad", words);
  // The one refusal after which the same may be asked on the same connection.
  await new Promise((later) => setTimeout(later, refusal.retryAfter ?? 1000));
  return takeUp();
}

function stillRunning() {
  const open = runningCommands(model).length;
  if (open === 0) return "";
  return open === 1
    ? "1 command was still running; its outcome is being looked up."
    : `${open} commands were still running; their outcomes are being looked up.`;
}

/** What nobody knows any more is unknown. */
function lookUp(commands) {
  for (const { id } of commands) {
    sought.add(id);
    // Of one that still runs the rest is told as it comes.
    transmit(request(nextId++, "CommandGet", { cmd_id: id })).then(({ result }) => result && sought.delete(id));
  }
}

function repeatUnanswered() {
  const now = Date.now();
  const unanswered = runningCommands(model).filter((command) => command.status === "unanswered");
  const young = (command) => now - command.at < REPEAT_WITHIN_MS;
  for (const command of unanswered.filter(young)) transmit(request(nextId++, command.method, command.params));
  lookUp(unanswered.filter((command) => !young(command)));
}

function lost() {
  ready = false;
  clearTimeout(beat);
  const words = "The connection was lost before the server answered. The command is asked for again once it is back.";
  for (const resolve of answers.values()) resolve({ lost: words });
  answers.clear();
  setAway(Date.now());
  dispatch({ type: "lost", at: Date.now() });
}

function setAway(since) {
  away = since;
  byId("calls").classList.toggle("away", since !== null);
  cards.tick(Date.now());
}

let beat;

async function heartbeat() {
  clearTimeout(beat);
  if (!ready) return;
  if (document.visibilityState === "visible") {
    const from = performance.now();
    const { result } = await transmit(request(nextId++, "Echo", { cmd_id: `${HEARTBEAT}${nextId}` }));
    if (result) {
      const ms = performance.now() - from;
      say(byId("latency"), ms < 1 ? "<1 ms" : `${Math.round(ms)} ms`);
    }
  }
  clearTimeout(beat);
  if (ready) beat = setTimeout(heartbeat, HEARTBEAT_EVERY_MS);
}

const LINK_WORDS = {
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Not connected",
  closed: "Closed by the server",
};

let countdown;

function linkChanged(state) {
  clearInterval(countdown);
  const link = byId("link");
  const again = link.dataset.state !== state.name;
  link.dataset.state = state.name;
  show(byId("retry"), state.name === "waiting" || state.name === "closed");
  show(byId("latency"), state.name === "open");
  const words = () => {
    if (state.name !== "waiting") return LINK_WORDS[state.name];
    return `Not connected, next try in ${Math.max(1, Math.ceil((state.retryAt - Date.now()) / 1000))} s`;
  };
  say(byId("link-words"), words());
  if (state.name === "waiting") countdown = setInterval(() => say(byId("link-words"), words()), 500);
  if (state.name === "closed") notify("bad", `The server closed the connection: ${state.reason || `code ${state.code}`}.`);
  if (again && state.name !== "connecting") announce(LINK_WORDS[state.name]);
}

let quiet;

/** `more` is said until what is looked up is known. */
function notify(tone, words, more = "") {
  clearTimeout(quiet);
  byId("notice").dataset.tone = tone;
  say(byId("notice-words"), words);
  say(byId("notice-more"), more);
  show(byId("notice"), true);
  if (tone === "good") quiet = setTimeout(() => show(byId("notice"), false), 6000);
}

// What outlives a reload: this tab's session and what it has seen

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(SAVED) ?? "null");
    if (kept?.version === 1) return reduce(kept.model, { type: "lost", at: Date.now() });
  } catch {
    // Nothing kept, or nothing readable: begin anew.
  }
  return emptyModel();
}

let saving;

function save() {
  clearTimeout(saving);
  saving = setTimeout(saveNow, 300);
}

function saveNow() {
  try {
    sessionStorage.setItem(SAVED, JSON.stringify({ version: 1, model: { ...model, waiting: {} } }));
  } catch {
    // Storage may be full or denied; a reload then begins anew.
  }
}
addEventListener("pagehide", saveNow);

// Theme

const dark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = byId("open-theme");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function drawTheme() {
  say(themeButton, isDark() ? "Light" : "Dark");
  attribute(themeButton, "aria-label", isDark() ? "Use the light theme" : "Use the dark theme");
}

function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("callplane.theme", theme);
  } catch {
    // Storage may be denied; the choice then lives as long as the page.
  }
  drawTheme();
}
themeButton.addEventListener("click", switchTheme);
dark.addEventListener("change", drawTheme);
drawTheme();

// Keys

function actOnCall(name) {
  const card = cards.current();
  if (card) card.act(name);
  else if (liveCalls(model).length) {
    cards.move(1);
    announce("Choose a call with J and K");
  }
}

shortcuts(
  [
    { key: "n", words: "New call: to the caller's field", act: () => startForm.focus() },
    { key: "j", words: "Next call", act: () => cards.move(1) },
    { key: "k", words: "Previous call", act: () => cards.move(-1) },
    { key: "h", words: "Hold or resume the call", act: () => actOnCall("hold") },
    { key: "t", words: "Transfer the call", act: () => actOnCall("transfer") },
    { key: "e", words: "To the call's End or Cancel button; Enter presses it", act: () => actOnCall("end") },
    { key: "c", words: "Every command", act: openCommands },
    { key: "f", words: "Frames on the wire", act: () => frames.toggle() },
    { key: "d", words: "Dark or light", act: switchTheme },
  ],
  byId("help"),
  byId("help-keys"),
  byId("keys-on"),
  byId("open-help"),
);
byId("close-help").addEventListener("click", () => byId("help").close());

function openCommands() {
  byId("all-commands").open = true;
  methodSelect.focus();
}

// Begin

async function hints() {
  try {
    const response = await fetch("console/hints.json");
    return response.ok ? await response.json() : {};
  } catch {
    return {};
  }
}

const given = await hints();
const addresses = Array.isArray(given.addresses) ? given.addresses.filter((entry) => typeof entry === "string") : [];
book.suggest(addresses);
show(byId("demo"), given.demo === true);
if (addresses.length >= 2) {
  const offer = byId("try");
  const [caller, callee] = addresses;
  say(offer, `Let ${shortName(caller)} call ${shortName(callee)}`);
  show(offer, true);
  offer.addEventListener("click", async () => {
    startForm.fill({ caller, callee });
    startForm.root.requestSubmit();
  });
}

// Beside the page, so that it works behind a proxy that serves all of this below a path of its own.
const path = typeof given.call_api === "string" ? given.call_api.replace(/^\/+/, "") : "call-api";
const url = new URL(path, document.baseURI);
url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
url.search = url.hash = "";
draw();
setAway(away);
const connection = openConnection(url, closing, {
  opened,
  received: receive,
  lost,
  changed: linkChanged,
});
byId("retry").addEventListener("click", () => connection.connectNow());
document.documentElement.dataset.ready = "true";
