//! Reading the SIP texts that Management Interface parameters carry: headers, addresses, SDP.
//!
//! Deliberately shallow: it takes apart what our own connector and the recordings write, and
//! keeps OpenSIPS' leniency (what can't be read is simply not found).

/// Turns the two-character escapes `\r` and `\n` into line ends, as `t_uac_dlg` and
/// `dlg_send_sequential` do with `headers` (measured: a way to inject headers).
pub(super) fn unescape(headers: &str) -> String {
    headers.replace("\\r", "\r").replace("\\n", "\n")
}

/// The value of the first header `name`, trimmed.
pub(super) fn header<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    headers.split("\r\n").find_map(|line| {
        let (n, value) = line.split_once(':')?;
        n.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The URI of an address: what stands between `<` and `>`, else the whole text.
pub(super) fn address_uri(address: &str) -> &str {
    match address.split_once('<') {
        Some((_, rest)) => rest.split_once('>').map_or(rest, |(uri, _)| uri),
        None => address.split(';').next().unwrap_or(address).trim(),
    }
}

/// The tag of a From or To header.
pub(super) fn tag(address: &str) -> Option<&str> {
    let parameters = address.rsplit_once('>').map_or(address, |(_, rest)| rest);
    parameters.split(';').find_map(|p| p.trim().strip_prefix("tag="))
}

/// The user part of a SIP URI.
pub(super) fn user(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("sip:")?;
    rest.split_once('@').map(|(user, _)| user)
}

/// `host:port` of a SIP URI, without parameters.
pub(super) fn host(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("sip:")?;
    let host = rest.split_once('@').map_or(rest, |(_, host)| host);
    host.split([';', '?', '>']).next()
}

/// Whether two `host:port` name one place: hosts in any case, and 5060 where there is no port (RFC
/// 3261 section 19.1.4 and, for UDP and TCP, section 19.1.2).
pub(super) fn is_same_place(one: &str, other: &str) -> bool {
    let (one, other) = (host_and_port(one), host_and_port(other));
    one.0.eq_ignore_ascii_case(other.0) && one.1 == other.1
}

fn host_and_port(place: &str) -> (&str, &str) {
    // The colons of an IPv6 address stand in brackets.
    match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        Some(_) | None => (place, "5060"),
    }
}

/// The URI without parameters and headers.
pub(super) fn bare(uri: &str) -> &str {
    uri.split([';', '?']).next().unwrap_or(uri)
}

/// The value of URI parameter `name`.
pub(super) fn parameter<'a>(uri: &'a str, name: &str) -> Option<&'a str> {
    let uri = uri.split('?').next().unwrap_or(uri);
    uri.split(';').skip(1).find_map(|p| {
        let (n, v) = p.split_once('=')?;
        (n == name).then_some(v)
    })
}

/// The URI with parameter `name` taken out.
pub(super) fn without_parameter(uri: &str, name: &str) -> String {
    uri.split(';')
        .filter(|p| p.split_once('=').is_none_or(|(n, _)| n != name))
        .collect::<Vec<_>>()
        .join(";")
}

/// A URI header (`sip:x@y?Replaces=..`), percent-decoded.
pub(super) fn uri_header(uri: &str, name: &str) -> Option<String> {
    let (_, headers) = uri.split_once('?')?;
    headers.split('&').find_map(|h| {
        let (n, v) = h.split_once('=')?;
        n.eq_ignore_ascii_case(name).then(|| percent_decoded(v))
    })
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digits: Vec<u8> = bytes.by_ref().take(2).collect();
        let byte = (digits.len() == 2)
            .then_some(&digits)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        match byte {
            Some(byte) => out.push(byte),
            None => {
                out.push(b'%');
                out.extend_from_slice(&digits);
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// True if a `t_uac_dlg` or REFER target can be used at all.
pub(super) fn is_sip(uri: &str) -> bool {
    uri.strip_prefix("sip:")
        .is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '\r', '\n', '<', '>']))
}

/// Media direction of a session description (RFC 3264 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways; also what a description without a direction means.
    #[default]
    SendRecv,
    /// This side only sends.
    SendOnly,
    /// This side only receives.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    pub(super) fn text(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// What the description says; the last direction line counts.
    pub(super) fn of(sdp: &str) -> Direction {
        sdp.lines()
            .rev()
            .find_map(|l| match l.trim_end() {
                "a=sendrecv" => Some(Direction::SendRecv),
                "a=sendonly" => Some(Direction::SendOnly),
                "a=recvonly" => Some(Direction::RecvOnly),
                "a=inactive" => Some(Direction::Inactive),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// The answer a phone gives to an offer with this direction (RFC 3264 6.1).
    pub(super) fn answered(self) -> Direction {
        match self {
            Direction::SendRecv => Direction::SendRecv,
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            Direction::Inactive => Direction::Inactive,
        }
    }
}

/// The reason phrase phones and the proxy give with a status code.
pub(super) fn reason(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        415 => "Unsupported Media Type",
        420 => "Bad Extension",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_parameters() {
        let uri = "sip:bob@127.0.0.1:5060;cpt=op2";
        assert_eq!(user(uri), Some("bob"));
        assert_eq!(host(uri), Some("127.0.0.1:5060"));
        assert_eq!(host("sip:127.0.0.1:5060"), Some("127.0.0.1:5060"));
        assert!(is_same_place("127.0.0.1", "127.0.0.1:5060") && is_same_place("A.b", "a.B:5060"));
        assert!(is_same_place("[::1]", "[::1]:5060") && !is_same_place("[::1]:5061", "[::1]"));
        assert!(!is_same_place("127.0.0.1:5066", "127.0.0.1") && !is_same_place("a.c", "a.b"));
        assert_eq!(bare(uri), "sip:bob@127.0.0.1:5060");
        assert_eq!(parameter(uri, "cpt"), Some("op2"));
        assert_eq!(parameter(uri, "osid"), None);
        assert_eq!(without_parameter(uri, "cpt"), "sip:bob@127.0.0.1:5060");
        assert_eq!(address_uri("\"B\" <sip:b@x;a=1>;tag=2"), "sip:b@x;a=1");
        assert_eq!(address_uri("sip:b@x;tag=2"), "sip:b@x");
        assert_eq!(tag("\"B;tag=0\" <sip:b@x;tag=1>;tag=2"), Some("2"));
        assert_eq!(tag("<sip:b@x;tag=1>"), None);
        let attended = "sip:carol@x?Replaces=a-1%3Bto-tag%3D2%3Bfrom-tag%3D3";
        assert_eq!(uri_header(attended, "replaces").as_deref(), Some("a-1;to-tag=2;from-tag=3"));
        assert_eq!(bare(attended), "sip:carol@x");
        assert_eq!(uri_header("sip:x?A=%zz%4", "a").as_deref(), Some("%zz%4"));
        assert!(is_sip("sip:x") && !is_sip("not a uri") && !is_sip("sip:a b"));
    }

    #[test]
    fn headers_and_directions() {
        let headers = unescape("From: <sip:a@b>\\r\\nCall-Id: x\r\nX-CP-Op:  op1 \r\n");
        assert_eq!(header(&headers, "call-id"), Some("x"));
        assert_eq!(header(&headers, "X-CP-Op"), Some("op1"));
        assert_eq!(header(&headers, "To"), None);
        assert_eq!(Direction::of("v=0\r\na=inactive\r\n"), Direction::Inactive);
        assert_eq!(Direction::of("v=0\r\n"), Direction::SendRecv);
        assert_eq!(Direction::SendOnly.answered(), Direction::RecvOnly);
    }
}
