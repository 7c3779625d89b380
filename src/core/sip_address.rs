//! The one way for an address to enter the product.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sip_uri::{SipUri, UriParse as _};

/// A SIP or SIPS URI that is safe to paste into a header, a Refer-To or a request URI.
///
/// Stricter than RFC 3261 section 19.1: no headers part, no password, no escaped control
/// octet, no repeated parameter, none of the delimiters that OpenSIPS treats specially
/// (measured: trace `inject`), at most 512 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SipAddress(Arc<str>);

/// Why a text is no acceptable address. The words are safe to show to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Longer than 512 bytes, or empty.
    #[error("must have 1 to 512 bytes")]
    Length,
    /// White space, control characters, quotes, brackets, backslash, or not ASCII.
    #[error("has a character that is not allowed in a SIP address")]
    Character,
    /// Not `sip:user@host` in the sense of RFC 3261.
    #[error("is not a SIP address such as sip:alice@example.com")]
    Syntax,
    /// A part that callplane does not take: headers, a password.
    #[error("must have neither headers nor a password")]
    Part,
    /// The same parameter twice.
    #[error("repeats a parameter")]
    Repeated,
    /// There is no user part, so nobody to call.
    #[error("names no user")]
    NoUser,
    /// RFC 3261 section 16.5: a call goes to `maddr`, whatever the domain; `ttl` is of use only
    /// with it.
    #[error("must have neither `maddr` nor `ttl`: a call goes where its domain says")]
    Elsewhere,
    /// RFC 3261 section 19.1.1: in no request URI, and out of a Refer-To it asks for another request
    /// than an INVITE.
    #[error("must not have `method`: who is called gets an INVITE")]
    Method,
    /// What calls that callplane brings about are known by.
    #[error("must have neither `cpt` nor `osid`: callplane sets them itself")]
    Ours,
}

/// The parameters by which a referred INVITE is recognised; nobody else may set them.
const OURS: [&str; 2] = ["cpt", "osid"];

impl SipAddress {
    /// Longest address taken, in bytes.
    pub const LONGEST: usize = 512;

    /// Takes an address from a client: one that is to be called. Of the parameters of RFC 3261
    /// section 19.1.1 it may have `user`, `transport`, `lr` and those that the RFC does not name.
    ///
    /// # Errors
    /// [`BadAddress`] says what is wrong with it.
    pub fn to_call(text: &str) -> Result<Self, BadAddress> {
        let address = Self::parse(text)?;
        if address.has_parameter(&["maddr", "ttl"]) {
            return Err(BadAddress::Elsewhere);
        }
        if address.has_parameter(&["method"]) {
            return Err(BadAddress::Method);
        }
        if address.carries_ours() {
            return Err(BadAddress::Ours);
        }
        Ok(address)
    }

    /// Takes an address from wherever: what a stack reports has parameters of all kinds.
    ///
    /// # Errors
    /// [`BadAddress`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        if text.is_empty() || text.len() > Self::LONGEST {
            return Err(BadAddress::Length);
        }
        let plain = |c: char| {
            c.is_ascii_graphic()
                && !matches!(c, '<' | '>' | '"' | '\'' | '\\' | '`' | '{' | '}' | '^' | '|' | ',')
        };
        if !text.chars().all(plain) {
            return Err(BadAddress::Character);
        }
        if text.contains('?') {
            return Err(BadAddress::Part);
        }
        let scheme_ok = ["sip:", "sips:"]
            .iter()
            .any(|s| text.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s)));
        if !scheme_ok || escapes_control(text) {
            return Err(BadAddress::Syntax);
        }
        SipUri::parse_strict(text).map_err(|_| BadAddress::Syntax)?;
        let rest = text.split_once(':').map_or("", |(_, rest)| rest);
        let (user, host) = rest.split_once('@').ok_or(BadAddress::NoUser)?;
        if user.is_empty() {
            return Err(BadAddress::NoUser);
        }
        if user.contains(':') || host.contains('@') {
            return Err(BadAddress::Part);
        }
        // `;` inside the user part is legal, but a proxy's parameter transformations would read
        // it as one of ours.
        if user.contains(';') {
            return Err(BadAddress::Character);
        }
        let mut names = std::collections::BTreeSet::new();
        if !parameter_names(text).all(|name| names.insert(name)) {
            return Err(BadAddress::Repeated);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Whether it has a parameter by which a referred INVITE of ours is recognised.
    #[must_use]
    pub fn carries_ours(&self) -> bool {
        self.has_parameter(&OURS)
    }

    fn has_parameter(&self, any_of: &[&str]) -> bool {
        parameter_names(&self.0).any(|name| any_of.contains(&name.as_str()))
    }

    /// The party alone, in one spelling (RFC 3261 section 19.1.4): scheme and host in lower case,
    /// needless escapes decoded, without parameters. A port that is written out stays: another
    /// phone may be there.
    #[must_use]
    pub fn normal(&self) -> Self {
        let scheme = self.0.split(':').next().unwrap_or_default();
        let (user, place) = self.party().split_once('@').unwrap_or_default();
        let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
        let port = port.parse::<u16>().ok().filter(|_| !host.is_empty());
        let mut text = scheme.to_ascii_lowercase();
        text.reserve(self.0.len());
        text.push(':');
        text.push_str(&unescaped(user));
        text.push('@');
        match port {
            Some(port) => {
                text.push_str(&host.to_ascii_lowercase());
                text.push(':');
                text.push_str(&port.to_string());
            }
            None => text.push_str(&place.to_ascii_lowercase()),
        }
        Self(text.into())
    }

    /// The address as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `user@host[:port]` without scheme and parameters, the part that names a party.
    #[must_use]
    pub fn party(&self) -> &str {
        party_of(&self.0)
    }

    /// The host, without port and parameters.
    #[must_use]
    pub fn domain(&self) -> &str {
        let host = self.party().split_once('@').map_or("", |(_, host)| host);
        if host.starts_with('[') {
            return host.split_inclusive(']').next().unwrap_or(host);
        }
        host.split(':').next().unwrap_or(host)
    }

    /// Whether a URI that a stack reported names the same party: same user, same host and port,
    /// whatever its parameters. A port that is not written is 5060: one phone of a call may write
    /// it, another not.
    #[must_use]
    pub fn is_party(&self, reported: &str) -> bool {
        let (ours, theirs) = (self.party(), party_of(reported));
        match (ours.split_once('@'), theirs.split_once('@')) {
            (Some((user, host)), Some((other, there))) => {
                user == other
                    && without_default_port(host).eq_ignore_ascii_case(without_default_port(there))
            }
            _ => false,
        }
    }
}

fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":5060").unwrap_or(host)
}

fn party_of(uri: &str) -> &str {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    rest.split([';', '?', '>']).next().unwrap_or(rest)
}

/// The names of its parameters, in one spelling.
fn parameter_names(uri: &str) -> impl Iterator<Item = String> {
    let parameters = uri.split_once('@').map_or("", |(_, rest)| rest).split(';').skip(1);
    parameters.map(|parameter| {
        unescaped(parameter.split('=').next().unwrap_or_default()).to_ascii_lowercase()
    })
}

/// Decodes what needs no escape, and writes the other escapes in upper case.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        match u8::from_str_radix(hex, 16).map(char::from) {
            Ok(c) if c.is_ascii_alphanumeric() || "-_.!~*()".contains(c) => plain.push(c),
            Ok(_) | Err(_) => {
                plain.push('%');
                plain.push_str(&hex.to_ascii_uppercase());
            }
        }
        plain.push_str(rest);
    }
    plain
}

/// An escaped octet below 0x20, or 0x7f: legal in the grammar, never meant well.
fn escapes_control(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let hex = after.get(..2).unwrap_or_default();
        u8::from_str_radix(hex, 16).is_ok_and(|octet| octet < 0x20 || octet == 0x7f)
    })
}

impl fmt::Display for SipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SipAddress({})", self.0)
    }
}

impl From<SipAddress> for String {
    fn from(address: SipAddress) -> Self {
        address.0.to_string()
    }
}

impl TryFrom<String> for SipAddress {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_phones_and_old_clients_use() {
        for good in [
            "sip:alice@example.com",
            "sip:alice@127.0.0.1:5060",
            "sips:bob@x.y;transport=tls",
            "sip:+4930123@10.0.0.1;user=phone",
            "sip:a%20b@h.example",
            "sip:alice@[::1]:5060",
        ] {
            let address = SipAddress::parse(good).unwrap_or_else(|e| panic!("{good}: {e}"));
            assert_eq!(SipAddress::parse(address.as_str()).as_ref(), Ok(&address));
        }
    }

    #[test]
    fn refuses_what_could_leave_its_place_in_a_message() {
        for bad in [
            "",
            "alice",
            "sip:alice",
            "sip:@x",
            "http://x",
            "sip:a b@x",
            "sip:a@x\r\nX-Evil: 1",
            "sip:a@x\\r\\nX-Evil: 1",
            "<sip:a@b>",
            "sip:a@b>",
            "sip:a@b?Subject=x",
            "sip:a:secret@b",
            "sip:a%0d%0a@b",
            "sip:a%00@b",
            "sip:a@b;lr;lr",
            "sip:a@b@c",
            "sip:a@b:99999",
            "sip:a;x=1@b",
            "sip:ä@b",
            " sip:a@b",
            "sip:a@b,sip:c@d",
        ] {
            assert!(SipAddress::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_client_may_not_say_where_else_or_how_a_call_is_sent() {
        for (bad, why) in [
            ("sip:a@b;maddr=10.0.0.1", BadAddress::Elsewhere),
            ("sip:a@b;transport=udp;M%61ddr=10.0.0.1", BadAddress::Elsewhere),
            ("sip:a@b;ttl=1", BadAddress::Elsewhere),
            ("sip:a@b;Method=REGISTER", BadAddress::Method),
            ("sip:a@b?Subject=x", BadAddress::Part),
            ("sip:a@b;CPT=1", BadAddress::Ours),
            ("sip:a@b;transport=udp;osid=1.2", BadAddress::Ours),
        ] {
            assert_eq!(SipAddress::to_call(bad), Err(why), "{bad}");
        }
        for good in ["sip:a@b;transport=tls;user=phone", "sip:a@b;lr", "sip:a@b;ob;x=method"] {
            assert!(SipAddress::to_call(good).is_ok(), "{good}");
        }
        assert!(SipAddress::parse("sip:a@b;cpt=1").is_ok(), "a phone may show it in To");
    }

    #[test]
    fn one_party_has_one_spelling() {
        let normal = |text: &str| SipAddress::parse(text).unwrap().normal();
        for (text, spelling) in [
            ("SIP:%61lice@Example.COM;transport=tcp", "sip:alice@example.com"),
            ("sip:a%2fb%27%7e@[2001:DB8::1]:05060", "sip:a%2Fb%27~@[2001:db8::1]:5060"),
            ("sips:Alice@h;x", "sips:Alice@h"),
        ] {
            assert_eq!(normal(text).as_str(), spelling);
            assert_eq!(normal(spelling).as_str(), spelling);
            assert_eq!(SipAddress::parse(spelling).as_ref(), Ok(&normal(text)));
        }
        assert_ne!(normal("sip:a@h"), normal("sip:a@h:5060"));
        assert_ne!(normal("sip:a@h"), normal("sip:A@h"));
        assert_ne!(normal("sip:a@h"), normal("sips:a@h"));
    }

    #[test]
    fn a_party_is_user_host_and_port() {
        let alice = SipAddress::parse("sip:alice@Example.com:5080;transport=tcp").unwrap();
        assert!(alice.is_party("sip:alice@example.com:5080"));
        assert!(!alice.is_party("sip:alice@example.com"));
        assert!(!alice.is_party("sip:bob@example.com:5080"));
        assert_eq!(alice.domain(), "Example.com");
        let bob = SipAddress::parse("sip:bob@example.com").unwrap();
        assert!(bob.is_party("sip:bob@example.com:5060;ob"));
        assert!(!bob.is_party("sip:bob@example.com:5061"));
        assert!(!bob.is_party("sip:bob@[2001:db8::5060]"));
    }
}
