//! Commands that run: how many, and what became of those whose deadline has passed.

use std::sync::Arc;

use super::{Ask, Place, Session, Turn, Want};
use crate::client::close::Close;
use crate::client::commands::Summary;
use crate::core::failure::{Code, Failure, Outcome, Up};
use crate::core::ids::CommandId;
use crate::core::notice::{Notice, Remarks};
use crate::core::record::Entry;
use crate::core::request::Method;
use crate::rpc::error::Refusal;
use crate::rpc::wire;

/// How long after a command's stated deadline the store is asked what became of it, in ms.
const PAST_DUE: u64 = 5_000;

impl Session {
    /// Keeps the count of running commands.
    pub(super) fn count(&mut self, entry: &Entry, now: u64) {
        match &entry.notice {
            Notice::Started { deadline_ms } => {
                self.runs(&entry.key.id, entry.method, *deadline_ms, now);
            }
            Notice::Ended { .. } => {
                self.running.remove(&entry.key.id);
            }
            Notice::Progress { .. } | Notice::Error(_) => {}
        }
    }

    /// A command of the session runs: it is asked after when it has not ended in time.
    pub(super) fn runs(&mut self, command: &CommandId, method: Method, deadline_ms: u64, now: u64) {
        let due = now.saturating_add(deadline_ms).saturating_add(PAST_DUE);
        self.running.entry(command.clone()).or_insert((method, due));
    }

    /// Asks after commands whose stated deadline passed a while ago without an `Ended`.
    pub fn overdue(&mut self, turn: &mut Turn<'_>) {
        let late: Vec<_> = self
            .running
            .iter()
            .filter(|(_, (_, due))| *due <= turn.now)
            .map(|(command, _)| command.clone())
            .collect();
        for command in late {
            self.postpone(&command, turn.now);
            let key = self.key(command.clone());
            let ticket = self.wait(None, Place::Alone, Want::Overdue { command });
            turn.asks.push(Ask::Get(ticket, key));
        }
    }

    fn postpone(&mut self, command: &CommandId, now: u64) {
        if let Some((_, due)) = self.running.get_mut(command) {
            *due = now.saturating_add(PAST_DUE);
        }
    }

    pub(super) fn overdue_known(
        &mut self,
        command: CommandId,
        known: Result<Option<Summary>, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Option<Close> {
        match known {
            Err(_) => None,
            Ok(Some(summary)) if summary.ended.is_none() => None,
            // It has ended and this socket was not told, although it may be on its way still.
            Ok(Some(_)) => self.running.contains_key(&command).then_some(Close::StreamLost),
            Ok(None) => {
                let (method, _) = self.running.remove(&command)?;
                let failure = Failure {
                    code: Code::StateLost,
                    text: Arc::from("the command's record is gone"),
                    sip: None,
                    up: Up::Unknown,
                };
                let ended = Notice::Ended {
                    outcome: Outcome::Unknown { up: Up::Unknown },
                    remarks: Remarks::default(),
                };
                for notice in [Notice::Error(failure), ended] {
                    turn.out.write(|out| wire::unplaced(out, method, &command, &notice));
                }
                None
            }
        }
    }
}
