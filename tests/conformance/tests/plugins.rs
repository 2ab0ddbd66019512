//! The plugins of this repository pass the kit: the CPU backend with every instruction set, the architectures with a
//! real model for each of their claims where the ground truth is at hand.

use rocmforge_conformance::{Outcome, Settings, Subject, Summary};
use rocmforge_test_support::{build_plugins, reference_pack};

/// What came of the cases, and the names of those that were skipped.
#[track_caller]
fn passes(package: &str, settings: Settings) -> (Summary, Vec<String>) {
    let [library] = build_plugins([package]);
    let subject = Subject::load(&library, settings).expect("a plugin");
    let mut summary = Summary::default();
    let (mut failures, mut skipped) = (vec![], vec![]);
    for case in subject.cases() {
        let outcome = (case.run)();
        summary.add(&outcome);
        match outcome {
            Outcome::Failed(why) => failures.push(format!("{}: {why}", case.name)),
            Outcome::Skipped(_) => skipped.push(case.name.to_string()),
            Outcome::Passed => {}
        }
    }
    assert!(failures.is_empty(), "{package}: {failures:#?}");
    (summary, skipped)
}

#[test]
fn the_cpu_backend_passes_with_every_instruction_set() {
    // Two kinds of rounding, of activations and of the cache, are tried one at a time: the kit's bounds are for one.
    let cached = "isa = 'auto'\nactivations = 'f32'\nkv_type = 'f16'";
    for options in ["isa = 'scalar'", "isa = 'avx2'", "isa = 'auto'", "isa = 'auto'\nthreads = 1", cached] {
        let settings = Settings { options: options.into(), ..Settings::default() };
        let (_, mut skipped) = passes("rocmforge-backend-cpu", settings);
        // Tokens are drawn by the host, to which the logits are at hand.
        skipped.retain(|name| !name.starts_with("sample/"));
        assert!(skipped.is_empty(), "{options}: every operation and type is supported, but {skipped:?}");
    }
}

#[test]
fn vector_instructions_of_the_cpu_backend_are_no_calls() {
    // A loop that calls a function for each of its instructions, as that is not compiled into it, gives the right results,
    // up to a hundred times slower. The names of such functions are in the library.
    let [library] = build_plugins(["rocmforge-backend-cpu"]);
    let bytes = std::fs::read(&library).expect("a library");
    let names: Vec<&[u8]> = bytes.split(|&b| b == 0).filter(|name| name.starts_with(b"_")).collect();
    let holds = |name: &[u8], part: &str| name.windows(part.len()).any(|w| w == part.as_bytes());
    assert!(names.iter().any(|name| holds(name, "rocmforge_kernels_cpu")), "{}: no names", library.display());
    let calls = names.iter().filter(|name| holds(name, "core_arch3x86") && holds(name, "avx"));
    let calls: Vec<_> = calls.map(|name| String::from_utf8_lossy(name)).collect();
    assert!(calls.is_empty(), "{calls:#?}");
}

#[test]
fn the_architectures_pass_with_real_models() {
    let all: [(&str, &[&str]); 6] = [
        ("rocmforge-arch-llama", &["llama3-gqa"]),
        ("rocmforge-arch-mistral", &["mistral-nemo", "mistral3"]),
        ("rocmforge-arch-gemma", &["gemma1", "gemma2", "gemma3"]),
        ("rocmforge-arch-glm", &["chatglm-fused", "glm4"]),
        ("rocmforge-arch-qwen2", &["qwen2", "qwen2moe", "qwen3", "qwen3moe"]),
        ("rocmforge-arch-phi3", &["phi3"]),
    ];
    let pack = reference_pack();
    if pack.is_none() {
        println!("skipped: models of claims other than llama, not in this checkout");
    }
    for (package, names) in all {
        let models = pack.iter().flat_map(|p| names.iter().map(|n| p.join(n).join("model.gguf"))).collect();
        let (summary, skipped) = passes(package, Settings { models, ..Settings::default() });
        assert!(summary.passed > 0);
        assert!(pack.is_none() || skipped.is_empty(), "{package}: {summary}, skipped {skipped:?}");
    }
}
