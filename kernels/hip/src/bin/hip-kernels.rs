//! `hip-kernels build --arch gfx1100,simt32,sm_90 --out DIR`: compiles the kernels.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rocmforge_kernels_hip::compile::{Cache, CompileError, GFX, Kind, Toolchain, compile_all};

const USAGE: &str = "usage: hip-kernels build --arch ARCH[,ARCH..]|all --out DIR
  ARCH: gfx..., simt32, simt64, sm_...; 'all' is every gfx target";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).cloned()
    };
    let result = match (arguments.first().map(String::as_str), value("--arch"), value("--out")) {
        (Some("build"), Some(archs), Some(out)) => build(&archs, Path::new(&out)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn cache() -> Cache {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(sources.join("../../target"), PathBuf::from);
    Cache { folder: target.join("hip-images"), sources }
}

fn build(archs: &str, out: &Path) -> Result<(), CompileError> {
    let mut archs: Vec<String> = match archs {
        "all" => GFX.iter().map(|gfx| (*gfx).to_owned()).collect(),
        list => list.split(',').map(str::to_owned).collect(),
    };
    let cache = cache();
    let mut toolchains: Vec<Toolchain> = vec![];
    for arch in &archs {
        let kind = Kind::of(arch)?;
        if toolchains.iter().all(|t| t.kind != kind) {
            let found = Toolchain::find(kind)?;
            println!("{kind:?}: {found}");
            toolchains.push(found);
        }
    }
    archs.retain(|arch| {
        let clang = toolchains.iter().find(|t| t.kind == Kind::Amdgcn && arch.starts_with("gfx"));
        let known = clang.is_none_or(|clang| clang.supports(arch, &cache));
        if !known {
            println!("skipped: {arch}, which this clang does not know");
        }
        known
    });
    let jobs = cache.jobs(&archs)?;
    let images = compile_all(&cache, &toolchains, &jobs)?;
    for (job, image) in jobs.iter().zip(&images) {
        let folder = out.join(&job.arch);
        let to = folder.join(&job.source).with_extension(image.extension().unwrap_or_default());
        let copied = std::fs::create_dir_all(&folder).and_then(|()| std::fs::copy(image, &to));
        copied.map_err(|error| CompileError::Io { path: to.display().to_string(), error })?;
    }
    println!("{} images for {} in {}", images.len(), archs.join(", "), out.display());
    Ok(())
}
