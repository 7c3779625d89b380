//! A real Chromium, driven over the DevTools protocol by a small client.
//!
//! Only what tests of pages need: evaluate, wait for a condition, press keys, click, take pictures,
//! and remember everything the browser complained about. Clicks and keys go through the browser's
//! input, so a button that is covered, hidden or unfocusable fails as it would for a person.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

/// How long a condition in a page may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The browser to use, if there is one: `CHROMIUM_BIN`, else a usual place.
pub fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM_BIN") {
        return Some(PathBuf::from(named)).filter(|path| path.exists());
    }
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

/// A browser of its own with an empty profile; it ends when this is dropped.
pub struct Browser {
    process: Child,
    _profile: tempfile::TempDir,
    devtools: Arc<DevTools>,
}

impl Browser {
    /// Starts the browser and connects to it.
    pub async fn start(binary: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new(binary)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (address, listening) = oneshot::channel();
        // Reads to the end: a browser whose stderr is full would stop.
        std::thread::spawn(move || {
            let mut address = Some(address);
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("DevTools listening on ")
                    && let Some(address) = address.take()
                {
                    let _ = address.send(url.trim().to_owned());
                }
            }
        });
        let url = timeout(DEADLINE, listening)
            .await
            .expect("the browser did not say where it listens")
            .expect("the browser ended at once");
        Self { process, _profile: profile, devtools: DevTools::connect(&url).await }
    }

    /// Opens a page with nothing kept from others and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Page {
        let context = self.devtools.call(None, "Target.createBrowserContext", json!({})).await;
        let target = self
            .devtools
            .call(
                None,
                "Target.createTarget",
                json!({"url": "about:blank", "browserContextId": context["browserContextId"]}),
            )
            .await;
        let attached = self
            .devtools
            .call(
                None,
                "Target.attachToTarget",
                json!({"targetId": target["targetId"], "flatten": true}),
            )
            .await;
        let page = Page {
            devtools: Arc::clone(&self.devtools),
            session: attached["sessionId"].as_str().unwrap().to_owned(),
        };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": 1280, "height": 860, "deviceScaleFactor": 1, "mobile": false}),
        )
        .await;
        page.call("Page.navigate", json!({"url": url})).await;
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One connection to the browser: calls by id, and what it tells unasked.
struct DevTools {
    next: AtomicU64,
    out: mpsc::UnboundedSender<Message>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
    told: Arc<Mutex<Vec<Value>>>,
}

impl DevTools {
    async fn connect(url: &str) -> Arc<Self> {
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let (mut sink, mut stream) = socket.split();
        let (out, mut outgoing) = mpsc::unbounded_channel();
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>> = Arc::default();
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        let (answers, news) = (Arc::clone(&waiting), Arc::clone(&told));
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                let Message::Text(text) = message else { continue };
                let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
                match value["id"].as_u64() {
                    Some(id) => {
                        if let Some(answer) = answers.lock().unwrap().remove(&id) {
                            let _ = answer.send(value);
                        }
                    }
                    None => news.lock().unwrap().push(value),
                }
            }
        });
        Arc::new(Self { next: AtomicU64::new(1), out, waiting, told })
    }

    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.try_call(session, method, params).await.unwrap_or_else(|why| panic!("{method}: {why}"))
    }

    async fn try_call(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, answer);
        let mut request = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            request["sessionId"] = json!(session);
        }
        self.out.send(Message::text(request.to_string())).map_err(|e| e.to_string())?;
        let mut reply = timeout(DEADLINE + DEADLINE, answered)
            .await
            .map_err(|_| "the browser did not answer".to_owned())?
            .map_err(|_| "the browser is gone".to_owned())?;
        match reply.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(reply["result"].take()),
        }
    }
}

/// A page in the browser.
pub struct Page {
    devtools: Arc<DevTools>,
    session: String,
}

impl Page {
    async fn call(&self, method: &str, params: Value) -> Value {
        self.devtools.call(Some(&self.session), method, params).await
    }

    /// The value of a JavaScript expression; a promise is awaited.
    pub async fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression).await.unwrap_or_else(|why| panic!("{expression}: {why}"))
    }

    async fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let params = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
            "userGesture": true,
        });
        let mut reply =
            self.devtools.try_call(Some(&self.session), "Runtime.evaluate", params).await?;
        match reply.get("exceptionDetails") {
            Some(details) => Err(details["exception"]["description"]
                .as_str()
                .unwrap_or("an exception without description")
                .to_owned()),
            None => Ok(reply["result"]["value"].take()),
        }
    }

    /// The text of the first element that a selector finds, as a person sees it.
    pub async fn text(&self, selector: &str) -> String {
        let selector = json!(selector);
        self.eval(&format!("document.querySelector({selector})?.innerText ?? ''"))
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until a JavaScript expression is true in the page.
    ///
    /// # Panics
    ///
    /// When it isn't within [`DEADLINE`]; the message shows what the page says instead.
    pub async fn until(&self, condition: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let watch = format!(
                "new Promise((resolve) => {{
                    const end = performance.now() + {left};
                    const look = () => {{
                        let held = false;
                        try {{ held = Boolean({condition}); }} catch {{}}
                        if (held || performance.now() > end) resolve(held);
                        else setTimeout(look, 10);
                    }};
                    look();
                }})"
            );
            match self.try_eval(&watch).await {
                Ok(Value::Bool(true)) => return,
                // A navigation takes the page away under the condition: look again in the new one.
                Err(_) if Instant::now() < end => continue,
                Ok(_) | Err(_) => break,
            }
        }
        let shown = self.text("body").await;
        panic!(
            "never true: {condition}\nthe page shows:\n{shown}\nand said: {:?}",
            self.complaints()
        );
    }

    /// Waits until some element that a selector finds shows this text.
    pub async fn until_text(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!(
            "[...document.querySelectorAll({selector})].some((e) => e.innerText.includes({text}))"
        ))
        .await;
    }

    /// Clicks the first visible element that a selector finds, once it can be clicked and stands
    /// still: a page that has just changed may still be moving it.
    pub async fn click(&self, selector: &str) {
        let point = self.reach(selector).await;
        for kind in ["mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                json!({"type": kind, "x": point[0], "y": point[1], "button": "left", "clickCount": 1}),
            )
            .await;
        }
    }

    /// Where the first visible element that a selector finds can be clicked, once it stands still.
    async fn reach(&self, selector: &str) -> Value {
        let quoted = json!(selector);
        let deadline = DEADLINE.as_millis();
        let point = self
            .eval(&format!(
                "new Promise((found) => {{
                    const end = performance.now() + {deadline};
                    let before;
                    const look = () => {{
                        const e = [...document.querySelectorAll({quoted})]
                            .find((e) => e.checkVisibility() && !e.disabled);
                        e?.scrollIntoView({{block: 'center', behavior: 'instant'}});
                        const box = e?.getBoundingClientRect();
                        const point = box && [box.x + box.width / 2, box.y + box.height / 2];
                        const hit = point && document.elementFromPoint(...point);
                        const free = hit && (e.contains(hit) || hit.contains(e));
                        if (free && before === point.join()) return found(point);
                        if (performance.now() > end) return found(null);
                        before = free ? point.join() : undefined;
                        requestAnimationFrame(look);
                    }};
                    look();
                }})"
            ))
            .await;
        assert!(
            point.is_array(),
            "nothing to click at {selector}; the page shows:\n{}",
            self.text("body").await
        );
        point
    }

    /// Presses a key: `Enter`, `Tab`, `Escape`, an arrow's name, or one character.
    pub async fn key(&self, key: &str) {
        let (code, virtual_key, text) = match key {
            "Enter" => ("Enter".to_owned(), 13, "\r".to_owned()),
            "Tab" => ("Tab".to_owned(), 9, String::new()),
            "Escape" => ("Escape".to_owned(), 27, String::new()),
            "ArrowDown" => ("ArrowDown".to_owned(), 40, String::new()),
            " " => ("Space".to_owned(), 32, " ".to_owned()),
            other => (
                format!("Key{}", other.to_uppercase()),
                other.to_uppercase().chars().next().map_or(0, u32::from),
                other.to_owned(),
            ),
        };
        let mut down = json!({
            "type": if text.is_empty() { "rawKeyDown" } else { "keyDown" },
            "key": key, "code": code, "windowsVirtualKeyCode": virtual_key,
        });
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down).await;
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyUp", "key": key, "code": code, "windowsVirtualKeyCode": virtual_key}),
        )
        .await;
    }

    /// Types text into what has the focus.
    pub async fn insert(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Goes into a field, empties it and types. Not by a click: the page may move meanwhile.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.reach(selector).await;
        let quoted = json!(selector);
        self.eval(&format!(
            "(() => {{
                const e = [...document.querySelectorAll({quoted})]
                    .find((e) => e.checkVisibility() && !e.disabled);
                e.focus();
                e.select();
            }})()"
        ))
        .await;
        self.insert(text).await;
    }

    /// Loads the page again, as its reload button does.
    pub async fn reload(&self) {
        self.eval("window.stale = true").await;
        self.call("Page.reload", json!({})).await;
        self.until("!window.stale && document.documentElement.dataset.ready === 'true'").await;
    }

    /// Makes the page as wide and high as a device, in CSS pixels, drawn at `scale`.
    pub async fn size(&self, width: u32, height: u32, scale: f32) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}),
        )
        .await;
        self.until(&format!("document.documentElement.clientWidth === {width}")).await;
    }

    /// Sets what the system prefers: `light` or `dark`, and no motion, so that colours hold still.
    pub async fn prefer(&self, scheme: &str) {
        self.call(
            "Emulation.setEmulatedMedia",
            json!({"features": [
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ]}),
        )
        .await;
    }

    /// A picture of what is visible, written as PNG.
    pub async fn picture(&self, file: &Path) {
        self.eval(
            "new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => drawn(1))))",
        )
        .await;
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let bytes = decode_base64(shot["data"].as_str().unwrap());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    /// Everything the browser has complained about: console errors and warnings, exceptions,
    /// violations of the security policy, failed loads.
    pub fn complaints(&self) -> Vec<String> {
        let told = self.devtools.told.lock().unwrap();
        told.iter()
            .filter(|event| event["sessionId"] == json!(self.session))
            .filter_map(|event| {
                let params = &event["params"];
                match event["method"].as_str()? {
                    "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
                    "Runtime.consoleAPICalled" => {
                        let kind = params["type"].as_str()?;
                        matches!(kind, "error" | "warning" | "assert")
                            .then(|| params["args"].to_string())
                    }
                    "Log.entryAdded" => {
                        let level = params["entry"]["level"].as_str()?;
                        matches!(level, "error" | "warning")
                            .then(|| params["entry"]["text"].as_str().unwrap_or("").to_owned())
                    }
                    _ => None,
                }
            })
            .collect()
    }

    /// The addresses of everything the page has asked for.
    pub fn requested(&self) -> Vec<String> {
        let told = self.devtools.told.lock().unwrap();
        told.iter()
            .filter(|event| event["sessionId"] == json!(self.session))
            .filter_map(|event| match event["method"].as_str()? {
                "Network.requestWillBeSent" => event["params"]["request"]["url"].as_str(),
                "Network.webSocketCreated" => event["params"]["url"].as_str(),
                _ => None,
            })
            .map(str::to_owned)
            .collect()
    }
}

/// Base64 as the DevTools protocol writes it (RFC 4648 section 4).
fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}
