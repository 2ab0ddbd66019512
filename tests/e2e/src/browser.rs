//! A browser without a window, driven over the WebDriver protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::client::{connect, post};

/// How long anything on a page may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Under which elements are sent.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A session of headless Chromium.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
}

/// An element of a page.
pub struct Element(String);

impl Browser {
    /// A window of this size; `None` where Chromium or its driver is not installed. `profile` is an empty folder.
    pub fn start(profile: &Path, width: u32, height: u32) -> Option<Browser> {
        let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(which)?;
        let mut driver = Command::new(which("chromedriver")?)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(driver.stdout.take()?).lines().map_while(Result::ok);
        let port =
            lines.find_map(|l| l.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok());
        // What else it says must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        let address = format!("127.0.0.1:{}", port.expect("the driver says its port"));
        let mut browser = Browser { driver, address, session: String::new() };
        let options = json!({
            "binary": chromium,
            "args": [
                // Tests may run as root, in containers with little shared memory.
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                format!("--user-data-dir={}", profile.display()), format!("--window-size={width},{height}"),
            ],
        });
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let created = browser.call("", &json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = created["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    /// Sends a command of the session, `""` for a new session.
    fn call(&self, command: &str, body: &Value) -> Value {
        self.attempt(command, body).unwrap_or_else(|e| panic!("{command} {body}: {e}"))
    }

    fn attempt(&self, command: &str, body: &Value) -> Result<Value, String> {
        let path = match command {
            "" => "/session".to_owned(),
            _ => format!("/session/{}/{command}", self.session),
        };
        self.exchange(&post(&self.address, &path, &body.to_string()))
    }

    fn read(&self, what: &str) -> Value {
        let Browser { address, session, .. } = self;
        let request = format!("GET /session/{session}/{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        self.exchange(request.as_bytes()).unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    fn exchange(&self, request: &[u8]) -> Result<Value, String> {
        let (status, body) = answer(&self.address, request).map_err(|e| e.to_string())?;
        let body: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        if status == 200 { Ok(body["value"].clone()) } else { Err(body["value"].to_string()) }
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.call("url", &json!({"url": url}));
    }

    /// What a function with this body returns on the page.
    pub fn run(&self, script: &str) -> Value {
        self.call("execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until a function with this body returns something true.
    pub fn wait_for(&self, script: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let value = self.run(script);
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            assert!(Instant::now() < end, "never true: {script}\n{}", self.run("return document.body.innerText"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first element that a selector finds.
    pub fn find(&self, selector: &str) -> Element {
        let found = self.call("element", &json!({"using": "css selector", "value": selector}));
        Element(found[ELEMENT].as_str().expect("an element").to_owned())
    }

    /// All elements that a selector finds.
    pub fn find_all(&self, selector: &str) -> Vec<Element> {
        let found = self.call("elements", &json!({"using": "css selector", "value": selector}));
        let ids = found.as_array().into_iter().flatten().filter_map(|e| e[ELEMENT].as_str());
        ids.map(|id| Element(id.to_owned())).collect()
    }

    /// Clicks as a user does: on what is visible and not covered.
    pub fn click(&self, selector: &str) {
        let Element(id) = self.find(selector);
        self.call(&format!("element/{id}/click"), &json!({}));
    }

    /// Types into an element. `\u{e007}` is Enter, `\u{e00c}` Escape, `\u{e012}` and `\u{e014}` are the arrows.
    pub fn type_into(&self, selector: &str, text: &str) {
        let Element(id) = self.find(selector);
        self.call(&format!("element/{id}/value"), &json!({"text": text}));
    }

    /// Empties an input.
    pub fn clear(&self, selector: &str) {
        let Element(id) = self.find(selector);
        self.call(&format!("element/{id}/clear"), &json!({}));
    }

    /// What assistive technology calls an element, and what kind it says it is.
    pub fn accessible(&self, Element(id): &Element) -> (String, String) {
        let text = |what: &str| self.read(&format!("element/{id}/{what}")).as_str().unwrap_or_default().to_owned();
        (text("computedlabel"), text("computedrole"))
    }

    /// Sets the size of the window.
    pub fn resize(&self, width: u32, height: u32) {
        self.call("window/rect", &json!({"width": width, "height": height}));
    }

    /// A picture of the page in PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        decode(self.read("screenshot").as_str().unwrap_or_default())
    }

    /// What the browser has complained about since the last call.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("se/log", &json!({"type": "browser"}));
        let entries = log.as_array().into_iter().flatten();
        entries.filter(|e| e["level"] != "INFO" && e["level"] != "DEBUG").map(|e| e["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let Browser { address, session, .. } = self;
        let end = format!("DELETE /session/{session} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        // Ends the browser as well; a driver that is gone has ended it.
        let _ = self.exchange(end.as_bytes());
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Status and body. The driver leaves connections open, whatever it is asked, so the body's length says where it ends.
fn answer(address: &str, request: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    let (mut reader, mut status, mut length) = (BufReader::new(stream), 0, 0);
    for line in reader.by_ref().lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if status == 0 {
            status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        }
        length = line.strip_prefix("content-length:").and_then(|l| l.trim().parse().ok()).unwrap_or(length);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((status, body))
}

/// The file of a program.
fn which(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let file = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())?;
    Some(file.to_string_lossy().into_owned())
}

/// Base64; anything else ends it.
fn decode(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bits, mut held, mut out) = (0u32, 0, Vec::new());
    for digit in text.bytes().map_while(value) {
        bits = (bits << 6) | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
