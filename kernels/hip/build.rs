//! Compiles the kernels for the targets that the library embeds, where a clang for them is installed.
//!
//! `ROCMFORGE_HIP_ARCHS` says which: a list as in `gfx1100,gfx942`, `all`, or `none`. Objects are kept in the target folder by
//! the contents of what they were made from, so that only what changed is compiled again.

#[path = "src/compile.rs"]
#[allow(dead_code)]
mod compile;

use std::path::{Path, PathBuf};

use compile::{Cache, GFX, Toolchain, compile_all};

fn main() {
    for watched in ["kernels", "include", "src/compile.rs"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    for variable in ["ROCMFORGE_HIP_ARCHS", "ROCMFORGE_HIP_CLANG", "ROCM_PATH", "HIP_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let table = match embedded(&manifest, &out) {
        Ok(table) => table,
        Err(why) => {
            println!("cargo:warning=GPU kernels are not embedded: {why}");
            String::new()
        }
    };
    let text = format!("pub(crate) static EMBEDDED: &[(&str, &[Image])] = &[\n{table}];\n");
    std::fs::write(out.join("embedded.rs"), text).expect("the output folder is writable");
}

/// The rows of the table of embedded images, as Rust source.
fn embedded(manifest: &Path, out: &Path) -> Result<String, compile::CompileError> {
    let wanted = std::env::var("ROCMFORGE_HIP_ARCHS").unwrap_or("none".to_owned());
    let archs: Vec<String> = match wanted.trim() {
        "none" | "" => return Ok(String::new()),
        "all" => GFX.iter().map(|gfx| (*gfx).to_owned()).collect(),
        list => list.split(',').map(|arch| arch.trim().to_owned()).collect(),
    };
    let toolchain = Toolchain::clang()?;
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let target = out.ancestors().nth(4).unwrap_or(out);
    let cache = Cache { folder: target.join("hip-images"), sources: manifest.to_owned() };
    let (taken, skipped): (Vec<String>, Vec<String>) =
        archs.into_iter().partition(|arch| toolchain.supports(arch, &cache));
    if !skipped.is_empty() {
        println!("cargo:warning=GPU kernels: {toolchain} knows no {}: left out", skipped.join(", "));
    }
    let jobs = cache.jobs(&taken)?;
    let images = compile_all(&cache, &[toolchain], &jobs)?;
    let mut text = String::new();
    for arch in &taken {
        text += &format!("    ({arch:?}, &[\n");
        for (job, path) in jobs.iter().zip(&images).filter(|(job, _)| job.arch == *arch) {
            text += &format!("        Image {{ name: {:?}, bytes: include_bytes!({path:?}) }},\n", job.source);
        }
        text += "    ]),\n";
    }
    Ok(text)
}
