//! The kinds of values a configuration holds, each checked when it is read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::decode::{Scalar, scalars};
use crate::core::ids::Install;

scalars!(
    ByteSize,
    Install,
    HostPort,
    StackSocket,
    HttpUrl,
    SipUri,
    WebOrigin,
    StackName,
    ObjectName,
    Domain,
    HttpPath,
    LogFilter,
    CollectorUrl,
    Share
);

/// A number of bytes, written `65536`, `64KiB` or `1MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// This many KiB.
    pub const fn kib(n: usize) -> ByteSize {
        ByteSize(n * 1024)
    }

    /// This many MiB.
    pub const fn mib(n: usize) -> ByteSize {
        ByteSize(n * 1024 * 1024)
    }

    /// The bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl Scalar for ByteSize {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("`{text}` is not a size; write a whole number of bytes, or `64KiB`, `1MiB`");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: usize = number.parse().map_err(|_| wanted())?;
        let factor: usize = match unit.trim_start() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wanted()),
        };
        number.checked_mul(factor).map(ByteSize).ok_or_else(wanted)
    }

    fn to_text(&self) -> String {
        match self.0 {
            bytes if bytes != 0 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
            bytes if bytes != 0 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
            bytes => bytes.to_string(),
        }
    }
}

/// A host (name, IPv4 or IPv6 address) and a port. `Display` gives what `bind`, `connect` and
/// `lookup_host` take: `127.0.0.1:5059`, `[::1]:5059`, `proxy.example:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// This port on the IPv4 loopback address.
    pub fn loopback(port: u16) -> HostPort {
        HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port }
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> HostPort {
        HostPort { host: self.host.clone(), port }
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, if it is an address and not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether only this machine reaches it. A name other than `localhost` does not count: what it
    /// resolves to can change.
    pub fn is_loopback(&self) -> bool {
        self.ip().map_or_else(
            || self.host.eq_ignore_ascii_case("localhost"),
            |ip| ip.to_canonical().is_loopback(),
        )
    }

    /// Whether it is an IPv6 address.
    pub fn is_ipv6(&self) -> bool {
        self.ip().is_some_and(|ip| ip.to_canonical().is_ipv6())
    }

    /// Whether it means "all addresses" (`0.0.0.0`, `::`).
    pub fn is_any(&self) -> bool {
        self.ip().is_some_and(|ip| ip.to_canonical().is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Scalar for HostPort {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("`{text}` is not an address; write host:port, like `127.0.0.1:5059`");
        let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let port = port.parse().map_err(|_| wanted())?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(wanted()),
            None if is_host(host) => host,
            None => return Err(wanted()),
        };
        // The two addresses of this name would be two listeners; one is what everybody means.
        let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { host };
        Ok(HostPort { host: host.to_owned(), port })
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// An IPv4 address or a name as DNS has them (letters, digits, hyphens, underscores, dots).
fn is_host(host: &str) -> bool {
    if host.is_empty() || host.len() > 253 {
        return false;
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// How management requests or events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram, one message.
    Udp,
    /// A stream of messages.
    Tcp,
}

/// A socket as OpenSIPS writes it: `udp:127.0.0.1:8080`, `tcp:10.0.0.5:9000`. Without a transport
/// it is UDP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StackSocket {
    /// UDP or TCP.
    pub transport: Transport,
    /// Where.
    pub address: HostPort,
}

impl StackSocket {
    /// A UDP socket on the IPv4 loopback address.
    pub fn udp_loopback(port: u16) -> StackSocket {
        StackSocket { transport: Transport::Udp, address: HostPort::loopback(port) }
    }
}

impl fmt::Display for StackSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        write!(f, "{transport}:{}", self.address)
    }
}

impl Scalar for StackSocket {
    fn from_text(text: &str) -> Result<Self, String> {
        let (transport, rest) = if let Some(rest) = text.strip_prefix("udp:") {
            (Transport::Udp, rest)
        } else if let Some(rest) = text.strip_prefix("tcp:") {
            (Transport::Tcp, rest)
        } else {
            (Transport::Udp, text)
        };
        let address = HostPort::from_text(rest).map_err(|_| {
            format!("`{text}` is not a socket; write udp:host:port, like `udp:127.0.0.1:8080`")
        })?;
        Ok(StackSocket { transport, address })
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// An address of plain HTTP: `http://127.0.0.1:8888/mi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Host and port (80 if not written).
    pub address: HostPort,
    /// The path, `/` if not written.
    pub path: String,
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

impl Scalar for HttpUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("`{text}` is not a URL of plain HTTP, like `http://127.0.0.1:8888/mi`");
        let rest = text.strip_prefix("http://").ok_or_else(wanted)?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let address = HostPort::from_text(authority)
            .or_else(|_| HostPort::from_text(&format!("{authority}:80")))
            .map_err(|_| wanted())?;
        if !path.bytes().all(is_path_byte) {
            return Err(wanted());
        }
        Ok(HttpUrl { address, path: path.to_owned() })
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// Where OTLP is spoken over gRPC: `http://collector:4317`, or `https://` with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host and port (4317 if not written).
    pub address: HostPort,
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

impl Scalar for CollectorUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "`{text}` is not a collector's address; write http://host:4317, or https:// with TLS"
            )
        };
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(wanted()),
        };
        // gRPC has paths of its own.
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let address = HostPort::from_text(authority)
            .or_else(|_| HostPort::from_text(&format!("{authority}:4317")))
            .map_err(|_| wanted())?;
        if address.port() == 0 {
            return Err(wanted());
        }
        Ok(CollectorUrl { tls, address })
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

/// A share of a whole, from 0 to 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nothing of it.
    pub const NONE: Share = Share(0);
    /// All of it.
    pub const ALL: Share = Share(1_000_000);

    /// In millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

impl Scalar for Share {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not a share; write a number from 0 to 1, like `0.05`");
        let share: f64 = text.parse().map_err(|_| wanted())?;
        if !(0.0..=1.0).contains(&share) {
            return Err(wanted());
        }
        let millionths = (share * 1_000_000.0).round();
        // What is less than a millionth is meant to be more than nothing.
        let least = if share > 0.0 { 1 } else { 0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to a million"
        )]
        let millionths = millionths as u32;
        Ok(Share(millionths.max(least)))
    }

    fn to_text(&self) -> String {
        format!("{}", f64::from(self.0) / 1_000_000.0)
    }
}

fn is_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b)
}

/// A path of the HTTP server, `/call-api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPath(String);

impl HttpPath {
    /// The path of old: `/call-api`.
    pub fn call_api() -> HttpPath {
        HttpPath("/call-api".to_owned())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for HttpPath {
    fn from_text(text: &str) -> Result<Self, String> {
        // Not `is_path_byte`: braces, colons and stars would be patterns to a router.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
        if text.starts_with('/') && text.bytes().all(plain) && !text.contains("//") {
            Ok(HttpPath(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is not a path; write one that begins with `/`, of letters, digits and -._~"
            ))
        }
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// A SIP address (RFC 3261 section 19.1) such as `sip:10.0.0.5:5060;transport=tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUri(String);

impl SipUri {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for SipUri {
    fn from_text(text: &str) -> Result<Self, String> {
        match <sip_uri::SipUri as sip_uri::UriParse>::parse_strict(text) {
            Ok(_) if !text.contains(['?', '%']) => Ok(SipUri(text.to_owned())),
            Ok(_) | Err(_) => {
                Err(format!("`{text}` is not a SIP address like `sip:10.0.0.5:5060`"))
            }
        }
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// The origin of a web page (RFC 6454): `https://crm.example`, `http://localhost:3000`, or the
/// word `null` that browsers send for pages without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebOrigin(String);

impl WebOrigin {
    /// The origin as a browser sends it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the word `null`.
    pub fn is_null(&self) -> bool {
        self.0 == "null"
    }
}

impl Scalar for WebOrigin {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("`{text}` is not an origin; write scheme://host or scheme://host:port, no path")
        };
        if text == "null" {
            return Ok(WebOrigin(text.to_owned()));
        }
        let (scheme, authority) = text.split_once("://").ok_or_else(wanted)?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => ":80",
            "https" => ":443",
            _ => return Err(wanted()),
        };
        // Browsers leave the default port out, so it never matches when written.
        let authority = authority.strip_suffix(default_port).unwrap_or(authority);
        let authority = authority.to_ascii_lowercase();
        let is_authority = is_host(&authority)
            || authority
                .rsplit_once(':')
                .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
            || authority.starts_with('[') && authority.parse::<std::net::SocketAddrV6>().is_ok()
            || authority
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
        if is_authority { Ok(WebOrigin(format!("{scheme}://{authority}"))) } else { Err(wanted()) }
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Scalar for Install {
    fn from_text(text: &str) -> Result<Self, String> {
        Install::parse(text)
            .map_err(|_| format!("`{text}` is not 1 to 8 lower-case letters and digits"))
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// The name of a stack, as metrics, logs and the param `stack` show it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StackName(String);

impl StackName {
    /// The default name.
    pub fn opensips() -> StackName {
        StackName("opensips".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for StackName {
    fn from_text(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
            Ok(StackName(text.to_owned()))
        } else {
            Err(format!("`{text}` is not 1 to 32 lower-case letters, digits and hyphens"))
        }
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// The name of an object in Kubernetes: a DNS subdomain (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(String);

impl ObjectName {
    /// The default name.
    pub fn callplane() -> ObjectName {
        ObjectName("callplane".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for ObjectName {
    fn from_text(text: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = |label: &str| {
            let ends = !label.starts_with('-') && !label.ends_with('-');
            !label.is_empty() && ends && label.bytes().all(is_plain)
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(ObjectName(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is no name in Kubernetes; write lower-case letters, digits, hyphens and dots"
            ))
        }
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// A SIP domain: what stands behind the `@`. Kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domain(String);

impl Domain {
    /// The domain in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for Domain {
    fn from_text(text: &str) -> Result<Self, String> {
        if is_host(text) {
            Ok(Domain(text.to_ascii_lowercase()))
        } else {
            Err(format!("`{text}` is not a domain like `example.org`"))
        }
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// What is logged: a level, and levels of single modules behind it, as in
/// `info,callplane::stack=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The default: `info`.
    pub fn info() -> LogFilter {
        LogFilter("info".to_owned())
    }

    /// Warnings and errors only.
    pub fn warn() -> LogFilter {
        LogFilter("warn".to_owned())
    }

    /// The filter as `tracing` reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFilter, String> {
        LogFilter::from_text(text)
    }
}

impl Scalar for LogFilter {
    fn from_text(text: &str) -> Result<Self, String> {
        let level = |word: &str| match word.to_ascii_lowercase().as_str() {
            "off" => Some("off"),
            "error" => Some("error"),
            "warn" => Some("warn"),
            "info" => Some("info"),
            "debug" => Some("debug"),
            "trace" => Some("trace"),
            _ => None,
        };
        let module = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
        };
        let parts: Option<Vec<String>> = text
            .split(',')
            .map(|part| match part.trim().split_once('=') {
                None => level(part.trim()).map(str::to_owned),
                Some((name, word)) if module(name) => {
                    level(word).map(|word| format!("{name}={word}"))
                }
                Some(_) => None,
            })
            .collect();
        parts.map(|parts| LogFilter(parts.join(","))).ok_or_else(|| {
            format!("`{text}` is none of: off, error, warn, info, debug, trace (nor a list like `info,callplane::stack=debug`)")
        })
    }

    fn to_text(&self) -> String {
        self.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_back() {
        for text in ["127.0.0.1:5059", "[::1]:5059", "proxy.example:8080", "0.0.0.0:0"] {
            assert_eq!(HostPort::from_text(text).unwrap().to_string(), text);
        }
        assert_eq!(HostPort::from_text("LocalHost:1").unwrap().to_string(), "127.0.0.1:1");
        for bad in
            ["", ":1", "host", "host:", "host:65536", "::1:5", "1.2.3.999:5", "a b:1", "[x]:1"]
        {
            assert!(HostPort::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |text| HostPort::from_text(text).unwrap().is_loopback();
        assert!(loopback("127.8.8.8:1") && loopback("[::1]:1") && loopback("localhost:1"));
        assert!(loopback("[::ffff:127.0.0.1]:1"));
        assert!(!loopback("0.0.0.0:1") && !loopback("[::]:1") && !loopback("box.localdomain:1"));
    }

    #[test]
    fn sockets_urls_and_sizes() {
        assert_eq!(
            StackSocket::from_text("127.0.0.1:8080").unwrap(),
            StackSocket::udp_loopback(8080)
        );
        assert_eq!(StackSocket::from_text("tcp:h:1").unwrap().to_string(), "tcp:h:1");
        assert!(StackSocket::from_text("sctp:h:1").is_err());
        assert_eq!(HttpUrl::from_text("http://h/mi").unwrap().to_string(), "http://h:80/mi");
        assert!(HttpUrl::from_text("https://h/mi").is_err());
        assert!(HttpUrl::from_text("http://h/m i").is_err());
        assert_eq!(ByteSize::from_text("64KiB"), Ok(ByteSize::kib(64)));
        assert!(ByteSize::from_text("64KB").is_err());
        assert!(ByteSize::from_text("99999999999GiB").is_err());
    }

    #[test]
    fn nothing_foreign_gets_into_what_reaches_sip() {
        assert!(SipUri::from_text("sip:10.0.0.5:5060;transport=tcp").is_ok());
        for bad in ["10.0.0.5", "sip:a b@x", "sip:x\r\nX-Evil: 1", "sip:x?Subject=1", "sip:%0d@x"] {
            assert!(SipUri::from_text(bad).is_err(), "{bad:?}");
        }
        assert!(Install::from_text("Prod").is_err());
        assert!(Install::from_text("prod1").is_ok());
    }

    #[test]
    fn origins_are_kept_as_browsers_send_them() {
        let read = |text| WebOrigin::from_text(text).map(|origin| origin.0);
        assert_eq!(read("https://CRM.example:443").unwrap(), "https://crm.example");
        assert_eq!(read("http://[::1]:3000").unwrap(), "http://[::1]:3000");
        for bad in ["crm.example", "https://crm.example/", "*", "ftp://x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn collectors_speak_grpc_at_a_port_and_have_no_path() {
        let read = |text| CollectorUrl::from_text(text);
        for text in ["http://collector:4317", "https://[::1]:443"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        assert_eq!(read("https://tempo/").unwrap().to_string(), "https://tempo:4317");
        assert!(read("https://tempo").unwrap().tls && !read("http://tempo").unwrap().tls);
        for bad in ["collector:4317", "grpc://x", "http://x/v1/traces", "http://", "http://x:0"] {
            let refused = read(bad).unwrap_err();
            assert!(refused.ends_with("write http://host:4317, or https:// with TLS"), "{refused}");
        }
    }

    #[test]
    fn a_share_is_between_nothing_and_all() {
        let read = |text| Share::from_text(text).map(Share::millionths);
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read("1.0"), Ok(1_000_000));
        assert_eq!(read("0.05"), Ok(50_000));
        assert_eq!(read("1e-9"), Ok(1), "little is not nothing");
        for bad in ["", "2", "-0.1", "5%", "NaN", "inf", "1.0000001"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn log_filters() {
        let read = |text| LogFilter::from_text(text).map(|filter| filter.0);
        assert_eq!(read("INFO").unwrap(), "info");
        assert_eq!(read("info,callplane::stack=DEBUG").unwrap(), "info,callplane::stack=debug");
        assert!(read("loud").is_err() && read("info,=debug").is_err() && read("").is_err());
    }
}
