//! Every weight format in every place, through the CPU plugin, against the reference interpreter.

use std::path::Path;

use rocmforge_e2e::{
    Random, Specification, Tiny, exact_plugins, load_with, logits, logits_of, plugins, rms_difference,
};
use rocmforge_program::DType;

/// The formats of `core/quant/tests/golden`.
const TYPES: [DType; 27] = {
    use DType::*;
    [
        F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S,
        IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0,
    ]
};
/// Root mean square difference that is accepted, as a part of the logits' own: the backend sums in f32 and in another
/// order. A wrong scale, sign or code in one block of a matrix shows far above it.
const TOLERANCE: f64 = 5e-4;
/// The same where the backend rounds activations to 8 bits: about 1 part in 100 of a product, in 14 products one after
/// another. A wrong scale or code shows as 1 or more.
const ROUNDED: f64 = 5e-2;
const HIDDEN: usize = 256;
const FFN: usize = 512;
const VOCAB: usize = 80;
const EXPERTS: usize = 4;
const LAYERS: usize = 2;

/// Adds a matrix of recorded blocks of the format, in an order without pattern; returns the root mean square of its
/// elements, which differs between formats by a factor of 10,000.
fn matrix(tiny: &mut Tiny, name: &str, dtype: DType, dims: &[usize]) -> f32 {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../core/quant/tests/golden");
    let blocks = std::fs::read(golden.join(format!("{dtype}.bytes"))).expect("recorded blocks");
    let layout = dtype.layout();
    let blocks: Vec<&[u8]> = blocks.chunks_exact(layout.block_bytes).collect();
    let elements: usize = dims.iter().product();
    let picked = (0..elements / layout.block_elements).flat_map(|_| blocks[tiny.random.below(blocks.len())]);
    let bytes: Vec<u8> = picked.copied().collect();
    let mut values = vec![0.0f32; elements];
    rocmforge_quant::dequantize(dtype, &bytes, &mut values).expect("whole blocks");
    tiny.bytes(name, dtype, dims, bytes);
    (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / elements as f64).sqrt() as f32
}

/// A norm whose result a matrix with elements of `rms` maps to numbers around 1, so that nothing saturates.
fn norm(tiny: &mut Tiny, name: &str, rms: f32) {
    let center = 1.0 / (rms * (HIDDEN as f32).sqrt());
    tiny.floats(name, &[HIDDEN], center, 0.2 * center);
}

fn sizes() -> Vec<(&'static str, u32)> {
    vec![
        ("embedding_length", HIDDEN as u32),
        ("block_count", LAYERS as u32),
        ("feed_forward_length", FFN as u32),
        ("context_length", 256),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ]
}

/// Gemma 3, whose norms on queries, keys and the results of both halves of a layer keep every matrix in proportion
/// whatever its format. `next` says which format the next matrix has.
fn dense(seed: u64, mut next: impl FnMut() -> DType) -> Tiny {
    let mut t = Tiny::new("gemma3", seed, &sizes());
    t.set("attention.sliding_window", rocmforge_gguf::Value::U32(8));
    let embedding = matrix(&mut t, "token_embd.weight", next(), &[VOCAB, HIDDEN]) * (HIDDEN as f32).sqrt();
    let head = matrix(&mut t, "output.weight", next(), &[VOCAB, HIDDEN]);
    norm(&mut t, "output_norm.weight", head);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        t.floats(&name("attn_norm"), &[HIDDEN], 1.0, 0.2);
        for (part, rows) in [("attn_q", HIDDEN), ("attn_k", HIDDEN / 2), ("attn_v", HIDDEN / 2)] {
            matrix(&mut t, &name(part), next(), &[rows, HIDDEN]);
        }
        matrix(&mut t, &name("attn_output"), next(), &[HIDDEN, HIDDEN]);
        t.floats(&name("attn_q_norm"), &[HIDDEN / 4], 1.0, 0.2);
        t.floats(&name("attn_k_norm"), &[HIDDEN / 4], 1.0, 0.2);
        t.floats(&name("post_attention_norm"), &[HIDDEN], embedding, 0.2 * embedding);
        let gate = matrix(&mut t, &name("ffn_gate"), next(), &[FFN, HIDDEN]);
        matrix(&mut t, &name("ffn_up"), next(), &[FFN, HIDDEN]);
        matrix(&mut t, &name("ffn_down"), next(), &[HIDDEN, FFN]);
        norm(&mut t, &name("ffn_norm"), gate);
        t.floats(&name("post_ffw_norm"), &[HIDDEN], embedding, 0.2 * embedding);
    }
    t
}

/// A mixture of experts with tied head and every matrix but the router's in one format.
fn experts(seed: u64, dtype: DType) -> Tiny {
    let mut t = Tiny::new("llama", seed, &sizes());
    t.set("expert_count", rocmforge_gguf::Value::U32(EXPERTS as u32));
    t.set("expert_used_count", rocmforge_gguf::Value::U32(2));
    let rms = matrix(&mut t, "token_embd.weight", dtype, &[VOCAB, HIDDEN]);
    norm(&mut t, "output_norm.weight", rms);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        norm(&mut t, &name("attn_norm"), rms);
        for (part, rows) in [("attn_q", HIDDEN), ("attn_k", HIDDEN / 2), ("attn_v", HIDDEN / 2)] {
            matrix(&mut t, &name(part), dtype, &[rows, HIDDEN]);
        }
        matrix(&mut t, &name("attn_output"), dtype, &[HIDDEN, HIDDEN]);
        norm(&mut t, &name("ffn_norm"), rms);
        t.floats(&name("ffn_gate_inp"), &[EXPERTS, HIDDEN], 0.0, rms);
        matrix(&mut t, &name("ffn_gate_exps"), dtype, &[EXPERTS, FFN, HIDDEN]);
        matrix(&mut t, &name("ffn_up_exps"), dtype, &[EXPERTS, FFN, HIDDEN]);
        matrix(&mut t, &name("ffn_down_exps"), dtype, &[EXPERTS, HIDDEN, FFN]);
    }
    t
}

/// A prompt in one step, in pieces and token by token: with the same bits.
fn check(what: &str, tiny: &Tiny, rounded: Option<f64>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    tiny.write(&path);
    let tokens = Random::new(7).tokens(12, VOCAB);
    let expected = logits_of(&mut Specification::new(&tiny.file(), 16, 1), &tokens, tokens.len());
    let size = rms_difference(&expected, &vec![0.0; expected.len()]);
    assert!(size.is_finite() && size > 0.01, "{what}: logits of size {size} show nothing");
    let exact = (exact_plugins(), "f32", TOLERANCE);
    for (plugins, form, most) in [Some(exact), rounded.map(|most| (plugins(), "int8", most))].into_iter().flatten() {
        let mut model = load_with(&plugins, &path, 16, 1);
        let alone = logits(&mut model, &tokens, 1);
        for chunk in [tokens.len(), 5, 1] {
            let found = logits(&mut model, &tokens, chunk);
            assert!(found == alone, "{what} in steps of {chunk}, {form}: not the same bits as token by token");
            let difference = rms_difference(&found, &expected) / size;
            println!("{what} in steps of {chunk}, {form}: {difference:.1e} of {size:.2}");
            assert!(
                difference <= most,
                "{what} in steps of {chunk}, {form}: {difference:e}, expected at most {most:e}"
            );
        }
    }
}

#[test]
fn every_format_is_right_in_embedding_head_and_matrices() {
    for dtype in TYPES {
        check(dtype.name(), &dense(1, || dtype), Some(ROUNDED));
    }
}

/// Only with exact activations: rounding decides between experts that are nearly as good, and then everything changes.
#[test]
fn every_format_is_right_in_experts_and_a_tied_head() {
    for dtype in TYPES {
        check(&format!("experts of {dtype}"), &experts(2, dtype), None);
    }
}

/// 16 matrices a file, each of another format, so that in three files every format meets every place's neighbours. Only with
/// exact activations: the recorded blocks of formats differ in size by a factor of 10,000, and one magnifies what another
/// rounds.
#[test]
fn formats_mix_within_a_file() {
    for start in [0, 9, 18] {
        let mut formats = TYPES.iter().copied().cycle().skip(start);
        check(&format!("a mix from {}", TYPES[start]), &dense(3, || formats.next().expect("a cycle")), None);
    }
}
