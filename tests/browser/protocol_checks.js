// Checks of protocol.js alone: a function of the module that gives the list of what is wrong.
(p) => {
  const wrong = [];
  const is = (what, got, wanted) => {
    if (JSON.stringify(got) !== JSON.stringify(wanted)) {
      wrong.push(`${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
    }
  };
  const run = (...actions) => actions.reduce((model, action) => p.reduce(model, action), p.emptyModel());
  const ask = (id, method, params, at = id) => ({ type: "sent", at, frame: p.request(id, method, params) });
  const got = (frame, at = 100) => ({ type: "received", at, frame });
  const ok = (id, cmd_id, more = {}) => got({ jsonrpc: "2.0", id, result: { cmd_id, event: "Started", ...more } });
  const told = (method, cmd_id, event, more = {}, at = 100) =>
    got({ jsonrpc: "2.0", method, params: { cmd_id, event, ...more } }, at);
  const start = (id, cmd_id) => ask(id, "CallStart", { cmd_id, caller: "sip:a@x", callee: "sip:b@x" });
  const up = (cmd_id, callid) => [
    told("CallStart", cmd_id, "TransferStart", { data: { caller: "sip:a@x", callee: "sip:b@x", callid } }),
    told("CallStart", cmd_id, "CalleeAnswered", { data: { callid } }),
    told("CallStart", cmd_id, "Ended", { outcome: "success" }),
  ];

  // Purity: the same actions give the same model, and the old one is left as it was.
  const before = run(start(1, "s"));
  const copy = JSON.stringify(before);
  const after = p.reduce(before, ok(1, "s", { session: "S", epoch: "e", seq: 4 }));
  is("the old model is untouched", JSON.stringify(before), copy);
  is("session", after.session, "S");
  is("position", after.position, { epoch: "e", seq: 4 });
  is("the same again", p.reduce(before, ok(1, "s", { session: "S", epoch: "e", seq: 4 })), after);

  // An old server tells no outcome: an Error before Ended is a failure, else success.
  const old = run(start(1, "s"), ok(1, "s"), told("CallStart", "s", "Error", { data: "486 Busy Here" }), told("CallStart", "s", "Ended"));
  is("old failure", old.commands.s.outcome, "failed");
  is("old text", p.standing(old.commands.s).detail, "486 Busy Here");
  is("old success", run(start(1, "s"), ok(1, "s"), told("CallStart", "s", "Ended")).commands.s.outcome, "success");

  // A start that failed is said to have failed, one that was cancelled is over.
  const over = (outcome) => run(start(1, "s"), ok(1, "s"), told("CallStart", "s", "Ended", { outcome, up: "no" }));
  is("failed", p.callState(over("failed").calls[0], over("failed")), { name: "ended", words: "Failed", failed: true });
  is("cancelled", p.callState(over("cancelled").calls[0], over("cancelled")), { name: "ended", words: "Ended" });

  // Phones that end with the server leave no call that may be up.
  const alone = [start(1, "s"), ok(1, "s"), { type: "phones-gone", at: 7 }, told("CallStart", "s", "Ended", { outcome: "unknown", up: "unknown" })];
  is("phones gone", p.standing(run(...alone).commands.s).detail, "How it ended can't be known · no call is up");
  is("their card", run(...alone).calls[0].note, "the demo was restarted");

  // An end is final: whatever comes after changes no outcome.
  const ended = run(start(1, "s"), ok(1, "s"), ...up("s", "c"));
  is("talking", p.callState(ended.calls[0], ended).name, "talking");
  const late = p.reduce(ended, told("CallStart", "s", "Ended", { outcome: "failed" }));
  is("one end", late.commands.s.outcome, "success");
  is("and it stays up", late.calls[0].state, "talking");

  // Positions: a replay keeps its old numbers; the highest counts; a new epoch counts anew.
  const seq = (epoch, n) => told("CallStart", "s", "CallerAnswered", { epoch, seq: n });
  is("highest", run(seq("e", 5), seq("e", 3)).position, { epoch: "e", seq: 5 });
  is("new epoch", run(seq("e", 5), seq("f", 1)).position, { epoch: "f", seq: 1 });
  is("said once", run(seq("e", 5), seq("e", 5)).commands.s.events.length, 1);

  // Holds: one leg, both, undone, and told that it is so already.
  const hold = (cmd_id, method = "CallHold") => [ask(9, method, { cmd_id, callid: "c" }), ok(9, cmd_id)];
  const half = [ended, ...hold("h"), told("CallHold", "h", "CallHoldSuccessful", { data: { leg: "caller" } })];
  const from = ([model, ...actions]) => actions.reduce((next, action) => p.reduce(next, action), model);
  is("half held", p.holdOf(from(half).calls[0]), "one");
  const refused = [...half, told("CallHold", "h", "Error", { data: "callee: 488 Not Acceptable Here", error: { sip_status: 488 } }), told("CallHold", "h", "Ended", { outcome: "failed" })];
  is("undone", p.holdOf(from(refused).calls[0]), "none");
  is("and said", from(refused).calls[0].note, "callee: 488 Not Acceptable Here · a was taken off hold again");
  is("at the command too", p.standing(from(refused).commands.h).detail, "callee: 488 Not Acceptable Here · a was taken off hold again");
  const kept = [...half, told("CallHold", "h", "Ended", { outcome: "success" }), ...hold("v", "CallUnhold"), told("CallUnhold", "v", "CallUnholdSuccessful", { data: { leg: "callee" } }), told("CallUnhold", "v", "Error", { data: "caller: 488 Not Acceptable Here", error: { code: "leg_refused", sip_status: 488 } }), told("CallUnhold", "v", "Ended", { outcome: "failed" })];
  is("held as before", [p.holdOf(from(kept).calls[0]), from(kept).calls[0].note], ["both", "caller: 488 Not Acceptable Here · b was put on hold again"]);
  const first = [ended, ...hold("h"), told("CallHold", "h", "CallHoldStart", { data: { leg: "caller" } }), told("CallHold", "h", "Error", { data: "caller: 488 Not Acceptable Here", error: { code: "leg_refused", sip_status: 488 } }), told("CallHold", "h", "Ended", { outcome: "failed" })];
  is("nobody to take back", from(first).calls[0].note, "caller: 488 Not Acceptable Here");
  // The proxy's own hold names no SIP status and puts nobody back.
  const byProxy = [...half, told("CallHold", "h", "Error", { data: "callee: refused", error: { code: "leg_refused", up: "yes" } }), told("CallHold", "h", "Ended", { outcome: "failed" })];
  is("not undone", [p.callState(from(byProxy).calls[0], from(byProxy)).words, from(byProxy).calls[0].note], ["Half held", "callee: refused"]);
  const already = [ended, ...hold("h"), told("CallHold", "h", "Error", { data: "480 Both dialog legs are on hold" }), told("CallHold", "h", "Ended", { outcome: "failed" })];
  is("already", p.holdOf(from(already).calls[0]), "both");

  const doubted = [...half, told("CallHold", "h", "Error", { data: "timeout", error: { code: "reply_lost", up: "yes" } }), told("CallHold", "h", "Ended", { outcome: "unknown", up: "yes" })];
  is("in doubt", p.callState(from(doubted).calls[0], from(doubted)), { name: "unknown", words: "May be held" });
  const resumed = [...doubted, ...hold("u", "CallUnhold"), told("CallUnhold", "u", "Ended", { outcome: "success" })];
  is("and out of it", p.callState(from(resumed).calls[0], from(resumed)), { name: "talking", words: "Talking" });
  const notHeld = [...doubted, ...hold("u", "CallUnhold"), told("CallUnhold", "u", "Error", { data: "480 No dialog legs are on hold", error: { code: "not_held", up: "yes" } }), told("CallUnhold", "u", "Ended", { outcome: "failed" })];
  is("not held after all", p.callState(from(notHeld).calls[0], from(notHeld)).words, "Talking");
  const gone = [...half, told("CallHold", "h", "Ended", { outcome: "unknown", up: "no" })];
  is("and over", from(gone).calls[0].state, "ended");

  // A failed transfer keeps its call and drops the one it tried to make.
  const transfer = [ended, ask(9, "CallBlindTransfer", { cmd_id: "t", callid: "c", leg: "caller", destination: "sip:d@x" }), ok(9, "t"), told("CallBlindTransfer", "t", "TransferStart", { data: { callid: "n", destination: "sip:d@9" } })];
  is("two calls", from(transfer).calls.map((call) => call.state), ["talking", "ringing-callee"]);
  is("the mover", [from(transfer).calls[1].caller, from(transfer).calls[1].callee], ["sip:a@x", "sip:d@x"]);
  const failed = [...transfer, told("CallBlindTransfer", "t", "Error", { data: "target: 486 Busy Here", error: { code: "target_busy" } }), told("CallBlindTransfer", "t", "Ended", { outcome: "failed", up: "yes" })];
  is("kept", from(failed).calls.map((call) => [call.callid, call.state, call.busy ?? null]), [["c", "talking", null]]);
  const unknown = [...transfer, told("CallBlindTransfer", "t", "Ended", { outcome: "unknown", up: "unknown" })];
  is("in doubt", from(unknown).calls[1].state, "unknown");

  // A call that the server doesn't find is over, whoever ended it.
  const lost = [ended, ...hold("h"), told("CallHold", "h", "Error", { data: "404 Dialog not found", error: { code: "call_not_found", sip_status: 404, up: "no" } }), told("CallHold", "h", "Ended", { outcome: "failed", up: "no" })];
  is("gone", from(lost).calls[0].state, "ended");

  // A consultation that is gone takes only itself with it.
  const two = [ended, start(2, "s2"), ok(2, "s2"), ...up("s2", "d"), ask(9, "CallAttendedTransfer", { cmd_id: "t", callidA: "c", legA: "caller", callidB: "d", legB: "callee" }), ok(9, "t"), told("CallAttendedTransfer", "t", "Error", { data: "404 Transfer dialog not found", error: { code: "call_not_found", up: "yes" } }), told("CallAttendedTransfer", "t", "Ended", { outcome: "failed" })];
  is("consultation", from(two).calls.map((call) => [call.callid, call.state]), [["c", "talking"], ["d", "ended"]]);

  // Refusals: the reason counts more than JSON-RPC's standard words.
  const refusal = (data, message = "Invalid params") => p.refusalText(p.refusalOf({ code: -32602, message, data }));
  is("reason", refusal({ kind: "bad_params", field: "x", reason: "is missing" }), "Is missing.");
  is("message", refusal(undefined, "Method not found"), "Method not found.");
  is("nothing said", refusal("odd", 5), "The server refused it (-32602).");
  is("close codes", [1006, 4000, 4004, 4500].map((code) => p.closing(code)), [{ again: true, after: 0 }, { again: true, after: 0 }, { again: true, after: 1000 }, { again: false, after: 0 }]);

  // A call known only by its id is shown once something about it succeeded.
  const foreign = run(ask(1, "CallHold", { cmd_id: "h", callid: "other" }), ok(1, "h"), told("CallHold", "h", "Ended", { outcome: "success" }));
  is("foreign", foreign.calls.map((call) => [call.callid, p.holdOf(call)]), [["other", "both"]]);

  // Lost before an answer: unanswered, and the heartbeat never shows.
  const unanswered = run(start(1, "s"), { type: "lost", at: 5 });
  is("unanswered", unanswered.commands.s.status, "unanswered");
  is("no heartbeat", run(ask(1, "Echo", { cmd_id: `${p.HEARTBEAT}1` })).order, []);

  // The refusal of a repeat tells of the command only when the server has looked for its id.
  const no = (id, kind) => got({ jsonrpc: "2.0", id, error: { code: -32004, message: "no", data: { kind } } });
  const repeat = [start(1, "s"), { type: "lost", at: 5 }, start(2, "s")];
  is("repeat in doubt", run(...repeat, no(2, "too_many_commands")).commands.s.status, "unanswered");
  is("its call stays", run(...repeat, no(2, "draining")).calls.length, 1);
  is("repeat refused", run(...repeat, no(2, "caller_busy")).commands.s.status, "refused");
  is("first refused", run(start(1, "s"), no(1, "too_many_commands")).commands.s.status, "refused");
  const lookUp = ask(3, "CommandGet", { cmd_id: "s" });
  is("no answer", run(start(1, "s"), ok(1, "s"), lookUp, no(3, "store_unavailable")).commands.s.status, "running");
  is("no record", run(start(1, "s"), ok(1, "s"), lookUp, no(3, "unknown_command")).commands.s.outcome, "unknown");

  // After a refused Resume the connection is another session.
  const elsewhereNow = run(ok(1, "s"), { type: "sent", at: 1, frame: p.request(1, "Echo", {}) }, ok(1, "x", { session: "S", epoch: "e", seq: 4 }), { type: "sent", at: 2, frame: p.request(2, "Resume", { session: "S", epoch: "e", seq: 4 }) });
  is("resume refused", [p.reduce(elsewhereNow, no(2, "resume_refused")).session, p.reduce(elsewhereNow, no(2, "store_unavailable")).session], [null, "S"]);

  // Begun on another connection of the session.
  const elsewhere = run(told("CallStart", "z", "Started", { epoch: "e", seq: 1 }), told("CallStart", "z", "CallerAnswered", { epoch: "e", seq: 2, data: { caller: "sip:a@x", callee: "sip:b@x" } }));
  is("elsewhere", p.subjectOf(elsewhere.commands.z, elsewhere), "a to b");

  // The past is bounded, what runs is kept.
  const many = [start(0, "first"), ok(0, "first")];
  for (let i = 1; i <= 300; i += 1) many.push(start(i, `n${i}`), ok(i, `n${i}`), told("CallStart", `n${i}`, "Ended", { outcome: "failed" }));
  const long = run(...many);
  is("kept", [long.order.length, Object.keys(long.commands).length, long.order[0], long.calls.length <= 52], [200, 200, "first", true]);

  // Words and addresses.
  for (const [address, name] of [["sip:alice@x", "alice"], ["sips:b.c@x:5061;transport=tls", "b.c"], ['"Al" <sip:al@x>', "al"], ["sip:pbx.example", "pbx.example"], ["", "someone"], [undefined, "someone"], ["tel:+4930", "tel:+4930"]]) {
    is(`name of ${address}`, p.shortName(address), name);
  }
  for (const [typed, address] of [["alice", "sip:alice@d"], ["alice@x", "sip:alice@x"], [" sip:a@x ", "sip:a@x"], ["sips:a@x", "sips:a@x"], ["", ""], ["a b", "a b"], ["tel:+49", "tel:+49"]]) {
    is(`completed ${typed}`, p.completeAddress(typed, "d"), address);
  }
  is("stages", p.stages({ at: 0, events: [{ name: "CallerAnswered", at: 10 }, { name: "TransferStart", at: 15 }], endedAt: 30 }, 99), [
    { tone: "ask", from: 0, to: 10 },
    { tone: "connect", from: 10, to: 15 },
    { tone: "ring", from: 15, to: 30 },
  ]);
  return wrong;
}
