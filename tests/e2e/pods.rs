//! What clients know of pods: the Service in front of them.

use std::net::SocketAddr;

use super::random::Random;

pub struct Pods {
    pub service: SocketAddr,
}

impl Pods {
    /// Which pod it comes to be, only the node knows.
    #[allow(clippy::unnecessary_wraps, reason = "clients of other tests choose one that is there")]
    pub fn any(&self, _random: &mut Random) -> Option<(usize, SocketAddr)> {
        Some((0, self.service))
    }
}
