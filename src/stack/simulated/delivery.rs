//! Events on their way out: datagrams, and TCP connections the stack opens by itself.
//!
//! As OpenSIPS does it: one event is one datagram, sent without waiting, and lost if nobody
//! takes it. A TCP connection is opened by the first event; JSON objects follow each other with
//! nothing between; when the connection is lost the next event opens a new one, and while
//! nobody listens events are dropped. Unlike OpenSIPS, a stuck subscriber does not stop others. As it
//! does, it sends to IPv4 addresses only, and reads them as the C library does.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::stack::address_text;
use crate::stack::mi::MiEvent;

/// Events waiting for one TCP subscriber; more are dropped.
const QUEUE: usize = 10_000;

enum Way {
    Datagram(SocketAddr),
    Stream(mpsc::Sender<String>),
    Nowhere,
}

pub(super) struct Delivery {
    socket: Option<UdpSocket>,
    ways: HashMap<Arc<str>, Way>,
    streams: HashMap<SocketAddr, mpsc::Sender<String>>,
}

impl Delivery {
    pub(super) fn new() -> Delivery {
        let socket =
            UdpSocket::bind(("0.0.0.0", 0)).and_then(|s| s.set_nonblocking(true).map(|()| s)).ok();
        Delivery { socket, ways: HashMap::new(), streams: HashMap::new() }
    }

    pub(super) fn send(&mut self, socket: &Arc<str>, event: &MiEvent) {
        let mut text = String::with_capacity(256);
        event.encode(&mut text);
        if !self.ways.contains_key(socket) {
            let way = self.way(socket);
            self.ways.insert(socket.clone(), way);
        }
        match self.ways.get(socket) {
            Some(Way::Datagram(to)) => {
                if let Some(own) = &self.socket {
                    let _ = own.send_to(text.as_bytes(), to);
                }
            }
            Some(Way::Stream(queue)) => {
                let _ = queue.try_send(text);
            }
            Some(Way::Nowhere) | None => {}
        }
    }

    /// The process is gone, and its connections with it.
    pub(super) fn close(&mut self) {
        self.ways.clear();
        self.streams.clear();
    }

    fn way(&mut self, socket: &str) -> Way {
        let Some((kind, rest)) = socket.split_once(':') else { return Way::Nowhere };
        let address = rest.split('/').next().unwrap_or(rest);
        // Names are not looked up: that would wait.
        let found = address.replace("localhost", "127.0.0.1");
        let found = found.rsplit_once(':').and_then(|(ip, port)| {
            Some(SocketAddr::from((address_text::read(ip)?, port.parse::<u16>().ok()?)))
        });
        let Some(address) = found else { return Way::Nowhere };
        match kind {
            "udp" => Way::Datagram(address),
            "tcp" => Way::Stream(
                // One connection for all subscriptions of one address, whatever their paths.
                self.streams.entry(address).or_insert_with(|| stream(address)).clone(),
            ),
            _ => Way::Nowhere,
        }
    }
}

fn stream(address: SocketAddr) -> mpsc::Sender<String> {
    let (sender, mut events) = mpsc::channel::<String>(QUEUE);
    tokio::spawn(async move {
        let mut connection: Option<TcpStream> = None;
        let mut ignored = [0_u8; 512];
        loop {
            let event = match connection.as_mut() {
                None => events.recv().await,
                Some(open) => tokio::select! {
                    event = events.recv() => event,
                    read = open.read(&mut ignored) => {
                        // Replies of `reliable_mode` are read and passed over.
                        if matches!(read, Ok(0) | Err(_)) {
                            connection = None;
                        }
                        continue;
                    }
                },
            };
            let Some(event) = event else { return };
            if connection.is_none() {
                connection = TcpStream::connect(address).await.ok();
            }
            let sent = match connection.as_mut() {
                Some(open) => open.write_all(event.as_bytes()).await.is_ok(),
                None => true,
            };
            if !sent {
                connection = None;
            }
        }
    });
    sender
}
