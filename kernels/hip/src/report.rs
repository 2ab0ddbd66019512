//! What each kernel takes on each target, read from the compiler's assembly, and the gates that it must pass.

use std::fmt::Write;

use crate::compile::{Cache, CompileError, Kind, Toolchain, assemblies};
use crate::launch::KERNELS;

/// One kernel on one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The kernel's name.
    pub kernel: String,
    /// The target.
    pub arch: String,
    /// Vector registers of a lane, accumulation registers included.
    pub vgprs: u32,
    /// Scalar registers of a wave.
    pub sgprs: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// Bytes of scratch memory of a lane.
    pub scratch: u32,
    /// Registers that did not fit.
    pub spills: u32,
    /// Dot and matrix instructions, by name without suffixes, in the order of the alphabet.
    pub units: Vec<String>,
}

/// The most vector registers of a kernel: beyond them a compute unit holds too few waves to hide its loads.
pub const MOST_VGPRS: u32 = 256;

/// Kernels that may use scratch memory.
const SCRATCH: &[&str] = &[];

/// The instructions of which a kernel must have one on a target.
fn expected_units(kernel: &str, arch: &str) -> &'static [&'static str] {
    let matrix = kernel.starts_with("rf_gemm_") || kernel.starts_with("rf_flash_");
    let plain = ["_f32_", "_f16_", "_bf16_"].iter().any(|p| kernel.contains(p));
    match arch {
        _ if kernel.starts_with("rf_gemv_") && !plain => &["v_dot4"],
        _ if !matrix => &[],
        "gfx1030" => &["v_dot2"],
        _ if arch.starts_with("gfx9") => &["v_mfma"],
        _ => &["v_wmma"],
    }
}

impl Usage {
    /// What is wrong with the kernel, one line each.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = vec![];
        let mut gate = |holds: bool, what: String| {
            if !holds {
                failures.push(format!("{} on {}: {what}", self.kernel, self.arch));
            }
        };
        gate(self.spills == 0, format!("expected no spilled registers, found {}", self.spills));
        let scratch = self.scratch == 0 || SCRATCH.contains(&self.kernel.as_str());
        gate(scratch, format!("expected no scratch memory, found {} bytes", self.scratch));
        gate(self.vgprs <= MOST_VGPRS, format!("expected at most {MOST_VGPRS} VGPRs, found {}", self.vgprs));
        let expected = expected_units(&self.kernel, &self.arch);
        let has = expected.is_empty() || self.units.iter().any(|u| expected.iter().any(|e| u.starts_with(e)));
        gate(has, format!("expected {}, found {:?}", expected.join(" or "), self.units));
        failures
    }
}

/// Every kernel on these targets.
pub fn usage(cache: &Cache, toolchain: &Toolchain, archs: &[String]) -> Result<Vec<Usage>, CompileError> {
    for arch in archs {
        if Kind::of(arch)? != Kind::Amdgcn {
            return Err(CompileError::UnknownArch(arch.clone()));
        }
    }
    let jobs = cache.jobs(archs)?;
    let texts = assemblies(cache, toolchain, &jobs)?;
    let mut all: Vec<Usage> = jobs.iter().zip(&texts).flat_map(|(job, text)| parse(&job.arch, text)).collect();
    all.sort_by(|a, b| (&a.kernel, &a.arch).cmp(&(&b.kernel, &b.arch)));
    Ok(all)
}

/// The kernels of one assembly file: their metadata, and the instructions between their label and their end.
pub fn parse(arch: &str, text: &str) -> Vec<Usage> {
    let metadata = text.split(".amdgpu_metadata").nth(1).unwrap_or("");
    let mut found = vec![];
    // Keys of a kernel are indented by four; the first of a kernel begins its list item.
    for item in metadata.split("\n  - ").skip(1) {
        let value = |key: &str| {
            let line = item.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix(':'));
            line.map(|v| v.trim().to_owned())
        };
        let number = |key: &str| value(key).and_then(|v| v.parse().ok()).unwrap_or(0);
        let Some(kernel) = value(".symbol").and_then(|s| s.strip_suffix(".kd").map(str::to_owned)) else { continue };
        found.push(Usage {
            arch: arch.to_owned(),
            vgprs: number(".vgpr_count"),
            sgprs: number(".sgpr_count"),
            shared: number(".group_segment_fixed_size"),
            scratch: number(".private_segment_fixed_size"),
            spills: number(".vgpr_spill_count") + number(".sgpr_spill_count"),
            units: units(text, &kernel),
            kernel,
        });
    }
    found
}

fn units(text: &str, kernel: &str) -> Vec<String> {
    let body = text.split(&format!("\n{kernel}:")).nth(1).unwrap_or("");
    let body = body.split(".Lfunc_end").next().unwrap_or("");
    let mnemonics = body.lines().filter_map(|l| l.split_whitespace().next());
    let mut units: Vec<String> = mnemonics
        .filter(|m| ["v_dot", "v_wmma", "v_mfma"].iter().any(|unit| m.starts_with(unit)))
        .map(|m| m.trim_end_matches("_e64").trim_end_matches("_e32").to_owned())
        .collect();
    units.sort();
    units.dedup();
    units
}

/// The table as a document: a row per kernel, with a column per target. `sources` is [`Cache::fingerprint`].
pub fn document(toolchain: &Toolchain, sources: &str, archs: &[String], all: &[Usage]) -> String {
    let mut text = format!(
        "# GPU kernels: what they take\n\nWritten by `cargo run --release -p rocmforge-kernels-hip --bin hip-kernels -- report --arch all --out \
         docs/gpu-resources.md`, with {},\nfrom the sources whose fingerprint is {sources}; a test compares that.\n\nEach cell: vector \
         registers of a lane / bytes of shared memory of a block. No kernel spills registers or uses\nscratch memory, all are within \
         {MOST_VGPRS} vector registers, and those that multiply matrices have the target's dot or matrix\ninstructions; the command fails \
         otherwise.\n\n| kernel | {} |\n|---|{}\n",
        toolchain.version,
        archs.join(" | "),
        "---|".repeat(archs.len()),
    );
    let mut names: Vec<&str> = KERNELS.iter().map(|k| k.name).collect();
    names.sort_unstable();
    for name in names {
        let _ = write!(text, "| `{name}` |");
        for arch in archs {
            match all.iter().find(|u| u.kernel == name && u.arch == *arch) {
                Some(usage) => drop(write!(text, " {} / {} |", usage.vgprs, usage.shared)),
                None => text += " – |",
            }
        }
        text += "\n";
    }
    text += "\n## Dot and matrix instructions\n\n| target | instructions |\n|---|---|\n";
    for arch in archs {
        let mut units: Vec<&str> =
            all.iter().filter(|u| u.arch == *arch).flat_map(|u| &u.units).map(String::as_str).collect();
        units.sort_unstable();
        units.dedup();
        let _ =
            writeln!(text, "| {arch} | {} |", units.iter().map(|u| format!("`{u}`")).collect::<Vec<_>>().join(", "));
    }
    text
}
