//! The kit passes what is right and notices what is wrong.

use std::path::Path;

use rocmforge_conformance::{Outcome, Settings, Subject, Summary};
use rocmforge_test_support::{build_plugins, committed_models};

fn settings(options: &str) -> Settings {
    Settings { options: options.into(), ..Settings::default() }
}

/// Runs the cases whose name contains `filter`.
fn run(plugin: &Path, settings: Settings, filter: &str) -> (Summary, Vec<String>) {
    let subject = Subject::load(plugin, settings).expect("a plugin");
    let (mut summary, mut failures) = (Summary::default(), vec![]);
    for case in subject.cases().iter().filter(|c| c.name.contains(filter)) {
        let outcome = (case.run)();
        summary.add(&outcome);
        if let Outcome::Failed(why) = outcome {
            failures.push(format!("{}: {why}", case.name));
        }
    }
    (summary, failures)
}

#[test]
fn a_correct_backend_passes_everything() {
    let [reference] = build_plugins(["fixture-reference"]);
    let (summary, failures) = run(&reference, settings(""), "");
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!((summary.failed, summary.skipped), (0, 0));
}

#[test]
fn an_architecture_passes_with_a_made_up_model_and_with_a_real_one() {
    let [llama] = build_plugins(["rocmforge-arch-llama"]);
    let model = committed_models().join("llama3-gqa/model.gguf");
    for settings in [Settings::default(), Settings { models: vec![model], ..Settings::default() }] {
        let (summary, failures) = run(&llama, settings, "");
        assert!(failures.is_empty(), "{failures:#?}");
        assert_eq!((summary.failed, summary.skipped), (0, 0));
    }
}

#[test]
fn every_mistake_of_a_backend_is_noticed() {
    let [reference] = build_plugins(["fixture-reference"]);
    // The fault, and the cases that must notice it.
    let check = |fault: &str, filter: &str| {
        let (_, failures) = run(&reference, settings(&format!("fault = '{fault}'")), filter);
        assert!(!failures.is_empty(), "'{fault}' goes unnoticed by '{filter}'");
    };
    check("norm without epsilon", "rms_norm/");
    check("norm without epsilon", "layer_norm/");
    check("norm without weight", "rms_norm/");
    check("norm without weight", "layer_norm/");
    check("layer norm without bias", "layer_norm/");
    check("linear without bias", "linear/F32");
    check("linear without bias", "linear/Q8_0");
    check("experts without bias", "expert_linear/F32");
    check("experts without bias", "expert_linear/Q8_0");
    check("embed without scale", "embed/scale");
    check("scale without addition", "scale/");
    check("a cap 1% too high", "softcap/");
    check("gelu of the wrong kind", "unary/GeluErf");
    check("gelu of the wrong kind", "gated_act/GeluErf");
    check("gate and up swapped", "gated_act/");
    check("sub the other way round", "sub/");
    check("split the other way round", "split/");
    check("concat the other way round", "concat/");
    check("slice from the start", "slice/");
    check("position scale from 0", "position_scale/");
    check("first instead of mean", "mean_pool/");
    check("rope of the other style", "rope/Half");
    check("rope of the other style", "rope/Interleaved");
    check("rope without factors", "rope/Half/factors");
    check("rope without scaling", "rope/Half/linear");
    check("rope without scaling", "rope/Half/llama3");
    check("rope without scaling", "rope/Half/yarn");
    check("rope without ramp", "rope/Half/yarn");
    check("rope without magnitude", "rope/Half/magnitude");
    check("rope with the usual base", "rope/Half/base");
    check("attention without window", "attention/window");
    check("a window one too narrow", "attention/window");
    check("attention without softcap", "attention/softcap");
    check("attention without sinks", "attention/sinks");
    check("attention with the usual scale", "attention/");
    check("router without renormalization", "router/Softmax/");
    check("router without renormalization", "router/Sigmoid/");
    check("router without scale", "router/");
    check("router without bias", "router/");
    check("softmax after the choice", "router/Softmax/");
    check("always the likeliest token", "sample/temperature");
    check("draws without temperature", "sample/temperature");
    check("draws without top_k", "sample/top-k");
    check("draws without top_p", "sample/top-p");
    check("draws without min_p", "sample/min-p");
    check("draws at one quantile", "sample/temperature");
    check("draws from the first row", "sample/greedy");
    check("a wrong last element", "linear/F32");
    check("the same row for all", "gather_rows/");
    check("an output that is not written", "reshape/");
}

#[test]
fn a_backend_that_panics_or_computes_nothing_fails() {
    let [panics] = build_plugins(["fixture-panics"]);
    for (at, filter) in [
        ("devices", "abi/backend panics/devices"),
        ("supports", "abi/backend panics/unknown operations"),
        ("extensions", "abi/backend panics/extensions"),
        ("destroy", "abi/backend panics/created and destroyed"),
        ("destroy executable", "abi/backend panics/compiled and destroyed"),
        ("compile", "abi/executable of panics/"),
        ("memory", "abi/backend panics/compiled and destroyed"),
        ("bind", "abi/executable of panics/"),
        ("submit", "abi/executable of panics/turns"),
        ("nowhere", "linear/F32"),
        ("nowhere", "attention/plain"),
    ] {
        let filter = if at == "submit" { "submit and wait come in turn" } else { filter };
        let (summary, _) = run(&panics, settings(&format!("at = '{at}'")), filter);
        assert!(summary.failed > 0, "a panic at '{at}' goes unnoticed by '{filter}': {summary}");
    }
    let (summary, failures) = run(&panics, settings("at = 'nowhere'"), "architecture panics-in-build/");
    assert_eq!(summary.passed, 0, "{summary}");
    assert!(failures.iter().all(|f| f.contains("a panic in build")), "{failures:#?}");
}

#[test]
fn the_program_reports_and_exits_by_what_it_found() {
    let [reference, panics, ir, crashes] =
        build_plugins(["fixture-reference", "fixture-panics", "fixture-other-ir", "fixture-crashes"]);
    let check = |library: &Path, args: &[&str], code: i32, last: &str, error: &str| {
        let program = env!("CARGO_BIN_EXE_rocmforge-conformance");
        let output = std::process::Command::new(program).arg(library).args(args).output().expect("the program");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{out}{err}");
        assert!(out.lines().last().unwrap_or_default().starts_with(last), "expected '{last}' at the end of {out}");
        assert!(err.contains(error), "expected '{error}' in {err}");
    };
    check(&reference, &["--filter", "softcap/"], 0, "2 passed, 0 failed, 0 skipped", "");
    check(
        &reference,
        &["--filter", "softcap/", "--options", "fault = 'a cap 1% too high'"],
        1,
        "0 passed, 2 failed",
        "",
    );
    check(&reference, &["--filter", "softcap/", "--list"], 0, "softcap/0.5", "");
    check(&panics, &["--options", "at = 'nowhere'", "--filter", "softcap/", "--quiet"], 1, "0 passed, 2 failed", "");
    check(&panics, &[], 2, "", "a panic in create");
    check(&reference, &["--options", "fault = "], 2, "", "--options: expected TOML");
    check(&reference, &["--model", "/nowhere.gguf"], 2, "", "/nowhere.gguf");
    check(&ir, &[], 2, "", "version 2.0.0 of the Program IR");
    check(&crashes, &[], 2, "", "crashes while it is loaded");
}
