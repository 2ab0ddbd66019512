//! What the tests share: images of the test kernels, processes with other settings, and plain device memory.
#![allow(dead_code, clippy::missing_safety_doc)]

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rocmforge_hip_sys::*;

/// The library under test, beside this test's own program.
pub fn library() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    own.parent().expect("a folder").join("librocmforge_hip_stand_in.so")
}

/// Builds the test kernels for both waves. `false` without a C compiler, with a line that says so.
pub fn build(folder: &Path, flags: &[&str]) -> bool {
    for wave in ["32", "64"] {
        let status = Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
            .args(["-O2", "-shared", "-fPIC", "-std=c11", &format!("-DRF_WAVE={wave}")])
            .args(flags)
            .arg("-o")
            .arg(folder.join(format!("{wave}.so")))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels.c"))
            .status();
        match status {
            Ok(status) => assert!(status.success(), "the test kernels do not compile"),
            Err(error) => {
                println!("skipped: no C compiler: {error}");
                return false;
            }
        }
    }
    true
}

/// Builds the test kernels once in a process and its children. `None` without a C compiler.
fn images() -> Option<&'static PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let once = || {
        if let Some(folder) = std::env::var_os("STAND_IN_TEST_IMAGES") {
            return Some(PathBuf::from(folder));
        }
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        build(&folder, &[]).then_some(folder)
    };
    FOLDER.get_or_init(once).as_ref()
}

/// The image for waves of this many lanes.
pub fn image(wave: u32) -> Vec<u8> {
    let folder = images().expect("images");
    std::fs::read(folder.join(format!("{wave}.so"))).expect("an image")
}

/// Runs `body` in a process of its own with these settings, and expects this many leaks and misuses in its report.
///
/// `test` is the name of the test that calls, which the child process runs again.
#[track_caller]
pub fn with(test: &str, settings: &[(&str, &str)], expected: (usize, usize), body: impl FnOnce(&Hip)) {
    let label = format!("{test}{settings:?}");
    match std::env::var("STAND_IN_TEST") {
        Ok(running) if running == label => body(&Hip::load(Some(&library())).expect("the stand-in")),
        Ok(_) => {}
        Err(_) => {
            let Some(folder) = images() else { return };
            let report = tempfile::NamedTempFile::new().expect("a temporary file");
            let output = Command::new(std::env::current_exe().expect("the path of this program"))
                .args(["--exact", test, "--nocapture", "--test-threads=1"])
                .env("STAND_IN_TEST", &label)
                .env("STAND_IN_TEST_IMAGES", folder)
                .env("HIP_STAND_IN_REPORT", report.path())
                .envs(settings.iter().copied())
                .output()
                .expect("this program again");
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && text.contains("1 passed"), "{label}: {}\n{text}", output.status);
            assert_report(report.path(), expected, &label);
        }
    }
}

#[track_caller]
fn assert_report(path: &Path, (leaks, misuses): (usize, usize), label: &str) {
    let report = std::fs::read_to_string(path).expect("a report");
    let head = format!("leaks: {leaks}\nmisuses: {misuses}\n");
    assert!(report.starts_with(&head), "{label}: expected\n{head}found\n{report}");
}

/// A device with one stream and the test kernels, for one wave.
pub struct Device<'a> {
    pub hip: &'a Hip,
    pub stream: hipStream_t,
    module: hipModule_t,
}

/// The arguments of most test kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct To {
    pub to: u64,
    pub count: u32,
    pub rounds: u32,
}

/// The arguments of `rf_scale`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scale {
    pub from: u64,
    pub to: u64,
    pub factor: f32,
    pub count: u32,
}

/// One dimension of blocks and lanes.
pub fn shape(blocks: u32, lanes: u32) -> LaunchShape {
    LaunchShape { grid: [blocks, 1, 1], block: [lanes, 1, 1], shared_bytes: 0 }
}

// SAFETY of this file: every handle and pointer is made here and destroyed once, and kernels get the structures they take.
impl<'a> Device<'a> {
    pub fn new(hip: &'a Hip) -> Self {
        let wave = hip.device_attribute(hipDeviceAttributeWarpSize, 0).expect("the wave");
        let image = image(wave as u32);
        // SAFETY: a whole image.
        let module = unsafe { hip.load_module(&image) }.expect("a module");
        Self { hip, stream: hip.create_stream().expect("a stream"), module }
    }

    pub fn function(&self, name: &str) -> Result<hipFunction_t, HipError> {
        let name = CString::new(name).expect("a name");
        // SAFETY: the module is valid.
        unsafe { self.hip.module_function(self.module, &name) }
    }

    pub fn launch<A: Copy>(&self, name: &str, shape: LaunchShape, arguments: &A) -> Result<(), HipError> {
        let function = self.function(name)?;
        // SAFETY: see above.
        unsafe { self.hip.launch(function, shape, arguments, self.stream) }
    }

    pub fn wait(&self) -> Result<(), HipError> {
        // SAFETY: see above.
        unsafe { self.hip.synchronize_stream(self.stream) }
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let to = self.hip.malloc(bytes).expect("memory");
        let from = values.as_ptr().cast::<c_void>();
        // SAFETY: see above.
        unsafe { self.hip.memcpy_async(to, from, bytes, hipMemcpyHostToDevice, self.stream) }.expect("a copy");
        to as u64
    }

    pub fn download<T: Copy + Default>(&self, from: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let (to, bytes) = (values.as_mut_ptr().cast::<c_void>(), size_of::<T>() * count);
        // SAFETY: see above.
        unsafe { self.hip.memcpy_async(to, from as *const c_void, bytes, hipMemcpyDeviceToHost, self.stream) }
            .expect("a copy");
        self.wait().expect("the stream");
        values
    }

    pub fn free(&self, pointer: u64) {
        // SAFETY: see above.
        unsafe { self.hip.free(pointer as *mut c_void) }.expect("freeing");
    }

    /// Runs a kernel that writes `count` words and returns them.
    pub fn words(&self, name: &str, shape: LaunchShape, count: u32, rounds: u32, words: usize) -> Vec<u32> {
        let to = self.upload(&vec![0u32; words]);
        self.launch(name, shape, &To { to, count, rounds }).expect("a launch");
        let found = self.download(to, words);
        self.free(to);
        found
    }

    pub fn module(&self) -> hipModule_t {
        self.module
    }

    pub fn close(self) {
        // SAFETY: see above.
        unsafe {
            self.hip.destroy_stream(self.stream).expect("destroying");
            self.hip.unload_module(self.module).expect("unloading");
        }
    }
}
