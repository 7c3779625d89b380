//! What a client reads of what it is told, and how it resumes.

use std::time::Duration;

use super::load::socket::{Socket, scratch};

const PATIENCE: Duration = Duration::from_secs(60);

/// The text behind a mark, up to the next quote.
pub fn text_behind<'a>(message: &'a [u8], mark: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(message).ok()?;
    let (_, rest) = text.split_once(mark)?;
    rest.split('"').next()
}

/// The number behind a mark.
pub fn number_behind(message: &[u8], mark: &str) -> Option<u64> {
    let text = std::str::from_utf8(message).ok()?;
    let (_, rest) = text.split_once(mark)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Where a client stands: what it needs to resume.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub session: String,
    pub epoch: String,
    pub seq: u64,
}

impl Place {
    /// Takes note of a message.
    pub fn note(&mut self, message: &[u8]) {
        if let Some(session) = text_behind(message, r#""session":""#) {
            session.clone_into(&mut self.session);
        }
        if let Some(epoch) = text_behind(message, r#""epoch":""#) {
            epoch.clone_into(&mut self.epoch);
        }
        if let Some(seq) = number_behind(message, r#""seq":"#) {
            self.seq = self.seq.max(seq);
        }
    }

    /// The request.
    pub fn request(&self) -> String {
        let Self { session, epoch, seq } = self;
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"Resume","params":{{"session":"{session}","epoch":"{epoch}","seq":{seq}}}}}"#
        )
    }

    /// Resumes and waits for the answer.
    pub fn resume(&self, socket: &mut Socket) {
        socket.queue(&self.request());
        socket.send();
        let (mut recovered, mut scratch) = (false, scratch());
        while !recovered {
            socket.wait(&mut scratch, PATIENCE, |message| {
                recovered |= recovers(message);
            });
        }
    }
}

/// Whether a message is the answer to a resume; one that is refused ends the bench.
pub fn recovers(message: &[u8]) -> bool {
    let text = String::from_utf8_lossy(message);
    assert!(!text.contains(r#""recovered":false"#) && !text.contains(r#""error":"#), "{text}");
    text.contains(r#""recovered":true"#)
}
