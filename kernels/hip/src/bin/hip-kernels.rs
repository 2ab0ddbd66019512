//! `hip-kernels build --arch gfx1100,simt32,sm_90 --out DIR` compiles the kernels; `hip-kernels report --arch all [--out FILE]`
//! prints what they take on each GPU target and fails where one breaks a gate.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rocmforge_kernels_hip::compile::{Cache, CompileError, GFX, Kind, Toolchain, compile_all};
use rocmforge_kernels_hip::report::{document, usage};

const USAGE: &str = "usage: hip-kernels build --arch ARCH[,ARCH..]|all --out DIR
       hip-kernels report --arch ARCH[,ARCH..]|all [--out FILE]
  ARCH: gfx..., simt32, simt64, sm_...; 'all' is every gfx target";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).cloned()
    };
    let result = match (arguments.first().map(String::as_str), value("--arch"), value("--out")) {
        (Some("build"), Some(archs), Some(out)) => build(&archs, Path::new(&out)).map(|()| true),
        (Some("report"), Some(archs), out) => report(&archs, out.as_deref().map(Path::new)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
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

fn expand(archs: &str) -> Vec<String> {
    match archs {
        "all" => GFX.iter().map(|gfx| (*gfx).to_owned()).collect(),
        list => list.split(',').map(str::to_owned).collect(),
    }
}

/// Prints or writes the table; whether every kernel passes.
fn report(archs: &str, out: Option<&Path>) -> Result<bool, CompileError> {
    let (cache, clang) = (cache(), Toolchain::clang()?);
    let (archs, skipped): (Vec<String>, Vec<String>) =
        expand(archs).into_iter().partition(|a| clang.supports(a, &cache));
    for arch in skipped {
        eprintln!("skipped: {arch}, which {clang} does not know");
    }
    let all = usage(&cache, &clang, &archs)?;
    let text = document(&clang, &cache.fingerprint()?, &archs, &all);
    match out {
        Some(path) => {
            std::fs::write(path, text).map_err(|error| CompileError::Io { path: path.display().to_string(), error })?
        }
        None => print!("{text}"),
    }
    let failures: Vec<String> = all.iter().flat_map(|u| u.failures()).collect();
    failures.iter().for_each(|failure| eprintln!("{failure}"));
    eprintln!("{} kernels on {} targets, {} failures", all.len(), archs.len(), failures.len());
    Ok(failures.is_empty())
}

fn build(archs: &str, out: &Path) -> Result<(), CompileError> {
    let mut archs = expand(archs);
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
