//! What every bus promises, together with the store that it carries from.

use std::collections::BTreeMap;
use std::sync::Arc;

use callplane::bus::{Bus as _, Listener};
use callplane::core::ids::{Epoch, TenantId};
use callplane::core::record::{Entry, Position};
use callplane::store::{Commit, Store as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::DEADLINE;
use crate::commits::{
    Bounds, KEEP, Memory, Pen, Stand, end, hold, key, key_of, nonce, ours, tenant,
};
use crate::redis::{Encrypted, Plain, Redis};
use crate::redis_server::is_here;
use crate::redis_server::sentinels::Guarded;

instances!(
    memory: Memory,
    redis: Redis<Plain> where is_here,
    redis_encrypted: Redis<Encrypted> where is_here,
    redis_guarded: Redis<Guarded> where is_here => {
    a_listener_gets_what_was_committed
    a_listener_gets_what_was_committed_since_it_is_there
    every_listener_gets_everything
    what_was_not_applied_is_not_told
    tenants_come_each_in_order_without_a_gap_and_once
    what_is_told_can_be_read
});

type Told = (TenantId, Epoch, Vec<Arc<Entry>>);

struct Ear(UnboundedSender<Told>);

impl Listener for Ear {
    fn entries(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        // A test that has seen enough listens no more.
        let _ = self.0.send((tenant.clone(), epoch.clone(), entries.to_vec()));
    }

    fn skipped(&self, tenant: &TenantId, to: &Position) {
        panic!("nothing of {tenant} is lost here, up to {to:?}");
    }
}

/// What a listener was told.
struct Heard {
    told: UnboundedReceiver<Told>,
    epoch: Epoch,
}

impl Heard {
    fn by<S: Stand>(pen: &Pen<S>) -> Self {
        let (ear, told) = unbounded_channel();
        pen.stand.bus().attach(Arc::new(Ear(ear)));
        Self { told, epoch: pen.epoch.clone() }
    }

    async fn next(&mut self) -> (TenantId, Vec<Arc<Entry>>) {
        let told = timeout(DEADLINE, self.told.recv()).await.expect("nothing more is told");
        let (tenant, epoch, entries) = told.unwrap();
        assert_eq!(epoch, self.epoch);
        assert!(!entries.is_empty(), "told of nothing");
        assert!(entries.iter().all(|entry| entry.key.tenant == tenant));
        (tenant, entries)
    }

    /// Everything up to this position of our tenant.
    async fn until(&mut self, seq: u64) -> Vec<Arc<Entry>> {
        let mut all = Vec::new();
        while all.last().is_none_or(|last: &Arc<Entry>| last.seq < seq) {
            all.extend(self.next().await.1);
        }
        all
    }
}

async fn a_listener_gets_what_was_committed<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds::default()).await;
    let mut heard = Heard::by(&pen);
    let a = pen.begin("a", hold("A")).await;
    pen.begin("b", hold("B")).await;
    let a = pen.write(pen.idle(&a).await).await;
    let ending = pen.over(&a).await;
    assert!(ending.notices.len() > 1, "several of one commit");
    pen.write(ending).await;
    let head = pen.head(&ours()).await.unwrap().seq;
    assert_eq!(heard.until(head).await, pen.stream(&ours()).await);
}

async fn a_listener_gets_what_was_committed_since_it_is_there<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds::default()).await;
    pen.begin("a", hold("A")).await;
    let mut heard = Heard::by(&pen);
    pen.begin("b", hold("B")).await;
    assert_eq!(heard.until(2).await, pen.stream(&ours()).await[1..]);
}

async fn every_listener_gets_everything<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds::default()).await;
    let mut all = [Heard::by(&pen), Heard::by(&pen), Heard::by(&pen)];
    pen.begin("a", hold("A")).await;
    pen.begin("b", hold("B")).await;
    for heard in &mut all {
        assert_eq!(heard.until(2).await, pen.stream(&ours()).await);
    }
}

async fn what_was_not_applied_is_not_told<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds::default()).await;
    let mut heard = Heard::by(&pen);
    let begun = pen.beginning(key("a"), hold("A")).await;
    let a = pen.write(begun.clone()).await;
    let ending = pen.over(&a).await;
    let a = pen.write(pen.idle(&a).await).await;
    let late = pen.over(&a).await;
    let late = Commit { not_after: callplane::core::time::StoreTime(1), ..late };
    for commit in [
        begun.clone(),
        Commit { nonce: nonce(), ..begun },
        ending,
        pen.beginning(key("b"), hold("A")).await,
        late,
    ] {
        pen.commit(commit).await;
    }
    pen.begin("c", hold("C")).await;
    let told = heard.until(2).await;
    let ids: Vec<_> = told.iter().map(|entry| (entry.seq, entry.key.id.to_string())).collect();
    assert_eq!(ids, [(1, "a".to_owned()), (2, "c".to_owned())]);
}

const COMMANDS: u64 = 60;

/// Begins and ends commands of two tenants from several tasks at once.
fn write_at_once<S: Stand>(pen: &Arc<Pen<S>>) {
    for writer in 0..4 {
        let pen = Arc::clone(pen);
        tokio::spawn(async move {
            let whose = if writer % 2 == 0 { ours() } else { tenant("other") };
            for n in 0..COMMANDS / 2 {
                let name = format!("{writer}-{n}");
                let begun = pen.beginning(key_of(&whose, &name), end(&name)).await;
                let record = pen.write(begun).await;
                pen.write(Commit { keep: KEEP * 20, ..pen.over(&record).await }).await;
            }
        });
    }
}

async fn tenants_come_each_in_order_without_a_gap_and_once<S: Stand>() {
    let pen = Arc::new(Pen::<S>::fresh(Bounds::default()).await);
    let mut heard = Heard::by(&pen);
    write_at_once(&pen);
    let mut told: BTreeMap<TenantId, Vec<Arc<Entry>>> = BTreeMap::new();
    let mut ended = 0;
    while ended < COMMANDS * 2 {
        let (tenant, entries) = heard.next().await;
        ended += entries.iter().filter(|entry| is_end(entry)).count() as u64;
        told.entry(tenant).or_default().extend(entries);
    }
    for whose in [ours(), tenant("other")] {
        let entries = &told[&whose];
        let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=entries.len() as u64).collect::<Vec<_>>());
        assert_eq!(*entries, pen.stream(&whose).await);
    }
}

fn is_end(entry: &Entry) -> bool {
    matches!(entry.notice, callplane::core::notice::Notice::Ended { .. })
}

async fn what_is_told_can_be_read<S: Stand>() {
    let pen = Arc::new(Pen::<S>::fresh(Bounds::default()).await);
    let mut heard = Heard::by(&pen);
    write_at_once(&pen);
    let mut ended = 0;
    while ended < COMMANDS * 2 {
        let (tenant, entries) = heard.next().await;
        let before = pen.at(entries[0].seq - 1);
        let page = pen.stand.store().read(&tenant, &before, entries.len(), None).await.unwrap();
        assert_eq!(page.entries, entries);
        ended += entries.iter().filter(|entry| is_end(entry)).count() as u64;
    }
}
