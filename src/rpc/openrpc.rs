//! tmp

/// The document as it is served.
pub const DOCUMENT: &str = include_str!("../../docs/openrpc.json");
