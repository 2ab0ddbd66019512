use std::path::{Path, PathBuf};

use rocmforge_gguf::{GgufFile, GgufWriter, Value};
use rocmforge_loader::{Architecture, PluginErrorKind, Plugins};
use rocmforge_program::{DType, Program};

use crate::abi::{Check, ensure};
use crate::error::Error;
use crate::report::{Case, Outcome};
use crate::weights::Stored;

/// Metadata and tensors of a model, to be written with changes.
#[derive(Clone)]
pub(crate) struct ModelFile {
    /// Which architecture of the plugin takes it.
    index: usize,
    claim: String,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Stored>,
}

impl ModelFile {
    fn open(path: &Path, index: usize, claim: &str) -> Result<ModelFile, Error> {
        let file = GgufFile::open(path)?;
        let metadata = file.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        let tensors = file
            .views()
            .map(|t| Stored {
                name: t.info.name.clone(),
                dtype: t.info.dtype,
                dims: t.info.dims.iter().rev().map(|&d| d as usize).collect(),
                bytes: t.bytes().to_vec(),
            })
            .collect();
        Ok(ModelFile { index, claim: claim.to_owned(), metadata, tensors })
    }

    /// A decoder of the common form: two layers, grouped heads, tied head.
    fn common(index: usize, claim: &str) -> ModelFile {
        let mut metadata = vec![("general.architecture".to_owned(), Value::String(claim.into()))];
        let numbers = [
            ("block_count", 2),
            ("context_length", 128),
            ("embedding_length", 32),
            ("feed_forward_length", 48),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ];
        metadata.extend(numbers.map(|(key, n)| (format!("{claim}.{key}"), Value::U32(n))));
        metadata.push((format!("{claim}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5)));
        let mut tensors = vec![];
        let mut add = |name: String, dims: &[usize]| {
            let bytes = vec![0; 4 * dims.iter().product::<usize>()];
            tensors.push(Stored { name, dtype: DType::F32, dims: dims.to_vec(), bytes });
        };
        add("token_embd.weight".into(), &[40, 32]);
        add("output_norm.weight".into(), &[32]);
        for layer in 0..2 {
            let parts: [(&str, &[usize]); 9] = [
                ("attn_norm", &[32]),
                ("attn_q", &[32, 32]),
                ("attn_k", &[16, 32]),
                ("attn_v", &[16, 32]),
                ("attn_output", &[32, 32]),
                ("ffn_norm", &[32]),
                ("ffn_gate", &[48, 32]),
                ("ffn_up", &[48, 32]),
                ("ffn_down", &[32, 48]),
            ];
            parts.iter().for_each(|(name, dims)| add(format!("blk.{layer}.{name}.weight"), dims));
        }
        ModelFile { index, claim: claim.to_owned(), metadata, tensors }
    }

    fn to_file(&self) -> Result<GgufFile, Error> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.metadata(key, value.clone())?;
        }
        for t in &self.tensors {
            let dims: Vec<u64> = t.dims.iter().rev().map(|&d| d as u64).collect();
            writer.tensor(&t.name, t.dtype, &dims, t.bytes.as_slice())?;
        }
        Ok(GgufFile::from_bytes(Path::new("conformance.gguf"), &writer.to_bytes())?)
    }

    /// The keys of the architecture itself.
    fn own_keys(&self) -> impl Iterator<Item = &str> {
        let prefix = format!("{}.", self.claim);
        self.metadata.iter().map(|(k, _)| k.as_str()).filter(move |k| k.starts_with(&prefix))
    }

    fn with(&self, key: &str, value: Option<Value>) -> ModelFile {
        let mut model = self.clone();
        model.metadata.retain(|(k, _)| k != key);
        model.metadata.extend(value.map(|v| (key.to_owned(), v)));
        model
    }
}

/// A model for every claim: the first file given whose architecture it is, else one of the common form.
pub(crate) fn models(plugins: &Plugins, paths: &[PathBuf]) -> Result<Vec<ModelFile>, Error> {
    let mut named = vec![];
    for path in paths {
        named.push((path, GgufFile::open(path)?.metadata().str("general.architecture").map(str::to_owned)));
    }
    let mut models = vec![];
    for (i, architecture) in plugins.architectures().iter().enumerate() {
        for claim in &architecture.info().claims {
            models.push(match named.iter().find(|(_, name)| name.as_deref() == Some(claim)) {
                Some((path, _)) => ModelFile::open(path, i, claim)?,
                None => ModelFile::common(i, claim),
            });
        }
    }
    Ok(models)
}

/// Checks on one architecture with one model.
pub(crate) fn cases<'a>(plugins: &'a Plugins, model: &'a ModelFile) -> Vec<Case<'a>> {
    let architecture = &plugins.architectures()[model.index];
    let mut cases = vec![];
    for (name, check) in [("an empty file", empty_file as ArchitectureCheck), ("a file of another kind", other_kind)] {
        let run = move || check(architecture, model).into();
        cases.push(Case { name: format!("architecture {}/{name}", model.claim), run: Box::new(run) });
    }
    for (name, check) in CHECKS {
        let run = move || match build(architecture, model) {
            Ok(_) => check(architecture, model).into(),
            Err(e) if e.starts_with("PANIC") => Outcome::Failed(e),
            Err(e) => Outcome::Skipped(format!("name a model with --model: {e}")),
        };
        cases.push(Case { name: format!("architecture {}/{name}", model.claim), run: Box::new(run) });
    }
    cases
}

type ArchitectureCheck = fn(&Architecture, &ModelFile) -> Check;

const CHECKS: &[(&str, ArchitectureCheck)] = &[
    ("a program that fits the file", fits),
    ("the same program each time", deterministic),
    ("missing keys", missing_keys),
    ("keys of another type", mistyped_keys),
    ("absurd numbers", absurd_numbers),
    ("missing tensors", missing_tensors),
    ("tensors of other dimensions", reshaped_tensors),
];

/// The program, or the message of a refusal; a panic is told apart.
fn build(architecture: &Architecture, model: &ModelFile) -> Result<Program, String> {
    let file = model.to_file().map_err(|e| format!("conformance kit: {e}"))?;
    architecture.build(&file, 0).map_err(|e| match e.plugin_kind() {
        Some(PluginErrorKind::Panic) => format!("PANIC {e}"),
        _ => e.to_string(),
    })
}

/// Fails if a refusal was a panic or names none of the parts.
fn named(what: &str, message: &str, parts: &[&str]) -> Check {
    ensure(!message.starts_with("PANIC"), || format!("{what}: {message}"))?;
    ensure(parts.iter().any(|p| message.contains(p)), || {
        format!("{what}: expected a message that names '{}', found '{message}'", parts.join("' or '"))
    })
}

fn empty_file(architecture: &Architecture, model: &ModelFile) -> Check {
    let empty = ModelFile {
        metadata: vec![("general.architecture".into(), Value::String(model.claim.clone()))],
        tensors: vec![],
        ..model.clone()
    };
    match build(architecture, &empty) {
        Ok(_) => Err("expected an error for a file without keys and tensors, found a program".into()),
        Err(message) => named("a file without keys and tensors", &message, &["metadata '", "tensor '"]),
    }
}

/// A file that another architecture wrote: nothing in it may be taken for granted.
fn other_kind(architecture: &Architecture, model: &ModelFile) -> Check {
    let other = model.with("general.architecture", Some(Value::String("conformance-unknown".into())));
    match build(architecture, &other) {
        Ok(_) => Ok(()),
        Err(message) => named("a file of another architecture", &message, &["metadata '", "tensor '", "architecture"]),
    }
}

fn fits(architecture: &Architecture, model: &ModelFile) -> Check {
    let program = build(architecture, model)?;
    ensure(program.info.architecture == model.claim, || {
        format!("expected the program of '{}', found that of '{}'", model.claim, program.info.architecture)
    })?;
    for weight in &program.weights {
        let Some(tensor) = model.tensors.iter().find(|t| t.name == weight.name) else {
            return Err(format!("weight '{}' is not in the file", weight.name));
        };
        let elements = |dims: &[usize]| dims.iter().product::<usize>();
        ensure(tensor.dtype == weight.dtype && elements(&tensor.dims) == elements(&weight.dims), || {
            format!(
                "weight '{}': the file has {}{:?}, the program {}{:?}",
                weight.name, tensor.dtype, tensor.dims, weight.dtype, weight.dims
            )
        })?;
    }
    let known = |name: &str| [rocmforge_program::output::LOGITS, rocmforge_program::output::POOLED].contains(&name);
    ensure(program.outputs.iter().any(|o| known(&o.name)), || {
        "the program yields neither logits nor a pooled vector".into()
    })
}

fn deterministic(architecture: &Architecture, model: &ModelFile) -> Check {
    let (first, second) = (build(architecture, model)?, build(architecture, model)?);
    ensure(first.to_bytes() == second.to_bytes(), || "two builds from one file gave two programs".into())
}

/// One key at a time: it may have a default, or its absence is an error that names it.
fn missing_keys(architecture: &Architecture, model: &ModelFile) -> Check {
    for key in model.own_keys() {
        if let Err(message) = build(architecture, &model.with(key, None)) {
            // Without it another size may follow, which then contradicts a further key or a tensor.
            let contradicts = message.contains("expected") && !message.contains("missing");
            let parts = [key, "tensor '", if contradicts { "metadata '" } else { key }];
            named(&format!("without {key}"), &message, &parts)?;
        }
    }
    Ok(())
}

/// A text where a number is needed. A key that cannot be missing cannot be a text either.
fn mistyped_keys(architecture: &Architecture, model: &ModelFile) -> Check {
    for key in model.own_keys() {
        let needed = build(architecture, &model.with(key, None)).is_err();
        match build(architecture, &model.with(key, Some(Value::String("seven".into())))) {
            Ok(_) if needed => return Err(format!("{key} = \"seven\": expected an error, found a program")),
            Ok(_) => {}
            Err(message) => named(&format!("{key} = \"seven\""), &message, &[key])?,
        }
    }
    Ok(())
}

fn absurd_numbers(architecture: &Architecture, model: &ModelFile) -> Check {
    for key in model.own_keys() {
        let numbers = [Value::U32(0), Value::U32(1), Value::U32(u32::MAX), Value::U64(u64::MAX), Value::I32(-1)];
        let floats = [Value::F32(f32::NAN), Value::F32(f32::INFINITY), Value::F32(-1.0), Value::F32(0.0)];
        for value in numbers.into_iter().chain(floats) {
            let what = format!("{key} = {value}");
            if let Err(message) = build(architecture, &model.with(key, Some(value))) {
                named(&what, &message, &[key, "metadata '", "tensor '", "program: "])?;
            }
        }
    }
    Ok(())
}

fn missing_tensors(architecture: &Architecture, model: &ModelFile) -> Check {
    let program = build(architecture, model)?;
    for (i, tensor) in model.tensors.iter().enumerate() {
        let mut without = model.clone();
        without.tensors.remove(i);
        match build(architecture, &without) {
            // It may be optional, but then the program must not read it.
            Ok(program) if program.weights.iter().any(|w| w.name == tensor.name) => {
                return Err(format!("without tensor '{}': the program still reads it", tensor.name));
            }
            Ok(_) => {}
            Err(message) => named(&format!("without tensor '{}'", tensor.name), &message, &[&tensor.name])?,
        }
    }
    ensure(!program.weights.is_empty(), || "the program reads no tensor".into())
}

fn reshaped_tensors(architecture: &Architecture, model: &ModelFile) -> Check {
    let program = build(architecture, model)?;
    for (i, tensor) in model.tensors.iter().enumerate() {
        if !program.weights.iter().any(|w| w.name == tensor.name) {
            continue;
        }
        let mut other = model.clone();
        // A further dimension, whose size no other size of the model goes with.
        other.tensors[i].dims.insert(0, 13);
        other.tensors[i].bytes = tensor.bytes.repeat(13);
        match build(architecture, &other) {
            Ok(_) => {
                return Err(format!(
                    "tensor '{}' of 13 times the size: expected an error, found a program",
                    tensor.name
                ));
            }
            Err(message) => named(&format!("tensor '{}' of other dimensions", tensor.name), &message, &[&tensor.name])?,
        }
    }
    Ok(())
}
