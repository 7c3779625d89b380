//! What holds for every text that is offered as a SIP address.

use callplane::core::sip_address::SipAddress;

/// Panics if a promise is broken; else tells whether the text was taken.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(address) = SipAddress::parse(text) else { return false };
    let shown = address.to_string();
    assert_eq!(shown, text, "it is kept as it was given");
    assert_eq!(SipAddress::parse(&shown).as_ref(), Ok(&address), "what is shown is taken again");
    assert!(shown.len() <= SipAddress::LONGEST);
    // Whatever header, URI or Refer-To it is pasted into, it must stay inside its place there.
    let leaves = |byte: u8| {
        byte <= 0x20 || byte >= 0x7f || matches!(byte, b'<' | b'>' | b'"' | b'\\' | b'?')
    };
    assert!(!shown.bytes().any(leaves), "{shown:?}");
    assert!(!decoded(&shown).any(|byte| byte < 0x20 || byte == 0x7f), "{shown:?}");
    let (user, host) = address.party().split_once('@').expect("a party has a user and a host");
    assert!(!user.is_empty() && !host.is_empty());
    assert!(!address.domain().is_empty() && host.starts_with(address.domain()));
    assert!(address.is_party(&shown), "it names its own party");
    let normal = address.normal();
    assert_eq!(SipAddress::parse(normal.as_str()).as_ref(), Ok(&normal), "of {shown:?}");
    assert_eq!(normal.normal(), normal, "of {shown:?}");
    if let Ok(to_call) = SipAddress::to_call(text) {
        assert_eq!(to_call, address);
    }
    let json = serde_json::to_string(&address).expect("an address is a JSON string");
    assert_eq!(serde_json::from_str::<SipAddress>(&json).ok(), Some(address));
    true
}

/// The octets after `%HH` is resolved, as a proxy may do.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (octet, used) = match rest {
            [] => return None,
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (nibble(*high) << 4 | nibble(*low), 3)
            }
            [byte, ..] => (*byte, 1),
        };
        rest = rest.get(used..).unwrap_or_default();
        Some(octet)
    })
}

fn nibble(hex: u8) -> u8 {
    char::from(hex).to_digit(16).and_then(|n| u8::try_from(n).ok()).unwrap_or_default()
}
