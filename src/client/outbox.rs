//! What waits to be written to one socket.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Room that a busy socket writes its messages into, one after the other.
const ARENA: usize = 4096;

/// Messages in the order in which they are to be written. Each is a slice of one shared buffer,
/// so that a burst costs no allocation per message.
#[derive(Debug, Default)]
pub struct Outbox {
    arena: BytesMut,
    messages: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    /// Appends a message that `write` writes. It must be UTF-8.
    pub fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let message = self.render(write);
        self.push(message);
    }

    /// Writes a text without appending it.
    #[must_use]
    pub fn render(&mut self, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.arena.capacity() == 0 {
            self.arena.reserve(ARENA);
        }
        write(&mut self.arena);
        self.arena.split().freeze()
    }

    /// Appends a rendered message.
    pub fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Forgets what waits: the socket is given up.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives the memory back while there is nothing to do. A socket is idle for most of its life.
    pub fn rest(&mut self) {
        if self.messages.is_empty() {
            self.clear();
        }
    }
}
