//! The phones around the simulated proxy and how each of them behaves.

use serde::{Deserialize, Serialize};

use super::sip_text::Direction;

/// What a phone does. A status code of 0 means: never answers. Every field can be changed while
/// calls run; it counts from the next message on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Sends 180 before the final answer.
    pub ring: bool,
    /// Time from the INVITE to the final answer, milliseconds.
    pub ring_ms: u64,
    /// Final answer to a call: 200, 486, ...; 0: never.
    pub answer: u16,
    /// Answers 486 once this many calls are up; 0: any number.
    pub max_calls: usize,
    /// A CANCEL crosses its 200: a cancelled call is answered all the same.
    pub answers_cancelled: bool,
    /// Hangs up this long after a call came up, milliseconds.
    pub hang_up_ms: Option<u64>,
    /// Answer to a REFER; 0: never.
    pub refer: u16,
    /// Time until the REFER is answered, milliseconds.
    pub refer_ms: u64,
    /// After accepting a REFER: really places the call.
    pub follow: bool,
    /// Time from accepting a REFER to placing the call, milliseconds.
    pub follow_ms: u64,
    /// After accepting a REFER: first says BYE in the old call, then dials.
    pub bye_before_follow: bool,
    /// Once the referred call is up, says BYE in the old one.
    pub bye_after_refer: bool,
    /// Copies what the REFER gives it (URI parameters, `Referred-By`) into its INVITE. Without, the
    /// proxy can't tell that call from any other; only NOTIFYs tell of it.
    pub copies_marks: bool,
    /// Which NOTIFYs follow a REFER.
    pub notify: Notify,
    /// The first NOTIFY (100) goes out before the call is placed (true) or 100 ms after it.
    pub notify_early: bool,
    /// Sends this body in every NOTIFY instead of a true sipfrag.
    pub notify_body: Option<String>,
    /// What it does with `Replaces` (RFC 3891).
    pub replaces: Replaces,
    /// Answer to a re-INVITE; 0: never.
    pub reinvite: u16,
    /// Time until a re-INVITE is answered, milliseconds. Above 500 the proxy has sent it twice
    /// by then, and the second answer is an event too.
    pub reinvite_ms: u64,
    /// Answer to INFO and other requests in a call; 0: never.
    pub info: u16,
    /// The direction in its own session descriptions; none: it offers both ways and answers as
    /// RFC 3264 says.
    pub direction: Option<Direction>,
    /// The proxy challenges its calls after creating the dialog: each call of this phone is two
    /// dialogs with one Call-ID, of which the first dies at once.
    pub challenged: bool,
    /// `Allow` in its 200, if it sends one.
    pub allow: Option<String>,
    /// How many devices are registered. With two or more, two of them answer together: on a
    /// stock script that can kill OpenSIPS (measured).
    pub devices: u8,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            ring: true,
            ring_ms: 0,
            answer: 200,
            max_calls: 0,
            answers_cancelled: false,
            hang_up_ms: None,
            refer: 202,
            refer_ms: 0,
            follow: true,
            follow_ms: 0,
            bye_before_follow: false,
            bye_after_refer: false,
            copies_marks: true,
            notify: Notify::All,
            notify_early: true,
            notify_body: None,
            replaces: Replaces::Supported,
            reinvite: 200,
            reinvite_ms: 0,
            info: 200,
            direction: None,
            challenged: false,
            allow: None,
            devices: 1,
        }
    }
}

/// Which NOTIFYs a referred phone sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notify {
    /// 100, provisional answers, the final one.
    All,
    /// Only the final one.
    Final,
    /// None.
    None,
}

/// What a phone does with an INVITE that carries `Replaces`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replaces {
    /// Answers it and ends the replaced call 50 ms later; takes it as a plain call if the
    /// replaced one is gone.
    Supported,
    /// The same, but answers 481 if the replaced call is gone.
    Strict,
    /// Ignores the header: all calls stay up.
    Ignored,
}

/// A phone at the start of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhoneConfig {
    /// The user part of its address.
    pub name: String,
    /// `host:port` of the device; its media port is one or two higher, as the lab's.
    pub contact: String,
    /// Registered at start.
    #[serde(default = "yes")]
    pub registered: bool,
    /// What it does.
    #[serde(default)]
    pub behaviour: Behaviour,
}

fn yes() -> bool {
    true
}

impl PhoneConfig {
    /// A registered phone that answers and does what it is asked.
    pub fn new(name: &str, contact: &str) -> PhoneConfig {
        PhoneConfig {
            name: name.to_owned(),
            contact: contact.to_owned(),
            registered: true,
            behaviour: Behaviour::default(),
        }
    }
}

/// A phone of a running world.
#[derive(Debug, Clone)]
pub(super) struct Phone {
    pub(super) name: String,
    /// `sip:alice@127.0.0.1:5101`.
    pub(super) contact: String,
    /// `sip:alice@<domain>`.
    pub(super) aor: String,
    host: String,
    media_port: u32,
    pub(super) registered: bool,
    /// Seconds since 1970 of the registration.
    pub(super) registered_at: u64,
    pub(super) register_call_id: String,
    pub(super) contact_id: u64,
    pub(super) behaviour: Behaviour,
}

impl Phone {
    pub(super) fn new(config: PhoneConfig, domain: &str, now: u64, random: u64) -> Phone {
        let (host, port) = config.contact.split_once(':').unwrap_or((&config.contact, "5060"));
        Phone {
            contact: format!("sip:{}@{}", config.name, config.contact),
            aor: format!("sip:{}@{domain}", config.name),
            host: host.to_owned(),
            media_port: port.parse::<u32>().unwrap_or(5060) + 2,
            registered: config.registered,
            registered_at: now,
            register_call_id: format!("reg-{}-{:08x}", config.name, random >> 32),
            contact_id: random >> 1,
            behaviour: config.behaviour,
            name: config.name,
        }
    }

    /// Its session description.
    pub(super) fn sdp(&self, direction: Direction) -> String {
        let (name, host, port) = (&self.name, &self.host, self.media_port);
        format!(
            "v=0\r\no={name} 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na={}\r\n",
            direction.text()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_can_be_given_in_part_and_unknown_words_are_refused() {
        let b: Behaviour =
            serde_json::from_str("{\"answer\":486,\"notify\":\"none\",\"replaces\":\"strict\"}")
                .unwrap();
        assert_eq!(
            b,
            Behaviour {
                answer: 486,
                notify: Notify::None,
                replaces: Replaces::Strict,
                ..Behaviour::default()
            }
        );
        assert!(serde_json::from_str::<Behaviour>("{\"anwser\":486}").is_err());
    }

    #[test]
    fn the_session_description_is_the_recorded_one() {
        let phone =
            Phone::new(PhoneConfig::new("alice", "127.0.0.1:22101"), "127.0.0.1:22060", 0, 7);
        assert_eq!(
            phone.sdp(Direction::SendRecv),
            "v=0\r\no=alice 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio 22103 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
        );
        assert_eq!(phone.contact, "sip:alice@127.0.0.1:22101");
        assert_eq!(phone.aor, "sip:alice@127.0.0.1:22060");
    }
}
