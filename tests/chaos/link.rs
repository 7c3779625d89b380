//! The way from one process to a server: a relay that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They pass.
    Open,
    /// Nothing passes, and nobody is told. What waits goes on when it opens.
    Stalled,
    /// They pass, each as much later.
    Late(Duration),
    /// Connections end, and no new one is made.
    Refused,
    /// The machine at the other end is gone without a word: not even that bytes have arrived is said
    /// any more. New connections reach another one, and pass.
    #[allow(dead_code, reason = "not every test cuts so")]
    Gone,
}

pub struct Link {
    pub port: u16,
    way: Arc<watch::Sender<Way>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Link {
    /// A link to this port, on a port of its own.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let ways = Arc::clone(&way);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *ways.borrow() == Way::Refused {
                    reset(&near);
                    continue;
                }
                tokio::spawn(carry(near, to, ways.subscribe()));
            }
        });
        Self { port: own, way, accepting }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The other end is told by a reset, as by a host that has forgotten the connection.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn carry(near: TcpStream, to: SocketAddr, mut way: watch::Receiver<Way>) {
    let Ok(far) = TcpStream::connect(to).await else { return reset(&near) };
    let _ = (near.set_nodelay(true), far.set_nodelay(true), reset(&near), reset(&far));
    let socket = socket2::SockRef::from(&near).try_clone();
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let (ways, is_another) = (way.clone(), *way.borrow() == Way::Gone);
    let over = |way: &Way| match way {
        Way::Open | Way::Stalled | Way::Late(_) => false,
        Way::Refused => true,
        Way::Gone => !is_another,
    };
    let mut there = pin!(pass(near_in, far_out, ways.clone()));
    let mut back = pin!(pass(far_in, near_out, ways));
    tokio::select! {
        () = &mut there => return,
        () = &mut back => return,
        _ = way.wait_for(over) => {}
    }
    if *way.borrow() == Way::Gone
        && let Ok(socket) = socket
    {
        vanish(&socket);
        // Neither end is closed.
        std::future::pending().await
    }
}

/// Nothing that comes in is taken note of.
fn vanish(socket: &socket2::Socket) {
    #[cfg(target_os = "linux")]
    socket.attach_filter(&[socket2::SockFilter::new(0x06, 0, 0, 0)]).unwrap();
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else { return };
        if way.wait_for(|way| *way != Way::Stalled).await.is_err() {
            return;
        }
        let late = if let Way::Late(late) = *way.borrow() { late } else { Duration::ZERO };
        tokio::time::sleep(late).await;
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
