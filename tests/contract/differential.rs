//! The store in memory, which the simulation takes for Redis, against the real one: the same commits,
//! searches and reads by chance, and the same answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use callplane::core::act::{Act, Facts, NotSent, Refuser, Reply};
use callplane::core::command::{Command, Input};
use callplane::core::ids::{
    Digest, Epoch, Install, Nonce, PodId, SessionId, StackId, TenantId, Term,
};
use callplane::core::plan::{Capabilities, HoldBy, Plan, ReferBy, Times};
use callplane::core::record::{FORMAT, Key, Position, Record};
use callplane::core::request::Request;
use callplane::core::time::{Now, StoreTime};
use callplane::store::{Commit, Find, Quota, Store, Verdict};

use crate::commits::{
    self, Bounds, Memory, Stand, attended, end, hold, key_of, nonce, ours, start, tenant,
};
use crate::redis::{Plain, Redis};
use crate::redis_server;

const SEQUENCES: u64 = 30;
const LENGTH: usize = 80;
const RUNNING: usize = 6;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// Both stores, and what was written to them.
struct Pair {
    memory: Memory,
    redis: Redis<Plain>,
    epochs: [Epoch; 2],
    random: Random,
    /// Every version of every record, as the store in memory had it.
    records: BTreeMap<Key, Vec<Record>>,
    commits: Vec<Commit>,
    log: Vec<String>,
}

/// Longer than any sequence: nothing ends by itself.
fn plan(stack: StackId) -> Arc<Plan> {
    Arc::new(Plan {
        stack,
        capabilities: Capabilities {
            start_is_safe: false,
            referral_tokens: true,
            persists_dialogs: false,
            hold: HoldBy::ReInvite,
            refer: ReferBy::Sequential,
        },
        times: Times { reply: Duration::from_secs(30), ..Times::default() },
        install: Install::parse("t").unwrap(),
        partition: 0,
        one_start_per_caller: true,
    })
}

/// A record as it is in any epoch.
fn plain(record: &Record) -> Record {
    Record { born: Epoch::derive(Nonce(0)), ..record.clone() }
}

/// What is the same in both: all but when it was.
fn told(verdict: Verdict) -> String {
    match verdict {
        Verdict::Applied { first_seq, now: _, mut overtaken, record, durable } => {
            overtaken.sort();
            format!("applied {first_seq} {durable} {overtaken:?} {:?}", plain(&record))
        }
        Verdict::Exists(record) => format!("exists {:?}", plain(&record)),
        Verdict::Stale(record) => format!("stale {:?}", plain(&record)),
        Verdict::EpochChanged(_) => "another epoch".to_owned(),
        other @ (Verdict::Busy { .. }
        | Verdict::Over { .. }
        | Verdict::Late
        | Verdict::Fenced(_)
        | Verdict::Gone
        | Verdict::Illegible) => format!("{other:?}"),
    }
}

impl Pair {
    async fn fresh(seed: u64) -> Self {
        let bounds = Bounds { running: RUNNING, ..Bounds::default() };
        let (memory, redis) = (Memory::fresh(bounds).await, Redis::<Plain>::fresh(bounds).await);
        let epochs = [
            memory.store().head(&ours()).await.unwrap().epoch,
            redis.store().head(&ours()).await.unwrap().epoch,
        ];
        let (records, commits, log) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { memory, redis, epochs, random: Random(seed), records, commits, log }
    }

    /// The time of both.
    async fn now(&self) -> Now {
        let now = self.redis.now().await;
        let behind = self.memory.now().await.until(now);
        self.memory.pass(behind).await;
        Now { at: now, nonce: nonce(), pod: PodId::new("p") }
    }

    async fn commit(&mut self, commit: Commit, expected_epoch: bool) {
        let of = |epoch: &Epoch| {
            let mut commit = commit.clone();
            commit.record.born = epoch.clone();
            commit.epoch = if expected_epoch { epoch.clone() } else { Epoch::derive(Nonce(5)) };
            commit
        };
        let one = self.memory.store().commit(of(&self.epochs[0])).await.unwrap();
        let other = self.redis.store().commit(of(&self.epochs[1])).await.unwrap();
        if let Verdict::Applied { record, .. } = &one {
            let versions = self.records.entry(record.key.clone()).or_default();
            if versions.last().is_none_or(|last| last.version < record.version) {
                versions.push(Record::clone(record));
            }
        }
        self.commits.push(commit);
        self.same(told(one), told(other));
    }

    fn same(&mut self, one: String, other: String) {
        assert_eq!(one, other, "after:\n{}", self.log.join("\n"));
        self.log.push(one.chars().take(160).collect());
    }

    fn commit_of(
        &mut self,
        record: Record,
        notices: Vec<callplane::core::notice::Notice>,
        now: &Now,
    ) -> Commit {
        // A commit raises its term where its tenant is; to raise it everywhere is what `lead` does.
        let with_term = self.random.below(5) == 0 && record.key.tenant == ours();
        let term = with_term.then(|| Term(self.random.below(4) as u64));
        let quota = (self.random.below(4) > 0).then_some(Quota { running: RUNNING });
        Commit {
            record,
            nonce: now.nonce,
            not_after: now.at.after(Duration::from_secs(60)),
            epoch: self.epochs[0].clone(),
            term,
            notices,
            quota,
            keep: Duration::from_secs(600),
            durable: false,
        }
    }

    fn request(&mut self) -> Request {
        let call = self.random.pick(&["a", "b", "c"]);
        match self.random.below(6) {
            0 | 1 => hold(call),
            2 => end(call),
            3 => attended(call, if call == "a" { "b" } else { "a" }),
            _ => start(self.random.pick(&["x", "y"])),
        }
    }

    async fn begin(&mut self) {
        let now = self.now().await;
        let tenant = self.random.pick(&[ours(), tenant("other")]);
        let id = format!("k{}", self.random.below(14));
        let stack = StackId::new(self.random.pick(&["s", "t"]));
        let request = self.request();
        let step = Command::begin(&request, plan(stack), None, &now);
        let record = Record {
            key: key_of(&tenant, &id),
            digest: Digest([7; 32]),
            session: SessionId::parse(self.random.pick(&["one", "two"])).unwrap(),
            format: FORMAT,
            born: self.epochs[0].clone(),
            version: 1,
            first_seq: 0,
            external_id: Some(Arc::from("theirs")),
            trace: None,
            state: step.state,
        };
        let commit = self.commit_of(record, step.notices, &now);
        let epoch_is_right = self.random.below(12) > 0;
        self.commit(commit, epoch_is_right).await;
    }

    fn input(&mut self, record: &Record) -> Input {
        let ops = record.state.open().to_vec();
        if ops.is_empty() || self.random.below(6) == 0 {
            return self.random.pick(&[Input::Cancel, Input::Due]);
        }
        let op = self.random.pick(&ops);
        if self.random.below(8) == 0 {
            return Input::Doubt { op: op.id };
        }
        let done = match &op.act {
            Act::Invite { .. } => Facts::Answered { takes_refer: None },
            Act::Refer { .. } => Facts::Referred { code: 202, transferee: Arc::from("sip:b@x") },
            _ => Facts::Nothing,
        };
        let refused =
            Reply::Refused { by: Refuser::Phone, code: 486, reason: Arc::from("Busy Here") };
        let replies =
            [Reply::Done(done), refused, Reply::Silent, Reply::NotSent(NotSent::Unreachable)];
        Input::Replied { op: op.id, reply: self.random.pick(&replies) }
    }

    /// The next version of some record, or of one that somebody stepped before.
    async fn step(&mut self) {
        let now = self.now().await;
        let keys: Vec<Key> = self.records.keys().cloned().collect();
        if keys.is_empty() {
            return self.begin().await;
        }
        let versions = self.records[&self.random.pick(&keys)].clone();
        let record = if self.random.below(4) == 0 {
            self.random.pick(&versions)
        } else {
            versions.last().unwrap().clone()
        };
        let input = self.input(&record);
        let Some(step) = record.state.step(&input, &now) else { return };
        let mut next = Record { version: record.version + 1, state: step.state, ..record };
        if self.random.below(20) == 0 {
            next.key = key_of(&next.key.tenant, "nobody");
        }
        let commit = self.commit_of(next, step.notices, &now);
        self.commit(commit, true).await;
    }

    async fn repeat(&mut self) {
        if self.commits.is_empty() {
            return;
        }
        self.now().await;
        let at = self.random.below(self.commits.len());
        let commit = self.commits[at].clone();
        self.commit(commit, true).await;
    }

    async fn find(&mut self) {
        self.now().await;
        let keys: Vec<Key> = self.records.keys().cloned().collect();
        let stack = StackId::new(self.random.pick(&["s", "t"]));
        let by = match self.random.below(5) {
            0 if !keys.is_empty() => Find::Key(self.random.pick(&keys)),
            1 => Find::AtStack(stack),
            2 => Find::DueBy(StoreTime(u64::MAX / 4)),
            3 => Find::PerformedBy(PodId::new("p")),
            _ => {
                let calls = ["a", "b"].map(commits::call);
                let watch = callplane::core::stack_event::Watch::Call;
                Find::Watching(stack, calls.map(watch).to_vec())
            }
        };
        let show = |mut found: Vec<Arc<Record>>| {
            found.sort_by(|one, other| one.key.cmp(&other.key));
            let found: Vec<Record> = found.iter().map(|record| plain(record)).collect();
            format!("{by:?}: {found:?}")
        };
        let one = show(self.memory.store().find(by.clone()).await.unwrap());
        let other = show(self.redis.store().find(by.clone()).await.unwrap());
        self.same(one, other);
    }

    async fn read(&mut self) {
        self.now().await;
        let tenant: TenantId = self.random.pick(&[ours(), tenant("other")]);
        let (seq, max) = (self.random.below(30) as u64, 1 + self.random.below(9));
        let of = (self.random.below(2) == 0).then(|| SessionId::parse("one").unwrap());
        let mut shown = Vec::new();
        for (epoch, at) in self.epochs.clone().into_iter().zip(0..) {
            let after = Position { epoch, seq };
            let page = if at == 0 {
                self.memory.store().read(&tenant, &after, max, of.as_ref()).await
            } else {
                self.redis.store().read(&tenant, &after, max, of.as_ref()).await
            };
            shown.push(match page {
                Ok(page) => format!("{:?} {} {}", page.entries, page.through, page.head.seq),
                Err(why) => format!("{why:?}"),
            });
        }
        let other = shown.pop().unwrap();
        self.same(shown.pop().unwrap(), other);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_memory_and_redis_answer_alike() {
    if !redis_server::is_here("differential::the_store_in_memory_and_redis_answer_alike") {
        return;
    }
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = began.as_secs() << 16;
    for seed in first..first + SEQUENCES {
        println!("sequence {seed}");
        let mut pair = Pair::fresh(seed).await;
        for _ in 0..LENGTH {
            match pair.random.below(10) {
                0..3 => pair.begin().await,
                3..7 => pair.step().await,
                7 => pair.repeat().await,
                8 => pair.find().await,
                _ => pair.read().await,
            }
        }
    }
}
