//! The simulated stack on its sockets, in a thread of its own, on the client's core.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use callplane::stack::simulated::server::{Addresses, SimulateConfig, Simulated};
use callplane::stack::simulated::{PhoneConfig, Script, WorldConfig};

use super::process::Process;

/// The SIP domain of the phones.
pub const DOMAIN: &str = "sim.example";

/// A world where SIP takes no time: every message arrives, and is answered, at once.
pub fn quick_world(script: Script, phones: usize) -> WorldConfig {
    WorldConfig {
        script,
        domain: DOMAIN.to_owned(),
        hop: Duration::ZERO,
        phones: (0..phones)
            .map(|n| PhoneConfig::new(&format!("phone{n}"), &format!("127.0.0.1:{}", 20_000 + n)))
            .collect(),
        ..WorldConfig::default()
    }
}

/// A stack that runs as long as the bench.
pub struct Proxy {
    at: Addresses,
}

impl Proxy {
    /// Starts it.
    pub fn start(world: WorldConfig) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config =
            SimulateConfig { mi_udp: any, mi_http: Some(any), control: Some(any), seed: 1, world };
        let (told, addresses) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let simulated = Simulated::bind(config).await.unwrap();
                told.send(simulated.addresses()).unwrap();
                simulated.run(std::future::pending()).await;
            });
        });
        Self { at: addresses.recv().unwrap() }
    }

    /// What a server must be told to steer it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("STACKS__0__MI", format!("udp:{}", self.at.mi_udp)),
            ("STACKS__0__NEXT_HOP", format!("sip:{DOMAIN}")),
        ]
    }

    /// Asks for something over UDP, as a server does; the answer's text.
    pub fn ask(&self, method: &str, params: &str) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let asked = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        socket.send_to(asked.as_bytes(), self.at.mi_udp).unwrap();
        let mut answer = vec![0; 65_536];
        let length = socket.recv(&mut answer).expect("the stack answers");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    /// Has two phones call each other, so many times: `call-0`, `call-1` and so on.
    pub fn place_calls(&self, calls: usize) {
        for n in 0..calls {
            let body = format!(r#"{{"from":"phone0","to":"phone1","callid":"call-{n}"}}"#);
            let answer = http(
                self.at.control.unwrap(),
                &format!(
                    "POST /calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
            );
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

/// Waits until a server has the events of its stack.
pub fn wait_for_events(server: &Process) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !metrics(server).contains("event_subscription_age_seconds{") {
        assert!(Instant::now() < deadline, "the server does not join its stack");
    }
}

/// What a server counts, as text.
pub fn metrics(server: &Process) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    http(server.operations.unwrap(), request)
}

fn http(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
