//! SIP messages (RFC 3261) as the phones need them: parsed, answered, taken apart.

use std::net::SocketAddr;

/// A SIP request or response.
#[derive(Clone, Debug)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Header fields in order, names as written.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// The long name of a compact header (RFC 3261 section 20, RFC 3515, RFC 3265).
fn long_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "v" => "via",
        "f" => "from",
        "t" => "to",
        "i" => "call-id",
        "m" => "contact",
        "l" => "content-length",
        "c" => "content-type",
        "r" => "refer-to",
        "b" => "referred-by",
        "o" => "event",
        other => other,
    }
    .to_owned()
}

impl Message {
    /// Reads one datagram; `None` if it is no SIP message (keep-alives).
    pub fn parse(datagram: &[u8]) -> Option<Message> {
        let text = std::str::from_utf8(datagram).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let mut lines = unfolded.split("\r\n");
        let start = lines.next()?.to_owned();
        if !start.starts_with("SIP/2.0 ") && !start.ends_with(" SIP/2.0") {
            return None;
        }
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Some(Message { start, headers, body: body.to_owned() })
    }

    /// The wire form, with the right Content-Length.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body));
        text.into_bytes()
    }

    pub fn is_response(&self) -> bool {
        self.start.starts_with("SIP/2.0 ")
    }

    /// The status code of a response, 0 of a request.
    pub fn status(&self) -> u16 {
        self.start
            .strip_prefix("SIP/2.0 ")
            .and_then(|rest| rest.split(' ').next())
            .and_then(|code| code.parse().ok())
            .unwrap_or(0)
    }

    /// A response's code and reason phrase, as a sipfrag needs it.
    pub fn status_line(&self) -> &str {
        self.start.strip_prefix("SIP/2.0 ").unwrap_or("")
    }

    /// The method of a request, or of the request that a response answers.
    pub fn method(&self) -> &str {
        if self.is_response() { self.cseq().1 } else { self.start.split(' ').next().unwrap_or("") }
    }

    /// The Request-URI.
    pub fn uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        self.headers.iter().find(|(n, _)| long_name(n) == name).map(|(_, v)| v.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let name = name.to_ascii_lowercase();
        self.headers.iter().filter(|(n, _)| long_name(n) == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The entries of a header whose values may be folded into one line with commas (routes).
    pub fn list(&self, name: &str) -> Vec<String> {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(','))
            .map(|entry| entry.trim().to_owned())
            .filter(|entry| !entry.is_empty())
            .collect()
    }

    pub fn call_id(&self) -> &str {
        self.header("call-id").unwrap_or("")
    }

    pub fn cseq(&self) -> (u32, &str) {
        let value = self.header("cseq").unwrap_or("0 ");
        let (number, method) = value.split_once(' ').unwrap_or((value, ""));
        (number.parse().unwrap_or(0), method.trim())
    }

    pub fn branch(&self) -> &str {
        self.header("via").and_then(|via| parameter(via, "branch")).unwrap_or("")
    }

    /// The tag of `from` or `to`.
    pub fn tag(&self, header: &str) -> Option<&str> {
        let value = self.header(header)?;
        parameter(value.rsplit('>').next().unwrap_or(value), "tag")
    }

    /// The session description, if there is one.
    pub fn sdp(&self) -> Option<Sdp> {
        Sdp::parse(&self.body)
    }
}

/// The value of `;name=value` in `text`.
pub fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').skip(1).find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        (key.eq_ignore_ascii_case(name))
            .then(|| value.split([',', '>', '?', ' ']).next().unwrap_or(value))
    })
}

/// The URI of an address header: what stands in angle brackets, else all before the parameters.
pub fn address_uri(value: &str) -> &str {
    match value.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        Some((uri, _)) => uri,
        None => value.split(';').next().unwrap_or(value).trim(),
    }
}

/// Where a `sip:` URI with a numeric host points.
pub fn destination(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = host.split([';', '?', '>']).next()?;
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:5060") };
    host.parse().ok()
}

/// Undoes the escaping of header values inside a URI.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match (first, hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The direction of media, from the view of who sent the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// What an answerer that is willing to do anything says to this offer (RFC 3264 section 6.1).
    pub fn answer(self) -> Direction {
        match self {
            Direction::SendRecv => Direction::SendRecv,
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            Direction::Inactive => Direction::Inactive,
        }
    }
}

/// What matters of a session description: who made it, its version, its direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sdp {
    pub user: String,
    pub session: String,
    pub version: u64,
    pub direction: Direction,
}

impl Sdp {
    pub fn parse(body: &str) -> Option<Sdp> {
        let origin = body.lines().find_map(|line| line.strip_prefix("o="))?;
        let mut words = origin.split(' ');
        let user = words.next()?.to_owned();
        let session = words.next()?.to_owned();
        let version = words.next()?.parse().ok()?;
        let direction = body
            .lines()
            .find_map(|line| match line.trim() {
                "a=sendrecv" => Some(Direction::SendRecv),
                "a=sendonly" => Some(Direction::SendOnly),
                "a=recvonly" => Some(Direction::RecvOnly),
                "a=inactive" => Some(Direction::Inactive),
                _ => None,
            })
            .unwrap_or(Direction::SendRecv);
        Some(Sdp { user, session, version, direction })
    }
}

/// The reason phrase of a status code.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        302 => "Moved Temporarily",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        603 => "Decline",
        _ => "Status",
    }
}
