//! The way from one process to one proxy: a relay of datagrams that remembers which process asked for
//! what, and that stops a command at a chosen step, before the proxy gets a request or behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

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

/// Which message of a command is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The proxy does not get the request.
    Request,
    /// The proxy and the phones have done it; the process does not get the reply.
    Reply,
}

/// The n-th request of this kind, from 1 on, is where a command stops.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    pub way: Way,
    pub method: &'static str,
    pub nth: usize,
}

/// A request that concerns a watched command.
#[derive(Debug, Clone)]
pub struct Touch {
    pub at: Time,
    pub pod: usize,
    pub method: String,
    pub answered: bool,
    id: Value,
    from: SocketAddr,
}

/// A command that is watched, by the names in its requests.
#[derive(Debug)]
struct Watched {
    names: Vec<String>,
    stop: Option<Stop>,
    /// Where it was stopped.
    stopped: Option<usize>,
    touched: Vec<Touch>,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    pod: usize,
    by: Arc<UdpSocket>,
    /// None: the socket is connected.
    to: Option<SocketAddr>,
    datagram: Vec<u8>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    watched: Vec<Watched>,
}

/// All requests that may have reached a phone, and the commands that are watched.
#[derive(Default)]
pub struct Ledger(Mutex<State>);

impl Ledger {
    pub fn all(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// Watches the commands whose requests have this text in them; the number of the watch.
    pub fn watch(&self, name: &str, stop: Option<Stop>) -> usize {
        let mut state = self.lock();
        state.watched.push(Watched {
            names: vec![name.to_owned()],
            stop,
            stopped: None,
            touched: Vec::new(),
            kept: Vec::new(),
        });
        state.watched.len() - 1
    }

    /// The process where it was stopped.
    pub fn stopped(&self, watch: usize) -> Option<usize> {
        self.lock().watched[watch].stopped
    }

    pub fn touched(&self, watch: usize) -> Vec<Touch> {
        self.lock().watched[watch].touched.clone()
    }

    /// Nothing is kept back any more. What was, arrives, but for that of the dead.
    pub async fn release(&self, dead: &[usize]) {
        let kept: Vec<Kept> = {
            let mut state = self.lock();
            let all = state.watched.iter_mut();
            all.flat_map(|watched| {
                watched.stop = None;
                std::mem::take(&mut watched.kept)
            })
            .collect()
        };
        for Kept { by, to, datagram, .. } in kept.iter().filter(|kept| !dead.contains(&kept.pod)) {
            let _ = match to {
                Some(to) => by.send_to(datagram, to).await,
                None => by.send(datagram).await,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Notes a request; whether it is kept back.
    fn asks(
        &self,
        of: (usize, usize, SocketAddr),
        at: Time,
        datagram: &[u8],
        far: &Arc<UdpSocket>,
    ) -> bool {
        let (pod, stack, from) = of;
        let Ok(request) = serde_json::from_slice::<Value>(datagram) else { return false };
        let Some(method) = request["method"].as_str() else { return false };
        let (text, id) = (String::from_utf8_lossy(datagram).into_owned(), request["id"].clone());
        let mut state = self.lock();
        if PHONES.contains(&method) {
            state.asked.push(Asked {
                pod,
                stack,
                at,
                method: method.to_owned(),
                text: text.clone(),
                answered: None,
                from,
                id: id.clone(),
            });
        }
        let Some(watched) = state.watched.iter_mut().find(|watched| watched.is_named_in(&text))
        else {
            return false;
        };
        if let Some(setup) = setup_leg(&text).filter(|_| method == "t_uac_dlg") {
            watched.names.push(setup);
        }
        let again = watched.touched.iter().any(|known| known.from == from && known.id == id);
        if !again {
            let touch = Touch { at, pod, method: method.to_owned(), answered: false, id, from };
            watched.touched.push(touch);
        }
        let stops = watched.stops(Way::Request, pod, method);
        if stops {
            let by = Arc::clone(far);
            watched.kept.push(Kept { pod, by, to: None, datagram: datagram.to_vec() });
        }
        stops
    }

    /// Notes a reply; whether it is kept back.
    fn replies(
        &self,
        pod: usize,
        to: SocketAddr,
        at: Time,
        datagram: &[u8],
        near: &Arc<UdpSocket>,
    ) -> bool {
        let Ok(reply) = serde_json::from_slice::<Value>(datagram) else { return false };
        let id = &reply["id"];
        let mut state = self.lock();
        let open =
            |asked: &&mut Asked| asked.from == to && asked.answered.is_none() && asked.id == *id;
        if let Some(asked) = state.asked.iter_mut().rev().take(500).find(open) {
            asked.answered = Some(at);
        }
        for watched in &mut state.watched {
            let asked =
                watched.touched.iter_mut().find(|known| known.from == to && known.id == *id);
            let Some(asked) = asked else { continue };
            asked.answered = true;
            let method = asked.method.clone();
            // Some requests name the dialog only.
            let dialog = &reply["result"]["Dialog"]["ID"];
            watched.names.extend(dialog.as_str().map(|id| format!("\"{id}\"")));
            let stops = watched.stops(Way::Reply, pod, &method);
            if stops {
                let (by, datagram) = (Arc::clone(near), datagram.to_vec());
                watched.kept.push(Kept { pod, by, to: Some(to), datagram });
            }
            return stops;
        }
        false
    }
}

impl Watched {
    fn is_named_in(&self, text: &str) -> bool {
        self.names.iter().any(|name| text.contains(name.as_str()))
    }

    /// Whether this message does not pass. Once stopped, nothing of its kind passes here.
    fn stops(&mut self, way: Way, pod: usize, method: &str) -> bool {
        let Some(stop) = self.stop.filter(|stop| stop.way == way && stop.method == method) else {
            return false;
        };
        match self.stopped {
            Some(at) => at == pod,
            None => {
                let so_far = self.touched.iter().filter(|known| {
                    known.method == method && (way == Way::Request || known.answered)
                });
                let stops = so_far.count() >= stop.nth;
                self.stopped = stops.then_some(pod);
                stops
            }
        }
    }
}

/// The Call-ID of the setup leg that an INVITE of ours begins.
fn setup_leg(text: &str) -> Option<String> {
    let from = text.find("cp-")?;
    let id = |c: char| c.is_ascii_alphanumeric() || c == '-';
    Some(text[from..].chars().take_while(|c| id(*c)).collect())
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
            let far = match sockets.get(&from) {
                Some(far) => Arc::clone(far),
                None => {
                    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    far.connect(to).await.unwrap();
                    sockets.insert(from, Arc::clone(&far));
                    let (ledger, recorder) = (Arc::clone(&ledger), Arc::clone(&recorder));
                    let (far, near) = (Arc::clone(&far), Arc::clone(&near));
                    tokio::spawn(async move {
                        replies(pod, &far, &near, from, &ledger, &recorder).await;
                    });
                    Arc::clone(&sockets[&from])
                }
            };
            if !ledger.asks((pod, stack, from), recorder.now(), datagram, &far) {
                let _ = far.send(datagram).await;
            }
        }
    });
    address
}

async fn replies(
    pod: usize,
    far: &Arc<UdpSocket>,
    near: &Arc<UdpSocket>,
    from: SocketAddr,
    ledger: &Ledger,
    recorder: &Recorder,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(length) = far.recv(&mut bytes).await else { continue };
        let datagram = &bytes[..length];
        if !ledger.replies(pod, from, recorder.now(), datagram, near) {
            let _ = near.send_to(datagram, from).await;
        }
    }
}
