//! Files whose tensors and metadata do not fit: what every architecture plugin says about them.

use rocmforge_e2e::server::run;
use rocmforge_e2e::{Variant, build_folder, load_options, plugins};
use rocmforge_gguf::Value;
use rocmforge_loader::Model;
use rocmforge_program::Program;
use rocmforge_test_support::build_plugins;

/// A committed model of each plugin.
const FAMILIES: [&str; 6] = ["llama3-gqa", "mixtral", "qwen2-yarn", "gemma2", "glm4", "phi3"];

fn program(variant: &Variant) -> Result<Program, String> {
    Model::program(&plugins(), &variant.file(), &load_options(16, 1)).map_err(|e| e.to_string())
}

/// The file is refused with a message of one line that has all the parts.
fn refused(what: &str, variant: &Variant, parts: &[&str]) {
    let message = program(variant).err().unwrap_or_else(|| panic!("{what}: accepted"));
    for part in ["variant.gguf"].iter().chain(parts) {
        assert!(message.contains(part), "{what}: no {part:?} in {message:?}");
    }
    assert_eq!(message.lines().count(), 1, "{what}: {message:?}");
}

fn number(n: u32) -> Value {
    Value::U32(n)
}

#[test]
fn committed_models_are_accepted_unchanged() {
    for name in FAMILIES {
        program(&Variant::of(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn sizes_that_must_be_there_and_positive_are_named() {
    for name in FAMILIES {
        let key = |key: &str| format!("'{}.{key}'", Variant::of(name).architecture);
        for size in ["attention.head_count", "embedding_length", "block_count", "feed_forward_length", "context_length"]
        {
            let what = format!("{name} {size}");
            refused(&what, &Variant::of(name).set(size, number(0)), &[&key(size), "expected at least 1, found 0"]);
            refused(&what, &Variant::of(name).remove(size), &[&key(size), "is missing from the file"]);
            let text = Value::String("4".into());
            refused(&what, &Variant::of(name).set(size, text), &[&key(size), "expected an integer", "found Text"]);
            refused(&what, &Variant::of(name).set(size, Value::I32(-4)), &[&key(size), "found Signed(-4)"]);
        }
        let epsilon = "attention.layer_norm_rms_epsilon";
        refused(name, &Variant::of(name).remove(epsilon), &[&key(epsilon), "is missing"]);
        let odd = Variant::of(name).set("attention.head_count_kv", number(3));
        refused(name, &odd, &[&key("attention.head_count_kv"), "expected a divisor of", "found 3"]);
    }
}

#[test]
fn wrong_counts_are_named_by_the_first_tensor_that_shows_them() {
    let check = |name: &str, key: &str, value: u32, parts: &[&str]| {
        refused(&format!("{name} {key} = {value}"), &Variant::of(name).set(key, number(value)), parts);
    };
    let kv = "attention.head_count_kv";
    check("llama3-gqa", kv, 4, &["'blk.0.attn_k.weight'", "expected [64, 64]", "found [32, 64]"]);
    check("mixtral", kv, 1, &["'blk.0.attn_k.weight'", "expected [16, 64]", "found [32, 64]"]);
    check("mixtral", "expert_count", 5, &["'blk.0.ffn_gate_inp.weight'", "expected [5, 64]", "found [4, 64]"]);
    check("qwen2-yarn", kv, 2, &["'blk.0.attn_k.bias'", "expected [64]", "found [32]"]);
    check("gemma2", "attention.head_count", 2, &["'blk.0.attn_q.weight'", "expected [64, 56]", "found [128, 56]"]);
    check("gemma2", kv, 1, &["'blk.0.attn_k.weight'", "expected [32, 56]", "found [64, 56]"]);
    check("glm4", "attention.head_count", 8, &["'blk.0.attn_q.bias'", "expected [256]", "found [128]"]);
    check("phi3", kv, 2, &["'blk.0.attn_qkv.weight'", "expected [128, 64]", "found [192, 64]"]);
    check("phi3", "feed_forward_length", 64, &["'blk.0.ffn_up.weight'", "expected [128, 64]", "found [256, 64]"]);
    for name in FAMILIES {
        check(name, "embedding_length", 128, &["'token_embd.weight'", "expected [", ", 128]", "found ["]);
        check(name, "block_count", 9, &["'blk.", ".attn_norm.weight'", "is missing from the file"]);
    }
    for name in ["llama3-gqa", "qwen2-yarn", "gemma2", "glm4"] {
        check(name, "feed_forward_length", 48, &["'blk.0.ffn_", "expected [", "found ["]);
    }
}

#[test]
fn tensors_of_another_shape_or_missing_are_named() {
    for name in FAMILIES {
        let mut tensors = vec!["blk.1.attn_norm.weight", "blk.1.attn_output.weight", "output_norm.weight"];
        tensors.push(if name == "phi3" { "blk.1.attn_qkv.weight" } else { "blk.1.attn_v.weight" });
        tensors.push(if name == "mixtral" { "blk.1.ffn_down_exps.weight" } else { "blk.1.ffn_down.weight" });
        match name {
            "gemma2" => tensors.extend(["blk.1.post_ffw_norm.weight", "blk.1.ffn_gate.weight"]),
            "glm4" => tensors.extend(["blk.1.post_attention_norm.weight", "blk.1.ffn_up.weight"]),
            "mixtral" => tensors.extend(["blk.1.ffn_gate_inp.weight"]),
            _ => {}
        }
        for tensor in tensors {
            let quoted = format!("'{tensor}'");
            refused(name, &Variant::of(name).without(tensor), &[&quoted, "is missing from the file"]);
            let other = Variant::of(name).zeros(tensor, &[7, 8]);
            refused(name, &other, &[&quoted, "expected [", "(outermost first)", "found [7, 8]"]);
        }
        let vector = Variant::of(name).zeros("token_embd.weight", &[64]);
        refused(name, &vector, &["'token_embd.weight'", "expected a matrix", "found [64]"]);
    }
}

#[test]
fn keys_of_one_family_are_named() {
    for (name, key, needed) in [
        ("gemma2", "attention.sliding_window", false),
        ("mixtral", "expert_used_count", true),
        ("qwen2-yarn", "rope.scaling.original_context_length", true),
    ] {
        let quoted = format!("'{}.{key}'", Variant::of(name).architecture);
        if needed {
            refused(name, &Variant::of(name).remove(key), &[&quoted, "is missing from the file"]);
        }
        refused(name, &Variant::of(name).set(key, number(0)), &[&quoted, "expected at least 1, found 0"]);
    }
    let greedy = Variant::of("mixtral").set("expert_used_count", number(5));
    refused("more experts than there are", &greedy, &["5", "4"]);
    let scaling = Variant::of("qwen2-yarn").set("rope.scaling.type", Value::String("ntk".into()));
    refused("an unknown scaling", &scaling, &["'qwen2.rope.scaling.type'", "none, linear, yarn or longrope", "'ntk'"]);
    refused(
        "the same without a factor",
        &scaling.remove("rope.scaling.factor"),
        &["'qwen2.rope.scaling.type'", "'ntk'"],
    );
}

#[test]
fn missing_biases_are_named() {
    for (name, tensor) in [
        ("qwen2-yarn", "blk.0.attn_q.bias"),
        ("qwen2-yarn", "blk.0.attn_v.bias"),
        ("qwen2-yarn", "blk.1.attn_k.bias"),
        ("glm4", "blk.0.attn_q.bias"),
        ("glm4", "blk.0.attn_v.bias"),
        ("glm4", "blk.1.attn_k.bias"),
    ] {
        refused(name, &Variant::of(name).without(tensor), &[&format!("'{tensor}'"), "is missing from the file"]);
    }
}

/// `head_dim` of a file: `hidden / heads` = 32 unless a key says otherwise.
#[test]
fn the_head_size_of_qwen2_is_computed_or_the_one_that_the_file_gives() {
    let qwen = || Variant::of("qwen2-yarn");
    let head_dim = |variant: &Variant| program(variant).map(|p| p.caches[0].key_dim);
    assert_eq!(head_dim(&qwen()), Ok(32), "neither key");
    for key in ["attention.key_length", "rope.dimension_count"] {
        assert_eq!(head_dim(&qwen().set(key, number(32))), Ok(32), "{key}");
        let quoted = format!("'qwen2.{key}'");
        refused(key, &qwen().set(key, number(0)), &[&quoted, "expected at least 1, found 0"]);
        refused(key, &qwen().set(key, Value::I32(-32)), &[&quoted, "expected an integer", "found Signed(-32)"]);
        refused(key, &qwen().set(key, Value::F32(32.0)), &[&quoted, "found Float(32.0)"]);
    }
    let too_long = qwen().set("rope.dimension_count", number(64));
    refused("rotation beyond the head", &too_long, &["'qwen2.rope.dimension_count'", "at most 32", "found 64"]);
    let odd = qwen().set("rope.dimension_count", number(31));
    refused("an odd rotation", &odd, &["'qwen2.rope.dimension_count'", "an even number", "found 31"]);
    let wrong = qwen().set("attention.key_length", number(16));
    refused("another head size than the tensors'", &wrong, &["'blk.0.attn_q.bias'", "expected [32]", "found [64]"]);

    // A file that means it: heads of 16 on a hidden size of 64 with two heads.
    let mut narrow = qwen().set("attention.key_length", number(16)).set("attention.value_length", number(16));
    for layer in 0..2 {
        for (part, rows) in [("attn_q", 32), ("attn_k", 16), ("attn_v", 16)] {
            narrow = narrow.zeros(&format!("blk.{layer}.{part}.weight"), &[rows, 64]);
            narrow = narrow.zeros(&format!("blk.{layer}.{part}.bias"), &[rows]);
        }
        narrow = narrow.zeros(&format!("blk.{layer}.attn_output.weight"), &[64, 32]);
    }
    assert_eq!(head_dim(&narrow), Ok(16));
    let uneven = qwen().set("attention.head_count", number(5)).set("attention.head_count_kv", number(1));
    refused("heads that do not divide", &uneven, &["'qwen2.attention.key_length'", "64", "5"]);
}

#[test]
fn a_tensor_that_no_one_uses_is_a_warning_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("extra.gguf");
    let text = path.to_str().expect("a path in UTF-8");
    for name in FAMILIES {
        let extra = Variant::of(name).zeros("blk.0.attn_sinks.weight", &[4]).zeros("blk.2000.ffn_norm.weight", &[64]);
        std::fs::write(&path, extra.bytes()).expect("the file is written");
        let output = run(&["generate", "--model", text, "-p", "a", "-n", "1"], "");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {log}");
        for tensor in ["blk.0.attn_sinks.weight", "blk.2000.ffn_norm.weight"] {
            let named = |line: &str| line.contains("WARN") && line.contains(&format!("'{tensor}'"));
            assert_eq!(log.lines().filter(|l| named(l)).count(), 1, "{name}: {tensor}: {log}");
        }
    }
}

#[test]
fn the_configuration_settles_which_of_two_plugins_takes_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let [rival] = build_plugins(["fixture-rival"]);
    let built = |name: &str| build_folder().join(format!("lib{name}.so"));
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, Variant::of("llama3-gqa").bytes()).expect("the file is written");
    let config = folder.path().join("plugins.toml");
    let text = |path: &std::path::Path| path.to_str().expect("a path in UTF-8").to_owned();
    let generate = |entry: &str, more: &[&str]| {
        let plugins: String = [built("rocmforge_backend_cpu"), built("rocmforge_arch_llama"), rival.clone()]
            .map(|path| format!("[[plugins]]\npath = '{}'\n", path.display()))
            .concat();
        std::fs::write(&config, format!("{plugins}[models.m]\npath = 'model.gguf'\n{entry}\n")).expect("written");
        let config = text(&config);
        let args = [&["--config", &config, "--log", "error", "generate", "--model", "m", "-p", "a", "-n", "1"], more];
        let output = run(&args.concat(), "");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (ok, message) = generate("", &[]);
    assert!(!ok && message.contains("equally well: llama, rival") && message.contains("--architecture"), "{message}");
    let (ok, message) = generate("architecture = 'llama'", &[]);
    assert!(ok, "{message}");
    let (ok, message) = generate("", &["--architecture", "llama"]);
    assert!(ok, "{message}");
    let (ok, message) = generate("architecture = 'llama'", &["--architecture", "rival"]);
    assert!(!ok && message.contains("the rival builds nothing"), "{message}");
    let (ok, message) = generate("architecture = 'lama'", &[]);
    assert!(!ok && message.contains("llama (llama)") && message.contains("'lama'"), "{message}");
}
