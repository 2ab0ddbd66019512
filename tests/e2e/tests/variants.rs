//! Files of the families in other spellings: older keys, keys that few files have, and models that only look alike.

use rocmforge_e2e::server::run;
use rocmforge_e2e::{Random, Tiny, Variant, load_options, plugins};
use rocmforge_gguf::{GgufFile, Value};
use rocmforge_loader::{LoadOptions, Model};
use rocmforge_program::{InputSource, Op, Program, Rope, RopeScaling};

fn build(file: &GgufFile, context: u32) -> Result<Program, String> {
    let options = LoadOptions { context_length: Some(context), ..load_options(16, 1) };
    Model::program(&plugins(), file, &options).map_err(|e| e.to_string())
}

fn program(variant: &Variant) -> Program {
    build(&variant.file(), 256).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(what: &str, variant: &Variant, parts: &[&str]) {
    let message = build(&variant.file(), 256).err().unwrap_or_else(|| panic!("{what}: accepted"));
    for part in parts {
        assert!(message.contains(part), "{what}: no {part:?} in {message:?}");
    }
}

fn windows(program: &Program) -> Vec<Option<u32>> {
    program.caches.iter().map(|c| c.window).collect()
}

fn ropes(program: &Program) -> Vec<&Rope> {
    program.nodes.iter().filter_map(|n| if let Op::Rope(rope) = &n.op { Some(rope) } else { None }).collect()
}

fn factors(program: &Program) -> Vec<Option<&str>> {
    let name = |rope: &&Rope| rope.factors.map(|id| program.weights[id.index()].name.as_str());
    ropes(program).iter().map(name).collect()
}

#[test]
fn a_window_in_a_file_of_llama_or_mistral_is_kept_to() {
    for name in ["llama3-gqa", "mixtral"] {
        let with = |n| windows(&program(&Variant::of(name).set("attention.sliding_window", Value::U32(n))));
        assert!(with(20).iter().all(|w| *w == Some(20)), "{name}");
        assert!(with(0).iter().all(|w| w.is_none()), "{name}");
    }
}

#[test]
fn yarn_is_read_in_every_family_and_a_factor_in_the_file_is_used() {
    for name in ["llama3-gqa", "mixtral", "gemma2", "glm4"] {
        let scaled = Variant::of(name)
            .set("rope.scaling.type", Value::String("yarn".into()))
            .set("rope.scaling.factor", Value::F32(4.0))
            .set("rope.scaling.original_context_length", Value::U32(64))
            .set("rope.scaling.yarn_beta_fast", Value::F32(16.0));
        let check = |variant: &Variant, magnitude: f32| {
            let program = program(variant);
            for rope in ropes(&program) {
                let yarn = RopeScaling::Yarn { factor: 4.0, original_context: 64, beta_fast: 16.0, beta_slow: 1.0 };
                assert_eq!((rope.scaling, rope.magnitude), (yarn, magnitude), "{name}");
            }
        };
        check(&scaled, 0.1 * 4f32.ln() + 1.0);
        check(&scaled.set("rope.scaling.yarn_attn_factor", Value::F32(0.75)), 0.75);
    }
}

#[test]
fn biases_in_a_file_of_llama_are_used() {
    let mut variant = Variant::of("llama3-gqa");
    let unbiased = program(&variant);
    for (part, n) in [("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64), ("ffn_down", 64)] {
        variant = variant.zeros(&format!("blk.1.{part}.bias"), &[n]);
    }
    let biases =
        |program: &Program| program.nodes.iter().filter(|n| matches!(n.op, Op::Linear { bias: Some(_), .. })).count();
    assert_eq!((biases(&unbiased), biases(&program(&variant))), (0, 5));
}

#[test]
fn keys_that_the_first_files_of_a_family_lack_have_the_family_s_value() {
    let glm = Variant::of("glm4");
    assert_eq!(program(&glm), program(&Variant::of("glm4").remove("rope.dimension_count")));
    let keys = ["attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"];
    let without = keys.into_iter().fold(Variant::of("gemma2"), Variant::remove);
    let with = Variant::of("gemma2")
        .set(keys[0], Value::U32(4096))
        .set(keys[1], Value::F32(50.0))
        .set(keys[2], Value::F32(30.0));
    assert_eq!(program(&without), program(&with));
    for name in ["llama3-gqa", "glm4"] {
        // Of a file with as many heads for keys as for queries.
        let message = build(&Variant::of(name).remove("attention.head_count_kv").file(), 256).unwrap_err();
        assert!(message.contains("blk.0.attn_k"), "{name}: {message}");
    }
}

/// Gemma 3 of seven layers, with a window or without one.
fn gemma3(window: Option<u32>) -> GgufFile {
    const LAYERS: u32 = 7;
    let sizes = [
        ("embedding_length", 16),
        ("block_count", LAYERS),
        ("feed_forward_length", 16),
        ("context_length", 512),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ];
    let mut t = Tiny::new("gemma3", 1, &sizes);
    t.random = Random::new(2);
    t.set("rope.freq_base", Value::F32(1e6));
    t.set("rope.scaling.type", Value::String("linear".into()));
    t.set("rope.scaling.factor", Value::F32(8.0));
    if let Some(window) = window {
        t.set("attention.sliding_window", Value::U32(window));
    }
    // What a file that was made for pictures too may have beside it.
    t.set("vision.block_count", Value::U32(27));
    t.set("mm.tokens_per_image", Value::U32(256));
    t.floats("token_embd.weight", &[32, 16], 0.0, 1.0);
    t.floats("output_norm.weight", &[16], 1.0, 0.1);
    for layer in 0..LAYERS {
        let mut add = |part: &str, dims: &[usize]| t.floats(&format!("blk.{layer}.{part}.weight"), dims, 0.5, 0.5);
        for norm in ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"] {
            add(norm, &[16]);
        }
        for (part, rows, columns) in [("attn_q", 16, 16), ("attn_k", 8, 16), ("attn_v", 8, 16), ("attn_output", 16, 16)]
        {
            add(part, &[rows, columns]);
        }
        ["attn_q_norm", "attn_k_norm"].iter().for_each(|norm| add(norm, &[8]));
        ["ffn_gate", "ffn_up", "ffn_down"].iter().for_each(|part| add(part, &[16, 16]));
    }
    t.file()
}

#[test]
fn gemma_3_has_two_kinds_of_layers_with_a_window_and_one_without() {
    let with = build(&gemma3(Some(9)), 256).unwrap();
    let full = |layer: usize| layer == 5;
    let expected: Vec<_> = (0..7).map(|layer| if full(layer) { None } else { Some(9) }).collect();
    assert_eq!(windows(&with), expected);
    for (i, rope) in ropes(&with).into_iter().enumerate() {
        // A query's and a key's rope in each layer. The base of windows is not in the file.
        let expected = match full(i / 2) {
            true => (1e6, RopeScaling::Linear { factor: 8.0 }),
            false => (1e4, RopeScaling::None),
        };
        assert_eq!((rope.base, rope.scaling), expected, "rope {i}");
    }
    let without = build(&gemma3(None), 256).unwrap();
    assert!(windows(&without).iter().all(Option::is_none));
    assert!(ropes(&without).iter().all(|r| r.scaling == RopeScaling::Linear { factor: 8.0 }));
}

#[test]
fn a_window_that_qwen_2_has_switched_off_changes_nothing_and_is_said() {
    let variant = || Variant::of("qwen2-yarn").set("attention.sliding_window", Value::U32(8));
    assert_eq!(program(&variant()), program(&Variant::of("qwen2-yarn")));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, variant().bytes()).expect("the file is written");
    let output = run(&["generate", "--model", path.to_str().expect("UTF-8"), "-p", "a", "-n", "1"], "");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.lines().any(|l| l.contains("WARN") && l.contains("'qwen2.attention.sliding_window'")), "{log}");
}

#[test]
fn long_factors_hold_for_long_sequences_only_where_there_can_be_some() {
    let (short, long) = (Some("rope_factors_short.weight"), Some("rope_factors_long.weight"));
    let limits = |program: &Program| {
        let named = |op: &Op| match op {
            Op::Input { source: InputSource::Named { name, .. } } => Some(name.clone()),
            _ => None,
        };
        program.nodes.iter().filter_map(|n| named(&n.op)).collect::<Vec<_>>()
    };
    let file = Variant::of("phi3").file();
    for (context, expected, inputs) in
        [(512, [short, short], vec![]), (513, [short, long], vec!["longer_than/512".to_owned()])]
    {
        let program = build(&file, context).unwrap();
        assert_eq!(factors(&program)[..2], expected, "served with {context} tokens");
        assert_eq!(limits(&program), inputs, "served with {context} tokens");
    }
    let phi = || Variant::of("phi3");
    let announced = || phi().set("rope.scaling.type", Value::String("longrope".into()));
    assert_eq!(program(&announced()), program(&phi()));
    for (kept, missing) in [(short, long), (long, short)] {
        let (kept, missing) = (kept.unwrap(), missing.unwrap());
        refused(kept, &phi().without(missing), &[missing, "is missing from the file"]);
        refused(kept, &announced().without(kept).without(missing), &["rope_factors_short", "is missing from the file"]);
    }
    let plain = program(&phi().without(short.unwrap()).without(long.unwrap()));
    assert!(factors(&plain).iter().all(Option::is_none));
    // As in Phi-4 mini: a part of each head is rotated, and the head is the embedding.
    let partial = phi().set("rope.dimension_count", Value::U32(12));
    let partial = program(&partial.zeros(short.unwrap(), &[6]).zeros(long.unwrap(), &[6]).without("output.weight"));
    assert!(ropes(&partial).iter().all(|r| r.rotary_dim == 12));
}

#[test]
fn long_factors_for_every_sequence_are_an_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).expect("the file is written");
    write("model.gguf", &Variant::of("phi3").bytes());
    let built = rocmforge_e2e::build_folder();
    let inspect = |option: &str| {
        let plugins = ["backend_cpu", "arch_phi3"].map(|n| built.join(format!("librocmforge_{n}.so")));
        let entry = |path: &std::path::PathBuf| format!("[[plugins]]\npath = '{}'\n", path.display());
        write("plugins.toml", (entry(&plugins[0]) + &entry(&plugins[1]) + option).as_bytes());
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let output = run(&["--config", &path("plugins.toml"), "inspect", &path("model.gguf"), "--program"], "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text.contains("rope_factors_short"), text.contains("rope_factors_long"), text)
    };
    let (short, long, text) = inspect("");
    assert!(short && long && text.contains("longer_than/512"), "{text}");
    let (short, long, text) = inspect("[plugins.options]\nlong_factors = 'always'\n");
    assert!(!short && long && !text.contains("longer_than"), "{text}");
    let (_, _, text) = inspect("[plugins.options]\nlong_factors = 'never'\n");
    assert!(text.contains("never") && text.contains("longer") && text.contains("always"), "{text}");
}

#[test]
fn a_tensor_that_the_program_does_not_read_is_said_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, Variant::of("phi3").bytes()).expect("the file is written");
    let warnings = |context: &str| {
        let model = path.to_str().expect("UTF-8");
        let output = run(&["generate", "--model", model, "--context-length", context, "-p", "a", "-n", "1"], "");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        log.lines().filter(|l| l.contains("WARN") && l.contains("is not used")).map(str::to_owned).collect::<Vec<_>>()
    };
    let served_short = warnings("256");
    assert!(matches!(&served_short[..], [one] if one.contains("'rope_factors_long.weight'")), "{served_short:?}");
    assert_eq!(warnings("1024"), Vec::<String>::new());
}

#[test]
fn what_only_looks_like_a_family_is_refused_with_what_is_taken() {
    for architecture in ["gemma3n", "gemma4", "granite", "phimoe", "clip", "glm4moe", "qwen2vl", "mistral4"] {
        let other = Variant::of("gemma2").set("general.architecture", Value::String(architecture.into()));
        let quoted = format!("'{architecture}'");
        let taken = ["gemma (gemma, gemma2, gemma3)", "phi3 (phi3)", "qwen2 (qwen2, qwen2moe, qwen3, qwen3moe)"];
        refused(architecture, &other, &[&[quoted.as_str(), "no loaded plugin takes"], &taken[..]].concat());
    }
    let pooling = |kind| Variant::of("qwen2-yarn").set("pooling_type", Value::U32(kind));
    refused("ranks", &pooling(4), &["'qwen2.pooling_type' is 4", "classifying or reranking"]);
    for kind in [0, 1, 3] {
        assert_eq!(program(&pooling(kind)), program(&Variant::of("qwen2-yarn")));
    }
    let old = Variant::of("mixtral").without("blk.0.ffn_gate_exps.weight").zeros("blk.0.ffn_gate.0.weight", &[96, 64]);
    refused(
        "experts one by one",
        &old,
        &["'blk.0.ffn_gate.0.weight'", "one tensor for each", "convert the model again"],
    );
}
