//! The plugins of this repository pass the kit: the CPU backend with every instruction set, the architectures with a
//! real model for each of their claims where the ground truth is at hand.

use rocmforge_conformance::{Outcome, Settings, Subject, Summary};
use rocmforge_test_support::{build_plugins, reference_pack};

#[track_caller]
fn passes(package: &str, settings: Settings) -> Summary {
    let [library] = build_plugins([package]);
    let subject = Subject::load(&library, settings).expect("a plugin");
    let mut summary = Summary::default();
    let mut failures = vec![];
    for case in subject.cases() {
        let outcome = (case.run)();
        summary.add(&outcome);
        if let Outcome::Failed(why) = outcome {
            failures.push(format!("{}: {why}", case.name));
        }
    }
    assert!(failures.is_empty(), "{package}: {failures:#?}");
    summary
}

#[test]
fn the_cpu_backend_passes_with_every_instruction_set() {
    // Two kinds of rounding, of activations and of the cache, are tried one at a time: the kit's bounds are for one.
    let cached = "isa = 'auto'\nactivations = 'f32'\nkv_type = 'f16'";
    for options in ["isa = 'scalar'", "isa = 'avx2'", "isa = 'auto'", "isa = 'auto'\nthreads = 1", cached] {
        let summary = passes("rocmforge-backend-cpu", Settings { options: options.into(), ..Settings::default() });
        assert_eq!(summary.skipped, 0, "{options}: every operation and type is supported");
    }
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
        let summary = passes(package, Settings { models, ..Settings::default() });
        assert!(summary.passed > 0);
        assert!(pack.is_none() || summary.skipped == 0, "{package}: {summary}");
    }
}
