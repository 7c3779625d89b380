//! The way from one process to one proxy: a relay of datagrams that remembers which process asked for
//! what, and whether it got its answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::net::UdpSocket;

use super::history::Time;
use super::record::Recorder;

/// Requests that may reach a phone.
const PHONES: [&str; 3] = ["t_uac_dlg", "dlg_send_sequential", "call_transfer"];

/// A request, as it left a process.
#[derive(Debug, Clone)]
pub struct Asked {
    pub pod: usize,
    pub stack: usize,
    pub at: Time,
    pub method: String,
    pub text: String,
    pub answered: Option<Time>,
    from: SocketAddr,
    id: Value,
}

/// All requests that may have reached a phone.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<Asked>>);

impl Ledger {
    pub fn all(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    fn asked(&self, asked: Asked) {
        self.0.lock().unwrap().push(asked);
    }

    fn answered(&self, from: SocketAddr, id: &Value, at: Time) {
        let mut all = self.0.lock().unwrap();
        let open =
            |asked: &&mut Asked| asked.from == from && asked.answered.is_none() && asked.id == *id;
        if let Some(asked) = all.iter_mut().rev().take(500).find(open) {
            asked.answered = Some(at);
        }
    }
}

/// Relays between a process and a proxy from now on; the address that the process is told.
pub async fn relay(
    pod: usize,
    stack: usize,
    to: SocketAddr,
    ledger: Arc<Ledger>,
    recorder: Arc<Recorder>,
) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let mut sockets: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut bytes = vec![0; 65_536];
        loop {
            // An error is the refusal of an earlier answer: that process is gone.
            let Ok((length, from)) = near.recv_from(&mut bytes).await else { continue };
            let datagram = &bytes[..length];
            if let Ok(request) = serde_json::from_slice::<Value>(datagram)
                && let Some(method) = request["method"].as_str()
                && PHONES.contains(&method)
            {
                ledger.asked(Asked {
                    pod,
                    stack,
                    at: recorder.now(),
                    method: method.to_owned(),
                    text: String::from_utf8_lossy(datagram).into_owned(),
                    answered: None,
                    from,
                    id: request["id"].clone(),
                });
            }
            let far = match sockets.get(&from) {
                Some(far) => Arc::clone(far),
                None => {
                    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    far.connect(to).await.unwrap();
                    sockets.insert(from, Arc::clone(&far));
                    let (ledger, recorder) = (Arc::clone(&ledger), Arc::clone(&recorder));
                    tokio::spawn(replies(
                        Arc::clone(&far),
                        Arc::clone(&near),
                        from,
                        ledger,
                        recorder,
                    ));
                    far
                }
            };
            let _ = far.send(datagram).await;
        }
    });
    address
}

async fn replies(
    far: Arc<UdpSocket>,
    near: Arc<UdpSocket>,
    from: SocketAddr,
    ledger: Arc<Ledger>,
    recorder: Arc<Recorder>,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(length) = far.recv(&mut bytes).await else { continue };
        let datagram = &bytes[..length];
        if let Ok(reply) = serde_json::from_slice::<Value>(datagram) {
            ledger.answered(from, &reply["id"], recorder.now());
        }
        let _ = near.send_to(datagram, from).await;
    }
}
