//! A browser without a window, driven over its DevTools protocol: messages in JSON, each ended by a zero byte, through
//! two pipes, so that no driver and no port is needed.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything on a page may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The browser takes the pipes as descriptors 3 and 4.
const WITH_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;
/// Below this width a window is a phone's.
const PHONE: u32 = 600;

/// A page in headless Chromium.
pub struct Browser {
    child: Child,
    pipe: RefCell<Pipe>,
    /// The page's, once there is one.
    session: Option<String>,
}

/// An element of a page.
pub struct Element(Value);

struct Pipe {
    input: ChildStdin,
    messages: Receiver<Value>,
    /// Number of the latest command.
    id: u64,
    complaints: Vec<String>,
    /// How many pages have been loaded.
    loaded: usize,
}

impl Pipe {
    /// The result of a command, or its error.
    fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<Value, String> {
        self.id += 1;
        let mut command = json!({"id": self.id, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.input.write_all(format!("{command}\0").as_bytes()).map_err(|e| e.to_string())?;
        let end = Instant::now() + PATIENCE;
        loop {
            let message = self.next(end)?;
            if message["id"] == self.id {
                let error = message.get("error").map(Value::to_string);
                return error.map_or_else(|| Ok(message["result"].clone()), Err);
            }
        }
    }

    /// The next message, of which events have been noted.
    fn next(&mut self, end: Instant) -> Result<Value, String> {
        let left = end.saturating_duration_since(Instant::now());
        let message = self.messages.recv_timeout(left).map_err(|e| format!("the browser says nothing: {e}"))?;
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Page.loadEventFired") => self.loaded += 1,
            Some("Log.entryAdded")
                if !["verbose", "info"].contains(&params["entry"]["level"].as_str().unwrap_or("")) =>
            {
                self.complaints.push(format!("{}: {}", params["entry"]["text"], params["entry"]["url"]));
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if ["error", "warning", "assert"].iter().any(|&t| params["type"] == t) => {
                self.complaints.push(params["args"].to_string());
            }
            _ => {}
        }
        Ok(message)
    }
}

impl Browser {
    /// A window of this size; `None` where Chromium is not installed. `profile` is an empty folder.
    pub fn start(profile: &Path, width: u32, height: u32) -> Option<Browser> {
        let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(which)?;
        let mut child = Command::new("sh")
            .args(["-c", WITH_PIPES, &chromium])
            // Tests may run as root, in containers with little shared memory.
            .args(["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"])
            .args(["--remote-debugging-pipe", &format!("--user-data-dir={}", profile.display()), "about:blank"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (input, output) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let pieces = BufReader::new(output).split(0).map_while(Result::ok);
            let parsed = pieces.filter_map(|piece| serde_json::from_slice(&piece).ok());
            parsed.for_each(|message| drop(sender.send(message)));
        });
        let pipe = RefCell::new(Pipe { input, messages, id: 0, complaints: Vec::new(), loaded: 0 });
        let mut browser = Browser { child, pipe, session: None };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "DOM", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser.resize(width, height);
        Some(browser)
    }

    fn call(&self, method: &str, params: &Value) -> Value {
        let result = self.pipe.borrow_mut().call(self.session.as_deref(), method, params);
        result.unwrap_or_else(|e| panic!("{method} {params}: {e}"))
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        let loaded = self.pipe.borrow().loaded;
        let error = self.call("Page.navigate", &json!({"url": url}))["errorText"].clone();
        assert_eq!(error, Value::Null, "{url}");
        let (mut pipe, end) = (self.pipe.borrow_mut(), Instant::now() + PATIENCE);
        while pipe.loaded == loaded {
            pipe.next(end).unwrap_or_else(|e| panic!("{url}: {e}"));
        }
    }

    /// What a function with this body returns on the page.
    pub fn run(&self, script: &str) -> Value {
        let call =
            json!({"expression": format!("(() => {{{script}\n}})()"), "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &call);
        assert_eq!(answer.get("exceptionDetails"), None, "{script}");
        answer["result"]["value"].clone()
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

    /// All elements that a selector finds.
    pub fn find_all(&self, selector: &str) -> Vec<Element> {
        let root = self.call("DOM.getDocument", &json!({"depth": 0}))["root"]["nodeId"].clone();
        let found = self.call("DOM.querySelectorAll", &json!({"nodeId": root, "selector": selector}));
        found["nodeIds"].as_array().into_iter().flatten().map(|id| Element(id.clone())).collect()
    }

    /// Clicks as a user does: on what is visible and not covered.
    pub fn click(&self, selector: &str) {
        let place = self.run(&format!(
            "const node = document.querySelector({});
             node.scrollIntoView({{block: 'nearest', inline: 'nearest', behavior: 'instant'}});
             const box = node.getBoundingClientRect();
             const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
             const top = document.elementFromPoint(x, y);
             return node.contains(top) ? [x, y] : 'covered by ' + top?.outerHTML.slice(0, 80);",
            json!(selector)
        ));
        let Some([x, y]) = place.as_array().map(Vec::as_slice) else { panic!("{selector}: {place}") };
        for (kind, count) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 1)] {
            let button = if count == 0 { "none" } else { "left" };
            let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": count});
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Types into an element. `\u{e007}` is Enter, `\u{e00c}` Escape, `\u{e012}` and `\u{e014}` are the arrows.
    pub fn type_into(&self, selector: &str, text: &str) {
        self.run(&format!(
            "const node = document.querySelector({}); node.focus();
             if (node.selectionEnd != null) node.selectionStart = node.selectionEnd = node.value.length;",
            json!(selector)
        ));
        text.chars().for_each(|c| self.press(c));
    }

    fn press(&self, c: char) {
        let (key, code, text) = match c {
            '\u{e003}' => ("Backspace".into(), 8, String::new()),
            '\u{e007}' => ("Enter".into(), 13, "\r".into()),
            '\u{e00c}' => ("Escape".into(), 27, String::new()),
            '\u{e012}' => ("ArrowLeft".into(), 37, String::new()),
            '\u{e014}' => ("ArrowRight".into(), 39, String::new()),
            '\t' => ("Tab".into(), 9, String::new()),
            c => (c.to_string(), 0, c.to_string()),
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text});
        if code != 0 {
            event["code"] = key.into();
        }
        self.call("Input.dispatchKeyEvent", &event);
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", &event);
    }

    /// Empties an input.
    pub fn clear(&self, selector: &str) {
        self.run(&format!("const node = document.querySelector({}); node.focus(); node.select();", json!(selector)));
        self.press('\u{e003}');
    }

    /// What assistive technology calls an element, and what kind it says it is.
    pub fn accessible(&self, Element(id): &Element) -> (String, String) {
        let tree = self.call("Accessibility.getPartialAXTree", &json!({"nodeId": id, "fetchRelatives": false}));
        let node = &tree["nodes"][0];
        let text = |what: &str| node[what]["value"].as_str().unwrap_or_default().to_owned();
        (text("name"), if node["ignored"] == true { "none".into() } else { text("role") })
    }

    /// Sets the size of the window.
    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < PHONE});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// A picture of the page in PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        decode(self.call("Page.captureScreenshot", &json!({"format": "png"}))["data"].as_str().unwrap_or_default())
    }

    /// What the browser has complained about since the last call.
    pub fn complaints(&self) -> Vec<String> {
        // Whatever was said before the answer is noted by then.
        self.run("");
        std::mem::take(&mut self.pipe.borrow_mut().complaints)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // One that does not end by itself, or is gone, is ended below.
        if let Ok(mut pipe) = self.pipe.try_borrow_mut() {
            let _ = pipe.call(None, "Browser.close", &json!({}));
        }
        let end = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
