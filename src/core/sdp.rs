//! The media offers of a hold: what a leg was last sent, with another direction and a higher
//! version.
//!
//! RFC 3264 section 8: a new offer of the same session raises the version in `o=` by one. The
//! version and whether we hold the call are kept as a value on the dialog, so that any pod can
//! undo what another did.

use std::fmt::Write as _;

/// What we last told the legs of a call; the text of the dialog value `cp_hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldMark {
    /// Whether the call is held by us.
    pub held: bool,
    /// The highest version offered to the caller.
    pub caller: u64,
    /// The highest version offered to the callee.
    pub callee: u64,
    /// What the parties' own descriptions were when the call was put on hold ([`fingerprint`]):
    /// another one now means that a phone has taken itself back since.
    pub seen: u64,
}

impl HoldMark {
    /// The value's text: `held:<caller>:<callee>:<seen>` or `free:<caller>:<callee>:<seen>`.
    #[must_use]
    pub fn to_text(self) -> String {
        let word = if self.held { "held" } else { "free" };
        format!("{word}:{}:{}:{:x}", self.caller, self.callee, self.seen)
    }

    /// Reads the value back; anything else is no mark of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let held = match parts.next()? {
            "held" => true,
            "free" => false,
            _ => return None,
        };
        let caller = parts.next()?.parse().ok()?;
        let callee = parts.next()?.parse().ok()?;
        let seen = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().is_none().then_some(Self { held, caller, callee, seen })
    }
}

/// A number that is the same for the same descriptions on every version of callplane (FNV-1a).
#[must_use]
pub fn fingerprint<'a>(descriptions: impl IntoIterator<Item = &'a str>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    descriptions.into_iter().fold(OFFSET, |hash, text| mix(text.bytes().fold(hash, mix), 0))
}

/// The direction of media, RFC 3264 section 5.1. Hold offers `inactive`, as the stack's own hold
/// does; resume offers `sendrecv` and lets the phone answer with its own wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// No media either way.
    Inactive,
    /// Media both ways.
    SendRecv,
}

impl Direction {
    fn line(self) -> &'static str {
        match self {
            Self::Inactive => "a=inactive",
            Self::SendRecv => "a=sendrecv",
        }
    }
}

/// The version in the `o=` line (RFC 4566 section 5.2); `None`: no session description.
#[must_use]
pub fn version(sdp: &str) -> Option<u64> {
    let origin = sdp.lines().find_map(|line| line.strip_prefix("o="))?;
    // A version may be larger than 64 bits in theory; a phone that does so is not offered one.
    origin.split(' ').nth(2)?.parse().ok()
}

/// The same session with this version and direction; `None`: no session description to change.
#[must_use]
pub fn offer(sdp: &str, new_version: u64, direction: Direction) -> Option<String> {
    version(sdp)?;
    let mut text = String::with_capacity(sdp.len() + 16);
    let mut media = 0_u32;
    for line in sdp.lines() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() || is_direction(line) {
            continue;
        }
        if line.starts_with("m=") {
            if media > 0 {
                push(&mut text, direction.line());
            }
            media += 1;
        }
        match line.strip_prefix("o=") {
            Some(origin) => {
                let mut fields = origin.split(' ');
                let (user, session) = (fields.next()?, fields.next()?);
                fields.next()?;
                let rest: Vec<&str> = fields.collect();
                write!(text, "o={user} {session} {new_version} {}\r\n", rest.join(" ")).ok()?;
            }
            None => push(&mut text, line),
        }
    }
    push(&mut text, direction.line());
    Some(text)
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push_str("\r\n");
}

fn is_direction(line: &str) -> bool {
    matches!(line, "a=inactive" | "a=sendrecv" | "a=sendonly" | "a=recvonly")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: &str = "v=0\r\no=bob 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                       m=audio 22104 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n";

    #[test]
    fn a_hold_changes_version_and_direction_and_nothing_else() {
        let held = offer(BOB, 2, Direction::Inactive).unwrap();
        let expected = BOB.replace("bob 1 1 ", "bob 1 2 ").replace("sendrecv", "inactive");
        assert_eq!(held, expected);
        assert_eq!(version(&held), Some(2));
        assert_eq!(offer(&held, 1, Direction::SendRecv).unwrap(), BOB);
    }

    #[test]
    fn every_media_section_gets_the_direction() {
        let two = format!("{BOB}m=video 9 RTP/AVP 99\r\na=recvonly\r\na=rtpmap:99 H264/90000\r\n");
        let held = offer(&two, 7, Direction::Inactive).unwrap();
        assert_eq!(held.matches("a=inactive\r\n").count(), 2);
        assert!(!held.contains("recvonly") && !held.contains("sendrecv"));
    }

    #[test]
    fn what_is_no_session_description_is_not_offered() {
        assert_eq!(offer("", 1, Direction::Inactive), None);
        assert_eq!(offer("hello", 1, Direction::Inactive), None);
        assert_eq!(offer("o=short 1\r\n", 1, Direction::Inactive), None);
    }

    #[test]
    fn the_mark_survives_its_text() {
        let mark = HoldMark { held: true, caller: 3, callee: u64::MAX, seen: u64::MAX };
        assert_eq!(HoldMark::parse(&mark.to_text()), Some(mark));
        assert_eq!(HoldMark::parse("held:1"), None);
        assert_eq!(HoldMark::parse("hold:1:2:0"), None);
        assert_eq!(HoldMark::parse("held:1:2:0:0"), None);
    }

    #[test]
    fn a_fingerprint_tells_who_said_what() {
        assert_eq!(fingerprint([BOB, "x"]), fingerprint([BOB, "x"]));
        assert_ne!(fingerprint([BOB, "x"]), fingerprint(["x", BOB]));
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
    }
}
