//! Traces, as a collector gets them: one tree for each command, whichever processes worked on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod collector;
mod process;
mod redis_server;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callplane::stack::simulated::Script;
use collector::{Authority, Collector, Span};
use process::{ANY_PORTS, Process, SERVES};
use redis_server::{RedisServer, is_here};
use serde_json::{Value, json};
use site::{Client, Proxy, Site, a_call, any_port, configured, http, http_with, sip, until};
use tokio::net::{TcpListener, TcpStream};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// `callplane serve` before this proxy, with this Redis and this collector.
fn serve(proxy: &Proxy, redis: &RedisServer, collector: &Collector) -> Process {
    let own = [
        ("CALLPLANE_STACKS__0__NAME", "sim".to_owned()),
        ("CALLPLANE_STACKS__0__MI", format!("udp:{}", proxy.mi)),
        ("CALLPLANE_STACKS__0__NEXT_HOP", format!("sip:{}", site::DOMAIN)),
        ("CALLPLANE_STACKS__0__RECEIVE_BUFFER", "64KiB".to_owned()),
        ("CALLPLANE_REDIS__ADDRESS", format!("127.0.0.1:{}", redis.port())),
        ("CALLPLANE_TRACES__OTLP", format!("http://{}", collector.address)),
    ];
    let own = own.iter().map(|(name, value)| (*name, value.as_str()));
    let variables: Vec<_> = ANY_PORTS.into_iter().chain(own).collect();
    Process::callplane(&["serve"], &variables, SERVES)
}

async fn says(process: &Process, line: &str) -> bool {
    let metrics = http(process.operations.unwrap(), "GET", "/metrics", None).await.1;
    metrics.lines().any(|said| said.starts_with(line))
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    match named(spans, name).as_slice() {
        [one] => one,
        others => panic!("not one {name}, but {others:#?} of {spans:#?}"),
    }
}

/// The names above a span, up to the root.
fn above<'s>(spans: &'s [Span], span: &Span) -> Vec<&'s str> {
    let mut above = Vec::new();
    let mut parent = &span.parent;
    while let Some(span) = spans.iter().find(|other| other.id == *parent) {
        above.push(span.name.as_str());
        parent = &span.parent;
    }
    above
}

fn ended(spans: &[Span], commands: usize) -> bool {
    spans.iter().filter(|span| span.name.starts_with("command ")).count() >= commands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tree_tells_of_a_command_whichever_process_works_on_it() {
    if !is_here("one_tree_tells_of_a_command_whichever_process_works_on_it") {
        return;
    }
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let (proxy, collector) =
        (Proxy::start(Script::Reference, any_port()).await, Collector::start().await);
    let leader = serve(&proxy, &redis, &collector);
    until("it leads", async || says(&leader, "callplane_leader_held_state{stack=\"sim\"} 1").await)
        .await;
    let other = serve(&proxy, &redis, &collector);
    for process in [&leader, &other] {
        let subscribed = "callplane_event_subscription_age_seconds{";
        until("it hears the proxy", async || says(process, subscribed).await).await;
    }

    let mut client = Client::connect(&format!("ws://{}/call-api", other.clients)).await;
    let start = json!({
        "caller": sip("alice"), "callee": sip("bob"), "traceparent": SAMPLED, "cmd_id": "sip:carol@x",
    });
    let told = client.run("CallStart", start).await;
    assert_eq!(told.last().unwrap()["outcome"], "success", "{told:#?}");

    let spans = collector
        .until("all of both processes", |spans| {
            let senders: BTreeSet<_> = spans.iter().map(Span::sender).collect();
            let placed = spans.iter().all(|span| above(spans, span).contains(&"CallStart"));
            ended(spans, 1) && senders.len() == 2 && {
                // The request's own span has only the client's above it.
                placed || spans.iter().filter(|span| above(spans, span).is_empty()).count() == 1
            }
        })
        .await;
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let ids: BTreeSet<_> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "each once");

    let request = one(&spans, "CallStart");
    assert_eq!((request.parent.as_str(), request.kind), (CLIENT, 2));
    let command = one(&spans, "command CallStart");
    assert_eq!((&command.parent, command.kind), (&request.id, 1));
    assert_eq!(command.says("callplane.command.outcome"), Some("success"));
    assert_eq!(command.says("callplane.stack"), Some("sim"));

    let below: Vec<_> = spans.iter().filter(|span| span.parent == command.id).collect();
    assert_eq!(below.len(), spans.len() - 2, "all else is the command's: {spans:#?}");
    let (operations, events): (Vec<&Span>, Vec<&Span>) =
        below.into_iter().partition(|span| span.kind == 3);
    let verbs: BTreeSet<_> = operations.iter().map(|span| span.name.as_str()).collect();
    assert!(verbs.contains("invite") && verbs.contains("refer"), "{verbs:?}");
    let invite = one(&spans, "invite");
    assert_eq!(invite.sender(), request.sender(), "who begins it asks the stack first");
    assert_eq!(invite.says("callplane.operation.reply"), Some("done"));
    assert!(invite.says("callplane.call.id").unwrap().starts_with("cp-main-"));

    // Only who leads applies events.
    let of_stack: Vec<_> = events.iter().filter(|span| span.kind == 5).collect();
    assert!(!of_stack.is_empty(), "{spans:#?}");
    assert!(of_stack.iter().all(|span| span.sender() != request.sender()), "{spans:#?}");
    let answered = |span: &&&Span| {
        span.says("callplane.event") == Some("referral")
            && span.says("callplane.event.state") == Some("ok")
    };
    assert!(of_stack.iter().any(answered), "{of_stack:#?}");

    for span in &spans {
        let within = span.start >= request.start && span.end >= span.start;
        assert!(within, "{span:#?} of {request:#?}");
        assert_eq!(span.resource["service.name"], "callplane");
        let said = format!("{span:?}");
        for user in ["alice@", "bob", "carol"] {
            assert!(!said.contains(user), "{said}");
        }
    }
    assert_eq!(command.says("callplane.command.id"), Some("sip:c***@x"));
}

/// A server of this test's own before a proxy, with these words about traces.
async fn a_site(proxy: &Proxy, traces: &str) -> Site {
    let mi = proxy.mi;
    let domain = site::DOMAIN;
    let site = Site::of(&configured(&format!(
        "traces: {{{traces}}}\nstacks: [{{name: sim, mi: 'udp:{mi}', next_hop: 'sip:{domain}', \
         fr_timeout: 1s}}]\n"
    )))
    .await;
    site.joined().await;
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_for_a_command_has_a_span_that_says_how_it_was_answered() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let collector = Collector::start().await;
    let site = a_site(&proxy, &format!("otlp: 'http://{}'", collector.address)).await;
    let mut client = site.client().await;
    // Without a context of the client's the request is the root.
    let call = a_call(&mut client).await;
    let hold = json!({"callid": call, "cmd_id": "h"});
    client.run("CallHold", hold.clone()).await;
    // The same again, of another span of the client's.
    let mut again = hold;
    again["traceparent"] = json!(SAMPLED);
    client.send("CallHold", again).await;
    assert_eq!(client.receive().await["result"]["repeated"], true);
    // The id is another command's.
    client.send("CallUnhold", json!({"callid": call, "cmd_id": "h"})).await;
    assert_eq!(client.receive().await["error"]["data"]["kind"], "id_conflict");
    // A back end says it in the header of its request.
    let unhold = json!({
        "jsonrpc": "2.0", "id": "a sip:dave@x", "method": "CallUnhold", "params": {"callid": call},
    });
    let (path, field) = ("/call-api?wait=ended", format!("Traceparent: {SAMPLED}\r\n"));
    let (status, body) = http_with(site.clients, "POST", path, &field, Some(&unhold)).await;
    assert_eq!(status, 200, "{body}");
    drop(client);
    assert!(site.stop().await);

    // What is left is sent before it ends.
    let spans = collector.spans();
    let start = one(&spans, "CallStart");
    assert_eq!((start.parent.as_str(), start.says("rpc.system.name")), ("", Some("jsonrpc")));
    assert_eq!(start.says("rpc.method"), Some("CallStart"));
    assert_eq!(start.says("jsonrpc.protocol.version"), Some("2.0"));
    assert_eq!(start.says("jsonrpc.request.id"), Some("1"));
    assert_eq!((start.says("error.type"), start.failed), (None, false));
    let of_start = one(&spans, "command CallStart");
    assert_eq!((&of_start.trace, &of_start.parent), (&start.trace, &start.id));

    let holds = named(&spans, "CallHold");
    let [hold, repeat] = holds.as_slice() else { panic!("{holds:#?}") };
    assert_ne!(hold.trace, start.trace);
    let of_hold = one(&spans, "command CallHold");
    assert_eq!((&of_hold.trace, &of_hold.parent), (&hold.trace, &hold.id));
    assert_eq!((repeat.trace.as_str(), repeat.parent.as_str()), (TRACE, CLIENT));
    assert_eq!(repeat.says("callplane.command.repeated"), Some("true"));
    assert_eq!(repeat.links, std::slice::from_ref(&of_hold.id));

    let unholds = named(&spans, "CallUnhold");
    let [refused, posted] = unholds.as_slice() else { panic!("{unholds:#?}") };
    assert_eq!((refused.says("error.type"), refused.failed), (Some("id_conflict"), true));
    assert!(refused.says("rpc.response.status_code").unwrap().starts_with("-32"));
    assert_eq!((posted.trace.as_str(), posted.parent.as_str()), (TRACE, CLIENT));
    assert_eq!(posted.says("jsonrpc.request.id"), Some("a sip:d***@x"));
    let of_unhold = one(&spans, "command CallUnhold");
    assert_eq!((of_unhold.trace.as_str(), &of_unhold.parent), (TRACE, &posted.id));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_word_decides_what_is_traced_and_the_share_where_it_says_none() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let collector = Collector::start().await;
    for sample in ["0", "1"] {
        let otlp = format!("otlp: 'http://{}', sample: {sample}", collector.address);
        let site = a_site(&proxy, &otlp).await;
        let mut client = site.client().await;
        let call = a_call(&mut client).await;
        let with = |trace: &str| json!({"callid": call, "traceparent": trace});
        client.run("CallHold", with(NOT_SAMPLED)).await;
        client.run("CallUnhold", with(SAMPLED)).await;
        drop(client);
        assert!(site.stop().await);
    }
    let spans = collector.spans();
    let of_clients: Vec<_> = spans.iter().filter(|span| span.trace == TRACE).collect();
    assert_eq!(named(&spans, "command CallUnhold").len(), 2, "{of_clients:#?}");
    assert!(named(&spans, "command CallHold").is_empty() && named(&spans, "CallHold").is_empty());
    // Of the first server nothing but what its client wanted.
    assert_eq!(named(&spans, "command CallStart").len(), 1);
    let first = &named(&spans, "command CallUnhold")[0].resource["service.instance.id"];
    assert!(spans.iter().filter(|s| s.sender() == first).all(|s| s.trace == TRACE), "{spans:#?}");
    proxy.stop().await;
}

/// What stands before a collector, and may go silent without a word, as a machine that loses its power.
struct Line {
    address: SocketAddr,
    /// How many connections there have been. All but the last are silent.
    connections: tokio::sync::watch::Sender<usize>,
}

impl Line {
    async fn to(collector: SocketAddr) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = tokio::sync::watch::Sender::new(0);
        let counts = connections.clone();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(collector).await.unwrap();
                counts.send_modify(|count| *count += 1);
                let (own, mut counted) = (*counts.borrow(), counts.subscribe());
                tokio::spawn(async move {
                    let passing = tokio::io::copy_bidirectional(&mut near, &mut far);
                    let is_silent = async {
                        let _ = counted.wait_for(|count| *count != own).await.is_ok();
                    };
                    tokio::select! {
                        _ = passing => return,
                        () = is_silent => {}
                    }
                    // Both ends stay open.
                    pending::<()>().await;
                });
            }
        });
        Self { address, connections }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_without_a_word_is_looked_for_anew() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let collector = Collector::start().await;
    let line = Line::to(collector.address).await;
    let site = a_site(&proxy, &format!("otlp: 'http://{}'", line.address)).await;
    let mut client = site.client().await;
    let call = a_call(&mut client).await;
    collector.until("of the first command", |spans| ended(spans, 1)).await;
    assert_eq!(*line.connections.borrow(), 1);
    line.connections.send_modify(|count| *count = 0);
    client.run("CallHold", json!({"callid": call})).await;
    collector.until("of the second command", |spans| ended(spans, 2)).await;
    assert_eq!(*line.connections.borrow(), 1, "a new one");
    drop(client);
    assert!(site.stop().await);
    proxy.stop().await;
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    listener.local_addr().unwrap()
}

fn counted(metrics: &str, line: &str) -> u64 {
    let said = metrics.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    said.map_or(0, |count| count.parse().unwrap())
}

const EXPORTED: &str = "callplane_trace_exported_spans_total";
const REFUSED: &str = "callplane_trace_dropped_spans_total{reason=\"refused\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_or_not_trusted_is_no_trouble_for_commands() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let (ours, others) = (Authority::made(), Authority::made());
    let encrypted = Collector::start_encrypted(&ours).await;
    let (at, away) = (encrypted.address, nobody().await);
    let trusting = |of: &Authority| format!("otlp: 'https://{at}', ca_file: '{}'", of.file());
    let trusted = a_site(&proxy, &trusting(&ours)).await;
    let not_trusted = a_site(&proxy, &trusting(&others)).await;
    let without = a_site(&proxy, &format!("otlp: 'http://{away}'")).await;
    let mut calls = BTreeMap::new();
    for (name, site) in [("trusted", &trusted), ("not trusted", &not_trusted), ("away", &without)] {
        let mut client = site.client().await;
        let call = a_call(&mut client).await;
        let held: Vec<Value> = client.run("CallHold", json!({"callid": call})).await;
        assert_eq!(held.last().unwrap()["outcome"], "success", "{name}: {held:#?}");
        calls.insert(name, call);
    }
    let spans = encrypted.until("of both commands", |spans| ended(spans, 2)).await;
    let senders: BTreeSet<_> = spans.iter().map(Span::sender).collect();
    assert_eq!(senders.len(), 1, "only who trusts it tells it anything");
    for site in [&not_trusted, &without] {
        until("drops are counted", async || counted(&site.metrics().await, REFUSED) > 0).await;
        assert_eq!(counted(&site.metrics().await, EXPORTED), 0);
    }
    let metrics = trusted.metrics().await;
    assert!(counted(&metrics, EXPORTED) > 0 && counted(&metrics, REFUSED) == 0);
    // It has something to tell again, and nobody to tell it to: that does not hold its end up.
    let mut client = without.client().await;
    client.run("CallUnhold", json!({"callid": calls["away"]})).await;
    drop(client);
    let began = Instant::now();
    assert!(without.stop().await);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(trusted.stop().await && not_trusted.stop().await);
    proxy.stop().await;
}
