//! What kind of OpenSIPS is simulated: version, grade of script, timers, phones.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::phones::{Behaviour, PhoneConfig};
use crate::core::script::CallopsMode;

/// The two release lines that were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Version {
    /// 3.6.8.
    #[default]
    #[serde(rename = "3.6")]
    V3_6,
    /// 4.0.1: new command names beside the old, `call_hold` by leg, other crashes.
    #[serde(rename = "4.0")]
    V4_0,
}

impl Version {
    /// What `version` and the `Server` header say.
    pub(super) fn server(self) -> &'static str {
        match self {
            Version::V3_6 => "OpenSIPS (3.6.8 (x86_64/linux))",
            Version::V4_0 => "OpenSIPS (4.0.1 (x86_64/linux))",
        }
    }
}

/// The grade of the proxy's script (docs/opensips.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Script {
    /// Dialogs and callops, as users of the old Call API have it.
    #[default]
    Stock,
    /// Ours: own socket, marks, at most once, one-use tokens, `E_CALLPLANE`, dead man's timeout.
    Reference,
}

/// The simulated OpenSIPS. Times are virtual.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Release line.
    pub version: Version,
    /// Grade of script.
    pub script: Script,
    /// callops mode of a stock script; the reference script always works like `Manual`.
    pub callops_mode: CallopsMode,
    /// `host:port` of the proxy; also the domain of every phone's address.
    pub domain: String,
    /// `host:port` of the reference script's own socket.
    pub callplane_socket: String,
    /// Nobody answers a request at all (`fr_timeout`).
    #[serde(with = "millis")]
    pub fr_timeout: Duration,
    /// Ringing without a final answer (`fr_inv_timeout`).
    #[serde(with = "millis")]
    pub fr_inv_timeout: Duration,
    /// The longest call (`dialog default_timeout`); then both sides get a BYE.
    #[serde(with = "millis")]
    pub dialog_timeout: Duration,
    /// The same for setup dialogs (Call-ID `cp-...`) under the reference script.
    #[serde(with = "millis")]
    pub dead_man: Duration,
    /// How long the reference script remembers that something was sent or used.
    #[serde(with = "millis")]
    pub mark_life: Duration,
    /// How long an ended dialog is still in full lists (measured: 5.0 to 5.4 s).
    #[serde(with = "millis")]
    pub linger: Duration,
    /// One SIP message from process to process. Zero makes everything happen at once, in order.
    #[serde(with = "millis")]
    pub hop: Duration,
    /// Dialogs survive a restart (`dialog db_mode 1`).
    pub persist_dialogs: bool,
    /// Registrations come back by themselves after a restart.
    pub phones_register_again: bool,
    /// A crashed process is started again after this time; `None`: it stays dead.
    #[serde(with = "millis_option")]
    pub supervised: Option<Duration>,
    /// The wall clock (seconds since 1970, UTC) at virtual time zero.
    pub unix_epoch: u64,
    /// The phones, by registration order.
    pub phones: Vec<PhoneConfig>,
}

impl Default for WorldConfig {
    fn default() -> WorldConfig {
        WorldConfig {
            version: Version::V3_6,
            script: Script::Stock,
            callops_mode: CallopsMode::Param,
            domain: "127.0.0.1:5060".into(),
            callplane_socket: "127.0.0.1:5066".into(),
            fr_timeout: Duration::from_secs(5),
            fr_inv_timeout: Duration::from_secs(60),
            dialog_timeout: Duration::from_secs(12 * 3600),
            dead_man: Duration::from_secs(180),
            mark_life: Duration::from_secs(900),
            linger: Duration::from_millis(5200),
            hop: Duration::from_millis(1),
            persist_dialogs: false,
            phones_register_again: true,
            supervised: Some(Duration::from_secs(2)),
            unix_epoch: 1_795_382_594,
            phones: demo_phones(),
        }
    }
}

/// The phones a new user meets, each with a character:
///
/// | name | behaviour |
/// |---|---|
/// | alice | answers at once, does what she is asked |
/// | bob | rings for two seconds, then answers |
/// | carol | rings for a second, then answers; refuses to be put on hold (488) |
/// | dave | busy (486) |
/// | erin | rings and never answers |
/// | frank | answers, but refuses to be transferred (603) |
/// | grace | rings for a second and answers; as the callee, hangs up after twenty seconds |
/// | heidi | the phone is off: no answer of any kind |
pub fn demo_phones() -> Vec<PhoneConfig> {
    let plain = Behaviour::default;
    let cast: [(&str, Behaviour); 8] = [
        ("alice", plain()),
        ("bob", Behaviour { ring_ms: 2000, ..plain() }),
        ("carol", Behaviour { ring_ms: 1000, reinvite: 488, ..plain() }),
        ("dave", Behaviour { ring: false, ring_ms: 300, answer: 486, ..plain() }),
        ("erin", Behaviour { answer: 0, ..plain() }),
        ("frank", Behaviour { ring_ms: 500, refer: 603, ..plain() }),
        ("grace", Behaviour { ring_ms: 1000, hang_up_ms: Some(20_000), ..plain() }),
        ("heidi", Behaviour { ring: false, answer: 0, ..plain() }),
    ];
    cast.into_iter()
        .zip(5101_u16..)
        .map(|((name, behaviour), port)| PhoneConfig {
            behaviour,
            ..PhoneConfig::new(name, &format!("127.0.0.1:{port}"))
        })
        .collect()
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }
}

/// The same, or nothing.
mod millis_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::millis::serialize(d, s),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<u64>::deserialize(d).map(|m| m.map(Duration::from_millis))
    }
}
