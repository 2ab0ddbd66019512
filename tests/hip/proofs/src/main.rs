//! `hip-proofs sanitize [BACKEND-OPTIONS]`: the operations of the HIP backend under the address sanitizer.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rocmforge_hip_proofs::library;

const USAGE: &str = "usage: hip-proofs sanitize [--options 'BACKEND OPTIONS'] [--filter CASES]
Builds the kernels for the processor with the address sanitizer, for waves of 32 and of 64, and runs the conformance
cases of the HIP backend on the stand-in: a kernel that reads or writes outside of its buffers ends the run.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1)).cloned();
    if arguments.first().map(String::as_str) != Some("sanitize") {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match sanitize(value("--options").as_deref(), value("--filter").as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A compiler in front of the host's that adds the sanitizer. It names another version, since the images of both are kept
/// by the compiler's version.
fn compiler(folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    let cxx = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let wrapper = folder.join("c++-with-address-sanitizer");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo \"with the address sanitizer: $({cxx} --version | head -n 1)\"; exit; fi\n\
         exec {cxx} -fsanitize=address -fno-omit-frame-pointer -g \"$@\"\n"
    );
    std::fs::write(&wrapper, script).map_err(|e| format!("{}: {e}", wrapper.display()))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&wrapper, executable).map_err(|e| format!("{}: {e}", wrapper.display()))?;
    let output = Command::new(&cxx).arg("-print-file-name=libasan.so").output().map_err(|e| format!("{cxx}: {e}"))?;
    let runtime = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !runtime.is_absolute() {
        return Err(format!("{cxx} has no libasan.so; install the sanitizers of GCC"));
    }
    Ok((wrapper, runtime))
}

/// A program of the build, beside this one.
fn program(name: &str) -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    let path = exe.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing; run `cargo build --release` first", path.display()))
    }
}

/// Runs a command to its end.
fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{what}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} ended with {status}")) }
}

fn sanitize(options: Option<&str>, filter: Option<&str>) -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("rocmforge-hip-proofs-{}", std::process::id()));
    let result = sanitize_in(&folder, options, filter);
    let removed = std::fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()));
    result.and(removed)
}

/// The backend's options: a busy processor is no device that hangs.
fn patient(options: Option<&str>) -> String {
    let options = options.unwrap_or_default();
    match options.contains("timeout_seconds") {
        true => options.to_owned(),
        false => format!("timeout_seconds = 3600\n{options}"),
    }
}

fn sanitize_in(folder: &Path, options: Option<&str>, filter: Option<&str>) -> Result<(), String> {
    let (backend, stand_in) = (library("backend_hip")?, library("hip_stand_in")?);
    let images = folder.join("images");
    std::fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    let (wrapper, runtime) = compiler(folder)?;
    let mut build = Command::new(program("hip-kernels")?);
    build.args(["build", "--arch", "simt32,simt64", "--out"]).arg(&images).env("CXX", &wrapper);
    run(&mut build, "building the kernels")?;
    for wave in ["32", "64"] {
        let report = folder.join(format!("report-{wave}"));
        let mut conformance = Command::new(program("rocmforge-conformance")?);
        conformance.arg(&backend).arg("--quiet").args(["--options", &patient(options)]);
        conformance.args(filter.map(|f| ["--filter", f]).into_iter().flatten());
        conformance
            .env("LD_PRELOAD", &runtime)
            // Rust's own leaks at the end of a process are none; the stand-in reports those of the device.
            .env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1:handle_segv=1")
            .env("ROCMFORGE_HIP_LIBRARY", &stand_in)
            .env("ROCMFORGE_HIP_IMAGES", &images)
            .env("HIP_STAND_IN_WAVE", wave)
            .env("HIP_STAND_IN_REPORT", &report);
        run(&mut conformance, &format!("the conformance cases in waves of {wave}"))?;
        let report = std::fs::read_to_string(&report).map_err(|e| format!("{}: {e}", report.display()))?;
        let line = |name: &str| report.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("?").trim().to_owned();
        let (leaks, misuses, launches) = (line("leaks:"), line("misuses:"), line("launches:"));
        println!("waves of {wave}: {launches} launches, {leaks} leaks, {misuses} misuses, nothing outside of a buffer");
        if misuses != "0" || leaks != "0" || launches == "0" {
            return Err(format!("expected launches, no leaks and no misuses:\n{report}"));
        }
    }
    Ok(())
}
