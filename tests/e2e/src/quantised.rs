//! Quantised copies of a reference model.

use std::path::Path;

use rocmforge_test_support::{expected_json, npy_f32, token_ids};
use serde_json::Value;

use crate::{argmax, load, logits, rms_difference};

/// How far a quantised model is from transformers on the dequantised weights.
#[derive(Debug)]
pub struct Quantised {
    /// What llama.cpp calls the mix.
    pub name: String,
    /// Element types in the file.
    pub types: Vec<String>,
    /// Root mean square of the differences, the whole prompt in one step.
    pub rms: f64,
    /// The same, token by token.
    pub stepwise_rms: f64,
    /// The same for llama.cpp, where it was recorded.
    pub recorded_rms: Option<f64>,
    /// The first greedy token equals the one recorded.
    pub greedy: bool,
}

/// Measures every quantised model of the pack that is at hand.
pub fn quantised(pack: &Path) -> Vec<Quantised> {
    let dir = pack.join("llama-q");
    if !dir.is_dir() {
        println!("skipped: {} is not there", dir.display());
        return vec![];
    }
    let expected = expected_json(&dir);
    let ids = token_ids(&expected["sequences"]["random48"]["ids"]);
    let more = pack.join("llama-q-quants");
    let list = std::fs::read(more.join("quants.json")).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
    let sets = [(dir, Some(&expected["quants"])), (more, list.as_ref().map(|m| &m["quants"]))];
    let mut all = vec![];
    for (folder, quants) in sets {
        let entries = quants.and_then(Value::as_object).into_iter().flatten();
        all.extend(entries.filter_map(|(name, quant)| measure(&folder, name, quant, &ids)));
    }
    all
}

fn measure(folder: &Path, name: &str, quant: &Value, ids: &[u32]) -> Option<Quantised> {
    let path = |key: &str| folder.join(quant[key].as_str().expect("a file name"));
    if !path("file").is_file() {
        println!("skipped: {} is not there", path("file").display());
        return None;
    }
    let (_, recorded) = npy_f32(path("logits"));
    let mut model = load(&path("file"), 128, 1);
    let ours = logits(&mut model, ids, ids.len());
    let vocab = model.executable.program().info.vocab_size;
    let types = quant["tensor_types"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Some(Quantised {
        name: name.to_owned(),
        types: types.map(str::to_owned).collect(),
        rms: rms_difference(&ours, &recorded),
        stepwise_rms: rms_difference(&logits(&mut model, ids, 1), &recorded),
        recorded_rms: quant["llamacpp_rms"].as_f64(),
        greedy: argmax(&ours[ours.len() - vocab..]) == token_ids(&quant["greedy_ids"])[0],
    })
}
