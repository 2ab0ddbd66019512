//! The table of what kernels take is that of these sources.

use std::path::PathBuf;

use rocmforge_kernels_hip::KERNELS;
use rocmforge_kernels_hip::compile::{Cache, GFX, Toolchain};
use rocmforge_kernels_hip::report::{parse, usage};

fn cache() -> Cache {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // This program is in <target>/<profile>/deps.
    let own = std::env::current_exe().unwrap();
    Cache { folder: own.ancestors().nth(3).unwrap().join("hip-images"), sources }
}

#[test]
fn the_table_in_the_documents_is_of_these_sources() {
    let cache = cache();
    let text = std::fs::read_to_string(cache.sources.join("../../docs/gpu-resources.md")).unwrap();
    let fingerprint = cache.fingerprint().unwrap();
    assert!(
        text.contains(&format!("fingerprint is {fingerprint};")),
        "docs/gpu-resources.md is not of these sources ({fingerprint}); write it anew with the command that it names"
    );
    for kernel in KERNELS {
        assert!(text.contains(&format!("| `{}` |", kernel.name)), "docs/gpu-resources.md lacks {}", kernel.name);
    }
    GFX.iter().for_each(|gfx| assert!(text.contains(gfx), "docs/gpu-resources.md lacks {gfx}"));
}

/// The whole table takes minutes and is a command of its own; this is its path from source to gate.
#[test]
fn kernels_of_a_source_pass_the_gates_on_every_target_that_the_compiler_knows() {
    let clang = match Toolchain::clang() {
        Ok(clang) => clang,
        Err(why) => return println!("skipped: {}", why.to_string().lines().next().unwrap_or_default()),
    };
    let whole = cache();
    // A folder with one source and all headers.
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: PathBuf| std::fs::copy(whole.sources.join(from), to).unwrap();
    for part in ["include", "kernels"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
    }
    for header in std::fs::read_dir(whole.sources.join("include")).unwrap() {
        let name = header.unwrap().file_name().into_string().unwrap();
        copy(&format!("include/{name}"), folder.path().join("include").join(&name));
    }
    copy("kernels/rope.hip", folder.path().join("kernels/rope.hip"));
    let cache = Cache { folder: folder.path().join("images"), sources: folder.path().to_owned() };
    let archs: Vec<String> =
        GFX.iter().filter(|gfx| clang.supports(gfx, &cache)).map(|gfx| (*gfx).to_owned()).collect();
    let found = usage(&cache, &clang, &archs).unwrap();
    assert_eq!(found.len(), archs.len());
    assert!(found.iter().all(|u| u.kernel == "rf_rope" && u.vgprs > 0 && u.sgprs > 0 && u.shared > 0), "{found:?}");
    let failures: Vec<String> = found.iter().flat_map(|u| u.failures()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn gates_name_what_breaks_them() {
    let text = "\nrf_gemm_q4_0_128:\n\tv_dot2_f32_f16 v0, v1, v2, v3\n.Lfunc_end0:\n\t.amdgpu_metadata\n---\namdhsa.kernels:\n  - \
                .args:\n    .group_segment_fixed_size: 1024\n    .private_segment_fixed_size: 12\n    .sgpr_count: 20\n    \
                .sgpr_spill_count: 0\n    .symbol: rf_gemm_q4_0_128.kd\n    .vgpr_count: 300\n    .vgpr_spill_count: 3\n";
    let found = parse("gfx1100", text);
    let [usage] = &found[..] else { panic!("{found:?}") };
    assert_eq!((usage.vgprs, usage.shared, usage.scratch, usage.spills), (300, 1024, 12, 3));
    let failures = usage.failures().join("\n");
    for expected in ["3", "12 bytes", "found 300", "expected v_wmma, found [\"v_dot2_f32_f16\"]"] {
        assert!(failures.contains(expected), "{expected} in {failures}");
    }
    assert_eq!(usage.failures().len(), 4);
}
