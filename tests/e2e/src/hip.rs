//! The HIP backend on the project's stand-in for HIP, in child processes: HIP's library is chosen by their environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use rocmforge_test_support::{build_plugins, npy_f32, repository};

use crate::build_folder;

/// A stand-in device with so many lanes to a wave, and what it does differently.
#[derive(Clone, Debug)]
pub struct StandIn {
    /// Lanes of a wave: 32 or 64.
    pub wave: u32,
    /// Further environment variables.
    pub settings: Vec<(&'static str, String)>,
}

/// The kernels for the processor, compiled once per program; `None`, with the reason, where there is no C++ compiler.
pub fn images() -> Result<&'static Path, &'static str> {
    static IMAGES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let compile = || {
        let [_] = build_plugins(["rocmforge-hip-stand-in"]);
        let folder = build_folder().join("simt-images");
        let output = Command::new(build_folder().join("hip-kernels"))
            .args(["build", "--arch", "simt32,simt64", "--out"])
            .arg(&folder)
            .output()
            .map_err(|e| format!("hip-kernels: {e}"))?;
        match output.status.success() {
            true => Ok(folder),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    IMAGES.get_or_init(compile).as_deref().map_err(String::as_str)
}

/// Whether the kernels could be compiled; says so where not.
pub fn ready() -> bool {
    match images() {
        Ok(_) => true,
        Err(why) => {
            println!("skipped: no kernels for the processor: {}", why.lines().last().unwrap_or(why));
            false
        }
    }
}

impl StandIn {
    /// With waves of 32 or 64.
    pub fn new(wave: u32) -> StandIn {
        StandIn { wave, settings: vec![] }
    }

    /// With a setting of the stand-in.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> StandIn {
        self.settings.push((name, value.to_string()));
        self
    }

    /// A program that finds the stand-in as HIP's library.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(build_folder().join(program));
        self.apply(&mut command);
        command
    }

    /// Lets a program find the stand-in as HIP's library.
    pub fn apply(&self, command: &mut Command) {
        command
            .env("ROCMFORGE_HIP_LIBRARY", build_folder().join("librocmforge_hip_stand_in.so"))
            .env("ROCMFORGE_HIP_IMAGES", images().expect("the kernels are compiled"))
            .env("HIP_STAND_IN_WAVE", self.wave.to_string())
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
    }

    /// Runs the host to its end.
    pub fn host(&self, args: &[&str]) -> Output {
        self.command("rocmforge-host").args(args).output().expect("the host runs")
    }
}

/// What a program wrote to standard error.
pub fn log_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Logits `[tokens, vocab]` of the command `logits`, and its log.
pub fn logits(mut host: Command, folder: &Path, args: &[&str]) -> (Vec<f32>, String) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let out = std::env::temp_dir().join(format!("rocmforge-logits-{}-{number}.npy", std::process::id()));
    let output = host.args(args).arg("--out").arg(&out).current_dir(folder).output().expect("the host runs");
    let log = log_of(&output);
    assert!(output.status.success(), "{log}");
    let (_, values) = npy_f32(&out);
    std::fs::remove_file(&out).expect("the file was written");
    (values, log)
}

/// The repository's folder of models.
pub fn models() -> PathBuf {
    repository().join("tests/models")
}
