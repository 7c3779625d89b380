//! Who has subscribed, and what the system did with what was sent to them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

/// All who subscribed.
pub fn subscribers(mi: SocketAddr) -> Vec<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let asked = json!({
        "jsonrpc": "2.0", "id": 1, "method": "subscribers_list",
        "params": {"event": "E_CALL_TRANSFER"},
    });
    socket.send_to(asked.to_string().as_bytes(), mi).unwrap();
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).expect("the stack answers");
    let answer: Value = serde_json::from_slice(&answer[..length]).unwrap();
    let event = &answer["result"]["Event"];
    // One alone is no list.
    let one = [event["Subscriber"].clone()];
    let list = event["Subscribers"].as_array().map_or(&one[..], Vec::as_slice);
    let alive = list.iter().filter(|one| one["ttl"].is_number());
    let sockets = alive.filter_map(|one| one["socket"].as_str()?.strip_prefix("udp:"));
    sockets.map(str::to_owned).collect()
}

/// Datagrams that the system threw away, by the local port of their socket.
pub fn thrown_away() -> BTreeMap<u16, u64> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.rsplit_once(':')?.1;
        Some((u16::from_str_radix(port, 16).ok()?, words.last()?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(line).collect()
}
