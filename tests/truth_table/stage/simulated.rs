//! The simulated stack of a stage, steered by its control interface.

use std::net::SocketAddr;

use callplane::stack::simulated::server::SimulateConfig;
use callplane::stack::simulated::{PhoneConfig, Script};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::behaviour::{self, Does};
use super::{FR_INV_TIMEOUT, Grade, Known};
use crate::site::{self, any_port};

/// Seconds without any answer.
pub const FR_TIMEOUT: u64 = 1;

pub struct Proxy {
    pub mi: SocketAddr,
    config: SimulateConfig,
    running: Option<site::Proxy>,
    runtime: Handle,
}

impl Proxy {
    pub fn start(runtime: &Handle, grade: Grade) -> Proxy {
        let mut config = SimulateConfig { mi_udp: any_port(), ..SimulateConfig::default() };
        config.world.script = match grade {
            Grade::Stock => Script::Stock,
            Grade::Reference => Script::Reference,
        };
        config.world.fr_timeout = std::time::Duration::from_secs(FR_TIMEOUT);
        config.world.fr_inv_timeout = std::time::Duration::from_secs(FR_INV_TIMEOUT);
        config.world.phones = ["alice", "bob", "carol", "dave", "mallory"]
            .into_iter()
            .zip(5101_u16..)
            .map(|(name, port)| PhoneConfig::new(name, &format!("127.0.0.1:{port}")))
            .collect();
        let mut proxy = Proxy { mi: any_port(), config, running: None, runtime: runtime.clone() };
        proxy.start_again();
        proxy
    }

    /// The process ends: its port refuses.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.config.mi_udp = self.runtime.block_on(running.stop());
    }

    /// It starts anew on the same port.
    pub fn start_again(&mut self) {
        let running = self.runtime.block_on(site::Proxy::of(self.config.clone()));
        self.mi = running.mi;
        self.running = Some(running);
    }

    pub fn behave(&self, name: &str, traits: &[Does]) {
        self.ask("DELETE", &format!("/phones/{name}/behaviour"), None);
        self.ask("PATCH", &format!("/phones/{name}"), Some(behaviour::simulated(traits)));
    }

    pub fn place_call(&self, from: &str, to: &str) -> String {
        let placed = self.ask("POST", "/calls", Some(json!({"from": from, "to": to})));
        placed["callid"].as_str().unwrap().to_owned()
    }

    pub fn hang_up(&self, name: &str, call: &str) {
        self.ask("POST", &format!("/calls/{call}/hang_up"), Some(json!({"phone": name})));
    }

    pub fn reinvite(&self, name: &str, call: &str, direction: &str) {
        let body = json!({"phone": name, "direction": direction});
        self.ask("POST", &format!("/calls/{call}/reinvite"), Some(body));
    }

    pub fn forge_transfer(&self, forger: &str, call: &str, to: &str) -> String {
        let body = json!({"forger": forger, "target": to});
        let forged = self.ask("POST", &format!("/calls/{call}/forge_transfer"), Some(body));
        forged["callid"].as_str().unwrap().to_owned()
    }

    /// The calls that the proxy knows of and that are not over.
    pub fn listed(&self) -> Vec<Known> {
        let known = |call: &Value| (1..5).contains(&call["state"].as_u64().unwrap());
        self.calls().iter().filter(|call| known(call)).map(view).collect()
    }

    /// The calls that ring at this phone or are up there, the newest last.
    pub fn at_phone(&self, name: &str) -> Vec<String> {
        let phones = self.ask("GET", "/phones", None);
        let phones = phones.as_array().unwrap();
        let phone = phones.iter().find(|phone| phone["name"] == name).unwrap();
        let calls = phone["calls"].as_array().unwrap();
        calls.iter().map(|call| call.as_str().unwrap().to_owned()).collect()
    }

    /// The calls that one phone at least has up.
    pub fn at_phones(&self) -> Vec<String> {
        let up = |call: &&Value| call["caller_up"] == true || call["callee_up"] == true;
        let calls = self.calls();
        calls.iter().filter(up).map(|call| view(call).call).collect()
    }

    /// What this phone was offered last in this call.
    pub fn offered(&self, name: &str, call: &str) -> String {
        let calls = self.calls();
        let call = calls.iter().rev().find(|known| known["callid"] == call).unwrap();
        let is_caller = call["from"].as_str().unwrap().starts_with(&format!("sip:{name}@"));
        let offered = if is_caller { &call["caller_offered"] } else { &call["callee_offered"] };
        offered.as_str().unwrap().to_owned()
    }

    fn calls(&self) -> Vec<Value> {
        self.ask("GET", "/calls", None).as_array().unwrap().clone()
    }

    /// It takes no request and raises no event, and calls go on.
    pub fn silent(&self, silent: bool) {
        self.ask("PATCH", "/faults", Some(json!({"silent": silent})));
    }

    /// Away for so long that `uptime`, which counts in seconds, tells.
    pub fn restart(&self) {
        self.ask("POST", "/restart", Some(json!({"down_ms": 1100})));
    }

    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let running = self.running.as_ref().expect("a proxy that runs");
        self.runtime.block_on(running.control(method, path, body.as_ref()))
    }
}

fn view(call: &Value) -> Known {
    let text = |key: &str| call[key].as_str().unwrap().to_owned();
    Known {
        call: text("callid"),
        state: call["state"].as_u64().unwrap(),
        from: text("from"),
        to: text("to"),
    }
}
