//! Models of the reference pack through the built plugins, equal to transformers.

use std::path::Path;

use rocmforge_e2e::{TOLERANCE, argmax, load, logits, max_difference, measure, rms_difference};
use rocmforge_test_support::{committed_models, expected_json, models, npy_f32, reference_pack, token_ids};

fn check(dir: &Path) {
    let m = measure(dir);
    let worst = m.prefill.max(m.chunked).max(m.stepwise);
    assert!(worst <= TOLERANCE, "{}: {m:?}", dir.display());
    assert!(m.greedy && m.batched, "{}: {m:?}", dir.display());
}

#[test]
fn llama_models_equal_transformers() {
    let names = ["llama3-gqa", "llama2-spm-mha", "llama-linear-rope", "mistral7b-spm", "mistral-nemo", "llama-q"];
    let found = models(&names);
    assert!(!found.is_empty());
    found.iter().for_each(|dir| check(dir));
}

/// Quantised copies against transformers on the dequantised weights. Activations may be quantised, so the bound is
/// twice what llama.cpp shows, or what was recorded for the coarsest activations where nothing was recorded.
#[test]
fn quantised_models_stay_near_their_dequantised_weights() {
    let pack = reference_pack().unwrap_or_else(committed_models);
    let dir = pack.join("llama-q");
    if !dir.is_dir() {
        println!("skipped: {} is not there", dir.display());
        return;
    }
    let expected = expected_json(&dir);
    let ids = token_ids(&expected["sequences"]["random48"]["ids"]);
    let mut checked = 0;
    let more = pack.join("llama-q-quants/quants.json");
    let more = std::fs::read(more).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    let sets = [
        (dir.clone(), Some(expected["quants"].clone())),
        (pack.join("llama-q-quants"), more.map(|m| m["quants"].clone())),
    ];
    for (folder, quants) in sets {
        for (name, quant) in quants.iter().filter_map(|q| q.as_object()).flatten() {
            let file = folder.join(quant["file"].as_str().expect("a file name"));
            if !file.is_file() {
                println!("skipped: {} is not there", file.display());
                continue;
            }
            let (_, recorded) = npy_f32(folder.join(quant["logits"].as_str().expect("a file name")));
            let mut model = load(&file, 128, 1);
            let ours = logits(&mut model, &ids, ids.len());
            let rms = rms_difference(&ours, &recorded);
            let bound = 2.0 * quant["llamacpp_rms"].as_f64().unwrap_or(0.15);
            assert!(rms <= bound, "{name}: rms {rms}, expected at most {bound}");
            let stepwise = logits(&mut model, &ids, 1);
            let apart = max_difference(&ours, &stepwise);
            println!("{name}: rms {rms:.2e} (bound {bound:.2e}), token by token apart by {apart:.1e}");
            assert!(rms_difference(&stepwise, &recorded) <= bound, "{name} token by token");
            let vocab = model.executable.program().info.vocab_size;
            assert_eq!(ours.len() % vocab, 0);
            let first = token_ids(&quant["greedy_ids"])[0];
            assert_eq!(argmax(&ours[ours.len() - vocab..]), first, "{name}: greedy token");
            checked += 1;
        }
    }
    assert!(checked > 0, "no quantised model at hand");
}
