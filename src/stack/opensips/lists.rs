//! One complete list of dialogs per second at most, shared by all who wait for one.
//!
//! A list for each unknown Call-ID would be a gift to attackers. Whoever wants a list gets one
//! that was begun after the wish: an older one proves nothing about now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::dialog::Listed;
use super::gate::{Answer, Gate};
use super::script;
use crate::core::act::{Dialog, DialogState};
use crate::core::ids::{CallId, OpId};
use crate::core::stack_event::Uptime;
use crate::core::time::StoreTime;
use crate::stack::mi::{Mi, MiAnswer, MiFailure, MiRequest};
use crate::stack::{Away, Snapshot};

/// How far apart two lists begin.
const APART: Duration = Duration::from_secs(1);

pub(super) struct Lists<L> {
    mi: L,
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    /// When the last one was begun, also one that nobody waited for to its end.
    begun: Option<StoreTime>,
    taken: Option<Taken>,
}

struct Taken {
    begun: StoreTime,
    list: Result<Arc<Snapshot>, Away>,
}

impl<L: Mi> Lists<L> {
    pub fn new(mi: L) -> Self {
        Self { mi, latest: Mutex::default() }
    }

    /// A complete list that was begun after this call. Waits its turn; whoever gives up waiting
    /// leaves the work to the next.
    pub async fn full<M: Mi>(
        &self,
        gate: &Gate<M>,
        timeout: Duration,
    ) -> Result<Arc<Snapshot>, Away> {
        let wished = gate.now();
        let mut latest = self.latest.lock().await;
        if let Some(taken) = latest.taken.as_ref().filter(|taken| taken.begun > wished) {
            return taken.list.clone();
        }
        if let Some(earliest) = latest.begun.map(|begun| begun.after(APART))
            && gate.now() < earliest
        {
            gate.timer.sleep(gate.now().until(earliest)).await;
        }
        let begun = gate.now();
        latest.begun = Some(begun);
        let list = self.take(gate, timeout).await.map(Arc::new);
        latest.taken = Some(Taken { begun, list: list.clone() });
        list
    }

    /// A list counts for one life of the stack: the boot time is asked before and after.
    async fn take<M: Mi>(&self, gate: &Gate<M>, timeout: Duration) -> Result<Snapshot, Away> {
        let before = uptime(gate).await.ok_or(Away::Unreachable)?;
        let asked = self.mi.call(MiRequest::new("dlg_list_ctx"), timeout).await;
        let answer = match asked {
            Ok(MiAnswer::Result(answer)) => answer,
            // Plain text: the list does not fit a datagram.
            Ok(MiAnswer::Error { .. }) | Err(MiFailure::Plain(_) | MiFailure::Garbled) => {
                return Err(Away::Incomplete);
            }
            Err(MiFailure::NotSent { .. } | MiFailure::TooLong | MiFailure::Silent) => {
                return Err(Away::Unreachable);
            }
            Err(MiFailure::NoRoom) => return Err(Away::NoRoom),
        };
        let listed = Listed::all(&answer).ok_or(Away::Incomplete)?;
        let dialogs = listed.filter_map(Listed::to_dialog).collect();
        match uptime(gate).await {
            Some(after) if after.boot == before.boot => Ok(Snapshot { uptime: before, dialogs }),
            Some(_) | None => Err(Away::Incomplete),
        }
    }
}

async fn uptime<M: Mi>(gate: &Gate<M>) -> Option<Uptime> {
    let limits = gate.own_limits();
    match gate.ask(MiRequest::new("uptime"), Answer::StackAgain, limits).await {
        Ok(MiAnswer::Result(answer)) => script::uptime(&answer, gate.now()),
        Ok(MiAnswer::Error { .. }) | Err(_) => None,
    }
}

/// The dialog of this call. A dead one can have the same Call-ID as a live one: the one that is
/// furthest and not over counts.
pub(super) fn of_call<'a>(list: &'a Snapshot, call: &CallId) -> Option<&'a Dialog> {
    alive_first(list.dialogs.iter().filter(|dialog| dialog.call == *call))
}

/// The dialog that a REFER of ours brought about: another call that carries its token.
pub(super) fn of_token<'a>(
    list: &'a Snapshot,
    token: &OpId,
    referred: &CallId,
) -> Option<&'a Dialog> {
    let carries =
        |dialog: &&Dialog| dialog.last_op.as_ref() == Some(token) && dialog.call != *referred;
    alive_first(list.dialogs.iter().filter(carries))
}

fn alive_first<'a>(dialogs: impl Iterator<Item = &'a Dialog>) -> Option<&'a Dialog> {
    dialogs.max_by_key(|dialog| match dialog.state {
        DialogState::Deleted => 0_u8,
        DialogState::Unconfirmed => 1,
        DialogState::Early => 2,
        DialogState::Answered => 3,
        DialogState::Confirmed => 4,
    })
}
