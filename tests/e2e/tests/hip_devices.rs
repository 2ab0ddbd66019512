//! A server on the stand-in for HIP: what becomes of it when its device is lost, and that it gives everything back.

use std::path::{Path, PathBuf};
use std::process::Command;

use rocmforge_e2e::build_folder;
use rocmforge_e2e::hip::{StandIn, ready};
use rocmforge_e2e::server::Server;
use rocmforge_test_support::committed_models;

/// A configuration with both backends, these options of the first, and this text before the plugins.
fn config(folder: &Path, options: &str, before: &str) -> PathBuf {
    let model = committed_models().join("llama3-gqa/model.gguf");
    let text = format!(
        "search_paths = [{:?}]\n{before}\n[models.tiny]\npath = {:?}\ncontext_length = 64\n\
         [[plugins]]\nname = \"backend-hip\"\noptions = {{ {options} }}\n\
         [[plugins]]\nname = \"backend-cpu\"\n[[plugins]]\nname = \"arch-llama\"\n",
        build_folder().display().to_string(),
        model.display().to_string()
    );
    let file = folder.join("plugins.toml");
    std::fs::write(&file, text).expect("a file");
    file
}

fn start(folder: &Path, stand_in: &StandIn, options: &str, before: &str) -> Server {
    let config = config(folder, options, before).display().to_string();
    Server::start_prepared(&["--config", &config], &[], &[], |command: &mut Command| stand_in.apply(command))
}

const BODY: &str = r#"{"model":"tiny","prompt":"abc","max_tokens":30,"temperature":0,"ignore_eos":true}"#;

/// A device that is lost by the kernel with this number: while the model loads some dozens run, a step has about 30.
fn failing(launch: u32) -> StandIn {
    StandIn::new(32).with("HIP_STAND_IN_FAIL", format!("hipModuleLaunchKernel:{launch}:719"))
}

#[test]
fn a_server_goes_on_without_a_lost_device_unless_it_is_to_exit() {
    if !ready() {
        return;
    }
    let temporary = tempfile::tempdir().expect("a folder");
    let server = start(temporary.path(), &failing(400), "graphs = false", "");
    let (status, body) = server.post("/v1/completions", BODY);
    assert!(status == 500 && body.contains("hip:0"), "{status} {body}");
    let (status, body) = server.post("/v1/completions", BODY);
    assert_eq!(status, 200, "{body}");
    assert_eq!(server.get("/ready").0, 200);
    drop(server);

    let mut server = start(temporary.path(), &failing(400), "graphs = false", "[placement]\ndevice_loss = \"exit\"");
    let (status, body) = server.post("/v1/completions", BODY);
    assert!(status == 500 && body.contains("hip:0"), "{status} {body}");
    server.wait_for("stopping, since the device of model 'tiny' is lost");
    server.wait_for("error: the device of model 'tiny' is lost, and device_loss = \"exit\"");
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn models_that_were_unloaded_and_servers_that_stop_give_everything_back() {
    if !ready() {
        return;
    }
    let temporary = tempfile::tempdir().expect("a folder");
    let report = temporary.path().join("report");
    let stand_in = StandIn::new(32).with("HIP_STAND_IN_DEVICES", 2).with("HIP_STAND_IN_REPORT", report.display());
    // On both devices, so that each has something to give back.
    let mut server = start(temporary.path(), &stand_in, "", "[placement]\ngpu_layers = [1, 2]");
    for _ in 0..2 {
        let (status, body) = server.post("/v1/completions", BODY);
        assert_eq!(status, 200, "{body}");
        let (status, body) = server.post("/models/unload", r#"{"model":"tiny"}"#);
        assert_eq!(status, 200, "{body}");
        server.wait_for("unloaded");
    }
    // With the model in memory and an answer under way.
    let (status, body) = server.post("/v1/completions", BODY);
    assert_eq!(status, 200, "{body}");
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let report = std::fs::read_to_string(&report).expect("a report");
    assert!(report.starts_with("leaks: 0\nmisuses: 0\n"), "{report}");
    let calls = |name: &str| {
        let line = report.lines().find_map(|l| l.strip_prefix(&format!("calls: {name} ")));
        line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    assert!(calls("hipMalloc") > 6 && calls("hipMalloc") == calls("hipFree"), "{report}");
    assert_eq!(calls("hipHostMalloc"), calls("hipHostFree"), "{report}");
}
