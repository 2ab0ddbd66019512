//! The HIP backend's unmodified library on the stand-in for HIP: whole models, divided models, failing devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use rocmforge_e2e::hip::{StandIn, log_of, logits, ready};
use rocmforge_e2e::server::{Server, host};
use rocmforge_e2e::{build_folder, max_difference};
use rocmforge_test_support::{committed_models, expected_json, npy_f32, repository, token_ids};
use tempfile::TempDir;

/// A configuration with both backends and these options of the first.
fn config(folder: &Path, options: &str) -> PathBuf {
    let architectures = ["llama", "qwen2", "mistral", "gemma", "glm", "phi3"];
    let mut text = format!(
        "search_paths = [{:?}]\n[[plugins]]\nname = \"backend-hip\"\noptional = true\noptions = {{ {options} }}\n\
         [[plugins]]\nname = \"backend-cpu\"\n",
        build_folder().display().to_string()
    );
    architectures.iter().for_each(|a| text.push_str(&format!("[[plugins]]\nname = \"arch-{a}\"\n")));
    let file = folder.join("plugins.toml");
    std::fs::write(&file, text).expect("a file");
    file
}

/// A folder, and in it a configuration with both backends and these options of the first; and a small model.
fn small(options: &str) -> (TempDir, String, String) {
    let temporary = tempfile::tempdir().expect("a folder");
    let config = config(temporary.path(), options).display().to_string();
    (temporary, config, committed_models().join("llama3-gqa/model.gguf").display().to_string())
}

/// Arguments of `logits` for a recorded model, with what was recorded.
fn recorded(name: &str) -> (PathBuf, String, Vec<f32>) {
    let folder = committed_models().join(name);
    let ids = token_ids(&expected_json(&folder)["sequences"]["random48"]["ids"]);
    let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let (_, expected) = npy_f32(folder.join("logits.npy"));
    (folder, ids, expected)
}

/// Runs a recorded model on a stand-in; returns its distance from what was recorded, and the log.
fn distance(stand_in: &StandIn, name: &str, options: &str, more: &[&str]) -> (f32, String) {
    let (folder, ids, expected) = recorded(name);
    let temporary = tempfile::tempdir().expect("a folder");
    let config = config(temporary.path(), options).display().to_string();
    let model = folder.join("model.gguf").display().to_string();
    let mut args = vec!["--config", &config, "logits", "--model", &model, "--tokens", &ids];
    args.extend(["--context-length", "256"]);
    args.extend(more);
    let (found, log) = logits(stand_in.command("rocmforge-host"), temporary.path(), &args);
    (max_difference(&found, &expected), log)
}

const EXACT: &str = "kv_type = 'f32', activations = 'f32'";

#[test]
fn reference_models_give_the_recorded_logits_with_waves_of_32_and_64() {
    if !ready() {
        return;
    }
    for (wave, chunk) in [(32, "48"), (64, "7")] {
        for name in ["llama3-gqa", "gemma2", "glm4", "phi3", "qwen2-yarn", "mixtral"] {
            let (worst, log) = distance(&StandIn::new(wave), name, EXACT, &["--no-fallback", "--chunk", chunk]);
            assert!(worst <= 5e-4, "{name}, waves of {wave}: {worst}\n{log}");
            assert!(log.contains("hip:0"), "{log}");
        }
    }
}

#[test]
fn half_precision_of_the_cache_costs_little() {
    if !ready() {
        return;
    }
    let (worst, log) = distance(
        &StandIn::new(32),
        "llama3-gqa",
        "kv_type = 'f16', activations = 'f32'",
        &["--no-fallback", "--chunk", "1"],
    );
    // Measured as the conformance kit does; on the CPU a cache of this type costs half of the bound.
    let (_, _, expected) = recorded("llama3-gqa");
    let rms = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
    assert!(worst > 0.0 && worst <= 1e-2 * rms, "{worst} of {rms}\n{log}");
}

#[test]
fn a_model_divided_between_devices_and_the_processor_gives_the_same() {
    if !ready() {
        return;
    }
    let one = StandIn::new(32);
    let (worst, log) = distance(&one, "gemma2", EXACT, &["--gpu-layers", "1", "--chunk", "16"]);
    assert!(worst <= 5e-4, "{worst}\n{log}");
    assert!(log.contains("hip:0") && log.contains("cpu      cpu "), "{log}");
    let two = one.with("HIP_STAND_IN_DEVICES", 2);
    let (worst, log) = distance(&two, "llama3-gqa", EXACT, &["--gpu-layers", "1,1", "--chunk", "16"]);
    assert!(worst <= 5e-4, "{worst}\n{log}");
    assert!(log.contains("hip:0") && log.contains("hip:1"), "{log}");
}

#[test]
fn a_model_that_does_not_fit_leaves_its_first_layers_to_the_processor() {
    if !ready() {
        return;
    }
    let small = StandIn::new(32).with("HIP_STAND_IN_MEMORY", 3 << 18);
    let (worst, log) = distance(&small, "llama3-gqa", EXACT, &[]);
    assert!(worst <= 5e-4, "{worst}\n{log}");
    assert!(log.contains("MiB can be used") && log.contains("hip:0 "), "{log}");
}

#[test]
fn without_hip_the_processor_serves_and_one_line_says_so() {
    let (temporary, config, model) = small("");
    let run = |more: &[&str]| {
        let args = ["--config", &config, "generate", "--model", &model, "-p", "a", "-n", "1"];
        let library = temporary.path().join("libamdhip64.so");
        host().args(args).args(more).env("ROCMFORGE_HIP_LIBRARY", library).output().expect("the host runs")
    };
    let output = run(&[]);
    let log = log_of(&output);
    assert!(output.status.success(), "{log}");
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("libamdhip64")).collect();
    assert!(lines.iter().any(|l| l.contains("INFO") && l.contains("going on without it")), "{log}");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    let output = run(&["--no-fallback"]);
    let log = log_of(&output);
    assert!(!output.status.success() && log.contains("fallback to other backends is off"), "{log}");
}

#[test]
fn a_recorded_step_that_gives_something_else_is_told_and_not_used() {
    if !ready() {
        return;
    }
    let (temporary, config, model) = small("");
    let run = |stand_in: StandIn| {
        let out = temporary.path().join("logits.npy").display().to_string();
        let more = ["--tokens", "5,9,2", "--chunk", "1", "--context-length", "64", "--out", &out];
        let output =
            stand_in.host(&[&["--config", &config, "logits", "--model", &model, "--no-fallback"][..], &more].concat());
        let log = log_of(&output);
        assert!(output.status.success(), "{log}");
        (npy_f32(out).1, log)
    };
    let (expected, log) = run(StandIn::new(32));
    assert!(!log.contains("gave other results"), "{log}");
    let (found, log) = run(StandIn::new(32).with("HIP_STAND_IN_GRAPHS", "stale"));
    assert!(log.contains("gave other results") && log.contains("'logits' in 1 of 1 rows"), "{log}");
    assert!(log.contains("repeated kernel by kernel it gives the same"), "{log}");
    assert_eq!(found, expected);
}

#[test]
fn a_failing_device_ends_the_step_with_its_words() {
    if !ready() {
        return;
    }
    let failing = StandIn::new(32).with("HIP_STAND_IN_FAIL", "hipModuleLaunchKernel:60:719");
    let (temporary, config, model) = small("");
    let out = temporary.path().join("logits.npy").display().to_string();
    let tokens = ["--tokens", "1,2,3,4,5,6,7,8,9,10,11,12", "--chunk", "3", "--context-length", "256", "--out", &out];
    let args = ["--config", &config, "logits", "--model", &model];
    let output = failing.host(&[&args[..], &tokens[..]].concat());
    let log = log_of(&output);
    assert!(!output.status.success(), "{log}");
    assert!(log.contains("device hip:0") && log.contains("719"), "{log}");
}

#[test]
fn a_server_on_the_stand_in_answers_through_http() {
    if !ready() {
        return;
    }
    let temporary = tempfile::tempdir().expect("a folder");
    let config = config(temporary.path(), "").display().to_string();
    let model = repository().join("tests/models/llama-demo-Q4_K_M.gguf").display().to_string();
    let stand_in = StandIn::new(32);
    let prepare = |command: &mut Command| stand_in.apply(command);
    let more = ["--model", &model, "--no-fallback", "--context-length", "64"];
    let server = Server::start_prepared(&["--config", &config], &more, &[], prepare);
    let body = r#"{"model":"llama-demo-Q4_K_M","prompt":"What","max_tokens":3,"temperature":0,"stream":true}"#;
    let (status, body) = server.post("/v1/completions", body);
    assert_eq!(status, 200, "{body}");
    assert!(body.matches("data: ").count() >= 3 && body.contains("[DONE]"), "{body}");
}

#[test]
fn a_profile_names_the_kernels() {
    if !ready() {
        return;
    }
    let (_temporary, config, model) = small("");
    let args = ["--config", &config, "bench", "--model", &model, "-p", "4", "-n", "2", "-r", "1", "--profile"];
    let output = StandIn::new(32).host(&args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", log_of(&output));
    for kernel in ["rf_norm", "rf_rope", "rf_gemv_f32", "us per call"] {
        assert!(text.contains(kernel), "{text}");
    }
}

/// Answers of a server on a stand-in to requests that draw in several ways, and how many tokens its device has drawn.
fn drawn(stand_in: &StandIn, options: &str) -> (Vec<String>, u64) {
    let (_temporary, config, model) = small(options);
    let more = ["--model", &model, "--no-fallback", "--context-length", "64"];
    let server = Server::start_prepared(&["--config", &config], &more, &[], |command| stand_in.apply(command));
    let ways = [
        r#""temperature":0"#,
        r#""temperature":0.9,"seed":1"#,
        r#""temperature":0.9,"seed":2,"top_k":20"#,
        r#""temperature":0.9,"seed":3,"top_p":0.8,"n":2"#,
        r#""temperature":0.9,"seed":4,"min_p":0.1,"top_k":30,"top_p":0.9"#,
        r#""temperature":0.9,"seed":5,"logprobs":2"#,
        r#""temperature":0.9,"seed":6,"presence_penalty":1.0"#,
    ];
    let answers = std::thread::scope(|scope| {
        let server = &server;
        // All of them at once: rows that the device draws from are beside others in the same steps.
        let asked = ways.map(|way| {
            scope.spawn(move || {
                let body = format!(r#"{{"model":"model","prompt":"abc","max_tokens":4,"ignore_eos":true,{way}}}"#);
                let (status, body) = server.post("/v1/completions", &body);
                assert_eq!(status, 200, "{body}");
                let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                let choices = answer["choices"].as_array().expect("a list");
                choices.iter().map(|c| c["text"].to_string()).collect::<String>()
            })
        });
        asked.map(|thread| thread.join().expect("an answer")).to_vec()
    });
    let count = server.metric("rocmforge_device_draws_total{").expect("a number of draws");
    (answers, count as u64)
}

#[test]
fn tokens_are_the_same_whether_the_device_or_the_host_draws_them() {
    if !ready() {
        return;
    }
    // Which requests meet in a step differs from run to run, and rounding with it where activations are rounded.
    let (expected, none) = drawn(&StandIn::new(32), &format!("sampling = false, {EXACT}"));
    assert_eq!(none, 0);
    for wave in [32, 64] {
        let (found, count) = drawn(&StandIn::new(wave), EXACT);
        assert_eq!(found, expected, "waves of {wave}");
        // Five of the seven ask for nothing else, one of them for two answers; of 4 tokens each.
        assert_eq!(count, 24);
    }
}

#[test]
fn drawing_is_compared_with_copying_logits() {
    if !ready() {
        return;
    }
    let (_temporary, config, model) = small("");
    let parts = ["-p", "0", "-n", "2", "-r", "1", "-b", "2", "--no-limits", "--sampling", "--json"];
    let args = ["--config", &config, "bench", "--model", &model];
    let output = StandIn::new(64).host(&[&args[..], &parts[..]].concat());
    assert!(output.status.success(), "{}", log_of(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ways = found["sampling"].as_array().expect("a list");
    assert_eq!(ways.len(), 5, "{found}");
    for way in ways {
        assert!(way["device"].as_f64() > Some(0.0) && way["tokens"] == 4, "{way}");
        assert_eq!(way["alike"], way["tokens"], "{way}");
    }
}
