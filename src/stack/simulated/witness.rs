//! What reached the phones, for whoever judges a run. Off unless asked for: it grows until it is
//! taken.

use std::time::Duration;

use super::calls::EndedBy;
use super::dialogs::{CallKey, Party};
use super::world::World;

/// Something that phones of this world saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saw {
    /// When, in virtual time.
    pub at: Duration,
    /// The call's Call-ID.
    pub call: String,
    /// What.
    pub what: Seen,
}

/// What phones see of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// An INVITE reached a phone.
    Invite {
        /// Its name.
        phone: String,
        /// Who calls: the whole From where the proxy itself calls, else the address.
        from: String,
        /// The request URI as it was first sent.
        asked: String,
        /// The proxy itself calls, asked by its Management Interface.
        by_proxy: bool,
    },
    /// A REFER reached a phone.
    Refer {
        /// Its name.
        phone: String,
        /// Where it leads.
        to: String,
    },
    /// The call was answered.
    Up,
    /// The proxy ends an answered call because its Management Interface said so.
    EndedByProxy,
    /// A phone ends the call.
    EndedByPhone,
}

impl World {
    /// From now on what phones see is noted.
    pub fn note_what_phones_see(&mut self) {
        self.witness.get_or_insert_default();
    }

    /// Takes what phones saw since the last time, oldest first.
    pub fn take_seen(&mut self) -> Vec<Saw> {
        self.witness.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn saw(&mut self, key: CallKey, what: impl FnOnce(&World) -> Option<Seen>) {
        if self.witness.is_none() {
            return;
        }
        let Some(seen) = what(self) else { return };
        let (at, call) = (self.now, self.calls.get(key).map(|call| call.callid.to_string()));
        if let (Some(witness), Some(call)) = (&mut self.witness, call) {
            witness.push(Saw { at, call, what: seen });
        }
    }

    pub(super) fn saw_invite(&mut self, key: CallKey, party: Party) {
        self.saw(key, |world| {
            let phone = world.party_phone(party)?.name.clone();
            let call = world.calls.get(key)?;
            let (from, by_proxy) = match &call.uac {
                Some(uac) => (uac.from.clone(), true),
                None => (call.from_uri.to_string(), false),
            };
            Some(Seen::Invite { phone, from, asked: call.requested.clone(), by_proxy })
        });
    }

    pub(super) fn saw_refer(&mut self, key: CallKey, party: Party, to: &str) {
        self.saw(key, |world| {
            let phone = world.party_phone(party)?.name.clone();
            Some(Seen::Refer { phone, to: to.to_owned() })
        });
    }

    pub(super) fn saw_up(&mut self, key: CallKey) {
        self.saw(key, |_| Some(Seen::Up));
    }

    pub(super) fn saw_end(&mut self, key: CallKey, by: EndedBy) {
        self.saw(key, |_| match by {
            EndedBy::Mi => Some(Seen::EndedByProxy),
            EndedBy::Phone(_) => Some(Seen::EndedByPhone),
            EndedBy::Timeout => None,
        });
    }
}
