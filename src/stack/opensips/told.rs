//! What a stack is told to send its events to.
//!
//! OpenSIPS takes `udp:10.0.0.1:5065` for a subscriber `udp:10.0.0.12:5065` that it has already: it
//! compares as many characters as the new one has (fact W12). So where several processes may have the
//! same port, an address is written so that all are equally long: each of its four numbers as four
//! octal digits. OpenSIPS leaves such a text to the C library, which reads it so.

use std::net::SocketAddr;

use super::settings::EventTransport;
use crate::stack::address_text::octal;

/// Where a stack is told to send to, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    plain: String,
    /// The same address, as long as any other.
    padded: Option<String>,
    is_name: bool,
}

impl Told {
    /// An address that is sent to over this transport. `shared`: others may have the same port.
    pub(super) fn address(transport: EventTransport, at: SocketAddr, shared: bool) -> Self {
        let padded = match (transport, at) {
            (EventTransport::Udp, SocketAddr::V4(at)) if shared => {
                Some(format!("{}:{}", octal(*at.ip()), at.port()))
            }
            (EventTransport::Udp | EventTransport::Tcp, _) => None,
        };
        let padded = padded.map(|padded| with_scheme(transport, &padded));
        Self { plain: with_scheme(transport, &at.to_string()), padded, is_name: false }
    }

    /// What the configuration says: `host:port`.
    pub(super) fn advertised(transport: EventTransport, text: &str) -> Self {
        match text.parse() {
            Ok(at) => Self::address(transport, at, true),
            Err(_) => Self { plain: with_scheme(transport, text), padded: None, is_name: true },
        }
    }

    /// A text that is told as it is.
    pub(super) fn as_it_is(text: String) -> Self {
        Self { plain: text, padded: None, is_name: false }
    }

    /// As people write it: `udp:10.0.0.5:5065`.
    #[must_use]
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// As it is told, unless the stack refuses that: then as people write it.
    #[must_use]
    pub fn first(&self) -> &str {
        self.padded.as_deref().unwrap_or(&self.plain)
    }

    /// Whether it is a name, which the stack looks up when it is told, and not again (fact W12).
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.is_name
    }

    /// Whether it is an address that OpenSIPS can't send to: it knows IPv4 only (fact W12).
    #[must_use]
    pub fn is_out_of_reach(&self) -> bool {
        self.plain.contains('[')
    }
}

fn with_scheme(transport: EventTransport, rest: &str) -> String {
    let scheme = match transport {
        EventTransport::Udp => "udp",
        EventTransport::Tcp => "tcp",
    };
    format!("{scheme}:{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::address_text::read;

    fn told(transport: EventTransport, at: &str, shared: bool) -> Told {
        Told::address(transport, at.parse().unwrap(), shared)
    }

    #[test]
    fn no_address_of_a_shared_port_begins_like_another() {
        let of = |ip: &str| told(EventTransport::Udp, &format!("{ip}:5065"), true);
        let some =
            ["0.0.0.0", "10.0.0.1", "10.0.0.12", "10.0.0.123", "127.0.0.1", "255.255.255.255"];
        let texts: Vec<_> = some.iter().map(|ip| of(ip).first().to_owned()).collect();
        assert_eq!(texts[2], "udp:0012.0000.0000.0014:5065");
        assert!(texts.iter().all(|text| text.len() == texts[0].len()), "{texts:?}");
        for (ip, text) in some.iter().zip(&texts) {
            let address = text.split(':').nth(1).unwrap();
            assert_eq!(read(address), Some(ip.parse().unwrap()), "{text}");
            assert_eq!(of(ip).plain(), format!("udp:{ip}:5065"));
        }
    }

    #[test]
    fn what_needs_no_padding_is_told_as_people_write_it() {
        for (told, wanted) in [
            (told(EventTransport::Udp, "10.0.0.1:41234", false), "udp:10.0.0.1:41234"),
            (told(EventTransport::Tcp, "10.0.0.1:5065", true), "tcp:10.0.0.1:5065"),
            (told(EventTransport::Udp, "[2001:db8::1]:5065", true), "udp:[2001:db8::1]:5065"),
            (Told::advertised(EventTransport::Udp, "cp-0.cp:5065"), "udp:cp-0.cp:5065"),
        ] {
            assert_eq!((told.first(), told.plain()), (wanted, wanted));
            assert_eq!(
                (told.is_name(), told.is_out_of_reach()),
                (wanted.contains("cp-0"), wanted.contains('['))
            );
        }
        let advertised = Told::advertised(EventTransport::Udp, "10.0.0.1:5065");
        assert_eq!(advertised.first(), "udp:0012.0000.0000.0001:5065");
    }
}
