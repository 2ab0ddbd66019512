//! Contexts past a window, past 4k and past 32k positions, and the memory that a window saves.

mod longrope;
mod naive;

use std::path::Path;
use std::sync::Arc;

use naive::{ATTENTION_CAP, FINAL_CAP, Family, Layer, Naive};
use rocmforge_e2e::server::run;
use rocmforge_e2e::{
    NoVocabulary, Random, Specification, TOLERANCE, Tiny, greedy, load, load_options, logits_of, max_difference,
    plugins,
};
use rocmforge_engine::{
    EngineConfig, EngineHandle, Event, GenerateRequest, Rows, SamplingParams, SingleSequence, StopParams,
};
use rocmforge_gguf::{GgufFile, Value};
use rocmforge_loader::Model;
use rocmforge_program::{DType, Op, rope};

const HIDDEN: usize = 32;
const HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const FFN: usize = 32;
const VOCAB: usize = 64;
const CONTEXT: usize = 40_960;
const WINDOW: usize = 128;
/// Where logits are compared: around the window's length, around 4k, around 32k, and beyond.
const POSITIONS: [usize; 16] =
    [0, 99, 126, 127, 128, 129, 255, 999, 4094, 4095, 4096, 4500, 32_766, 32_767, 32_768, 33_000];

/// Weights so large that attention has favourites far away; with small ones a position more or less would not show.
fn model(architecture: &str, layers: usize) -> Tiny {
    let sizes = [
        ("embedding_length", HIDDEN as u32),
        ("block_count", layers as u32),
        ("feed_forward_length", FFN as u32),
        ("context_length", CONTEXT as u32),
        ("attention.head_count", HEADS as u32),
        ("attention.head_count_kv", 1),
        ("attention.key_length", HEAD_DIM as u32),
        ("attention.value_length", HEAD_DIM as u32),
    ];
    let mut t = Tiny::new(architecture, 5, &sizes);
    t.floats("token_embd.weight", &[VOCAB, HIDDEN], 0.0, 1.0);
    t.floats("output_norm.weight", &[HIDDEN], 1.0, 0.2);
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for part in ["attn_norm", "ffn_norm"] {
            t.floats(&name(part), &[HIDDEN], 1.0, 0.2);
        }
        t.floats(&name("attn_q"), &[HEADS * HEAD_DIM, HIDDEN], 0.0, 0.7);
        t.floats(&name("attn_k"), &[HEAD_DIM, HIDDEN], 0.0, 0.7);
        t.floats(&name("attn_v"), &[HEAD_DIM, HIDDEN], 0.0, 0.3);
        t.floats(&name("attn_output"), &[HIDDEN, HEADS * HEAD_DIM], 0.0, 0.5);
        t.floats(&name("ffn_gate"), &[FFN, HIDDEN], 0.0, 0.3);
        t.floats(&name("ffn_up"), &[FFN, HIDDEN], 0.0, 0.3);
        t.floats(&name("ffn_down"), &[HIDDEN, FFN], 0.0, 0.3);
    }
    t
}

/// One layer with the window, then one that sees everything.
fn gemma() -> Tiny {
    let mut t = model("gemma2", 2);
    t.set("attention.sliding_window", Value::U32(WINDOW as u32));
    t.set("attn_logit_softcapping", Value::F32(ATTENTION_CAP as f32));
    t.set("final_logit_softcapping", Value::F32(FINAL_CAP as f32));
    for layer in 0..2 {
        for part in ["post_attention_norm", "post_ffw_norm"] {
            t.floats(&format!("blk.{layer}.{part}.weight"), &[HIDDEN], 1.0, 0.2);
        }
    }
    t
}

fn llama(layers: usize) -> Tiny {
    let mut t = model("llama", layers);
    t.floats("output.weight", &[VOCAB, HIDDEN], 0.0, 0.3);
    t
}

/// Five layers with the window and a rope base of their own, then one that sees everything, whose rope is stretched.
fn gemma3() -> Tiny {
    let mut t = model("gemma3", 6);
    t.set("attention.sliding_window", Value::U32(WINDOW as u32));
    t.set("rope.freq_base", Value::F32(1e6));
    t.set("rope.freq_base_swa", Value::F32(1e4));
    t.set("rope.scaling.type", Value::String("linear".into()));
    t.set("rope.scaling.factor", Value::F32(8.0));
    for layer in 0..6 {
        for part in ["post_attention_norm", "post_ffw_norm"] {
            t.floats(&format!("blk.{layer}.{part}.weight"), &[HIDDEN], 1.0, 0.2);
        }
        for part in ["attn_q_norm", "attn_k_norm"] {
            t.floats(&format!("blk.{layer}.{part}.weight"), &[HEAD_DIM], 1.5, 0.2);
        }
    }
    t
}

/// Radians per position of each pair: `base^(-2i/d) / divisor`.
fn frequencies(base: f64, divisor: f64) -> Vec<f32> {
    let frequency = |i: usize| (base.powf(-2.0 * i as f64 / HEAD_DIM as f64) / divisor) as f32;
    (0..HEAD_DIM / 2).map(frequency).collect()
}

fn layer(window: Option<usize>, frequencies: Vec<f32>) -> Layer {
    Layer { window, frequencies, magnitude: 1.0 }
}

fn naive(file: &GgufFile, family: Family, layers: Vec<Layer>) -> Naive<'_> {
    Naive { file, family, layers, hidden: HIDDEN, head_dim: HEAD_DIM }
}

/// The layers of [`gemma`] with this window.
fn gemma_layers(window: usize) -> Vec<Layer> {
    [Some(window), None].map(|w| layer(w, frequencies(1e4, 1.0))).to_vec()
}

fn f32s(row: &[f64]) -> Vec<f32> {
    row.iter().map(|&x| x as f32).collect()
}

/// Feeds the tokens in pieces that end at the positions, and compares the logits there.
fn check_positions(path: &Path, tokens: &[u32], expected: &[Vec<f64>]) {
    let mut model = load(path, 512, 1);
    let mut sequence = SingleSequence::new(&mut model.executable, tokens.len()).expect("room for the sequence");
    sequence.expect(tokens.len());
    let mut at = 0;
    for (position, expected) in POSITIONS.iter().zip(expected) {
        let mut found = vec![];
        while at <= *position {
            let end = (at + 512).min(position + 1);
            found = sequence.feed(&tokens[at..end], Rows::Last).expect("the step runs").to_vec();
            at = end;
        }
        let difference = max_difference(&found, &f32s(expected));
        println!("position {position}: {difference:.1e}");
        assert!(difference <= TOLERANCE, "position {position}: {difference:e}, expected at most {TOLERANCE:e}");
    }
}

fn check(tiny: &Tiny, family: Family, layers: Vec<Layer>) {
    let file = tiny.file();
    let naive_model = naive(&file, family, layers);
    let tokens = Random::new(11).tokens(POSITIONS[POSITIONS.len() - 1] + 1, VOCAB);

    // The formulas here are those of the interpreter, as far as it goes in reasonable time.
    let short = &tokens[..300];
    let every: Vec<usize> = (0..short.len()).collect();
    let specified = logits_of(&mut Specification::new(&file, 512, 1), short, short.len());
    let written = naive_model.logits(short, &every).concat();
    assert!(max_difference(&specified, &f32s(&written)) <= TOLERANCE);

    let expected = naive_model.logits(&tokens, &POSITIONS);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    tiny.write(&path);
    check_positions(&path, &tokens, &expected);
}

#[test]
fn a_model_with_windows_is_right_past_the_window_and_past_32k() {
    let file = gemma().file();
    // One position more in the window shows far above the tolerance, unless attention hardly looks there.
    let short = Random::new(11).tokens(300, VOCAB);
    let some: Vec<usize> = (WINDOW - 8..WINDOW + 24).collect();
    let [exact, wider] =
        [WINDOW, WINDOW + 1].map(|w| naive(&file, Family::Gemma2, gemma_layers(w)).logits(&short, &some));
    let shows = |i: &usize| max_difference(&f32s(&wider[*i]), &f32s(&exact[*i])) > 4.0 * TOLERANCE;
    let shown: Vec<usize> = (0..some.len()).filter(shows).map(|i| some[i]).collect();
    assert!(shown.len() >= 4, "only {shown:?} tell a window of {WINDOW} from a longer one");
    assert!(shown.iter().all(|&p| p >= WINDOW), "{shown:?}");

    check(&gemma(), Family::Gemma2, gemma_layers(WINDOW));
}

#[test]
fn a_model_with_two_rope_bases_is_right_past_the_window_and_past_32k() {
    let mut layers = vec![layer(Some(WINDOW), frequencies(1e4, 1.0)); 5];
    layers.push(layer(None, frequencies(1e6, 8.0)));
    check(&gemma3(), Family::Gemma3, layers);
}

#[test]
fn a_model_without_windows_is_right_past_32k() {
    check(&llama(1), Family::Llama, vec![layer(None, frequencies(1e4, 1.0))]);
}

#[test]
fn a_model_with_a_window_in_every_layer_is_right_past_32k() {
    let mut tiny = llama(2);
    tiny.set("attention.sliding_window", Value::U32(WINDOW as u32));
    check(&tiny, Family::Llama, vec![layer(Some(WINDOW), frequencies(1e4, 1.0)); 2]);
}

/// The frequencies themselves are compared with recorded ones in the tests of `core/program`.
#[test]
fn a_model_with_yarn_is_right_past_its_original_context() {
    let mut tiny = llama(1);
    tiny.set("rope.scaling.type", Value::String("yarn".into()));
    tiny.set("rope.scaling.factor", Value::F32(8.0));
    tiny.set("rope.scaling.original_context_length", Value::U32(4096));
    let program = Model::program(&plugins(), &tiny.file(), &load_options(16, 1)).expect("a program");
    let rope = program.nodes.iter().find_map(|n| if let Op::Rope(rope) = &n.op { Some(rope) } else { None });
    let frequencies = rope::frequencies(rope.expect("a rope"), None);
    check(&tiny, Family::Llama, vec![Layer { window: None, frequencies, magnitude: 0.1 * 8f64.ln() + 1.0 }]);
}

#[test]
fn a_model_with_rope_divisors_is_right_past_32k() {
    let divisors = [1.0f32, 1.0, 1.5, 4.0, 8.0, 8.0, 8.0, 8.0];
    let mut tiny = llama(1);
    let bytes = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
    tiny.bytes("rope_freqs.weight", DType::F32, &[HEAD_DIM / 2], bytes);
    let frequencies = frequencies(1e4, 1.0).iter().zip(divisors).map(|(f, d)| f / d).collect();
    check(&tiny, Family::Llama, vec![layer(None, frequencies)]);
}

#[test]
fn a_window_holds_only_the_blocks_that_it_needs() {
    const PROMPT: usize = 4200;
    const ANSWER: usize = 300;
    const BUDGET: usize = 64;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    gemma().write(&path);
    let prompt = Random::new(13).tokens(PROMPT, VOCAB);
    let alone = greedy(&mut load(&path, PROMPT, 1), &prompt, ANSWER);

    let model = load(&path, BUDGET, 1);
    let program = model.executable.program();
    let windowed: Vec<bool> = (0..program.group_count()).map(|g| program.group_window(g).is_some()).collect();
    assert_eq!(windowed.iter().filter(|&&w| w).count(), 1, "one group of each kind: {windowed:?}");
    // What a window of w positions can touch while up to BUDGET tokens are computed, and the whole context.
    let (some, all) = ((WINDOW - 1 + BUDGET).div_ceil(16) + 1, (PROMPT + ANSWER).div_ceil(16));
    let config = EngineConfig {
        cache_blocks: windowed.iter().map(|&w| if w { some as u64 } else { all as u64 }).collect(),
        prefix_caching: false,
        // The engine runs at most so many tokens ahead of this test.
        stream_buffer: 4,
        ..EngineConfig::default()
    };
    let engine = EngineHandle::start(model.executable, Arc::new(NoVocabulary), &config).expect("the engine starts");
    let stop = StopParams { max_tokens: Some(ANSWER), ignore_eos: true, ..StopParams::default() };
    let request = GenerateRequest { prompt, sampling: SamplingParams::greedy(), stop, ..GenerateRequest::default() };
    let mut stream = engine.submit(request).expect("the request is taken");
    let (mut answer, mut most) = (vec![], vec![0; windowed.len()]);
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Token(token) => answer.push(token.token),
            Event::Error(e) => panic!("{e}"),
            Event::Prompt(_) | Event::Embedding(_) | Event::Finished(_) => {}
        }
        // By then the prompt is over, and with it steps of many tokens.
        if answer.len() >= 16 {
            most.iter_mut().zip(engine.stats().blocks).for_each(|(most, b)| *most = b.used.max(*most));
        }
    }
    assert_eq!(answer, alone, "with blocks given back as the window passes them");
    assert_eq!(engine.stats().preemptions, 0);
    for (group, &windowed) in windowed.iter().enumerate() {
        // Decoding computes one token at a time, so the window needs no room for a chunk.
        let expected = if windowed { 1..=WINDOW / 16 + 1 } else { PROMPT.div_ceil(16)..=all };
        assert!(expected.contains(&most[group]), "group {group} held {} blocks, expected {expected:?}", most[group]);
    }
}

#[test]
fn inspect_shows_what_a_window_saves() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    gemma().write(&path);
    let output = run(&["inspect", path.to_str().expect("a path in UTF-8")], "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let line = |what: &str| text.lines().find(|l| l.contains(what)).unwrap_or_else(|| panic!("no {what} in {text}"));
    let number = |line: &str, unit: &str| -> f64 {
        let before = line.split(unit).next().and_then(|b| b.trim_end().rsplit(' ').next());
        before.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number of {unit} in {line}"))
    };
    let (window, whole) = (line("(window of 128)"), line("(whole context)"));
    let bytes = number(whole, "bytes per token");
    assert_eq!(number(window, "bytes per token"), bytes, "both groups have one layer of the same size");
    let mib = |tokens: usize| (tokens as f64 * bytes / f64::from(1 << 20) * 10.0).round() / 10.0;
    assert_eq!(number(whole, "MiB"), mib(CONTEXT), "{whole}");
    assert_eq!(number(window, "MiB"), mib(WINDOW + 16), "{window}");
    assert!(number(window, "MiB") < number(whole, "MiB"));
}
