use std::collections::BTreeMap;

use anyhow::Result;
use rocmforge_gguf::GgufFile;
use rocmforge_loader::{Backend, Config, LoadOptions, Model, Plugins};
use rocmforge_program::Program;

use crate::args::Inspect;
use crate::models::served_options;
use crate::setup;

pub fn run(config: &Config, args: &Inspect) -> Result<()> {
    let file = GgufFile::open(&args.file)?;
    print_file(&file, args.tensors)?;
    let plugins = setup::plugins(config)?;
    let options = LoadOptions::new(served_options(config));
    match Model::program(&plugins, &file, &options) {
        Ok(program) => {
            if args.program {
                say!("\n{program}");
            }
            print_need(config, &plugins, program, file)
        }
        // A file without tensors holds a vocabulary only; there is nothing to run.
        Err(_) if file.tensors().is_empty() => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn print_file(file: &GgufFile, every_tensor: bool) -> Result<()> {
    let parts: Vec<String> = file.shards().iter().map(|m| m.path().display().to_string()).collect();
    say!("{}\nGGUF version {}, {:.1} MiB", parts.join("\n"), file.version(), mib(file.total_bytes()));
    say!("\nmetadata ({}):", file.metadata().len());
    for (key, value) in file.metadata().iter() {
        say!("  {key} = {value}");
    }
    let mut types = BTreeMap::<_, (usize, u64)>::new();
    for t in file.tensors() {
        let entry = types.entry(t.dtype).or_default();
        *entry = (entry.0 + 1, entry.1 + t.len as u64);
    }
    say!("\ntensors ({}):", file.tensors().len());
    for (dtype, (count, bytes)) in types {
        say!("  {dtype}: {count} tensors, {:.1} MiB", mib(bytes));
    }
    if every_tensor {
        for t in file.tensors() {
            let dims: Vec<u64> = t.dims.iter().rev().copied().collect();
            say!("  {} {}{dims:?} {} bytes", t.name, t.dtype, t.len);
        }
    }
    Ok(())
}

fn print_need(config: &Config, plugins: &Plugins, program: Program, file: GgufFile) -> Result<()> {
    let context = program.info.context_length as u64;
    let block = config.scheduler.block_size.get() as u64;
    say!("\nmemory:");
    let (program, file) = (std::sync::Arc::new(program), std::sync::Arc::new(file));
    for backend in plugins.backends() {
        match backend.compile(program.clone(), file.clone(), served_options(config)) {
            Ok(executable) => print_memory(backend, &executable, context, block)?,
            Err(e) => say!("  {}: {e}", backend.name()),
        }
    }
    Ok(())
}

fn print_memory(backend: &Backend, executable: &rocmforge_loader::Executable, context: u64, block: u64) -> Result<()> {
    let need = executable.memory();
    say!("  {}:", backend.name());
    say!("    weights beside the file {:.1} MiB", mib(need.weights));
    say!("    activations {:.1} MiB", mib(need.activations));
    for (group, bytes) in need.cache_block.iter().enumerate() {
        let (held, what) = match executable.program().group_window(group) {
            Some(window) => (context.min(u64::from(window)), format!("window of {window}")),
            None => (context, "whole context".to_owned()),
        };
        let blocks = held.div_ceil(block) + u64::from(held < context);
        say!(
            "    KV cache group {group} ({what}): {} bytes per token, {:.1} MiB for a context of {context}",
            bytes / block,
            mib(bytes * blocks)
        );
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
