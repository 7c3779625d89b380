//! Echo through the real server on one core, and through a bare axum server in the same run.
//!
//!     cargo bench --bench echo
//!
//! 50 connections with 16 commands under way on each, client on the other core, the two servers
//! in turn; then the latency at 10,000 a second. The bare server parses the frame, and sends the
//! three messages of callplane's Echo with one flush for each command. A second one flushes only
//! when nothing more has arrived, as callplane does.

mod load;

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use load::figures::{Figures, median};
use load::process::{Process, myself, pin_client, serve, serving};
use load::rounds::{Load, Pace, Until, echo};

const SOCKETS: usize = 50;
const IN_FLIGHT: usize = 16;
const ROUNDS: usize = 5;
const UNTIL: Until =
    Until::Elapsed { warm_up: Duration::from_millis(300), run: Duration::from_millis(1500) };

/// Commands a second of the latency figures.
const RATE: u32 = 10_000;

#[derive(Deserialize)]
struct Request<'a> {
    id: u64,
    method: &'a str,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Deserialize)]
struct Params<'a> {
    cmd_id: &'a str,
}

/// When a bare server flushes.
#[derive(Clone, Copy)]
enum Flush {
    /// After each command.
    Each,
    /// When nothing more has arrived.
    Quiet,
}

async fn talk(socket: WebSocket, flush: Flush) {
    let (mut to, mut from) = socket.split();
    loop {
        let arrived = match flush {
            Flush::Each => None,
            Flush::Quiet => from.next().now_or_never(),
        };
        let message = match arrived {
            Some(message) => message,
            None if to.flush().await.is_ok() => from.next().await,
            None => return,
        };
        let Some(Ok(Message::Text(frame))) = message else { return };
        let Some(told) = answers(&frame) else { return };
        for message in told {
            if to.feed(message).await.is_err() {
                return;
            }
        }
    }
}

fn answers(frame: &str) -> Option<[Message; 3]> {
    let Request { id, method, params } = serde_json::from_str(frame).ok()?;
    let Params { cmd_id } = serde_json::from_str(params.get()).ok()?;
    let notification = |event: &str, rest: std::fmt::Arguments<'_>| {
        let mut text = String::with_capacity(256);
        let _ = write!(
            text,
            r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"cmd_id":"{cmd_id}","event":"{event}",{rest}}}}}"#
        );
        Message::text(text)
    };
    Some([
        Message::text(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"cmd_id":"{cmd_id}","event":"Started"}}}}"#
        )),
        notification("Reply", format_args!(r#""data":{}"#, params.get())),
        notification("Ended", format_args!(r#""outcome":"success""#)),
    ])
}

/// A bare server, on the same runtime as callplane's.
fn bare(flush: Flush) -> std::io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        serving(listener.local_addr()?);
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let talk = move |socket| talk(socket, flush);
        let upgrade = move |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(talk) };
        axum::serve(listener, axum::Router::new().route("/call-api", get(upgrade))).await
    })
}

/// Echo needs no stack: nobody listens on the port of discard (RFC 863).
fn callplane() -> Process {
    serve(&[("STACKS__0__MI", "udp:127.0.0.1:9".to_owned())])
}

fn round(server: &Process) -> Figures {
    let mut load = Load::connect(server, SOCKETS);
    load.closed(IN_FLIGHT, UNTIL, &mut echo, &mut |_, _| ())
}

fn print_paced(name: &str, server: &Process) {
    let mut load = Load::connect(server, SOCKETS);
    let mut paced = |seconds| {
        let pace = Pace { a_second: RATE, commands: RATE * seconds };
        load.paced(pace, SOCKETS * 100, &mut echo, &mut |_, _| ())
    };
    paced(1);
    let mut figures = paced(5);
    figures.print(&format!("{name} at {RATE}/s"));
}

fn main() -> std::io::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("bare") => return bare(Flush::Each),
        Some("bare-quiet") => return bare(Flush::Quiet),
        _ => {}
    }
    pin_client();
    let servers = [
        ("callplane", callplane()),
        ("bare axum", myself("bare")),
        ("bare axum, one flush for all that arrived", myself("bare-quiet")),
    ];
    println!("Echo, {SOCKETS} connections x {IN_FLIGHT} under way, server on one core:");
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for ((name, server), rates) in servers.iter().zip(&mut rates) {
            let mut figures = round(server);
            figures.print(&format!("  {name}"));
            rates.push(figures.rate());
        }
    }
    let [ours, bare, quiet] = rates.map(|mut rates| median(&mut rates));
    println!(
        "medians of {ROUNDS}: callplane {ours:.0}/s; bare axum {bare:.0}/s, ratio {:.2} (target \
         0.8); with one flush for all that arrived {quiet:.0}/s, ratio {:.2}",
        ours / bare,
        ours / quiet
    );
    for (name, server) in servers.iter().take(2) {
        print_paced(name, server);
    }
    Ok(())
}
