//! A simulated proxy on its sockets.

use std::net::SocketAddr;

use callplane::stack::simulated::Script;
use callplane::stack::simulated::server::{SimulateConfig, Simulated};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{DEADLINE, DOMAIN, any_port, http};

/// A simulated proxy and how to stop it.
pub struct Proxy {
    pub mi: SocketAddr,
    control: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Proxy {
    /// One with the usual phones. They are quick: the characters matter here, not their pauses.
    pub async fn start(script: Script, mi: SocketAddr) -> Self {
        let mut config = SimulateConfig { mi_udp: mi, ..Default::default() };
        config.world.script = script;
        for phone in &mut config.world.phones {
            phone.behaviour.ring_ms = phone.behaviour.ring_ms.min(20);
        }
        Self::of(config).await
    }

    /// One that is set up so, at [`DOMAIN`] and with control.
    pub async fn of(mut config: SimulateConfig) -> Self {
        config.mi_http = Some(any_port());
        config.control = Some(any_port());
        config.world.domain = DOMAIN.to_owned();
        let simulated = Simulated::bind(config).await.unwrap();
        let at = simulated.addresses();
        let (mi, control) = (at.mi_udp, at.control.unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(simulated.run(async {
            let _ = stopped.await;
        }));
        Self { mi, control, stop, running }
    }

    /// Makes the network to it bad (docs/simulated-opensips.md).
    pub async fn faults(&self, faults: Value) {
        self.control("PATCH", "/faults", Some(&faults)).await;
    }

    /// Asks its control interface; what that answers.
    pub async fn control(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = http(self.control, method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// Its port refuses from now on; which one that is.
    pub async fn stop(self) -> SocketAddr {
        drop(self.stop);
        timeout(DEADLINE, self.running).await.unwrap().unwrap();
        self.mi
    }
}
