//! All phases of all commands at once before one OpenSIPS; then processes die, and each command is
//! held against its row.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use callplane::stack::simulated::Script;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::PODS;
use super::history::{self, Fault, Time, What};
use super::mi::Ledger;
use super::pods::{Pods, program};
use super::record::Recorder;
use super::redis::Redis;
use super::stack::{Stack, until};
use super::support::phone::{Behaviour, Phone};
use super::support::sip::Direction;
use super::table::{Command, Point, ROWS, Row};
use super::talk::{self, Heard, Talk, Told, Wish};

/// Who dies. Clients are at a process that does not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dies {
    /// The process of the clients.
    Theirs,
    /// The one that takes the proxy's events.
    Leader,
    Both,
}

/// Every command is in its phase within this.
const IN_PHASE: Duration = Duration::from_secs(15);

/// A proxy tells its age in whole seconds, and in doubt it counts as younger.
const OLD_ENOUGH: Duration = Duration::from_secs(3);

/// All have ended within this.
const ENDED: Duration = Duration::from_secs(75);

/// A setup leg of nobody's is ended after 10 s, and twice that at the worst.
const ORPHANS: Duration = Duration::from_secs(30);

/// A row with its phones and its client.
struct Play {
    row: Row,
    id: String,
    users: [String; 3],
    /// The calls that its phones placed before.
    given: Vec<String>,
    watch: usize,
    heard: Heard,
    /// The process where it stands when others die.
    performer: Option<usize>,
}

/// Longer than this nothing may be kept back: what waits for its turn is not sent any more.
const IN_TIME: u64 = 400;

/// One site at a time has its commands in their phases: they are to come there quickly.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a run came to.
pub enum Played {
    Well(String),
    Broken(String),
    /// It took too long until all were in their phase: nothing is learned.
    TooSlow,
}

pub async fn play(number: usize, script: Script, dies: Dies) -> Played {
    let folder = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("PODS_KEEP").map(std::path::PathBuf::from);
    let folder = match keep {
        Some(keep) => keep.join(format!("{script:?}-{dies:?}")),
        None => folder.path().to_owned(),
    };
    std::fs::create_dir_all(&folder).unwrap();
    let recorder = Arc::new(Recorder::new());
    let redis = tokio::task::block_in_place(Redis::one);
    let mut stack = Stack::bare(number, script);
    for user in (0..ROWS.len()).flat_map(users) {
        stack.add(&user, Behaviour::default());
    }
    let stacks = [stack];
    let ledger = Arc::new(Ledger::default());
    let ours = program();
    let processes = (PODS, ours.as_path());
    let pods = Pods::start(processes, &folder, &redis, None, &stacks, &ledger, &recorder).await;
    let led =
        until("the proxy is led", Duration::from_secs(20), async || pods.leader(number).is_some());
    assert!(led.await, "nobody leads");
    let leader = pods.leader(number).unwrap();
    let theirs = (0..PODS).find(|pod| *pod != leader).unwrap();
    let [stack] = &stacks;

    let (over, is_over) = watch::channel(false);
    let mut plays = Vec::new();
    let mut wishes = Vec::new();
    let mut running = Vec::new();
    for (at, row) in ROWS.into_iter().enumerate() {
        let (id, users) = (format!("row{at:02}"), users(at));
        let given = calls_before(row.command, &users, stack).await;
        for user in &users {
            stack.phone(user).behave(|now| *now = behaviour(&row, user));
        }
        for call in &given {
            recorder.note(What::Given { stack: number, call: call.clone() });
        }
        if row.command == Command::Unhold {
            hold_first(at, &given[0], theirs, &pods, &recorder).await;
        }
        let talk = Talk::new(at + 1, &id, &pods, &recorder);
        let (heard, mut ready) = (talk.heard(), talk.ready());
        let wish = wish(row.command, &id, &users, &given, stack);
        let (send, receive) = watch::channel(None);
        running.push(tokio::spawn(talk.run(theirs, receive, is_over.clone())));
        ready.wait_for(|ready| *ready).await.unwrap();
        wishes.push((send, wish));
        let watch = ledger.watch(&id, row.point.stop());
        plays.push(Play { row, id, users, given, watch, heard, performer: None });
    }
    // What a mark tells counts only when the proxy surely ran before the operation.
    until("the proxy is old enough", OLD_ENOUGH * 2, async || stack.age() > OLD_ENOUGH).await;
    let turn = TURN.lock().await;
    let begun = recorder.now();
    for (send, wish) in &wishes {
        send.send_replace(Some(wish.clone()));
    }
    let mut broken = Vec::new();
    until("all are in their phase", IN_PHASE, async || {
        plays.iter().all(|play| play.is_in_phase(stack, &ledger))
    })
    .await;
    let in_phase = recorder.now() - begun;
    for play in &mut plays {
        if !play.is_in_phase(stack, &ledger) {
            broken.push(format!("{} never came to its phase", play.name()));
        }
        play.performer = ledger.stopped(play.watch);
    }
    let dead = match dies {
        Dies::Theirs => vec![theirs],
        Dies::Leader => vec![leader],
        Dies::Both => vec![theirs, leader],
    };
    let killed = recorder.now();
    if killed - begun > IN_TIME && broken.is_empty() {
        over.send_replace(true);
        pods.end().await;
        return Played::TooSlow;
    }
    futures_util::future::join_all(dead.iter().map(|pod| pods.kill(*pod))).await;
    recorder.note_at(killed, What::Fault { kind: Fault::Crash, until: recorder.now() });
    ledger.release(&dead).await;
    drop(turn);

    until("all have ended", ENDED, async || {
        plays.iter().all(|play| !talk::told(&play.heard, &play.id).ended.is_empty())
    })
    .await;
    let settled = recorder.now();
    let clear = until("no setup leg is up", ORPHANS, async || {
        !stack.calls_of_phones().await.iter().any(|call| call.starts_with("cp-"))
    });
    if !clear.await {
        let left = stack.calls_of_phones().await;
        broken.push(format!("setup legs are left: {left:?}"));
    }
    let cleared = recorder.now();
    // What a call that was ended is for a phone comes a moment later.
    let quiet = until("all calls are as told", Duration::from_secs(3), async || {
        plays.iter().all(|play| play.calls_wrong(stack).is_none())
    });
    quiet.await;
    over.send_replace(true);
    for client in running {
        client.await.unwrap();
    }
    stack.note_seen(&recorder).await;
    for call in stack.calls_of_phones().await {
        let setup = call.starts_with("cp-");
        recorder.note(What::Left { stack: number, call, setup });
    }
    broken.extend(pods.panics());
    pods.end().await;

    let mut report = format!(
        "{script:?} script, {dies:?} killed ({theirs} is the clients', {leader} leads): all in phase after \
         {in_phase} ms, ended {} ms after the kill, clear {} ms later\n",
        settled - killed,
        cleared - settled,
    );
    for play in &plays {
        let said = play.judge(script, &dead, killed, &ledger, stack, &mut broken);
        writeln!(report, "  {said}").unwrap();
    }
    let mut history = recorder.take();
    history.calm = cleared;
    if std::env::var_os("PODS_KEEP").is_some() {
        std::fs::write(folder.join("history.txt"), history.text()).unwrap();
        let all = plays.iter().map(|play| {
            let touched = ledger.touched(play.watch);
            let touched = touched.iter().map(|touch| format!("  {touch:?}\n"));
            format!("{}\n{}", play.name(), touched.collect::<String>())
        });
        std::fs::write(folder.join("touched.txt"), all.collect::<String>()).unwrap();
        std::fs::write(folder.join("opensips.log"), stack.log()).unwrap();
    }
    broken.extend(history::judge(&history).iter().map(ToString::to_string));
    // An end may be asked for twice, and OpenSIPS sends both.
    let violations =
        stack.violations().into_iter().filter(|said| !said.contains(": BYE with CSeq"));
    broken.extend(violations.map(|said| format!("a phone: {said}")));
    if broken.is_empty() {
        return Played::Well(report);
    }
    Played::Broken(format!("{report}{} broken:\n  {}", broken.len(), broken.join("\n  ")))
}

fn users(at: usize) -> [String; 3] {
    ["a", "b", "c"].map(|name| format!("row{at:02}{name}"))
}

/// What a phone of a row does: it gives the phase its time.
fn behaviour(row: &Row, user: &str) -> Behaviour {
    let plain = Behaviour::default();
    let seconds = Duration::from_secs;
    let is = |name: char| user.ends_with(name);
    let transferee = match row.command {
        Command::Start => 'a',
        Command::Blind | Command::Attended => 'b',
        Command::Hold | Command::Unhold | Command::End => return plain,
    };
    let target = if row.command == Command::Start { 'b' } else { 'c' };
    match row.point {
        Point::CallerRings if is('a') => Behaviour { ring_for: seconds(7), ..plain },
        Point::Accepted if is(transferee) => Behaviour { follow_after: seconds(5), ..plain },
        Point::Told(_) if is(target) => Behaviour { ring_for: seconds(7), ..plain },
        _ => plain,
    }
}

/// The calls that a command needs.
async fn calls_before(command: Command, [a, b, c]: &[String; 3], stack: &Stack) -> Vec<String> {
    match command {
        Command::Start => Vec::new(),
        Command::Blind | Command::Hold | Command::Unhold | Command::End => {
            vec![stack.talk(a, b).await]
        }
        Command::Attended => vec![stack.talk(a, b).await, stack.talk(a, c).await],
    }
}

async fn hold_first(at: usize, call: &str, pod: usize, pods: &Arc<Pods>, recorder: &Arc<Recorder>) {
    let (over, is_over) = watch::channel(false);
    let id = format!("before{at:02}");
    let talk = Talk::new(at + 101, &id, pods, recorder);
    let (heard, mut ready) = (talk.heard(), talk.ready());
    let (send, receive) = watch::channel(None);
    let running = tokio::spawn(talk.run(pod, receive, is_over));
    ready.wait_for(|ready| *ready).await.unwrap();
    send.send_replace(Some(Wish { method: "CallHold", params: json!({"callid": call}) }));
    let held = async || !talk::told(&heard, &id).ended.is_empty();
    until("a call is held", Duration::from_secs(15), held).await;
    let told = talk::told(&heard, &id);
    assert_eq!(told.ended[0].1["outcome"], "success", "{told:#?}");
    over.send_replace(true);
    running.await.unwrap();
}

fn wish(
    command: Command,
    id: &str,
    [a, b, c]: &[String; 3],
    given: &[String],
    stack: &Stack,
) -> Wish {
    let params = match command {
        Command::Start => json!({
            "caller": stack.uri(a), "callee": format!("{};cmd={id}", stack.uri(b)), "display": id,
        }),
        Command::Blind => json!({
            "callid": given[0], "leg": "callee", "destination": format!("{};cmd={id}", stack.uri(c)),
        }),
        Command::Attended => json!({
            "callidA": given[0], "legA": "callee", "callidB": given[1], "legB": "callee",
        }),
        Command::Hold | Command::Unhold | Command::End => json!({"callid": given[0]}),
    };
    Wish { method: command.method(), params }
}

impl Play {
    fn name(&self) -> String {
        format!("{} {:?} {:?}", self.id, self.row.command, self.row.point)
    }

    fn is_in_phase(&self, stack: &Stack, ledger: &Ledger) -> bool {
        let told = talk::told(&self.heard, &self.id);
        match self.row.point {
            Point::Before(..) | Point::After(..) => ledger.stopped(self.watch).is_some(),
            Point::Told(event) => told.events.iter().any(|known| known == event),
            Point::CallerRings => stack.phone(&self.users[0]).received("INVITE") > 0,
            Point::Accepted => {
                let at = if self.row.command == Command::Start { 0 } else { 1 };
                let referred = stack.phone(&self.users[at]).received("REFER") > 0;
                let answered = ledger
                    .touched(self.watch)
                    .iter()
                    .any(|touch| touch.method == "dlg_send_sequential" && touch.answered);
                referred && answered
            }
        }
    }

    /// Which calls are up, where that is not what was told.
    fn calls_wrong(&self, stack: &Stack) -> Option<String> {
        let told = talk::told(&self.heard, &self.id);
        let (_, ended) = told.ended.first()?;
        let up: BTreeSet<String> = self.users.iter().flat_map(|user| stack.live(user)).collect();
        let new = up.iter().filter(|call| !self.given.contains(call)).count();
        let old = up.len() - new;
        let places =
            matches!(self.row.command, Command::Start | Command::Blind | Command::Attended);
        let wanted = match (ended["outcome"].as_str().unwrap_or_default(), self.row.command) {
            ("success", _) if places => new == 1 && old == 0,
            ("success", Command::End) => up.is_empty(),
            ("success", Command::Hold) => {
                old == 1 && self.offered(stack) == [Direction::Inactive; 2]
            }
            ("success", Command::Unhold) => {
                old == 1 && self.offered(stack) == [Direction::SendRecv; 2]
            }
            ("failed" | "not_started", Command::Hold) => {
                old == 1 && self.offered(stack) == [Direction::SendRecv; 2]
            }
            ("failed" | "not_started", Command::Unhold) => {
                old == 1 && self.offered(stack) == [Direction::Inactive; 2]
            }
            ("failed" | "not_started", _) => new == 0 && old == self.given.len(),
            // Whatever is true, callplane ended no call of others.
            ("unknown", Command::Start) => new <= 1,
            ("unknown", _) => new + old >= 1,
            _ => false,
        };
        (!wanted).then(|| format!("up are {up:?}, of which given {:?}", self.given))
    }

    /// What both sides of its call were offered last.
    fn offered(&self, stack: &Stack) -> [Direction; 2] {
        [0, 1].map(|at| {
            let phone = stack.phone(&self.users[at]);
            let dialog = phone.dialog(&self.given[0]).unwrap();
            dialog.offers.last().map_or(Direction::SendRecv, |offer| offer.direction)
        })
    }

    /// Requests that came to its phones more often than its command may send them.
    fn twice(&self, stack: &Stack) -> Option<String> {
        let phones: Vec<&Phone> = self.users.iter().map(|user| stack.phone(user)).collect();
        let setup = |phone: &&Phone| {
            let view = phone.view();
            view.received("INVITE").iter().filter(|m| m.call_id().starts_with("cp-")).count()
        };
        let setups: usize = phones.iter().map(setup).sum();
        let refers: usize = phones.iter().map(|phone| phone.received("REFER")).sum();
        let referred: usize = phones
            .iter()
            .map(|phone| {
                let dialogs = phone.view().dialogs;
                dialogs.iter().filter(|dialog| dialog.referred_by_call.is_some()).count()
            })
            .sum();
        (setups > 1 || refers > 1 || referred > 1).then(|| {
            format!("{setups} INVITEs of ours, {refers} REFERs, {referred} referred calls")
        })
    }

    fn judge(
        &self,
        script: Script,
        dead: &[usize],
        killed: Time,
        ledger: &Ledger,
        stack: &Stack,
        broken: &mut Vec<String>,
    ) -> String {
        let told = talk::told(&self.heard, &self.id);
        let name = self.name();
        let dies = self.performer.is_none_or(|pod| dead.contains(&pod));
        let wanted = match script {
            _ if !dies => "success",
            Script::Stock => self.row.stock,
            Script::Reference => self.row.reference,
        };
        let got = outcome(&told);
        if got != wanted {
            broken
                .push(format!("{name}: {got}, wanted {wanted} {} {:?}", self.row.why, told.events));
        }
        if let Some((started, within)) = told.started
            && let [(at, _)] = told.ended.as_slice()
        {
            if *at > started + within {
                broken
                    .push(format!("{name}: ended {} ms after {within} ms", at - started - within));
            }
        } else {
            broken.push(format!("{name}: {} ends: {told:?}", told.ended.len()));
        }
        if !told.seqs.is_sorted_by(|a, b| a < b) {
            broken.push(format!("{name}: out of order: {:?}", told.seqs));
        }
        if let Some(wrong) = self.calls_wrong(stack) {
            broken.push(format!("{name}: {got}, and {wrong}"));
        }
        if let Some(twice) = self.twice(stack) {
            broken.push(format!("{name}: {twice}"));
        }
        let next = ledger
            .touched(self.watch)
            .into_iter()
            .find(|touch| touch.at > killed && !dead.contains(&touch.pod));
        let next = next.map_or("none".to_owned(), |touch| {
            format!("{} after {} ms", touch.method, touch.at - killed)
        });
        let end = told.ended.first().map_or(0, |(at, _)| at.saturating_sub(killed));
        let place = match self.performer {
            None => "with a phone".to_owned(),
            Some(pod) if dead.contains(&pod) => format!("at {pod}, dead"),
            Some(pod) => format!("at {pod}"),
        };
        format!("{name:<46} {place:<14} {got:<44} next {next}, ended after {end} ms")
    }
}

/// The outcome, with what was said to it.
fn outcome(told: &Told) -> String {
    if let Some(refused) = &told.refused {
        return format!("refused {refused}");
    }
    let Some((_, ended)) = told.ended.first() else { return "no end".to_owned() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut words = text(&ended["outcome"]);
    if told.error.is_object() {
        write!(words, " {} up {}", text(&told.error["code"]), text(&told.error["up"])).unwrap();
    }
    words
}
