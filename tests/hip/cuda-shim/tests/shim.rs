//! HIP's functions on an NVIDIA card. Without one, or without nvcc for the kernels, a test says that it skips.

use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use rocmforge_hip_sys::*;

/// The library under test: beside this test's own program, or where `HIP_CUDA_SHIM` says.
fn library() -> PathBuf {
    if let Some(path) = std::env::var_os("HIP_CUDA_SHIM") {
        return path.into();
    }
    let own = std::env::current_exe().expect("the path of this program");
    own.parent().expect("a folder").join("librocmforge_hip_cuda_shim.so")
}

fn shim() -> Hip {
    Hip::load(Some(&library())).expect("the shim has every function of the table")
}

/// The shim, if there is a device.
fn hip() -> Option<Hip> {
    let hip = shim();
    match hip.device_count().expect("a count") {
        0 => {
            println!("skipped: no NVIDIA device");
            None
        }
        _ => Some(hip),
    }
}

/// The test kernels, compiled for device 0, as ones whose launches may overlap or not; `None` without nvcc.
fn image(hip: &Hip, overlap: bool) -> Option<&'static Vec<u8>> {
    static IMAGES: [OnceLock<Option<Vec<u8>>>; 2] = [OnceLock::new(), OnceLock::new()];
    let build = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, cubin) = (folder.path().join("kernels.cu"), folder.path().join("kernels.cubin"));
        std::fs::write(&source, include_str!("kernels.cu")).expect("a file");
        let arch = format!("-arch={}", hip.device_arch(0).expect("an instruction set"));
        let define = if overlap { "-DOVERLAP" } else { "-DIN_TURN" };
        let found = ["nvcc", "/usr/local/cuda/bin/nvcc"].into_iter().find_map(|nvcc| {
            Command::new(nvcc).args(["-cubin", &arch, define, "-o"]).arg(&cubin).arg(&source).status().ok()
        });
        match found {
            Some(status) => assert!(status.success(), "the test kernels do not compile"),
            None => {
                println!("skipped: no nvcc");
                return None;
            }
        }
        Some(std::fs::read(&cubin).expect("an image"))
    };
    IMAGES[usize::from(overlap)].get_or_init(build).as_ref()
}

/// The arguments of most test kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct To {
    to: u64,
    count: u32,
    rounds: u32,
}

/// The arguments of `rf_scale`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scale {
    from: u64,
    to: u64,
    factor: f32,
    count: u32,
}

struct Device<'a> {
    hip: &'a Hip,
    stream: hipStream_t,
    module: hipModule_t,
}

/// What a kernel that adds to numbers runs on.
const LANES: u32 = 64;

fn shape(blocks: u32, lanes: u32, shared_bytes: u32) -> LaunchShape {
    LaunchShape { grid: [blocks, 1, 1], block: [lanes, 1, 1], shared_bytes }
}

// SAFETY of this file: every handle and pointer is made here and destroyed once, and kernels get the structures they take.
impl<'a> Device<'a> {
    fn new(hip: &'a Hip) -> Option<Self> {
        Self::of(hip, false)
    }

    fn of(hip: &'a Hip, overlap: bool) -> Option<Self> {
        // SAFETY: a whole image.
        let module = unsafe { hip.load_module(image(hip, overlap)?) }.expect("a module");
        Some(Self { hip, stream: hip.create_stream().expect("a stream"), module })
    }

    fn launch<A: Copy>(&self, name: &str, shape: LaunchShape, arguments: &A) -> Result<(), HipError> {
        let name = CString::new(name).expect("a name");
        // SAFETY: see above.
        unsafe { self.hip.launch(self.hip.module_function(self.module, &name)?, shape, arguments, self.stream) }
    }

    fn wait(&self) -> Result<(), HipError> {
        // SAFETY: see above.
        unsafe { self.hip.synchronize_stream(self.stream) }
    }

    fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let to = self.hip.malloc(bytes).expect("memory");
        let from = values.as_ptr().cast::<c_void>();
        // SAFETY: see above.
        unsafe { self.hip.memcpy_async(to, from, bytes, hipMemcpyHostToDevice, self.stream) }.expect("a copy");
        to as u64
    }

    fn download<T: Copy + Default>(&self, from: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let (to, bytes) = (values.as_mut_ptr().cast::<c_void>(), size_of::<T>() * count);
        // SAFETY: see above.
        unsafe { self.hip.memcpy_async(to, from as *const c_void, bytes, hipMemcpyDeviceToHost, self.stream) }
            .expect("a copy");
        self.wait().expect("the stream");
        values
    }

    fn free(&self, pointer: u64) {
        // SAFETY: see above.
        unsafe { self.hip.free(pointer as *mut c_void) }.expect("freeing");
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // SAFETY: see above. After a fault the driver refuses, and the process ends soon.
        unsafe {
            let _ = self.hip.destroy_stream(self.stream);
            let _ = self.hip.unload_module(self.module);
        }
    }
}

#[test]
fn without_a_driver_there_are_no_devices() {
    let hip = shim();
    let count = hip.device_count().expect("no driver is no error");
    if count > 0 {
        println!("skipped: there is a driver");
        return;
    }
    for error in [hip.malloc(16).err(), hip.create_stream().err(), hip.set_device(0).err(), hip.device_arch(0).err()] {
        assert_eq!(error.and_then(|e| e.status()), Some(hipErrorNoDevice));
    }
}

#[test]
fn the_device_is_described_in_hips_numbers() {
    let Some(hip) = hip() else { return };
    let arch = hip.device_arch(0).expect("an instruction set");
    let major = hip.device_attribute(hipDeviceAttributeComputeCapabilityMajor, 0).expect("a number");
    let minor = hip.device_attribute(hipDeviceAttributeComputeCapabilityMinor, 0).expect("a number");
    assert_eq!(arch, format!("sm_{major}{minor}"));
    assert_eq!(hip.device_attribute(hipDeviceAttributeWarpSize, 0).expect("a number"), 32);
    assert_eq!(hip.device_attribute(hipDeviceAttributeMaxThreadsPerBlock, 0).expect("a number"), 1024);
    for attribute in [
        hipDeviceAttributeClockRate,
        hipDeviceAttributeL2CacheSize,
        hipDeviceAttributeMaxThreadsPerMultiProcessor,
        hipDeviceAttributeMemoryBusWidth,
        hipDeviceAttributeMemoryClockRate,
        hipDeviceAttributeMultiprocessorCount,
        hipDeviceAttributeMaxRegistersPerBlock,
        hipDeviceAttributeMaxSharedMemoryPerBlock,
    ] {
        assert!(hip.device_attribute(attribute, 0).expect("a number") > 0, "{attribute:?}");
    }
    for attribute in [hipDeviceAttributeIntegrated, hipDeviceAttributeKernelExecTimeout, hipDeviceAttributePciBusId] {
        hip.device_attribute(attribute, 0).expect("a number");
    }
    let total = hip.device_total_memory(0).expect("bytes");
    let info = hip.memory_info().expect("bytes");
    assert!(info.total <= total && info.free <= info.total && total > 1 << 30, "{info:?}, {total} in all");
    assert!(hip.device_pci_bus_id(0).expect("an address").contains(':'));
    assert!(hip.device_uuid(0).expect("a number").bytes.iter().all(u8::is_ascii_hexdigit));
    println!("{}: {arch}, {}", hip.device_name(0).expect("a name"), hip.driver_version().expect("a version"));
}

#[test]
fn kernels_take_packed_arguments() {
    let Some(hip) = hip() else { return };
    let Some(device) = Device::new(&hip) else { return };
    let values: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
    let (from, to) = (device.upload(&values), device.upload(&vec![0f32; values.len()]));
    let arguments = Scale { from, to, factor: 3.0, count: values.len() as u32 };
    device.launch("rf_scale", shape(values.len().div_ceil(256) as u32, 256, 0), &arguments).expect("a launch");
    let found: Vec<f32> = device.download(to, values.len());
    assert!(found.iter().zip(&values).all(|(f, v)| *f == 3.0 * v));
    let lanes = device.upload(&[0u32; 64]);
    device.launch("rf_wave_sum", shape(1, 64, 0), &To { to: lanes, count: 0, rounds: 0 }).expect("a launch");
    let sums: Vec<u32> = device.download(lanes, 64);
    assert!(sums[..32].iter().all(|s| *s == 496) && sums[32..].iter().all(|s| *s == 1520), "{sums:?}");
    [from, to, lanes].into_iter().for_each(|pointer| device.free(pointer));
}

#[test]
fn a_launch_may_ask_for_all_the_shared_memory_there_is() {
    let Some(hip) = hip() else { return };
    let Some(device) = Device::new(&hip) else { return };
    let most = hip.device_attribute(hipDeviceAttributeMaxSharedMemoryPerBlock, 0).expect("bytes") as u32;
    assert!(most > 48 * 1024, "{most} bytes");
    let memory = device.upload(&[1u32, 2, 3, 4]);
    let arguments = To { to: memory, count: 4, rounds: most / 4 - 4 };
    device.launch("rf_turn_in_launch_memory", shape(1, 4, most), &arguments).expect("a launch");
    assert_eq!(device.download::<u32>(memory, 4), [4, 3, 2, 1]);
    assert!(device.launch("rf_turn_in_launch_memory", shape(1, 4, most + 4), &arguments).is_err());
    device.free(memory);
}

#[test]
fn functions_are_described() {
    let Some(hip) = hip() else { return };
    let Some(device) = Device::new(&hip) else { return };
    // SAFETY: valid handles.
    unsafe {
        let function = hip.module_function(device.module, c"rf_scale").expect("a kernel");
        let attribute = |a| hip.function_attribute(a, function).expect("a number");
        assert!(attribute(HIP_FUNC_ATTRIBUTE_NUM_REGS) > 0);
        assert_eq!(attribute(HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES), 0);
        assert_eq!(attribute(HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 0);
        assert_eq!(attribute(HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
        assert!(hip.max_blocks_per_multiprocessor(function, 256, 0).expect("a number") >= 4);
    }
}

#[test]
fn streams_events_and_pinned_memory_keep_their_order() {
    let Some(hip) = hip() else { return };
    let Some(device) = Device::new(&hip) else { return };
    let other = hip.create_stream().expect("a stream");
    let bytes = LANES as usize * 4;
    let pinned = hip.host_malloc(bytes, hipHostMallocPortable).expect("pinned memory");
    let memory = device.upload(&[0u32; LANES as usize]);
    // SAFETY: valid handles and memory of LANES words.
    unsafe {
        let (start, end) = (hip.create_event(hipEventDefault), hip.create_event(hipEventDefault));
        let (start, end) = (start.expect("an event"), end.expect("an event"));
        hip.record_event(start, device.stream).expect("recording");
        device
            .launch("rf_increment", shape(1, LANES, 0), &To { to: memory, count: 0, rounds: 100_000 })
            .expect("a launch");
        hip.record_event(end, device.stream).expect("recording");
        hip.stream_wait_event(other, end).expect("waiting");
        hip.memcpy_async(pinned, memory as *const c_void, bytes, hipMemcpyDeviceToHost, other).expect("a copy");
        while !hip.query_stream(other).expect("an answer") {
            std::thread::yield_now();
        }
        assert!(hip.query_event(end).expect("an answer"));
        assert!(std::slice::from_raw_parts(pinned.cast::<u32>(), LANES as usize).iter().all(|n| *n == 100_000));
        assert!(hip.elapsed_milliseconds(start, end).expect("a time") > 0.0);
        hip.memset_async(memory as *mut c_void, 1, bytes, device.stream).expect("a fill");
        assert_eq!(device.download::<u32>(memory, 2), [0x0101_0101; 2]);
        hip.destroy_event(start).expect("destroying");
        hip.destroy_event(end).expect("destroying");
        hip.destroy_stream(other).expect("destroying");
        hip.host_free(pinned).expect("freeing");
    }
    device.free(memory);
}

#[test]
fn every_thread_has_its_device() {
    let Some(hip) = hip() else { return };
    let Some(device) = Device::new(&hip) else { return };
    let memory = device.upload(&[0u32; LANES as usize]);
    device.wait().expect("the stream");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            hip.set_device(0).expect("a device");
            device
                .launch("rf_increment", shape(1, LANES, 0), &To { to: memory, count: 0, rounds: 3 })
                .expect("a launch");
            device.wait().expect("the stream");
        });
    });
    assert_eq!(device.download::<u32>(memory, 1), [3]);
    device.free(memory);
}

/// Each launch reads what the one in front of it wrote: one that went ahead of it would lose additions.
#[test]
fn launches_that_may_overlap_keep_their_order() {
    const LAUNCHES: u32 = 500;
    let Some(hip) = hip() else { return };
    for overlap in [false, true] {
        let Some(device) = Device::of(&hip, overlap) else { return };
        let memory = device.upload(&[0u32; LANES as usize]);
        let add = |rounds| {
            device.launch("rf_increment", shape(1, LANES, 0), &To { to: memory, count: 0, rounds }).expect("a launch");
        };
        (0..LAUNCHES).for_each(|i| add(1 + i % 7 * 50));
        let expected: u32 = (0..LAUNCHES).map(|i| 1 + i % 7 * 50).sum();
        assert_eq!(device.download::<u32>(memory, LANES as usize), vec![expected; LANES as usize], "{overlap}");
        // SAFETY: valid handles, destroyed once.
        unsafe {
            hip.begin_capture(device.stream, hipStreamCaptureModeThreadLocal).expect("beginning");
            (0..LAUNCHES).for_each(|i| add(1 + i % 7 * 50));
            let graph = hip.end_capture(device.stream).expect("a graph");
            let executable = hip.instantiate_graph(graph).expect("an executable graph");
            hip.destroy_graph(graph).expect("destroying");
            hip.launch_graph(executable, device.stream).expect("a launch");
            hip.launch_graph(executable, device.stream).expect("a launch");
            assert_eq!(device.download::<u32>(memory, 1), [3 * expected], "recorded, {overlap}");
            hip.destroy_graph_exec(executable).expect("destroying");
        }
        device.free(memory);
    }
}

#[test]
fn graphs_run_what_was_recorded_each_time_they_are_launched() {
    let Some(hip) = hip() else { return };
    let Some(device) = Device::new(&hip) else { return };
    let memory = device.upload(&[0u32; LANES as usize]);
    device.wait().expect("the stream");
    assert!(hip.has_graphs());
    // SAFETY: valid handles, destroyed once.
    unsafe {
        hip.begin_capture(device.stream, hipStreamCaptureModeThreadLocal).expect("beginning");
        for rounds in [1, 2] {
            device.launch("rf_increment", shape(1, LANES, 0), &To { to: memory, count: 0, rounds }).expect("a launch");
        }
        let graph = hip.end_capture(device.stream).expect("a graph");
        assert_eq!(hip.graph_nodes(graph).expect("a number"), 2);
        let executable = hip.instantiate_graph(graph).expect("an executable graph");
        hip.destroy_graph(graph).expect("destroying");
        for _ in 0..5 {
            hip.launch_graph(executable, device.stream).expect("a launch");
        }
        assert_eq!(device.download::<u32>(memory, 1), [15]);
        hip.destroy_graph_exec(executable).expect("destroying");
        hip.begin_capture(device.stream, hipStreamCaptureModeThreadLocal).expect("beginning");
        let error = hip.synchronize_stream(device.stream).expect_err("waiting within a capture");
        assert_eq!(error.status(), Some(hipErrorStreamCaptureUnsupported));
        assert_eq!(
            hip.end_capture(device.stream).err().and_then(|e| e.status()),
            Some(hipErrorStreamCaptureInvalidated)
        );
    }
    device.free(memory);
}

#[test]
fn errors_are_hips() {
    let Some(hip) = hip() else { return };
    let total = hip.device_total_memory(0).expect("bytes");
    let error = hip.malloc(total * 2).expect_err("more than there is");
    assert!(error.is_out_of_memory() && !error.loses_device(), "{error}");
    assert!(error.to_string().contains("hipErrorOutOfMemory (2): out of memory"), "{error}");
    assert!(hip.malloc(0).expect("nothing").is_null());
    // SAFETY: refused by its first bytes.
    let error = unsafe { hip.load_module(&[7; 4096]) }.expect_err("no image");
    assert_eq!(error.status(), Some(hipErrorInvalidImage), "{error}");
    assert_eq!(hip.set_device(99).err().and_then(|e| e.status()), Some(hipErrorInvalidDevice));
    let Some(device) = Device::new(&hip) else { return };
    let error = device.launch("rf_nothing", shape(1, 1, 0), &0u32).expect_err("no kernel of this name");
    assert_eq!(error.status(), Some(hipErrorNotFound), "{error}");
    assert!(device.launch("rf_scale", shape(1, 2048, 0), &To { to: 0, count: 0, rounds: 0 }).is_err());
}

#[test]
fn a_stray_write_loses_the_device() {
    const CHILD: &str = "HIP_CUDA_SHIM_STRAY";
    let Some(hip) = hip() else { return };
    if std::env::var_os(CHILD).is_none() {
        drop(hip);
        let status = Command::new(std::env::current_exe().expect("the path of this program"))
            .args(["--exact", "a_stray_write_loses_the_device", "--nocapture"])
            .env(CHILD, "1")
            .status()
            .expect("this program again");
        assert!(status.success());
        return;
    }
    let Some(device) = Device::new(&hip) else { return };
    device.launch("rf_stray", shape(1, 1, 0), &To { to: 0, count: 0, rounds: 0 }).expect("a launch only queues");
    let error = device.wait().expect_err("a fault");
    assert!(error.loses_device(), "{error}");
    assert!(hip.malloc(16).is_err_and(|e| e.loses_device()), "the device takes no more work");
}

#[test]
fn devices_copy_to_each_other() {
    let Some(hip) = hip() else { return };
    if hip.device_count().expect("a count") < 2 {
        println!("skipped: one device");
        return;
    }
    let Some(device) = Device::new(&hip) else { return };
    let memory = device.upload(&[5u32; 8]);
    device.wait().expect("the stream");
    if hip.can_access_peer(0, 1).expect("an answer") {
        hip.enable_peer_access(1).expect("access");
        hip.enable_peer_access(1).expect("access, again");
    }
    hip.set_device(1).expect("the other device");
    let (other, stream) = (hip.malloc(32).expect("memory"), hip.create_stream().expect("a stream"));
    let mut found = [0u32; 8];
    let to = found.as_mut_ptr().cast::<c_void>();
    // SAFETY: valid handles and memory.
    unsafe {
        hip.memcpy_peer_async((other, 1), (memory as *const c_void, 0), 32, stream).expect("a copy");
        hip.memcpy_async(to, other, 32, hipMemcpyDeviceToHost, stream).expect("a copy");
        hip.synchronize_stream(stream).expect("the stream");
        hip.destroy_stream(stream).expect("destroying");
        hip.free(other).expect("freeing");
    }
    assert_eq!(found, [5; 8]);
    hip.set_device(0).expect("the first device");
    device.free(memory);
}
