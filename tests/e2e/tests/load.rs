//! A short load of every kind of client; `cargo run --release -p rocmforge-e2e --bin load -- soak` is the long one.

use std::process::Command;
use std::time::Duration;

use rocmforge_e2e::load::{Plan, run, serve_demo, stop_under_load};

#[test]
fn a_server_under_load_loses_no_request_and_keeps_nothing() {
    let plan = Plan {
        clients: 24,
        requests: 500,
        warm_up: 250,
        limit: Duration::from_secs(90),
        half_open: 100,
        idle: Duration::from_secs(5),
    };
    let mut server = serve_demo();
    let report = run(&server, &plan);
    println!("{}", report.text());
    assert_eq!(report.faults(), [""; 0]);
    assert_eq!(stop_under_load(&mut server, 8), Ok(()));
}

#[test]
fn conversations_that_cannot_be_read_are_named_with_their_line() {
    let folder = tempfile::tempdir().expect("a folder for files");
    let server = serve_demo();
    let check = |text: Option<&str>, status: i32, part: &str| {
        let file = folder.path().join("prompts.jsonl");
        let _ = std::fs::remove_file(&file);
        if let Some(text) = text {
            std::fs::write(&file, text).expect("the file is written");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
        command.args(["guesses", &server.address, "--requests", "2", "--tokens", "8", "--prompts"]).arg(&file);
        let output = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(status) && said.contains(part), "{text:?}: {:?} {said}", output.status);
        assert!(status == 0 || said.contains("prompts.jsonl"), "{said}");
    };
    let good = r#"{"messages": [{"role": "user", "content": "Tell me a story."}], "more": 1}"#;
    check(None, 2, "No such file");
    check(Some(""), 2, "found none");
    check(Some(&format!("{good}\n{{\"messages\": [")), 2, "line 2: EOF while parsing");
    check(Some(&format!("{good}\n{good}\n{{\"prompt\": \"x\"}}\n")), 2, "line 3: expected an object with `messages`");
    check(Some("[]"), 2, "line 1");
    check(Some(&format!("{good}\n{good}\n")), 0, "2 greedy streams");
}
