//! The protocol described for programs: the OpenRPC document that `rpc.discover` answers.

/// The document as it is served. `tests/rpc_documents` makes it from the code, and fails when the
/// two differ.
pub const DOCUMENT: &str = include_str!("../../docs/openrpc.json");
