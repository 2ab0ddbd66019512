//! Models of every family through the built plugins, equal to transformers.

use rocmforge_e2e::{TOLERANCE, build_folder, cases, measure, measure_with, plugins_with, quantised};
use rocmforge_test_support::{committed_models, models, reference_pack};

/// Every model of a family that is at hand; at least one is committed.
fn check(names: &[&str]) {
    let found = models(names);
    assert!(!found.is_empty(), "{names:?}");
    for dir in found {
        let m = measure(&dir);
        let worst = m.prefill.max(m.chunked).max(m.stepwise);
        assert!(worst <= TOLERANCE, "{}: {m:?}", dir.display());
        assert!(m.greedy && m.batched, "{}: {m:?}", dir.display());
        let texts = cases(&dir);
        for (what, count) in [("tokenizer", &texts.tokenizer), ("chat", &texts.chat)] {
            assert_eq!(count.right, count.all, "{}: {what} cases, first wrong: {:?}", dir.display(), count.first_wrong);
        }
    }
}

#[test]
fn a_plugin_named_by_its_file_is_measured_alone() {
    let plugins = plugins_with(&build_folder().join("librocmforge_arch_phi3.so")).expect("the plugin loads");
    let named: Vec<&str> = plugins.architectures().iter().map(|a| a.info().name.as_str()).collect();
    assert_eq!(named, ["phi3"]);
    let m = measure_with(&plugins, &committed_models().join("phi3"));
    assert!(m.prefill.max(m.chunked).max(m.stepwise) <= TOLERANCE && m.greedy && m.batched, "{m:?}");
    let absent = plugins_with(std::path::Path::new("/absent/librival.so")).err().expect("an error");
    assert!(absent.to_string().contains("/absent/librival.so"), "{absent}");
}

#[test]
fn llama_models_equal_transformers() {
    check(&["llama3-gqa", "llama2-spm-mha", "llama-linear-rope", "llama-q"]);
}

#[test]
fn mistral_models_equal_transformers() {
    check(&["mistral7b-spm", "mistral-nemo", "mistral3", "ministral3", "mixtral"]);
}

#[test]
fn qwen_models_equal_transformers() {
    check(&["qwen2", "qwen2-yarn", "qwen2moe", "qwen3", "qwen3moe"]);
}

#[test]
fn gemma_models_equal_transformers() {
    check(&["gemma1", "gemma2", "gemma3"]);
}

#[test]
fn glm_models_equal_transformers() {
    check(&["glm4", "chatglm-fused", "chatglm-sep"]);
}

#[test]
fn phi3_equals_transformers() {
    check(&["phi3"]);
}

/// Every model of the pack belongs to a family above.
#[test]
fn no_reference_model_is_left_out() {
    let source = include_str!("families.rs");
    for root in [reference_pack(), Some(committed_models())].into_iter().flatten() {
        for entry in std::fs::read_dir(root).expect("a folder").map(|e| e.expect("an entry").path()) {
            let name = entry.file_name().and_then(|n| n.to_str()).expect("a name in UTF-8");
            assert!(!entry.join("model.gguf").is_file() || source.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}

/// Quantised copies against transformers on the dequantised weights. Activations may be quantised, so the bound is
/// twice what llama.cpp shows, or what was recorded for the coarsest activations where nothing was recorded.
#[test]
fn quantised_models_stay_near_their_dequantised_weights() {
    let found = quantised(&reference_pack().unwrap_or_else(committed_models));
    for q in &found {
        let bound = 2.0 * q.recorded_rms.unwrap_or(0.15);
        assert!(q.rms <= bound && q.stepwise_rms <= bound, "{q:?}, expected at most {bound}");
        assert!(q.greedy, "{q:?}");
    }
    assert!(!found.is_empty(), "no quantised model at hand");
}
