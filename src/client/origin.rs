//! Which pages may speak to us.
//!
//! A browser lets any page open a WebSocket to any host, loopback included, and names the page in
//! `Origin`. Programs send none.

use std::net::IpAddr;

/// The rule for the `Origin` header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// Origins that are allowed beside the own and loopback ones, such as
    /// `https://crm.example.com`, or `null` for pages that have none (files, sandboxes).
    pub named: Vec<String>,
    /// Whether clients must authenticate. Without that a page is our own only under an IP address
    /// or a named origin: a name may have been pointed at us by the page's owner (DNS rebinding).
    pub authenticated: bool,
}

impl Origins {
    /// Whether a request may pass. `host` is its `Host` header.
    #[must_use]
    pub fn allow(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        if self.named.iter().any(|named| named.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let Some(authority) = authority(origin) else {
            return false;
        };
        let name = host_name(authority);
        if is_loopback(name) {
            return true;
        }
        let own = host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
        own && (self.authenticated || address(name).is_some())
    }
}

/// `host[:port]` of an http or https origin.
fn authority(origin: &str) -> Option<&str> {
    let (scheme, rest) = origin.split_once("://")?;
    let web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let plain = !rest.is_empty() && !rest.contains(['/', '?', '#', '@', '\\']);
    (web && plain).then_some(rest)
}

fn host_name(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority.split(':').next().unwrap_or(authority)
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_own_pages_and_loopback_pages_pass() {
        let rule = Origins::default();
        assert!(rule.allow(None, Some("10.0.0.1:5059")));
        assert!(rule.allow(Some("http://10.0.0.1:5059"), Some("10.0.0.1:5059")));
        assert!(rule.allow(Some("http://localhost:3000"), Some("127.0.0.1:5059")));
        assert!(rule.allow(Some("http://[::1]:3000"), None));
        assert!(rule.allow(Some("https://127.0.0.2"), None));
    }

    #[test]
    fn foreign_pages_do_not() {
        let rule = Origins::default();
        for origin in [
            "https://evil.example",
            "null",
            "",
            "file://",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://localhost@evil.example",
            "http://10.0.0.2:5059",
            "http://10.0.0.1:5060",
            "chrome-extension://localhost",
        ] {
            assert!(!rule.allow(Some(origin), Some("10.0.0.1:5059")), "{origin}");
        }
    }

    #[test]
    fn a_name_pointed_at_us_is_not_our_own_unless_clients_authenticate() {
        let (origin, host) = (Some("http://evil.example:5059"), Some("evil.example:5059"));
        assert!(!Origins::default().allow(origin, host));
        assert!(Origins { authenticated: true, ..Origins::default() }.allow(origin, host));
        let named =
            Origins { named: vec!["http://evil.example:5059".into()], ..Origins::default() };
        assert!(named.allow(origin, host));
    }

    #[test]
    fn null_passes_only_when_named() {
        let named = Origins { named: vec!["null".into()], ..Origins::default() };
        assert!(named.allow(Some("null"), None));
    }
}
