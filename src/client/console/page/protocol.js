// What the console knows of callplane's protocol, and nothing else: the methods with their
// parameters, how frames change what is known of commands and calls, and the words for both.
//
// Everything here is a pure function of its arguments: no DOM, no socket, no clock, no randomness.
// Times are milliseconds and come in with each action.

// The tables have no prototype and commands are looked up with `own`: names from the wire, such as
// `constructor`, must find nothing.

/** A parameter's `kind` says how a person enters it. `more` puts it behind "More options". */
export const METHODS = Object.freeze({
  __proto__: null,
  CallStart: {
    title: "Start a call",
    verb: "Call",
    about: "Rings the caller's phone first; when it answers, connects it to the callee.",
    // Clients of old don't know the event CallerRinging, so it has to be asked for.
    always: { ringing: true },
    fields: [
      { name: "caller", label: "Caller", kind: "address", required: true, note: "This phone rings first" },
      { name: "callee", label: "Callee", kind: "address", required: true, note: "Then this one is called" },
      { name: "ring_timeout", label: "Ring for", kind: "seconds", more: true, min: 1, max: 60, unit: "seconds" },
      { name: "display", label: "Name shown to the caller", kind: "text", more: true },
      { name: "external_id", label: "Your reference", kind: "text", more: true, note: "Comes back with every event" },
      { name: "auto_answer", label: "Ask the caller's phone to answer by itself", kind: "flag", more: true },
    ],
  },
  CallHold: {
    title: "Hold",
    verb: "Hold",
    about: "Asks both phones to stop sending.",
    fields: [{ name: "callid", label: "Call", kind: "call", required: true }],
  },
  CallUnhold: {
    title: "Resume a held call",
    verb: "Resume",
    about: "Takes both phones off hold.",
    fields: [{ name: "callid", label: "Call", kind: "call", required: true }],
  },
  CallBlindTransfer: {
    title: "Transfer to an address",
    verb: "Transfer",
    about: "One party of the call goes on to the destination; the other party's call ends.",
    fields: [
      { name: "callid", label: "Call", kind: "call", required: true },
      { name: "leg", label: "Who moves on", kind: "leg", of: "callid", required: true },
      { name: "destination", label: "Destination", kind: "address", required: true },
    ],
  },
  CallAttendedTransfer: {
    title: "Join two calls",
    verb: "Join",
    about: "One party of each call stays and they talk to each other; both old calls end.",
    fields: [
      { name: "callidA", label: "First call", kind: "call", required: true },
      { name: "legA", label: "Who stays of the first", kind: "leg", of: "callidA", required: true },
      { name: "callidB", label: "Second call", kind: "call", required: true },
      { name: "legB", label: "Who stays of the second", kind: "leg", of: "callidB", required: true },
    ],
  },
  CallEnd: {
    title: "End a call",
    verb: "End",
    about: "Hangs up both phones. A command that runs on the call is cancelled.",
    fields: [{ name: "callid", label: "Call", kind: "call", required: true }],
  },
  CommandCancel: {
    title: "Cancel a command",
    verb: "Cancel",
    about: "Gives up a start that still rings or a transfer that still runs.",
    query: true,
    fields: [{ name: "cmd_id", label: "Command", kind: "command", required: true }],
  },
  CommandGet: {
    title: "Look up a command",
    verb: "Look up",
    about: "Tells where a command stands, or how it ended.",
    query: true,
    fields: [{ name: "cmd_id", label: "Command", kind: "command", required: true }],
  },
  Echo: {
    title: "Echo",
    verb: "Send",
    about: "Comes straight back. Touches no call.",
    fields: [{ name: "message", label: "Message", kind: "text" }],
  },
});

/** The heartbeat is an Echo whose command id starts so; it is kept out of the timeline. */
export const HEARTBEAT = "heartbeat-";

/** A request as it goes on the wire. Empty parameters are left out. */
export function request(id, method, params) {
  const filled = Object.fromEntries(
    Object.entries({ ...params, ...METHODS[method]?.always }).filter(([, value]) => value !== undefined && value !== null && value !== ""),
  );
  return { jsonrpc: "2.0", id, method, params: filled };
}

/** The request that goes first on a new connection, when there is something to take up again. */
export function resumeRequest(id, model) {
  return request(id, "Resume", { ...model.position, session: model.session });
}

/** What is known before the first frame. */
export function emptyModel() {
  return {
    /** Session id, told by the first result. */
    session: null,
    /** `{epoch, seq}`: the last notification seen, or null. */
    position: null,
    /** Set while the last Resume said `recovered: false`: `{reason}`. */
    gap: null,
    /** Commands by id, and their ids in the order they began. */
    commands: {},
    order: [],
    /** Calls this session has seen, oldest first. */
    calls: [],
    /** Requests without an answer yet: `{method, params, at, commandId, repeated}` by request id. */
    waiting: {},
  };
}

/**
 * The next model. Actions:
 *
 * * `{type: "sent", at, frame}`: a request left for the server;
 * * `{type: "received", at, frame}`: a parsed frame came in, an array is a batch;
 * * `{type: "lost", at}`: the connection is gone;
 * * `{type: "phones-gone", at}`: the phones ended with the server, as a demo's do;
 * * `{type: "forget"}`: the person cleared what has ended.
 */
export function reduce(model, action) {
  switch (action.type) {
    case "sent":
      return sent(model, action.frame, action.at);
    case "received":
      return (Array.isArray(action.frame) ? action.frame : [action.frame]).reduce(
        (next, frame) => received(next, frame, action.at),
        model,
      );
    case "lost":
      return lost(model);
    case "phones-gone":
      return phonesGone(model, action.at);
    case "forget":
      return forget(model);
    default:
      return model;
  }
}

// Requests

function sent(model, frame, at) {
  const { id, method, params = {} } = frame;
  const commandId = isCommand(method) ? params.cmd_id : undefined;
  const known = own(model.commands, commandId);
  const asked = { method, params, at, commandId, repeated: known !== undefined };
  let next = { ...model, waiting: { ...model.waiting, [id]: asked } };
  if (!commandId || isHeartbeat(commandId)) return next;
  if (known) return setCommand(next, { ...known, status: known.status === "unanswered" ? "sending" : known.status });
  next = addCommand(next, newCommand(commandId, method, params, at));
  return startCalls(next, next.commands[commandId], at);
}

function lost(model) {
  const commands = { ...model.commands };
  for (const id of model.order) {
    if (commands[id].status === "sending") commands[id] = { ...commands[id], status: "unanswered" };
  }
  return { ...model, commands, waiting: {} };
}

/** What ran can leave no call behind, whatever else becomes of it. */
function phonesGone(model, at) {
  const commands = { ...model.commands };
  for (const id of model.order) if (!isOver(commands[id])) commands[id] = { ...commands[id], phonesGone: true };
  return editCall({ ...model, commands }, (call) => !isGone(call), () => gone(at, "the demo was restarted"));
}

function forget(model) {
  const order = model.order.filter((id) => !isOver(model.commands[id]));
  const commands = Object.fromEntries(order.map((id) => [id, model.commands[id]]));
  const calls = model.calls.filter((call) => !isGone(call) && (call.state !== "unknown" || call.busy));
  return { ...model, order, commands, calls };
}

// Frames

function received(model, frame, at) {
  if (frame === null || typeof frame !== "object") return model;
  if (typeof frame.method === "string") return notification(model, frame, at);
  if (!("result" in frame) && !("error" in frame)) return model;
  const asked = own(model.waiting, frame.id);
  if (!asked) return model;
  const waiting = { ...model.waiting };
  delete waiting[frame.id];
  const next = { ...model, waiting };
  return frame.error ? refused(next, asked, frame.error, at) : answered(next, asked, frame.result ?? {}, at);
}

function answered(model, asked, result, at) {
  if (asked.method === "Resume") {
    const base = {
      ...model,
      session: text(result.session) ?? model.session,
      gap: result.recovered === false ? { reason: text(result.reason) ?? "unknown" } : null,
    };
    // A new epoch starts its own count; an old one only grows.
    return result.recovered === false && hasPosition(result)
      ? { ...base, position: positionOf(result) }
      : seen(base, result);
  }
  let next = seen({ ...model, session: text(result.session) ?? model.session }, result);
  if (asked.method === "CommandGet") return found(next, text(result.cmd_id) ?? asked.params.cmd_id, result, at);
  const id = text(result.cmd_id) ?? asked.commandId;
  const command = own(next.commands, id);
  if (!command) return next;
  next = begun(next, command, result, at);
  return result.outcome ? ended(next, next.commands[id], result, at) : next;
}

/** Refusals that may hide a command which is recorded and runs, when it was asked for before. */
const SAYS_NOTHING = new Set(["too_many_commands", "draining", "store_unavailable", "internal_error"]);

function refused(model, asked, error, at) {
  const inDoubt = SAYS_NOTHING.has(refusalOf(error).kind);
  if (asked.method === "Resume") return inDoubt ? model : { ...model, session: null, position: null };
  if (asked.method === "CommandGet") return inDoubt ? model : notFound(model, asked.params.cmd_id, at);
  const command = own(model.commands, asked.commandId);
  if (!command || isOver(command)) return model;
  if (asked.repeated && inDoubt) return setCommand(model, { ...command, status: "unanswered" });
  const next = setCommand(model, { ...command, status: "refused", endedAt: at, refusal: refusalOf(error) });
  return withdrawCalls(next, next.commands[command.id]);
}

/** A JSON-RPC error in our words: `{code, message, kind, field, reason, commandId, retryAfter}`. */
export function refusalOf(error) {
  const data = objectOr(error.data, {});
  return {
    code: error.code,
    message: text(error.message) ?? "",
    kind: text(data.kind),
    field: text(data.field),
    reason: text(data.reason),
    commandId: text(data.cmd_id),
    retryAfter: number(data.retry_after_ms),
  };
}

function notification(model, frame, at) {
  const params = frame.params ?? {};
  const id = text(params.cmd_id);
  const next = seen(model, params);
  if (!id || isHeartbeat(id)) return next;
  // A command begun on another connection of this session is told here first.
  let command = own(next.commands, id);
  let known = next;
  if (!command) {
    command = { ...newCommand(id, frame.method, {}, at), elsewhere: true };
    known = startCalls(addCommand(next, command), command, at);
  }
  const event = String(params.event ?? "");
  if (event === "Started") return begun(known, command, params, at);
  // One event with one position is said once, even if a replay overlaps what came before.
  if (params.seq !== undefined && command.events.some((e) => e.seq === params.seq && e.epoch === params.epoch)) {
    return known;
  }
  if (event === "Ended") return ended(known, command, params, at);
  return happened(known, command, event, params, at);
}

function begun(model, command, facts, at) {
  if (isOver(command) && command.status !== "refused") return model;
  return setCommand(model, {
    ...command,
    status: "running",
    acceptedAt: command.acceptedAt ?? at,
    // Counted from when we learned of it; a replay tells it again, later.
    deadline: command.deadline ?? (number(facts.deadline_ms) === undefined ? undefined : at + facts.deadline_ms),
    repeated: facts.repeated === true,
    refusal: undefined,
  });
}

function happened(model, command, event, params, at) {
  const entry = { name: event, at, data: params.data, epoch: params.epoch, seq: params.seq };
  let changed = { ...command, events: [...command.events, entry] };
  // Begun on another connection: its parameters show only in its events.
  if (command.elsewhere) changed.params = { ...objectOr(params.data, {}), ...command.params };
  if (!isOver(changed)) changed = { ...changed, status: "running", acceptedAt: command.acceptedAt ?? at };
  if (event === "Error") changed = { ...changed, error: failureOf(params) };
  const next = setCommand(model, changed);
  return progressCalls(next, changed, event, objectOr(params.data, {}), at);
}

function ended(model, command, facts, at) {
  if (command.status === "ended") return model;
  const outcome = text(facts.outcome) ?? (command.error ? "failed" : "success");
  const error = command.error ?? (facts.error ? failureOf(facts) : undefined);
  const ending = {
    ...command,
    status: "ended",
    acceptedAt: command.acceptedAt ?? at,
    endedAt: at,
    outcome,
    up: command.phonesGone ? "no" : text(facts.up) ?? error?.up,
    error,
    undone: undoneText(model, command, outcome, error),
    extra: extraFacts(facts),
    events: [...command.events, { name: "Ended", at, epoch: facts.epoch, seq: facts.seq }],
  };
  return settleCalls(setCommand(model, ending), ending, at);
}

function found(model, id, state, at) {
  const command = own(model.commands, id);
  if (!command) return model;
  if (state.outcome) return ended(model, command, state, at);
  return isOver(command) ? model : setCommand(model, { ...command, status: "running" });
}

/** The server doesn't know a command any more: what it did can't be known. */
function notFound(model, id, at) {
  const command = own(model.commands, id);
  if (!command || isOver(command)) return model;
  return ended(model, command, { outcome: "unknown", up: "unknown", forgotten: true }, at);
}

function failureOf(params) {
  const error = objectOr(params.error, {});
  return {
    text: typeof params.data === "string" ? params.data : text(error.message) ?? "",
    code: text(error.code),
    sipStatus: number(error.sip_status),
    sipReason: text(error.sip_reason),
    up: text(error.up),
  };
}

const NOT_EXTRA = new Set([
  "cmd_id", "event", "data", "outcome", "up", "error", "epoch", "seq", "session", "external_id", "method", "state",
  "deadline_ms", "repeated", "replayed",
]);

function extraFacts(facts) {
  return Object.fromEntries(Object.entries(facts).filter(([name]) => !NOT_EXTRA.has(name)));
}

// Position in the stream

function hasPosition(facts) {
  return typeof facts.epoch === "string" && Number.isInteger(facts.seq);
}

function positionOf(facts) {
  return { epoch: facts.epoch, seq: facts.seq };
}

/** A replay keeps its old numbers, so the position is the highest seen within an epoch. */
function seen(model, facts) {
  if (!hasPosition(facts)) return model;
  const { position } = model;
  if (position && position.epoch === facts.epoch && position.seq >= facts.seq) return model;
  return { ...model, position: positionOf(facts) };
}

// Commands

function newCommand(id, method, params, at) {
  return { id, method, params, status: "sending", at, events: [] };
}

/** What is kept of the past; what still runs is always kept. */
const COMMANDS_KEPT = 200;
const ENDED_CALLS_KEPT = 50;

function addCommand(model, command) {
  const order = [...model.order, command.id];
  const commands = { ...model.commands, [command.id]: command };
  if (order.length > COMMANDS_KEPT) {
    const oldest = order.findIndex((id) => isOver(commands[id]));
    if (oldest !== -1) delete commands[order.splice(oldest, 1)[0]];
  }
  return { ...model, commands, order };
}

function setCommand(model, command) {
  return { ...model, commands: { ...model.commands, [command.id]: command } };
}

function isCommand(method) {
  return method in METHODS && !METHODS[method].query;
}

export function isHeartbeat(commandId) {
  return String(commandId).startsWith(HEARTBEAT);
}

/** Whether nothing more will happen to a command. */
export function isOver(command) {
  return command.status === "ended" || command.status === "refused";
}

export function commandById(model, id) {
  return own(model.commands, id);
}

export function runningCommands(model) {
  return model.order.map((id) => model.commands[id]).filter((command) => !isOver(command));
}

/** What can be cancelled: a start or a transfer that has begun and not ended. */
export function isCancellable(command) {
  return (
    command.status === "running" &&
    (command.method === "CallStart" || command.method === "CallBlindTransfer" || command.method === "CallAttendedTransfer")
  );
}

// Calls. One is `{key, callid, caller, callee, state, ...}`; `state` is one of:
//   calling (the caller's phone is asked), ringing-caller, ringing-callee, talking, ended, unknown;
// `held` says which legs are on hold, `holdDoubt` that it may not be so.
// `busy` names the command that works on the call just now.

function newCall(key, facts) {
  return { key, callid: undefined, caller: undefined, callee: undefined, state: "talking", held: {}, ...facts };
}

export function isGone(call) {
  return call.state === "ended";
}

export function liveCalls(model) {
  return model.calls.filter((call) => !isGone(call));
}

export function callById(model, callid) {
  return model.calls.findLast((call) => call.callid === callid);
}

/** The address of one party, if the leg is one and the call is known. */
function partyOf(call, leg) {
  return leg === "caller" || leg === "callee" ? call?.[leg] : undefined;
}

function addCall(model, call) {
  if (model.calls.some((known) => known.key === call.key)) return model;
  const calls = [...model.calls, call];
  if (calls.filter(isGone).length > ENDED_CALLS_KEPT) calls.splice(calls.findIndex(isGone), 1);
  return { ...model, calls };
}

function editCall(model, matches, edit) {
  let changed = false;
  const calls = model.calls.map((call) => {
    if (!matches(call)) return call;
    changed = true;
    return { ...call, ...edit(call) };
  });
  return changed ? { ...model, calls } : model;
}

const byKey = (key) => (call) => call.key === key;
const byCallid = (callid) => (call) => callid !== undefined && call.callid === callid && !isGone(call);

/** The Call-IDs a command works on. */
function subjects(command) {
  const { callid, callidA, callidB } = command.params;
  return [callid, callidA, callidB].filter((id) => typeof id === "string");
}

/** Of a call that is known only by its Call-ID, at least that is shown. */
function ensureCall(model, callid, at) {
  return model.calls.some(byCallid(callid)) ? model : addCall(model, newCall(`${callid}@${at}`, { callid, at, foreign: true }));
}

function startCalls(model, command, at) {
  const { params } = command;
  if (command.method === "CallStart") {
    return addCall(
      model,
      newCall(command.id, {
        caller: text(params.caller),
        callee: text(params.callee),
        state: "calling",
        busy: command.id,
        at,
      }),
    );
  }
  return subjects(command).reduce(
    (next, callid) =>
      editCall(next, byCallid(callid), (call) => ({ busy: command.id, note: undefined, heldBefore: call.held })),
    model,
  );
}

function withdrawCalls(model, command) {
  if (command.method === "CallStart") return { ...model, calls: model.calls.filter((call) => call.key !== command.id) };
  return editCall(model, (call) => call.busy === command.id, () => ({ busy: undefined }));
}

function progressCalls(model, command, event, data, at) {
  switch (command.method) {
    case "CallStart":
      return progressStart(model, command, event, data, at);
    case "CallBlindTransfer":
    case "CallAttendedTransfer":
      return progressTransfer(model, command, event, data, at);
    case "CallHold":
      return event === "CallHoldSuccessful" ? markLeg(model, command, data.leg, true) : model;
    case "CallUnhold":
      return event === "CallUnholdSuccessful" ? markLeg(model, command, data.leg, false) : model;
    default:
      return model;
  }
}

function progressStart(model, command, event, data, at) {
  const ours = byKey(command.id);
  switch (event) {
    case "CallerRinging":
      return editCall(model, ours, () => ({ state: "ringing-caller" }));
    case "CallerAnswered":
      return editCall(model, ours, () => ({
        caller: text(data.caller) ?? text(command.params.caller),
        callee: text(data.callee) ?? text(command.params.callee),
        state: "ringing-callee",
      }));
    case "TransferStart":
      return editCall(model, ours, (call) => ({
        callid: text(data.callid),
        state: call.state === "talking" ? "talking" : "ringing-callee",
      }));
    case "CalleeAnswered":
      return editCall(model, ours, (call) => ({
        callid: text(data.callid) ?? call.callid,
        state: "talking",
        answeredAt: call.answeredAt ?? at,
      }));
    case "Error":
      return editCall(model, ours, () => ({ note: command.error?.text }));
    default:
      return model;
  }
}

/** A transfer makes a new call between the party that moves on and where it goes. */
function progressTransfer(model, command, event, data, at) {
  const callid = text(data.callid);
  if (event !== "TransferStart" && event !== "TransferSuccessful") return model;
  if (callid === undefined || subjects(command).includes(callid)) return model;
  const [mover, target] = transferParties(model, command, text(data.destination));
  const next = addCall(
    model,
    newCall(`${command.id}>${callid}`, {
      callid,
      caller: mover,
      callee: target,
      state: "ringing-callee",
      busy: command.id,
      madeBy: command.id,
      at,
    }),
  );
  if (event !== "TransferSuccessful") return next;
  return editCall(next, byCallid(callid), (call) => ({ state: "talking", answeredAt: call.answeredAt ?? at }));
}

function transferParties(model, command, destination) {
  const { params } = command;
  if (command.method === "CallBlindTransfer") {
    return [partyOf(callById(model, params.callid), params.leg), text(params.destination) ?? destination];
  }
  return [
    partyOf(callById(model, params.callidA), params.legA),
    partyOf(callById(model, params.callidB), params.legB) ?? destination,
  ];
}

function markLeg(model, command, leg, held) {
  if (leg !== "caller" && leg !== "callee") return model;
  return editCall(ensureCall(model, command.params.callid, command.at), byCallid(command.params.callid), (call) => ({
    held: { ...call.held, [leg]: held },
  }));
}

const HELD = { caller: true, callee: true };

function settleCalls(model, command, at) {
  const free = (next) => editCall(next, (call) => call.busy === command.id, () => ({ busy: undefined, heldBefore: undefined }));
  switch (command.method) {
    case "CallStart":
      return free(settleStart(model, command, at));
    case "CallBlindTransfer":
    case "CallAttendedTransfer":
      return free(settleTransfer(model, command, at));
    case "CallHold":
    case "CallUnhold":
      return free(settleHold(model, command, at));
    case "CallEnd":
      return free(settleEnd(model, command, at));
    default:
      return model;
  }
}

function settleStart(model, command, at) {
  const ours = (call) => call.key === command.id && !isGone(call);
  if (command.outcome === "success") {
    return editCall(model, ours, (call) => ({ state: "talking", answeredAt: call.answeredAt ?? at }));
  }
  if (maybeUp(command)) return editCall(model, ours, () => ({ state: "unknown", note: noteOf(command) }));
  const failed = command.outcome === "failed";
  return editCall(model, ours, () => ({ ...gone(at, noteOf(command)), failed }));
}

function settleTransfer(model, command, at) {
  const made = (call) => call.madeBy === command.id && !isGone(call);
  if (command.outcome === "success") {
    const target = model.calls.find(made)?.callee ?? text(command.params.destination);
    const next = editCall(model, made, (call) => ({ state: "talking", answeredAt: call.answeredAt ?? at }));
    const why = target ? `transferred to ${shortName(target)}` : "transferred";
    return endSubjects(next, command, at, why);
  }
  const kept = maybeUp(command)
    ? editCall(model, made, () => ({ state: "unknown", note: noteOf(command) }))
    : { ...model, calls: model.calls.filter((call) => !made(call)) };
  return failedOn(kept, command, at);
}

function settleHold(model, command, at) {
  const { callid } = command.params;
  const hold = command.method === "CallHold";
  if (command.outcome === "success") {
    return editCall(ensureCall(model, callid, at), byCallid(callid), () => ({
      held: hold ? HELD : {},
      holdDoubt: false,
      note: undefined,
    }));
  }
  // Told that it is so already: then it is so.
  if (isAlreadySo(command.error)) {
    return editCall(model, byCallid(callid), () => ({ held: hold ? HELD : {}, holdDoubt: false, note: noteOf(command) }));
  }
  // What was sent may have taken effect on either leg.
  if (maybeUp(command)) return failedOn(editCall(model, byCallid(callid), () => ({ holdDoubt: true })), command, at);
  if (isByTheProxy(command.error)) return failedOn(model, command, at);
  // A hold that reached one leg only is undone by the server.
  const restored = editCall(model, byCallid(callid), (call) => ({ held: call.heldBefore ?? call.held }));
  return failedOn(restored, command, at);
}

/**
 * What became of the phone that had taken a hold or a resume which the other one would not take, in words:
 * `failed` says that it was put back. No event tells it, and of the proxy's own hold, which names no SIP
 * status, it is not true.
 */
function undoneText(model, { method, params, events }, outcome, error) {
  const hold = method === "CallHold";
  if (outcome !== "failed" || !(hold || method === "CallUnhold")) return undefined;
  if (CALL_IS_GONE.has(error?.code) || isByTheProxy(error)) return undefined;
  const taken = events.find((event) => event.name === (hold ? "CallHoldSuccessful" : "CallUnholdSuccessful"));
  const leg = objectOr(taken?.data, {}).leg;
  if (leg !== "caller" && leg !== "callee") return undefined;
  const party = partyOf(callById(model, params.callid), leg);
  const who = party === undefined ? `the ${leg}` : shortName(party);
  return hold ? `${who} was taken off hold again` : `${who} was put on hold again`;
}

function isByTheProxy(error) {
  return error?.code === "leg_refused" && error.sipStatus === undefined;
}

/** By the word, or by an old server's text. */
function isAlreadySo(error) {
  return error?.code === "already_held" || error?.code === "not_held" || /^480 (Both|No) dialog legs/.test(error?.text);
}

function settleEnd(model, command, at) {
  if (command.outcome === "success") return endSubjects(model, command, at, "ended");
  return failedOn(model, command, at);
}

function endSubjects(model, command, at, why) {
  return subjects(command).reduce((next, id) => editCall(next, byCallid(id), () => gone(at, why)), model);
}

/** A failed command leaves its call as it was, unless the failure says that the call is gone. */
function failedOn(model, command, at) {
  const note = noteOf(command);
  const over = goneBy(command);
  return subjects(command).reduce(
    (next, id) => editCall(next, byCallid(id), () => (over.includes(id) ? gone(at, note) : { note })),
    model,
  );
}

const CALL_IS_GONE = new Set(["call_not_found", "call_ended", "call_lost"]);

/** The Call-IDs that a failure says are over. */
function goneBy({ method, params, error, up }) {
  const words = error?.text ?? "";
  if (method === "CallAttendedTransfer") {
    if (error?.code === "consult_gone" || words.includes("Transfer dialog not found")) return [params.callidB];
    return CALL_IS_GONE.has(error?.code) || words === "404 Dialog not found" ? [params.callidA] : [];
  }
  return up === "no" || CALL_IS_GONE.has(error?.code) || /^404 .*ialog not found/.test(words) ? [params.callid] : [];
}

function maybeUp(command) {
  return command.outcome === "unknown" && command.up !== "no";
}

function gone(at, why) {
  return { state: "ended", endedAt: at, note: why, held: {} };
}

function noteOf(command) {
  const why = command.error?.text || OUTCOMES[command.outcome]?.said || command.outcome;
  return withUndone(why, command);
}

function withUndone(words, command) {
  return command.undone ? `${words} · ${command.undone}` : words;
}

/** Whether a call is on hold, and how much of it. */
export function holdOf(call) {
  const legs = Number(Boolean(call.held.caller)) + Number(Boolean(call.held.callee));
  return ["none", "one", "both"][legs];
}

/** The state a person is shown: `{name, words}`; `name` is also the colour, but for what has `failed`. */
export function callState(call, model) {
  const busy = commandById(model, call.busy);
  if (call.state === "ended") {
    return call.failed ? { name: "ended", words: "Failed", failed: true } : { name: "ended", words: "Ended" };
  }
  if (call.state === "unknown") return { name: "unknown", words: "May be up" };
  if (call.state === "calling") {
    return { name: "ringing", words: busy?.status === "running" ? `Calling ${shortName(call.caller)}` : "Asking" };
  }
  if (call.state === "ringing-caller") return { name: "ringing", words: `${shortName(call.caller)} rings` };
  if (call.state === "ringing-callee") return { name: "ringing", words: `${shortName(call.callee)} rings` };
  if (busy?.method === "CallBlindTransfer" || busy?.method === "CallAttendedTransfer") {
    return { name: "ringing", words: "Transferring" };
  }
  if (busy?.method === "CallEnd") return { name: "ending", words: "Ending" };
  if (busy?.method === "CallHold") return { name: "held", words: "Holding" };
  if (busy?.method === "CallUnhold") return { name: "held", words: "Resuming" };
  if (call.holdDoubt) return { name: "unknown", words: "May be held" };
  switch (holdOf(call)) {
    case "both":
      return { name: "held", words: "Held" };
    case "one":
      return { name: "held", words: "Half held" };
    default:
      return { name: "talking", words: call.foreign ? "Known by id" : "Talking" };
  }
}

// Words

/** The name in a SIP address: what stands before the @, else the host. */
export function shortName(address) {
  if (typeof address !== "string" || !address) return "someone";
  const inner = /<([^>]*)>/.exec(address)?.[1] ?? address;
  const bare = inner.replace(/^sips?:/i, "");
  const [user, host] = bare.includes("@") ? [bare.slice(0, bare.lastIndexOf("@")), bare.slice(bare.lastIndexOf("@") + 1)] : ["", bare];
  const name = user || host;
  return name.split(/[;?]/, 1)[0] || "someone";
}

/** The host of a SIP address, or nothing where the name is the host already. */
export function domainOf(address) {
  const inner = /<([^>]*)>/.exec(address)?.[1] ?? address;
  const at = inner.lastIndexOf("@");
  return at === -1 ? "" : inner.slice(at + 1).split(/[;?]/, 1)[0];
}

/** Completes what a person types: `alice` with the domain `x` is `sip:alice@x`. */
export function completeAddress(typed, domain) {
  const value = typed.trim();
  if (!value || /^[a-z][a-z0-9+.-]*:/i.test(value) || /[<>\s"]/.test(value)) return value;
  if (value.includes("@")) return `sip:${value}`;
  return domain ? `sip:${value}@${domain}` : value;
}

export function titleOf(method) {
  return METHODS[method]?.title ?? method;
}

/** Who or what a command is about, in a few words. */
export function subjectOf(command, model) {
  const { params } = command;
  const call = (id) => {
    const known = callById(model, id);
    return known && !known.foreign ? `${shortName(known.caller)} and ${shortName(known.callee)}` : shortId(id);
  };
  const party = (id, leg) => shortName(partyOf(callById(model, id), leg) ?? leg);
  switch (command.method) {
    case "CallStart":
      return `${shortName(params.caller)} to ${shortName(params.callee)}`;
    case "CallBlindTransfer":
      return `${party(params.callid, params.leg)} to ${shortName(params.destination)}`;
    case "CallAttendedTransfer":
      return `${party(params.callidA, params.legA)} to ${party(params.callidB, params.legB)}`;
    case "CallHold":
    case "CallUnhold":
    case "CallEnd":
      return params.callid === undefined ? "" : call(params.callid);
    case "Echo":
      return text(params.message) ?? "";
    default:
      return "";
  }
}

/** An id short enough to be read: its first and last characters. */
export function shortId(id) {
  const value = String(id ?? "");
  return value.length > 17 ? `${value.slice(0, 8)}…${value.slice(-6)}` : value;
}

/** An event in a sentence; the event's own name stands beside it on the page. */
export function describeEvent(event, command, model) {
  const { params } = command;
  const data = objectOr(event.data, {});
  const caller = shortName(text(data.caller) ?? params.caller);
  const callee = shortName(text(data.callee) ?? params.callee);
  const party = data.leg === undefined ? "a phone" : shortName(partyOf(callById(model, params.callid), data.leg) ?? data.leg);
  const target = partyOf(callById(model, params.callidB), params.legB);
  const destination = shortName(text(params.destination) ?? target ?? text(data.destination));
  switch (event.name) {
    case "Started":
      return "Accepted";
    case "CallerRinging":
      return `${caller}'s phone rings`;
    case "CallerAnswered":
      return `${caller} answered`;
    case "Transferring":
      return command.method === "CallStart" ? `Connecting ${caller}` : `The phone was asked to call ${destination}`;
    case "TransferStart":
      return command.method === "CallStart" ? `${caller}'s phone calls ${callee}` : `${destination} is being called`;
    case "TransferPending":
      return text(data.extra) ?? "In progress";
    case "CalleeAnswered":
      return `${callee} answered: they talk`;
    case "TransferSuccessful":
      return `${destination} answered: they talk`;
    case "CallHolding":
      return "Being put on hold";
    case "CallUnholding":
      return "Being taken off hold";
    case "CallHoldStart":
      return `${party} is asked to hold`;
    case "CallHoldSuccessful":
      return `${party} is on hold`;
    case "CallUnholdStart":
      return `${party} is asked to resume`;
    case "CallUnholdSuccessful":
      return `${party} is back`;
    case "Echo":
      return "Came back";
    case "Error":
      return command.error?.text || "Failed";
    case "Ended":
      return withUndone(OUTCOMES[command.outcome]?.said ?? command.outcome ?? "Ended", command);
    default:
      return event.name;
  }
}

/** The outcome words of the protocol: the colour and what each means. */
export const OUTCOMES = Object.freeze({
  __proto__: null,
  success: { tone: "good", word: "success", said: "Done" },
  failed: { tone: "bad", word: "failed", said: "Failed" },
  cancelled: { tone: "calm", word: "cancelled", said: "Cancelled" },
  not_started: { tone: "calm", word: "not started", said: "Nothing was done: it never reached the phones" },
  unknown: { tone: "doubt", word: "unknown", said: "How it ended can't be known" },
});

const UP = Object.freeze({
  __proto__: null,
  yes: "a call is up",
  no: "no call is up",
  unknown: "a call may be up",
});

/** How a command stands: `{tone, word, detail}`. */
export function standing(command) {
  switch (command.status) {
    case "sending":
      return { tone: "busy", word: "sending", detail: "" };
    case "unanswered":
      return { tone: "doubt", word: "unanswered", detail: "The connection was lost before the server answered." };
    case "running":
      return { tone: "busy", word: "running", detail: "" };
    case "refused":
      return {
        tone: "bad",
        word: "refused",
        detail: [command.refusal.field, refusalText(command.refusal)].filter(Boolean).join(": "),
      };
    default: {
      const known = OUTCOMES[command.outcome] ?? { tone: "doubt", word: String(command.outcome), said: "" };
      return { tone: known.tone, word: known.word, detail: endingText(command, known) };
    }
  }
}

function endingText(command, known) {
  const parts = [];
  if (command.error?.text) parts.push(command.error.text);
  else if (command.outcome !== "success") parts.push(known.said);
  if (command.undone) parts.push(command.undone);
  if (command.extra?.forgotten) parts.push("the server has no record of it any more");
  if (command.outcome !== "success" && UP[command.up]) parts.push(UP[command.up]);
  if (command.extra?.already === true) parts.push("it was so already");
  if (command.extra?.replaced === false) parts.push("the phone placed a new call beside the old one");
  if (command.extra?.leg_left_up === true) parts.push("a phone may still be in the half-made call");
  if (command.extra?.may_still_ring === true) parts.push("a phone may still ring");
  return parts.join(" · ");
}

/** A refusal in words for a person. */
export function refusalText(refusal) {
  switch (refusal.kind) {
    case "call_busy":
      return "Another command is still working on this call.";
    case "caller_busy":
      return "A call from this caller is being started already.";
    case "bad_params":
      return sentence(refusal.reason ?? refusal.message);
    default: {
      const what = refusal.message || `The server refused it (${refusal.code})`;
      const wait = refusal.retryAfter === undefined ? "" : ` Try again in ${Math.ceil(refusal.retryAfter / 1000)} s.`;
      return sentence(refusal.reason ? `${what}: ${refusal.reason}` : what) + wait;
    }
  }
}

/** With a capital and a full stop: `must be a SIP address` is `Must be a SIP address.` */
function sentence(words) {
  const whole = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

const GAPS = Object.freeze({
  __proto__: null,
  restarted: "The server was restarted and has forgotten what ran before.",
  ahead: "The server never told what this page remembers: it is another one, or it lost something.",
  trimmed: "Too much has happened since; the missed events are no longer kept.",
});

/** What `recovered: false` means for the person. */
export function gapText(gap) {
  return GAPS[gap.reason] ?? `What happened meanwhile is lost (${gap.reason}).`;
}

/**
 * The stages of a command for its bar: `{name, from, to, tone}` with times; the last one of a running
 * command ends `now`. Stages follow the events that change who is being waited for.
 */
export function stages(command, now) {
  const end = command.endedAt ?? Math.max(now, command.at);
  const marks = [{ at: command.at, tone: "ask" }];
  for (const event of command.events) {
    const tone = STAGE_TONES[event.name];
    if (tone && marks.at(-1).tone !== tone) marks.push({ at: event.at, tone });
  }
  return marks.map((mark, i) => ({ tone: mark.tone, from: mark.at, to: marks[i + 1]?.at ?? end }));
}

const STAGE_TONES = Object.freeze({
  __proto__: null,
  CallerRinging: "ring",
  CallerAnswered: "connect",
  Transferring: "connect",
  TransferStart: "ring",
  CalleeAnswered: "talk",
  TransferSuccessful: "talk",
  CallHoldStart: "hold",
  CallHoldSuccessful: "held",
  CallUnholdStart: "hold",
  CallUnholdSuccessful: "talk",
});

/** What a transfer will do, in a sentence. `party` and `other` are addresses. */
export function transferPreview(mover, left, target) {
  if (!mover || !target) return "";
  return `${shortName(mover)} will talk with ${shortName(target)}; ${shortName(left)} is let go.`;
}

// Closing codes of the WebSocket

/**
 * What to do after a close with this code: `again`, and not before `after` milliseconds. From 4500 on
 * something has to change first; 4004 is a defect of the server's, which needs a moment.
 */
export function closing(code) {
  return { again: !(code >= 4500 && code < 5000), after: code === 4004 ? 1000 : 0 };
}

// Values from the wire

function text(value) {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function own(table, name) {
  return name !== undefined && Object.hasOwn(table, name) ? table[name] : undefined;
}

function objectOr(value, otherwise) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : otherwise;
}
