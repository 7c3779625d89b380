//! A real OpenSIPS on free loopback ports, for tests.
//!
//! `OPENSIPS_BIN` names the binary, `OPENSIPS_MODULES` the folder of its modules: all `*.so` in one
//! folder, or a source tree with `NAME/NAME.so`. Where they are not set, [`installation`] says so by
//! name and the test returns.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::mi::Mi;
use super::phone::Phone;
use super::wait_until;

const REFERENCE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/opensips/opensips.cfg"));
const STOCK: &str = include_str!("stock.cfg");

/// Which script it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// `stock.cfg` beside this file: dialogs and callops, as users of the old Call API have them.
    Stock,
    /// `docs/opensips/opensips.cfg`, the one that is shipped.
    Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.x: `create_dialog("B")`.
    Three,
    /// 4.x: `create_dialog("bye-on-timeout")`.
    Four,
}

/// An OpenSIPS that can be started.
#[derive(Clone, Debug)]
pub struct Installation {
    binary: PathBuf,
    modules: PathBuf,
    pub version: Version,
}

/// What the environment names, or `None` after printing `skipped: TEST (...)`.
pub fn installation(test: &str) -> Option<Installation> {
    let (Some(binary), Some(modules)) =
        (std::env::var_os("OPENSIPS_BIN"), std::env::var_os("OPENSIPS_MODULES"))
    else {
        println!("skipped: {test} (OPENSIPS_BIN is not set)");
        return None;
    };
    let (binary, modules) = (PathBuf::from(binary), PathBuf::from(modules));
    let output = Command::new(&binary).arg("-V").output().expect("OPENSIPS_BIN runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = if text.contains("opensips 3.") { Version::Three } else { Version::Four };
    Some(Installation { binary, modules, version })
}

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seconds without any answer.
    pub fr_timeout: u32,
    /// Seconds of ringing.
    pub fr_inv_timeout: u32,
    /// Seconds after which callplane's own dialogs end (reference script).
    pub dead_man: u32,
    /// Seconds that a mark lives, and how often they are swept then (reference script).
    pub mark_life: u32,
    /// `callops` mode of the stock script.
    pub callops_mode: &'static str,
    /// What the request route does before anything else.
    pub first: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            fr_timeout: 2,
            fr_inv_timeout: 8,
            dead_man: 180,
            mark_life: 900,
            callops_mode: "param",
            first: "",
        }
    }
}

/// The ports of one instance.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub sip: u16,
    pub callplane: u16,
    pub mi: u16,
    pub http: u16,
}

impl Ports {
    /// Ports that are free now. All are held until all are chosen, so that they differ.
    fn free() -> Ports {
        let mut held = Vec::new();
        let mut both = || loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
            let port = udp.local_addr().expect("its address").port();
            if let Ok(tcp) = TcpListener::bind(("127.0.0.1", port)) {
                held.push((udp, tcp));
                return port;
            }
        };
        Ports { sip: both(), callplane: both(), mi: both(), http: both() }
    }
}

/// A running OpenSIPS. It is stopped, by its own process group, when dropped.
pub struct OpenSips {
    pub installation: Installation,
    pub script: Script,
    pub options: Options,
    pub ports: Ports,
    folder: TempDir,
    child: Option<Child>,
}

/// A dialog as `dlg_list` tells it, state 5 left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDialog {
    pub id: String,
    pub call_id: String,
    pub state: u64,
    pub from: String,
    pub to: String,
}

impl OpenSips {
    pub fn start(installation: Installation, script: Script) -> OpenSips {
        OpenSips::start_with(installation, script, Options::default())
    }

    pub fn start_with(installation: Installation, script: Script, options: Options) -> OpenSips {
        let folder = TempDir::new().expect("a temporary folder");
        let modules = folder.path().join("modules");
        fs::create_dir(&modules).expect("a folder for modules");
        for module in find_modules(&installation.modules) {
            let name = module.file_name().expect("a file name");
            symlink(&module, modules.join(name)).expect("a link to a module");
        }
        let ports = Ports::free();
        let mut opensips = OpenSips { installation, script, options, ports, folder, child: None };
        // Somebody may take a chosen port before OpenSIPS does: choose again then.
        for _attempt in 0..5 {
            opensips.render();
            if opensips.launch() {
                return opensips;
            }
            opensips.ports = Ports::free();
        }
        panic!("OpenSIPS does not start:\n{}", opensips.log());
    }

    /// Where phones send.
    pub fn sip(&self) -> SocketAddr {
        loopback(self.ports.sip)
    }

    /// callplane's own socket (reference script).
    pub fn callplane_socket(&self) -> SocketAddr {
        loopback(self.ports.callplane)
    }

    pub fn mi(&self) -> SocketAddr {
        loopback(self.ports.mi)
    }

    /// The Management Interface over HTTP.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}/mi", self.ports.http)
    }

    /// The address of record of a user here.
    pub fn uri(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.sip())
    }

    pub fn connect(&self) -> Mi {
        Mi::connect(self.mi())
    }

    /// A phone of this user, registered.
    pub fn phone(&self, user: &str) -> Phone {
        let phone = Phone::start(user, self.sip());
        phone.register();
        phone
    }

    /// What OpenSIPS wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("opensips.log")).unwrap_or_default()
    }

    /// Is its main process there?
    pub fn is_alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Stops it; the phones notice nothing.
    pub fn stop(&mut self) {
        self.terminate();
        self.wait_gone();
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.crash();
        self.wait_gone();
    }

    fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal("-TERM", &child.id().to_string());
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Whatever outlived it: its own process group.
        signal("-KILL", &format!("-{}", child.id()));
        let _reaped = child.wait();
    }

    fn crash(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal("-KILL", &format!("-{}", child.id()));
        let _reaped = child.wait();
    }

    /// Waits for its workers too: each holds all sockets, and only the main process can be waited
    /// for by name.
    fn wait_gone(&self) {
        wait_until("nobody holds the port of the Management Interface", || {
            UdpSocket::bind(self.mi()).ok()
        });
    }

    /// Starts it again on the same ports.
    pub fn start_again(&mut self) {
        wait_until("OpenSIPS starts again on its ports", || self.launch().then_some(()));
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Holds all its processes still: it is reachable and silent.
    pub fn freeze(&self) {
        if let Some(child) = &self.child {
            signal("-STOP", &format!("-{}", child.id()));
        }
    }

    pub fn thaw(&self) {
        if let Some(child) = &self.child {
            signal("-CONT", &format!("-{}", child.id()));
        }
    }

    /// The dialogs that are not over.
    pub fn dialogs(&self) -> Vec<ListedDialog> {
        let listed = self.connect().call("dlg_list", Value::Null).expect("a list");
        let text = |dialog: &Value, key: &str| dialog[key].as_str().unwrap_or("").to_owned();
        listed["Dialogs"]
            .as_array()
            .expect("an array")
            .iter()
            .filter(|dialog| dialog["state"] != 5)
            .map(|dialog| ListedDialog {
                id: text(dialog, "ID"),
                call_id: text(dialog, "callid"),
                state: dialog["state"].as_u64().unwrap_or(0),
                from: text(dialog, "from_uri"),
                to: text(dialog, "to_uri"),
            })
            .collect()
    }

    /// Waits until OpenSIPS knows no live dialog.
    pub fn wait_no_dialog(&self) {
        self.wait_only(&[]);
    }

    /// Waits until exactly these calls are up in OpenSIPS.
    pub fn wait_only(&self, call_ids: &[&str]) {
        let mut wanted: Vec<&str> = call_ids.to_vec();
        wanted.sort_unstable();
        let mut last = Vec::new();
        let deadline = Instant::now() + super::DEADLINE;
        while Instant::now() < deadline {
            last = self.dialogs();
            let mut up: Vec<&str> = last.iter().map(|d| d.call_id.as_str()).collect();
            up.sort_unstable();
            if up == wanted && last.iter().all(|d| d.state == 4) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("wanted only {wanted:?}, OpenSIPS has {last:#?}");
    }

    fn render(&self) {
        let text = match self.script {
            Script::Stock => self.render_stock(),
            Script::Reference => self.render_reference(),
        };
        let (head, rest) = text.split_once("\nroute {\n").expect("a request route");
        let text = format!("{head}\nroute {{\n{}{rest}", self.options.first);
        fs::write(self.folder.path().join("opensips.cfg"), text).expect("the script is written");
    }

    fn modules_path(&self) -> String {
        format!("{}/", self.folder.path().join("modules").display())
    }

    fn render_stock(&self) -> String {
        let flags = match self.installation.version {
            Version::Three => "B",
            Version::Four => "bye-on-timeout",
        };
        STOCK
            .replace("@MODULES@", &self.modules_path())
            .replace("@SIP@", &self.sip().to_string())
            .replace("@MI@", &self.mi().to_string())
            .replace("@HTTP_PORT@", &self.ports.http.to_string())
            .replace("@FR_TIMEOUT@", &self.options.fr_timeout.to_string())
            .replace("@FR_INV_TIMEOUT@", &self.options.fr_inv_timeout.to_string())
            .replace("@CALLOPS_MODE@", self.options.callops_mode)
            .replace("@DIALOG_FLAGS@", flags)
    }

    /// The shipped script as a reader would adapt it: each place must be there as often as expected.
    fn render_reference(&self) -> String {
        let Options { fr_timeout, fr_inv_timeout, dead_man, mark_life, .. } = self.options;
        let door = self.callplane_socket();
        let mut text = REFERENCE.to_owned();
        let mut change = |from: &str, to: &str, times: usize| {
            assert_eq!(text.matches(from).count(), times, "{from} in opensips.cfg");
            text = text.replace(from, to);
        };
        // By way of names: a chosen port may begin like one that is still to be changed.
        change("127.0.0.1:5060", "@SIP@", 3);
        change("127.0.0.1:5066 5 120", &format!("@DOOR@ {fr_timeout} {fr_inv_timeout}"), 1);
        change("127.0.0.1:5066", "@DOOR@", 1);
        change("127.0.0.1:8080", "@MI@", 1);
        change("@SIP@", &self.sip().to_string(), 3);
        change("@DOOR@", &door.to_string(), 2);
        change("@MI@", &self.mi().to_string(), 1);
        change("\"port\", 8888", &format!("\"port\", {}", self.ports.http), 1);
        change("\"fr_timeout\", 5", &format!("\"fr_timeout\", {fr_timeout}"), 1);
        change("\"fr_inv_timeout\", 120", &format!("\"fr_inv_timeout\", {fr_inv_timeout}"), 1);
        change("$DLG_timeout = 180", &format!("$DLG_timeout = {dead_man}"), 1);
        change("\"$ci\", 900)", &format!("\"$ci\", {mark_life})"), 1);
        change("1, 900, $var(n)", &format!("1, {mark_life}, $var(n)"), 2);
        change("_period\", 60", &format!("_period\", {}", mark_life.min(60)), 1);
        change("/usr/lib/x86_64-linux-gnu/opensips/modules/", &self.modules_path(), 1);
        change("stderror_enabled=no", "stderror_enabled=yes", 1);
        change("syslog_enabled=yes", "syslog_enabled=no", 1);
        if !self.folder.path().join("modules/nathelper.so").exists() {
            // Loopback needs no NAT repair; an installation without the module still runs the rest.
            text = without_nat(&text);
        }
        text
    }

    /// Starts the process and waits until MI answers; false if it gave up.
    fn launch(&mut self) -> bool {
        let folder = self.folder.path();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("opensips.log"))
            .expect("a log file");
        let config = folder.join("opensips.cfg");
        let child = Command::new(&self.installation.binary)
            .args(["-F", "-m", "64", "-M", "4", "-f"])
            .arg(config)
            .arg("-w")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file twice"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("OPENSIPS_BIN starts");
        self.child = Some(child);
        let mut mi = Mi::connect(self.mi());
        let deadline = Instant::now() + super::DEADLINE;
        while Instant::now() < deadline {
            if !self.is_alive() {
                self.crash();
                return false;
            }
            let asked = Instant::now();
            let id = mi.send("uptime", Value::Null);
            if mi.wait_for(id, Duration::from_millis(100)).is_some() {
                return self.is_alive();
            }
            // A refused datagram answers at once: don't spin.
            std::thread::sleep(Duration::from_millis(50).saturating_sub(asked.elapsed()));
        }
        self.crash();
        false
    }
}

impl Drop for OpenSips {
    fn drop(&mut self) {
        self.thaw();
        self.terminate();
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// `kill` by process id; a process that is gone is fine.
fn signal(signal: &str, target: &str) {
    let _status = Command::new("kill")
        .args([signal, "--", target])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Every `*.so` in the folder or one below it.
fn find_modules(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder)
            .map(|read| read.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default()
    };
    let is_module = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "so");
    let mut found = Vec::new();
    for path in entries(folder) {
        if is_module(&path) {
            found.push(path);
        } else if path.is_dir() {
            found.extend(entries(&path).into_iter().filter(is_module));
        }
    }
    assert!(!found.is_empty(), "OPENSIPS_MODULES has modules");
    found
}

/// The script without what needs nathelper: each use stands in a line of its own.
fn without_nat(text: &str) -> String {
    text.lines()
        .filter(|line| !line.contains("nathelper.so") && !line.contains("nat_uac_test"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// What callplane sends to start a call, on the reference script (docs/opensips.md).
pub fn invite(opensips: &OpenSips, caller: &str, callee: &str, call_id: &str, op: &str) -> Value {
    let door = opensips.callplane_socket();
    let (caller, callee) = (opensips.uri(caller), opensips.uri(callee));
    json!({
        "method": "INVITE",
        "ruri": caller,
        "socket": format!("udp:{door}"),
        "next_hop": format!("sip:{door}"),
        "headers": format!(
            "From: \"Callee\" <{callee}>;tag={}\r\nTo: <{caller}>\r\n\
             Contact: <sip:callplane@{door};gr=cp>\r\nContent-Type: application/sdp\r\n\
             CSeq: 1 INVITE\r\nCall-ID: {call_id}\r\nX-CP-Op: {op}\r\n",
            &op[..8]
        ),
        "body": "v=0\r\no=callplane 1 1 IN IP4 0.0.0.0\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n\
                 m=audio 9 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=inactive\r\n",
    })
}

/// What callplane sends to transfer: a REFER with a token, on the reference script.
pub fn refer(opensips: &OpenSips, call_id: &str, leg: &str, refer_to: &str, op: &str) -> Value {
    let door = opensips.callplane_socket();
    json!({
        "callid": call_id,
        "method": "REFER",
        "mode": leg,
        "body": "none",
        "headers": format!(
            "Refer-To: <{refer_to}>\r\nReferred-By: <sip:callplane@{door};cpt={op}>\r\n\
             X-CP-Op: {op}\r\n"
        ),
    })
}
