//! The examples of docs/protocol.md, played in their order against a server before a simulated proxy
//! with the reference script: what the page says comes is what comes.
//!
//! In a code block `->` is sent and `<-` is received. `<name>` stands for a text that the server
//! chooses; the same name is the same text. `--` opens a new connection.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod site;

use std::collections::BTreeMap;

use callplane::stack::simulated::Script;
use futures_util::SinkExt as _;
use serde_json::Value;
use site::{DOMAIN, Proxy, Site, any_port};
use tokio_tungstenite::tungstenite::Message;

/// The lines of code blocks that are something to do, with their numbers.
fn lines(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(page.lines());
    lines.filter_map(|(number, line)| {
        let line = line.strip_prefix("    ")?;
        ["-> ", "<- ", "-- "].iter().any(|mark| line.starts_with(mark)).then_some((number, line))
    })
}

/// What the names stand for.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("example.com", DOMAIN);
        for (name, meant) in &self.0 {
            text = text.replace(name, meant);
        }
        text
    }

    /// Whether `found` is what `said` says; learns what names stand for.
    fn meet(&mut self, said: &Value, found: &Value) -> bool {
        match (said, found) {
            (Value::String(said), Value::String(found)) => {
                if !(said.starts_with('<') && said.ends_with('>')) {
                    return said == found;
                }
                !found.is_empty() && self.0.entry(said.clone()).or_insert(found.clone()) == found
            }
            (Value::Array(said), Value::Array(found)) => {
                said.len() == found.len()
                    && said.iter().zip(found).all(|(said, found)| self.meet(said, found))
            }
            (Value::Object(said), Value::Object(found)) => {
                said.len() == found.len()
                    && said.iter().all(|(key, said)| {
                        found.get(key).is_some_and(|found| self.meet(said, found))
                    })
            }
            (said, found) => said == found,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_shows_is_what_comes() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md"));
    let page = page.unwrap();
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let mut client = site.client().await;
    let mut names = Names::default();
    let mut posted = None;
    let (mut sent, mut received) = (0, 0);
    for (number, line) in lines(&page) {
        let text = names.fill(&line[3..]);
        if line.starts_with("--") {
            client = site.client().await;
            continue;
        }
        if line.starts_with("->") {
            sent += 1;
            if let Some(request) = text.strip_prefix("POST /call-api") {
                let (query, body) = request.split_once(' ').unwrap();
                posted = Some(site.post(query, &serde_json::from_str(body).unwrap()).await);
                continue;
            }
            client.socket.send(Message::text(text)).await.unwrap();
            continue;
        }
        received += 1;
        let (said, found) = match posted.take() {
            Some((status, found)) => {
                let (wanted, body) = text.split_once(' ').unwrap();
                assert_eq!(status.to_string(), wanted, "docs/protocol.md:{number}: {found}");
                (body.to_owned(), found)
            }
            None => (text, client.receive().await),
        };
        let said: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("docs/protocol.md:{number}: {error}"));
        assert!(
            names.meet(&said, &found),
            "docs/protocol.md:{number} says\n{said}\nbut there came\n{found}"
        );
    }
    assert!(sent >= 15 && received >= 50, "{sent} sent, {received} received");
    drop(client);
    site.stop().await;
    proxy.stop().await;
}
