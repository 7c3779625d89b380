//! Why a socket is closed by us. The number says what the client should do.
//!
//! 4000 to 4499: connect again and `Resume`. 4500 to 4999: do not connect again without changing
//! something. `docs/protocol.md` carries the table; a test holds the two together.

/// A reason to close a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Close {
    /// This process is about to stop.
    GoingAway,
    /// The client reads too slowly.
    Slow,
    /// Nothing came from the client, not even a pong.
    Silent,
    /// Entries that the client is owed can't be had on this connection.
    StreamLost,
    /// A message was too long.
    MessageTooLong,
    /// What came is no WebSocket traffic of a client.
    Protocol,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The close code.
    pub code: u16,
    /// The reason on the wire.
    pub word: &'static str,
    /// Whether to connect again.
    pub reconnect: bool,
    /// What happened and what to do, for the document.
    pub meaning: &'static str,
}

impl Close {
    /// All of them, in the order of the document.
    pub const ALL: [Self; 6] = [
        Self::GoingAway,
        Self::Slow,
        Self::Silent,
        Self::StreamLost,
        Self::MessageTooLong,
        Self::Protocol,
    ];

    /// The word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::GoingAway => "going_away",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::StreamLost => "stream_lost",
            Self::MessageTooLong => "message_too_long",
            Self::Protocol => "protocol",
        }
    }

    /// The row of this reason.
    #[must_use]
    pub const fn row(self) -> Row {
        let (code, word, meaning) = match self {
            Self::GoingAway => (
                4000,
                "going away, resume",
                "The server is about to stop. Connect again at once, to any server, and resume.",
            ),
            Self::Slow => (
                4001,
                "reading too slowly, resume",
                "More waited to be read than the server keeps for one socket. Connect again and resume.",
            ),
            Self::Silent => (
                4002,
                "no sign of life, resume",
                "Neither a message nor a pong came within the idle timeout. Connect again and resume.",
            ),
            Self::StreamLost => (
                4003,
                "stream interrupted, resume",
                "Notifications could not be had in order. Connect again and resume.",
            ),
            Self::MessageTooLong => (
                4500,
                "message too long",
                "A message was longer than the server takes. The same message would end the next connection too.",
            ),
            Self::Protocol => (
                4501,
                "not a WebSocket client",
                "What came breaks RFC 6455: an unmasked or malformed frame.",
            ),
        };
        Row { code, word, reconnect: code < 4500, meaning }
    }
}
