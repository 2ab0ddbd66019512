//! The page at `/` in headless Chromium: chat, settings, the view of the server's status.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rocmforge_e2e::browser::Browser;
use rocmforge_e2e::server::{Server, repository};
use serde_json::{Value, json};

const SKIPPED: &str = "skipped: no chromium";

/// Two models, the second of which is loaded when it is chosen.
fn server(folder: &Path) -> Server {
    let models = repository().join("tests/models");
    let model = |name: &str, load: &str| {
        let path = models.join(name);
        format!("path = '{}'\nload = \"{load}\"\n", path.display())
    };
    let (first, second) = (model("llama-demo-Q4_K_M.gguf", "start"), model("qwen2-demo-Q4_K_M.gguf", "use"));
    let config = folder.join("plugins.toml");
    std::fs::write(&config, format!("[models.llama]\n{first}[models.qwen]\n{second}")).expect("a folder for files");
    Server::start(&["--config", config.to_str().expect("a path in UTF-8")], &[])
}

/// A page of a server, open in a browser; `None` without a browser.
struct Page {
    browser: Browser,
    server: Server,
    _folder: tempfile::TempDir,
}

impl Page {
    fn open() -> Option<Page> {
        let folder = tempfile::tempdir().expect("a folder for files");
        let browser = Browser::start(&folder.path().join("profile"), 1280, 900)?;
        let server = server(folder.path());
        browser.open(&format!("http://{}/", server.address));
        browser.wait_for("return !document.getElementById('model').disabled");
        Some(Page { browser, server, _folder: folder })
    }

    /// Keeps what the page sends in `sent`, and makes answers as long as they may be if `long` is set.
    fn listen(&self) {
        self.browser.run(
            "window.sent = []; window.long = false; const real = window.fetch; window.fetch = (path, options) => {
                if (options?.body) {
                    const body = JSON.parse(options.body); sent.push(body);
                    if (long) options = {...options, body: JSON.stringify({...body, ignore_eos: true})};
                }
                return real(path, options);
            };",
        );
    }

    fn ask(&self, text: &str) {
        self.browser.type_into("#text", &format!("{text}\u{e007}"));
    }

    /// The text of the last answer, when it is complete.
    fn answer(&self) -> String {
        self.browser.wait_for("return !document.querySelector('.busy') && !!document.querySelector('.again')");
        let text = self.browser.run("return [...document.querySelectorAll('.assistant .body')].at(-1).innerText");
        text.as_str().expect("a text").to_owned()
    }

    fn sent(&self) -> Vec<Value> {
        self.browser.run("return window.sent").as_array().expect("a list").clone()
    }

    /// Sets an input as a user does.
    fn set(&self, input: &str, value: &str) {
        self.browser.clear(input);
        self.browser.type_into(input, &format!("{value}\t"));
    }

    /// Keeps a picture for people, in the folder that `ROCMFORGE_SCREENSHOTS` names.
    fn picture(&self, name: &str) {
        let picture = self.browser.screenshot();
        assert!(picture.starts_with(b"\x89PNG"), "a picture");
        if let Some(folder) = std::env::var_os("ROCMFORGE_SCREENSHOTS").map(PathBuf::from) {
            std::fs::write(folder.join(format!("{name}.png")), picture).expect("the picture can be written");
        }
    }

    /// Ends with a check that the browser had nothing to complain about.
    fn close(self) {
        assert_eq!(self.browser.complaints(), [""; 0]);
        self.server.wait_for_metric("rocmforge_active_requests", |n| n == 0.0);
    }
}

#[test]
fn answers_come_as_they_are_generated_with_the_model_and_sampling_chosen() {
    let Some(page) = Page::open() else { return println!("{SKIPPED}") };
    let browser = &page.browser;
    page.picture("welcome");
    page.listen();
    browser.click("#settings");
    for (input, value) in [("#temperature", "0"), ("#top_p", "0.9"), ("#seed", "7"), ("#max_tokens", "40")] {
        page.set(input, value);
    }
    page.ask("What is 14 + 74?");
    assert!(page.answer().contains("88"), "{}", page.answer());
    page.picture("chat");
    let sent = page.sent();
    let sampling = ["temperature", "top_p", "seed", "max_tokens", "top_k"].map(|name| sent[0][name].clone());
    assert_eq!(sampling, [json!(0), json!(0.9), json!(7), json!(40), Value::Null]);
    assert_eq!((&sent[0]["model"], &sent[0]["stream"]), (&json!("llama"), &json!(true)));

    // A second question goes with what was said before; it is shown as text, whatever is in it.
    browser.run("document.getElementById('model').value = 'qwen'");
    browser.run("document.getElementById('model').dispatchEvent(new Event('change'))");
    page.set("#system", "Answer briefly.");
    page.ask("<img src=x> **What** is 3 + 4?");
    page.answer();
    let second = page.sent()[1].clone();
    assert_eq!(second["model"], "qwen");
    let roles: Vec<&str> =
        second["messages"].as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    assert_eq!(browser.run("return document.querySelectorAll('#log img').length"), 0);
    let who = browser.run("return [...document.querySelectorAll('.assistant .who')].map(w => w.textContent)");
    assert_eq!(who, json!(["llama", "qwen"]));
    let numbers = browser.run("return [...document.querySelectorAll('.numbers')].at(-1).textContent");
    assert!(numbers.as_str().is_some_and(|n| n.contains("tokens") && n.contains("tok/s")), "{numbers}");

    // Settings outlive the page, the conversation does not.
    browser.open(&format!("http://{}/", page.server.address));
    browser.wait_for("return document.getElementById('model').value === 'qwen'");
    assert_eq!(browser.run("return document.getElementById('top_p').value"), "0.9");
    assert_eq!(browser.run("return document.querySelectorAll('.message').length"), 0);
    page.close();
}

#[test]
fn an_answer_can_be_stopped_and_made_again() {
    let Some(page) = Page::open() else { return println!("{SKIPPED}") };
    let browser = &page.browser;
    page.listen();
    browser.run(
        "window.lengths = new Set(); window.long = true; new MutationObserver(() =>
            lengths.add([...document.querySelectorAll('.assistant .body')].at(-1)?.textContent.length))
            .observe(document.getElementById('log'), {subtree: true, childList: true, characterData: true})",
    );
    let begun = "return (document.querySelector('.busy .body')?.textContent.length ?? 0) > 20";
    page.ask("Tell me a story.");
    browser.wait_for(begun);
    assert_eq!(browser.run("return document.getElementById('send').hidden"), true);
    browser.wait_for("return /\\d tok\\/s/.test(document.querySelector('.busy .numbers')?.textContent)");
    page.picture("streaming");
    browser.click("#stop");
    page.answer();
    assert!(browser.run("return lengths.size").as_u64() > Some(2), "the answer grew while it was shown");
    let numbers = "return [...document.querySelectorAll('.assistant')].at(-1).querySelector('.numbers').textContent";
    let stopped = |numbers: Value| numbers.as_str().is_some_and(|n| n.contains("stopped"));
    assert!(stopped(browser.run(numbers)));
    page.server.wait_for_metric("rocmforge_requests_cancelled_total{model=\"llama\"}", |n| n == 1.0);
    page.server.wait_for_metric("rocmforge_active_requests", |n| n == 0.0);

    // The keyboard stops as well.
    page.ask("Tell me another.");
    browser.wait_for(begun);
    browser.type_into("#text", "\u{e00c}");
    page.answer();
    assert!(stopped(browser.run(numbers)));
    page.server.wait_for_metric("rocmforge_requests_cancelled_total{model=\"llama\"}", |n| n == 2.0);

    browser.run("window.long = false");
    browser.click(".again");
    page.answer();
    assert!(!stopped(browser.run(numbers)));
    let sent = page.sent();
    assert_eq!(sent[2]["messages"], sent[1]["messages"], "the same question again");
    assert_eq!(browser.run("return document.querySelectorAll('.message').length"), 4);
    browser.click(".edit");
    assert_eq!(browser.run("return document.getElementById('text').value"), "Tell me another.");
    assert_eq!(browser.run("return document.querySelectorAll('.message').length"), 2);
    browser.click("#new");
    assert_eq!(browser.run("return document.querySelectorAll('.message').length"), 0);
    page.close();
}

#[test]
fn answers_are_shown_as_they_are_meant() {
    let Some(page) = Page::open() else { return println!("{SKIPPED}") };
    let text = "| a | b |\n|---|:-:|\n| 1 | **2** |\n\n> said\n\n---\n\n1. one\n\n[x](https://e.example/) \
        [y](javascript:alert) <b>no</b>\n\n```sh\necho `hi`\n```";
    let shown = page.browser.run(&format!(
        "const node = document.createElement('div'); node.append(markdown({}));
         const count = (what) => node.querySelectorAll(what).length;
         return [count('th'), count('td'), count('td strong'), count('blockquote'), count('hr'), count('ol li'),
             count('a'), count('b'), count('.code button'), node.querySelector('pre').textContent]",
        json!(text)
    ));
    assert_eq!(shown, json!([2, 2, 1, 1, 1, 1, 1, 0, 1, "echo `hi`"]));
    page.close();
}

#[test]
fn the_view_of_the_status_redraws_itself() {
    let Some(page) = Page::open() else { return println!("{SKIPPED}") };
    let browser = &page.browser;
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stream = || {
                let body = json!({"model": "llama", "prompt": "river", "max_tokens": 400, "ignore_eos": true});
                page.server.post("/v1/completions", &body.to_string())
            };
            while busy.load(Ordering::SeqCst) {
                assert_eq!(stream().0, 200);
            }
        });
        browser.click("#tab-status");
        let rate = "return Number(document.getElementById('rate').textContent) > 0";
        browser.wait_for(rate);
        let picture = "return document.getElementById('graph').toDataURL()";
        let (graph, shown) = (browser.run(picture), browser.run("return document.getElementById('rate').textContent"));
        browser.wait_for(&format!("return document.getElementById('rate').textContent !== {shown}"));
        assert_ne!(browser.run(picture), graph, "the graph is drawn anew");
        page.picture("status");
        busy.store(false, Ordering::SeqCst);
    });
    let rows = |table: &str| browser.run(&format!("return document.querySelectorAll('#{table} tr').length"));
    assert_eq!((rows("models"), rows("placement")), (json!(2), json!(1)));
    assert!(rows("plugins").as_u64() > Some(1));
    let text = browser.run("return document.getElementById('status').innerText");
    for part in ["llama", "qwen", "loaded", "unloaded", "cpu", "backend-cpu"] {
        assert!(text.as_str().is_some_and(|t| t.contains(part)), "{part}: {text}");
    }
    // Two tabs, between which the arrow keys change.
    browser.type_into("#tab-status", "\u{e012}");
    assert_eq!(browser.run("return document.getElementById('chat').hidden"), false);
    assert_eq!(browser.run("return document.activeElement.id"), "tab-chat");
    // When the server is gone the page says so, and does not go on as if nothing had happened.
    browser.click("#tab-status");
    assert_eq!(browser.complaints(), [""; 0]);
    page.server.terminate();
    browser.wait_for("return !document.getElementById('trouble').hidden");
}

/// Contrast of text with what is behind it, as WCAG computes it, of every visible element with text; those below 4.5.
const FAINT: &str = "
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = (node) => { for (; node; node = node.parentElement) {
        const colour = rgb(getComputedStyle(node).backgroundColor); if (colour[3] === 255) return colour; }
        return rgb(getComputedStyle(document.body).backgroundColor); };
    const found = [];
    for (const node of document.body.querySelectorAll('*')) {
        const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
        if (!own || !node.checkVisibility() || node.disabled || ['SCRIPT', 'STYLE', 'OPTION'].includes(node.tagName)) continue;
        const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) found.push(node.tagName + ' ' + node.id + '.' + node.className + ' ' + ratio.toFixed(2));
    }
    return found;";

#[test]
fn the_page_can_be_read_and_used_by_everyone() {
    let Some(page) = Page::open() else { return println!("{SKIPPED}") };
    let browser = &page.browser;
    browser.click("#settings");
    page.set("#temperature", "0");
    page.ask("What is 14 + 74?");
    page.answer();
    for theme in ["light", "dark"] {
        browser.run(&format!(
            "const t = document.getElementById('theme'); t.value = '{theme}'; t.dispatchEvent(new Event('change'))"
        ));
        assert_eq!(browser.run(FAINT), json!([]), "{theme} chat");
        page.picture(&format!("chat-{theme}"));
        browser.click("#tab-status");
        browser.wait_for("return document.querySelectorAll('#models tr').length > 0");
        assert_eq!(browser.run(FAINT), json!([]), "{theme} status");
        page.picture(&format!("status-{theme}"));
        browser.click("#tab-chat");
    }
    for element in browser.find_all("button, input, select, textarea, [role=tabpanel], canvas, #log") {
        let (label, role) = browser.accessible(&element);
        assert!(
            !label.trim().is_empty() || role == "none" || role == "ignored" || role.is_empty(),
            "a {role} without a name"
        );
    }
    // On a phone nothing lies outside of the window.
    browser.click("#settings");
    browser.resize(400, 800);
    browser.wait_for("return document.documentElement.scrollWidth <= innerWidth");
    page.picture("phone");
    browser.click("#tab-status");
    browser.wait_for("return document.documentElement.scrollWidth <= innerWidth");
    browser.wait_for(
        "return [...document.querySelectorAll('#status .scroll')].every(box => box.scrollWidth <= box.clientWidth)",
    );
    let names =
        browser.run("return [...document.querySelectorAll('#models tr:first-child td')].map(c => c.dataset.label)");
    assert_eq!(names, json!(["Model", "State", "KV cache", "Running", "Waiting", "Context", "Memory"]));
    page.picture("phone-status");
    page.close();
}
