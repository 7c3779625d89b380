//! The simulated stack and its phones.

use std::ops::Range;

use callplane::stack::simulated::{Behaviour, PhoneConfig, Script};

use super::history::Time;
use super::phones::{self, Character};
pub use super::phones::{FR_INV_TIMEOUT, FR_TIMEOUT, RECEIVE_BUFFER};
pub use super::simulated::{Stack, domain};
use super::wave::Wish;

/// Holds are the stack's, and told by its events only. Nothing that rings comes to its time.
pub const TIMES: &str = "ring_timeout: 60s\n  refer_follow: 10s\n  hold: call_hold";

pub async fn start(script: Script, seed: u64) -> Stack {
    let of = |(at, (name, character)): (usize, (String, Character))| {
        let at = format!("127.0.0.1:{}", 5101 + 4 * at);
        PhoneConfig { behaviour: behaviour(character), ..PhoneConfig::new(&name, &at) }
    };
    let phones = phones::all().into_iter().enumerate().map(of).collect();
    Stack::with(0, script, phones, [FR_TIMEOUT, FR_INV_TIMEOUT], seed).await
}

fn behaviour(character: Character) -> Behaviour {
    let plain = Behaviour::default();
    let ms = |late: std::time::Duration| u64::try_from(late.as_millis()).unwrap();
    match character {
        Character::Plain => plain,
        Character::Takes(late) => Behaviour { ring_ms: ms(late), ..plain },
        Character::Refuses(late) => Behaviour { ring_ms: ms(late), answer: 486, ..plain },
        Character::Holds(late) => Behaviour { reinvite_ms: ms(late), ..plain },
        Character::Rings => Behaviour { answer: 0, ..plain },
    }
}

/// Its phones keep no log: what they did is judged by the history.
impl Stack {
    pub fn decided(&self, _: &[Wish], _: Range<Time>, _: Time) -> Option<usize> {
        None
    }

    pub fn told_wrong(&self, _: &[(&Wish, String)]) -> Vec<String> {
        Vec::new()
    }
}
