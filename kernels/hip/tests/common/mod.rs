//! What the tests of kernels share: the stand-in device with waves of 32 and 64, random values, comparison.
#![allow(dead_code)]

pub mod matrix;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use rocmforge_hip_sys::*;
use rocmforge_kernels_hip::compile::{Cache, Job, Kind, Toolchain, compile_all};
use rocmforge_kernels_hip::{Launch, Planes, grid};
use rocmforge_quant::DType;

fn cache() -> Cache {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // This program is in <target>/<profile>/deps.
    let own = std::env::current_exe().unwrap();
    Cache { folder: own.ancestors().nth(3).unwrap().join("hip-images"), sources }
}

/// Runs `body` on the stand-in device with waves of 32 and of 64, each in a process of its own, because the device is the
/// process's. `test` is the name of the test that calls, which the child runs again; `sources` are those it launches from.
#[track_caller]
pub fn on_both_waves(test: &str, sources: &[&str], body: impl FnOnce(&Gpu)) {
    if let Ok(wave) = std::env::var("HIP_STAND_IN_WAVE") {
        let gpu = Gpu::new(wave.parse().unwrap());
        body(&gpu);
        return;
    }
    let Ok(compiler) = Toolchain::find(Kind::Simt) else {
        println!("skipped: no C++ compiler to build kernels for the processor with");
        return;
    };
    // Tests of one program run at once; only one of them compiles.
    static COMPILING: Mutex<()> = Mutex::new(());
    {
        let _one = COMPILING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let job = |source: &&str, arch: &str| Job { source: (*source).to_owned(), arch: arch.to_owned() };
        let jobs: Vec<Job> = sources.iter().flat_map(|s| [job(s, "simt32"), job(s, "simt64")]).collect();
        compile_all(&cache(), &[compiler], &jobs).unwrap_or_else(|error| panic!("{error}"));
    }
    for wave in ["32", "64"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("HIP_STAND_IN_WAVE", wave)
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "wave {wave}: {}\n{text}", output.status);
    }
}

/// A device with one stream.
pub struct Gpu {
    pub hip: Hip,
    pub wave: u32,
    stream: hipStream_t,
    modules: Mutex<HashMap<&'static str, hipModule_t>>,
}

// SAFETY of this file's blocks: handles and pointers are made here and live until the process ends; copies wait for the stream
// before their host memory goes; launches carry the arguments that `launch` packed for that kernel.
impl Gpu {
    fn new(wave: u32) -> Gpu {
        let own = std::env::current_exe().unwrap();
        let hip = Hip::load(Some(&own.parent().unwrap().join("librocmforge_hip_stand_in.so"))).unwrap();
        let stream = hip.create_stream().unwrap();
        Gpu { hip, wave, stream, modules: Mutex::default() }
    }

    fn function(&self, source: &'static str, name: &str) -> hipFunction_t {
        let mut modules = self.modules.lock().unwrap();
        let module = modules.entry(source).or_insert_with(|| {
            let job = Job { source: source.to_owned(), arch: format!("simt{}", self.wave) };
            let paths = compile_all(&cache(), &[Toolchain::find(Kind::Simt).unwrap()], &[job]).unwrap();
            // SAFETY: see above.
            unsafe { self.hip.load_module(&std::fs::read(&paths[0]).unwrap()) }.unwrap()
        });
        // SAFETY: see above.
        unsafe { self.hip.module_function(*module, &CString::new(name).unwrap()) }.unwrap()
    }

    /// Runs a kernel and waits for it.
    #[track_caller]
    pub fn run(&self, launch: Launch) {
        let function = self.function(launch.kernel.source, launch.kernel.name);
        let shape = LaunchShape { grid: launch.grid, block: [launch.threads, 1, 1], shared_bytes: 0 };
        // SAFETY: see above.
        unsafe { self.hip.launch_packed(function, shape, &launch.args, self.stream) }.unwrap();
        self.wait();
    }

    fn wait(&self) {
        // SAFETY: see above.
        unsafe { self.hip.synchronize_stream(self.stream) }.unwrap();
    }

    /// Device memory that holds NaN (all bits set) until it is written.
    pub fn room(&self, bytes: usize) -> u64 {
        self.hip.malloc(bytes.max(1)).unwrap() as u64
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let to = self.room(size_of_val(values));
        let (from, bytes) = (values.as_ptr().cast::<c_void>(), size_of_val(values));
        if bytes > 0 {
            // SAFETY: see above.
            unsafe { self.hip.memcpy_async(to as *mut c_void, from, bytes, hipMemcpyHostToDevice, self.stream) }
                .unwrap();
            self.wait();
        }
        to
    }

    pub fn download<T: Copy + Default>(&self, from: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let (to, bytes) = (values.as_mut_ptr().cast::<c_void>(), size_of::<T>() * count);
        // SAFETY: see above.
        unsafe { self.hip.memcpy_async(to, from as *const c_void, bytes, hipMemcpyDeviceToHost, self.stream) }.unwrap();
        self.wait();
        values
    }

    pub fn floats(&self, from: u64, count: usize) -> Vec<f32> {
        self.download(from, count)
    }

    /// A matrix of the file's bytes, in planes.
    pub fn planes(&self, dtype: DType, bytes: &[u8], elements: usize) -> Planes {
        let planes = Planes::new(dtype, self.room(bytes.len()), elements as u64).unwrap();
        let planes = grid(dtype).map_or(planes, |points| planes.with_grid(self.upload(&points)));
        let staging = self.upload(bytes);
        // In two parts, as an upload in chunks would.
        let first = planes.blocks / 3;
        self.run(rocmforge_kernels_hip::launch::repack(&planes.repack(staging, 0, first), self.wave));
        let rest = staging + first * dtype.layout().block_bytes as u64;
        if rest.is_multiple_of(4) {
            self.run(rocmforge_kernels_hip::launch::repack(
                &planes.repack(rest, first, planes.blocks - first),
                self.wave,
            ));
        } else {
            self.run(rocmforge_kernels_hip::launch::repack(&planes.repack(staging, 0, planes.blocks), self.wave));
        }
        planes
    }
}

/// Repeatable random numbers: xorshift, uniform and normal.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u32) -> u32 {
        ((self.bits() >> 32) as u32) % n
    }

    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Fails unless the error's root mean square and maximum, relative to the expected values' root mean square, are small.
#[track_caller]
pub fn check(what: &str, found: &[f32], expected: &[f64], rms: f64, largest: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len() as f64).sqrt().max(1e-30);
    let errors: Vec<f64> = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs() / size).collect();
    let found_rms = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
    let (at, most) =
        errors.iter().enumerate().fold((0, 0.0), |a, (i, &e)| if e > a.1 || e.is_nan() { (i, e) } else { a });
    assert!(
        found_rms <= rms && most <= largest,
        "{what}: rms {found_rms:.2e} (at most {rms:.0e}), largest {most:.2e} (at most {largest:.0e}) at {at}: \
         expected {}, found {}",
        expected[at],
        found[at]
    );
}
