//! A real Prometheus on a free port, and its HTTP API.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// The names that a Kubernetes would give to what is read.
pub const JOB: &str = "callplane";
pub const NAMESPACE: &str = "calls";

/// A program of Prometheus, and the variable that names another one.
pub struct Program(&'static str, &'static str);

pub const PROMETHEUS: Program = Program("prometheus", "PROMETHEUS_BIN");
pub const PROMTOOL: Program = Program("promtool", "PROMTOOL_BIN");

impl Program {
    fn path(&self) -> String {
        std::env::var(self.1).unwrap_or_else(|_| self.0.to_owned())
    }

    /// Whether it is installed; says so where the test is skipped.
    pub fn is_here(&self, test: &str) -> bool {
        let told = Command::new(self.path()).arg("--version").output();
        let here = told.is_ok_and(|told| told.status.success());
        if !here {
            println!("skipped: {test} ({} is not installed)", self.path());
        }
        here
    }
}

/// Runs promtool; it has to be content.
pub fn promtool(arguments: &[&str]) {
    let told = Command::new(PROMTOOL.path()).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(told.status.success(), "{}{}", text(&told.stdout), text(&told.stderr));
}

/// A process to be read: its name, and where its metrics are.
pub type Target = (String, SocketAddr);

/// A running Prometheus. Dropped, it is killed.
pub struct Prometheus {
    child: Child,
    at: SocketAddr,
    folder: TempDir,
}

impl Prometheus {
    /// One that plays these rules each second, and reads nothing yet.
    pub async fn start(rules: &Path) -> Self {
        // Between finding a port and taking it somebody else may, so there are several tries.
        for _ in 0..10 {
            let mut prometheus = Self::run(rules);
            if prometheus.becomes_ready().await {
                return prometheus;
            }
        }
        panic!("{} does not start", PROMETHEUS.path());
    }

    fn run(rules: &Path) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": JOB,
                "file_sd_configs": [{"files": [path("targets.json")]}],
            }],
        });
        // JSON is YAML.
        std::fs::write(path("prometheus.yml"), config.to_string()).unwrap();
        std::fs::write(path("targets.json"), "[]").unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(PROMETHEUS.path())
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={at}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, at, folder }
    }

    /// False: it has ended, as it does where its port is taken.
    async fn becomes_ready(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let ready = self.http("GET", "/-/ready", "").await;
            if ready.is_some_and(|(status, _)| status == 200) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("prometheus does not become ready: {}", self.log());
    }

    /// What it says of itself.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Reads these from now on. It looks at the file as soon as it changes.
    pub fn read(&self, targets: &[Target]) {
        let targets = targets.iter().map(|(name, at)| {
            json!({"targets": [at.to_string()], "labels": {"namespace": NAMESPACE, "pod": name}})
        });
        let targets = Value::Array(targets.collect()).to_string();
        let new = self.folder.path().join("targets.new");
        std::fs::write(&new, targets).unwrap();
        std::fs::rename(new, self.folder.path().join("targets.json")).unwrap();
    }

    /// The series that an expression gives now.
    pub async fn query(&self, expr: &str) -> Vec<Value> {
        let told = self.api("query", &[("query", expr)]).await;
        assert_eq!(told["resultType"], "vector", "{expr}");
        told["result"].as_array().unwrap().clone()
    }

    /// The one number that it gives now, if it gives any.
    pub async fn number(&self, expr: &str) -> Option<f64> {
        self.query(expr).await.first().map(|series| number(&series["value"]))
    }

    /// Numbers that an expression gave in the last so many seconds, of all series.
    pub async fn numbers(&self, expr: &str, seconds: u64) -> Vec<f64> {
        let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let end = end.as_secs();
        let (from, to) = ((end - seconds).to_string(), end.to_string());
        let asked = [("query", expr), ("start", &from), ("end", &to), ("step", "2")];
        let told = self.api("query_range", &asked).await;
        let series = told["result"].as_array().unwrap().iter();
        series.flat_map(|series| series["values"].as_array().unwrap()).map(number).collect()
    }

    /// Alerts that are pending or fire: their names, and which of the two.
    pub async fn alerts(&self) -> Vec<(String, String)> {
        let told = self.api("alerts", &[]).await;
        let alerts = told["alerts"].as_array().unwrap().iter().map(|alert| {
            let text = |json: &Value| json.as_str().unwrap().to_owned();
            (text(&alert["labels"]["alertname"]), text(&alert["state"]))
        });
        alerts.collect()
    }

    /// The rules that it plays: their names, and what went wrong with them.
    pub async fn rules(&self) -> Vec<(String, String)> {
        let told = self.api("rules", &[]).await;
        let groups = told["groups"].as_array().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap()).map(|rule| {
            let text = |json: &Value| json.as_str().unwrap_or_default().to_owned();
            assert_eq!(rule["health"], "ok", "{rule}");
            (text(&rule["name"]), text(&rule["lastError"]))
        });
        rules.collect()
    }

    /// What the API tells. It has to be content, and without a warning.
    async fn api(&self, what: &str, form: &[(&str, &str)]) -> Value {
        let mut body = String::new();
        for (name, value) in form {
            write!(body, "{name}=").unwrap();
            value.bytes().for_each(|byte| write!(body, "%{byte:02X}").unwrap());
            body.push('&');
        }
        let method = if form.is_empty() { "GET" } else { "POST" };
        let told = self.http(method, &format!("/api/v1/{what}"), &body).await;
        let (_, text) = told.unwrap_or_else(|| panic!("no answer to {what}: {}", self.log()));
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(told["status"], "success", "{form:?}: {told}");
        assert!(told["warnings"].is_null(), "{form:?}: {told}");
        told["data"].clone()
    }

    async fn http(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        // By HTTP/1.0 the answer comes in one piece.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            self.at,
            body.len()
        );
        let mut stream = TcpStream::connect(self.at).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.ok()?.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sample: its time, and its number as text.
fn number(sample: &Value) -> f64 {
    sample[1].as_str().unwrap().parse().unwrap()
}
