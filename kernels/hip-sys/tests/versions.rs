//! Libraries of different versions: made up in C, with every function of the table but some.

use std::path::{Path, PathBuf};
use std::process::Command;

use rocmforge_hip_sys::{FUNCTIONS, Hip, HipError, hipStream_t, hipStreamCaptureModeRelaxed};

/// Device properties as ROCm 5 and as ROCm 6 lay them out, the version, and everything else as a function that succeeds.
fn source(missing: &[&str]) -> String {
    let own = [
        "hipRuntimeGetVersion",
        "hipGetDeviceProperties",
        "hipGetDevicePropertiesR0600",
        "hipGetErrorName",
        "hipGetErrorString",
    ];
    let mut text = String::from(
        "#include <string.h>\n\
         #define KEEP __attribute__((visibility(\"default\")))\n\
         static int arch(char *to, int at, const char *name) { memset(to, 0, at + 256); strcpy(to + at, name); return 0; }\n",
    );
    let bodies = [
        "KEEP int hipRuntimeGetVersion(int *version) { *version = 50731921; return 0; }\n",
        "KEEP int hipGetDeviceProperties(char *to, int device) { return arch(to, 396, device ? \"\" : \"gfx1030\"); }\n",
        "KEEP int hipGetDevicePropertiesR0600(char *to, int device) { return arch(to, 1160, device ? \"\" : \"gfx90a:xnack-\"); }\n",
        "KEEP const char *hipGetErrorName(int error) { return 0; }\n",
        "KEEP const char *hipGetErrorString(int error) { return 0; }\n",
    ];
    for (name, body) in own.iter().zip(bodies) {
        text += if missing.contains(name) { "" } else { body };
    }
    for function in FUNCTIONS.iter().filter(|f| !own.contains(&f.name) && !missing.contains(&f.name)) {
        text += &format!("KEEP int {}(void) {{ return 0; }}\n", function.name);
    }
    text
}

/// Builds the library without these functions and tries it. Without a C compiler the test says that it skips.
fn with_library(missing: &[&str], body: impl FnOnce(&Path, Result<Hip, HipError>)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, library): (PathBuf, PathBuf) = (folder.path().join("hip.c"), folder.path().join("libamdhip64.so.5"));
    std::fs::write(&code, source(missing)).expect("a file");
    let cc = std::env::var_os("CC").unwrap_or("cc".into());
    match Command::new(cc).args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&code).status() {
        Ok(status) => assert!(status.success(), "the library does not compile"),
        Err(error) => {
            println!("skipped: no C compiler: {error}");
            return;
        }
    }
    body(&library, Hip::load(Some(&library)));
}

#[test]
fn the_layout_of_properties_is_that_of_the_symbol() {
    with_library(&[], |_, hip| {
        assert_eq!(hip.expect("the library").device_arch(0).expect("a name"), "gfx90a");
    });
    with_library(&["hipGetDevicePropertiesR0600"], |_, hip| {
        assert_eq!(hip.expect("the library").device_arch(0).expect("a name"), "gfx1030");
    });
    with_library(&[], |library, hip| {
        let text = hip.expect("the library").device_arch(1).expect_err("no name").to_string();
        for part in [
            &*library.display().to_string(),
            "HIP 5.7.31921",
            "hipGetDevicePropertiesR0600",
            "byte 1160",
            "found nothing",
        ] {
            assert!(text.contains(part), "expected '{part}' in: {text}");
        }
    });
    with_library(&["hipGetDevicePropertiesR0600", "hipGetDeviceProperties"], |_, hip| {
        let text = hip.err().expect("no properties at all").to_string();
        assert!(text.contains("hipGetDevicePropertiesR0600"), "{text}");
    });
}

#[test]
fn a_missing_required_function_is_named_with_library_and_version() {
    for symbol in FUNCTIONS.iter().filter(|f| f.required && f.name != "hipRuntimeGetVersion").map(|f| f.name).take(3) {
        with_library(&[symbol], |library, hip| {
            let text = hip.err().expect("a refusal").to_string();
            for part in [&*library.display().to_string(), "HIP 5.7.31921", symbol] {
                assert!(text.contains(part), "expected '{part}' in: {text}");
            }
        });
    }
}

#[test]
fn a_missing_optional_function_turns_a_feature_off() {
    with_library(&["hipGraphLaunch", "hipDeviceCanAccessPeer"], |library, hip| {
        let hip = hip.expect("optional functions may be missing");
        assert!(!hip.has_graphs());
        assert!(!hip.can_access_peer(0, 1).expect("an answer"));
        // SAFETY: the made-up function looks at nothing.
        unsafe { hip.begin_capture(hipStream_t::NULL, hipStreamCaptureModeRelaxed) }.expect("this one is there");
        // SAFETY: as above.
        let error = unsafe { hip.launch_graph(rocmforge_hip_sys::hipGraphExec_t::NULL, hipStream_t::NULL) };
        let text = error.expect_err("this one is not").to_string();
        for part in [&*library.display().to_string(), "HIP 5.7.31921", "hipGraphLaunch is needed"] {
            assert!(text.contains(part), "expected '{part}' in: {text}");
        }
    });
    with_library(&[], |_, hip| assert!(hip.expect("the library").has_graphs()));
}
