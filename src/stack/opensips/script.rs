//! Which grade of script the stack runs, asked when connecting.
//!
//! The reference script stores `cp_cfg_version` when it starts: `1 <socket> <fr_timeout>
//! <fr_inv_timeout>`, times in seconds. A stock script has no such value.

use std::time::Duration;

use serde_json::Value;

use super::settings::StackSettings;
use crate::core::ids::Boot;
use crate::core::plan::{Capabilities, ReferBy};
use crate::core::stack_event::Uptime;
use crate::core::time::StoreTime;

/// More than that is no timeout.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// What the reference script says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Its own socket for our INVITEs, as OpenSIPS writes it: `udp:127.0.0.1:5066`.
    pub socket: String,
    /// How long a phone may be silent.
    pub fr_timeout: Duration,
    /// How long a phone may ring.
    pub fr_inv_timeout: Duration,
}

impl Script {
    /// Reads `cp_cfg_version`. `None`: a version that is not known here, or no such text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        if words.next()? != "1" {
            return None;
        }
        let socket = words.next()?;
        let in_range = |seconds: &u64| (1..=LONGEST_TIMEOUT.as_secs()).contains(seconds);
        let seconds = |word: &str| word.parse().ok().filter(in_range).map(Duration::from_secs);
        let fr_timeout = seconds(words.next()?)?;
        let fr_inv_timeout = seconds(words.next()?)?;
        // It is pasted into SIP headers.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '-' | '[' | ']');
        let (transport, address) = socket.split_once(':')?;
        let ok = matches!(transport, "udp" | "tcp" | "tls")
            && address.contains(':')
            && address.chars().all(plain);
        ok.then(|| Self { socket: socket.to_owned(), fr_timeout, fr_inv_timeout })
    }

    /// `host:port` of its socket.
    #[must_use]
    pub fn address(&self) -> &str {
        self.socket.split_once(':').map_or("", |(_, address)| address)
    }

    /// From the answer to `cache_fetch`.
    pub(super) fn of_answer(answer: &Value) -> Option<Self> {
        Self::parse(answer.get("value")?.as_str()?)
    }
}

/// What a stack with this script (`None`: a stock one) can.
pub(super) fn capabilities(settings: &StackSettings, script: Option<&Script>) -> Capabilities {
    let reference = script.is_some();
    Capabilities {
        start_is_safe: reference,
        referral_tokens: reference,
        persists_dialogs: settings.persists_dialogs,
        hold: settings.hold,
        // `call_transfer` sends no token.
        refer: if reference { ReferBy::Sequential } else { settings.refer },
    }
}

/// The release of an answer to `version`: `{"Server":"OpenSIPS (3.6.8 (x86_64/linux))"}`.
pub(super) fn release(answer: &Value) -> Option<(u32, u32)> {
    let server = answer.get("Server")?.as_str()?;
    let number = server.split_once('(')?.1;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// How long the stack has been up, from the answer to `uptime`: `{"Up time":"45 [sec]"}`.
pub(super) fn up_time(answer: &Value) -> Option<Duration> {
    let seconds = answer.get("Up time")?.as_str()?.split(' ').next()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// Since when the stack runs, from the answer to `uptime` at that time: it says so in whole seconds.
pub(super) fn uptime(answer: &Value, now: StoreTime) -> Option<Uptime> {
    let boot = Boot::new(answer.get("Up since")?.as_str()?);
    // Where it does not say how long, everything that runs counts as older.
    let at_least = up_time(answer).unwrap_or_default().saturating_sub(UP_TIME_GRAIN);
    Some(Uptime { boot, since: now.before(at_least) })
}

/// It is the difference of two times in whole seconds, so it is wrong by less than this.
pub(super) const UP_TIME_GRAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::StackId;
    use serde_json::json;

    #[test]
    fn the_reference_script_tells_its_socket_and_times() {
        let script = Script::parse("1 udp:127.0.0.1:5066 5 120").unwrap();
        assert_eq!(script.address(), "127.0.0.1:5066");
        assert_eq!(script.fr_timeout, Duration::from_secs(5));
        assert_eq!(script.fr_inv_timeout, Duration::from_secs(120));
        for bad in [
            "",
            "2 udp:1.2.3.4:5 5 5",
            "1 udp:a>b:5 5 5",
            "1 127.0.0.1:5 5 5",
            "1 udp:x:1 a b",
            "1 udp:x:1 0 5",
        ] {
            assert_eq!(Script::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refer_with_a_token_is_never_sent_by_call_transfer() {
        let mut settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
        settings.refer = ReferBy::Stack;
        let ours = Script::parse("1 udp:127.0.0.1:5066 5 120").unwrap();
        assert_eq!(capabilities(&settings, None).refer, ReferBy::Stack);
        assert_eq!(capabilities(&settings, Some(&ours)).refer, ReferBy::Sequential);
    }

    #[test]
    fn the_time_it_has_been_up_is_read() {
        let up = up_time(&json!({"Up time": "45 [sec]"}));
        assert_eq!(up, Some(Duration::from_secs(45)));
        assert_eq!(up_time(&json!({"Up time": "long"})), None);
    }

    #[test]
    fn the_release_is_read_from_the_server_line() {
        let answer = json!({"Server": "OpenSIPS (3.6.8 (x86_64/linux))"});
        assert_eq!(release(&answer), Some((3, 6)));
        assert_eq!(release(&json!({"Server": "OpenSIPS (4.0.1 (x86_64/linux))"})), Some((4, 0)));
        assert_eq!(release(&json!({"Server": "OpenSIPS"})), None);
    }
}
