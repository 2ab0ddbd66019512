//! Memory, streams, events, graphs and failures, as the HIP backend meets them.

mod common;

use std::ffi::c_void;

use common::{Device, To, image, shape, with};
use rocmforge_hip_sys::*;

#[test]
fn a_device_says_what_it_is() {
    for (wave, arch) in [("32", "simt32"), ("64", "simt64")] {
        let settings = [("HIP_STAND_IN_WAVE", wave), ("HIP_STAND_IN_DEVICES", "2"), ("HIP_STAND_IN_MEMORY", "1000000")];
        with("a_device_says_what_it_is", &settings, (0, 0), |hip| {
            assert_eq!(hip.device_count().expect("a count"), 2);
            assert_eq!(hip.version().to_string(), "HIP 6.0.0");
            assert_eq!(hip.device_arch(1).expect("a name"), arch);
            assert!(hip.device_name(0).expect("a name").contains(wave));
            assert_eq!(hip.device_total_memory(0).expect("bytes"), 1_000_000);
            assert_eq!(hip.device_attribute(hipDeviceAttributeWarpSize, 1).expect("lanes").to_string(), wave);
            assert_ne!(hip.device_pci_bus_id(0).expect("an address"), hip.device_pci_bus_id(1).expect("an address"));
            assert_ne!(hip.device_uuid(0).expect("a number"), hip.device_uuid(1).expect("a number"));
            assert!(hip.can_access_peer(0, 1).expect("an answer"));
            let error = hip.device_name(2).expect_err("there is no third device");
            assert_eq!(error.status(), Some(hipErrorInvalidDevice));
            assert!(
                error.to_string().contains("hipDeviceGet failed: hipErrorInvalidDevice (101): invalid device ordinal"),
                "{error}"
            );
        });
    }
}

#[test]
fn no_device_is_not_an_error() {
    with("no_device_is_not_an_error", &[("HIP_STAND_IN_DEVICES", "0")], (0, 0), |hip| {
        assert_eq!(hip.device_count().expect("a count"), 0);
        assert!(hip.malloc(1).is_err());
    });
}

#[test]
fn memory_has_an_end_and_an_account() {
    let settings = [("HIP_STAND_IN_MEMORY", "1000000"), ("HIP_STAND_IN_DEVICES", "2")];
    with("memory_has_an_end_and_an_account", &settings, (0, 0), |hip| {
        let first = hip.malloc(600_000).expect("memory");
        assert_eq!(hip.memory_info().expect("numbers"), MemoryInfo { free: 400_000, total: 1_000_000 });
        let error = hip.malloc(400_001).expect_err("more than there is");
        assert!(error.is_out_of_memory() && !error.loses_device(), "{error}");
        hip.set_device(1).expect("the other device");
        let other = hip.malloc(1_000_000).expect("the other device's memory");
        // SAFETY: both come from `malloc`.
        unsafe {
            hip.free(other).expect("freeing");
            hip.free(first).expect("freeing");
        }
        hip.set_device(0).expect("the first device");
        assert_eq!(hip.memory_info().expect("numbers").free, 1_000_000);
    });
}

#[test]
fn what_is_not_given_back_or_given_back_twice_is_reported() {
    with("what_is_not_given_back_or_given_back_twice_is_reported", &[], (2, 3), |hip| {
        let (kept, freed) = (hip.malloc(100).expect("memory"), hip.malloc(100).expect("memory"));
        let event = hip.create_event(hipEventDefault).expect("an event");
        let _leaked = hip.create_event(hipEventDisableTiming).expect("an event");
        // SAFETY: not sound with AMD's library; the stand-in is what must notice.
        unsafe {
            hip.free(freed).expect("freeing");
            assert_eq!(hip.free(freed).expect_err("a double free").status(), Some(hipErrorInvalidValue));
            assert!(hip.host_free(kept).is_err(), "device memory is not pinned memory");
            hip.destroy_event(event).expect("destroying");
            assert_eq!(hip.query_event(event).expect_err("a dead handle").status(), Some(hipErrorInvalidHandle));
        }
    });
}

#[test]
fn new_memory_is_full_of_not_a_numbers() {
    with("new_memory_is_full_of_not_a_numbers", &[], (0, 0), |hip| {
        let device = Device::new(hip);
        let memory = hip.malloc(64).expect("memory") as u64;
        let found: Vec<f32> = device.download(memory, 16);
        assert!(found.iter().all(|x| x.is_nan()));
        device.free(memory);
        device.close();
    });
}

/// Reads and writes of pinned memory happen when the work runs, which is when someone waits for it.
#[test]
fn a_forgotten_wait_shows() {
    with("a_forgotten_wait_shows", &[], (0, 0), |hip| {
        let device = Device::new(hip);
        let bytes = 16 * size_of::<u32>();
        let pinned = hip.host_malloc(bytes, hipHostMallocDefault).expect("pinned memory");
        let words = pinned.cast::<u32>();
        let memory = hip.malloc(bytes).expect("memory");
        // SAFETY: pinned memory of 16 words, device memory of as many.
        unsafe {
            words.write_bytes(0, 16);
            hip.memcpy_async(memory, pinned, bytes, hipMemcpyHostToDevice, device.stream).expect("a copy");
            words.write(7);
            assert!(!hip.query_stream(device.stream).is_err_and(|e| e.loses_device()));
            device.wait().expect("the stream");
            assert_eq!(device.download::<u32>(memory as u64, 1), [7], "the source was changed before the copy ran");
            hip.memset_async(memory, 1, bytes, device.stream).expect("a fill");
            hip.memcpy_async(pinned, memory, bytes, hipMemcpyDeviceToHost, device.stream).expect("a copy");
            assert_eq!(words.read(), 7, "nobody has waited");
            device.wait().expect("the stream");
            assert_eq!(words.read(), 0x0101_0101);
            hip.host_free(pinned).expect("freeing");
            hip.free(memory).expect("freeing");
        }
        device.close();
    });
}

#[test]
fn streams_wait_for_events_and_only_for_them() {
    for streams in ["late", "eager"] {
        let settings = [("HIP_STAND_IN_STREAMS", streams)];
        with("streams_wait_for_events_and_only_for_them", &settings, (0, 0), |hip| {
            let device = Device::new(hip);
            let other = hip.create_stream().expect("a stream");
            let memory = hip.malloc(4).expect("memory");
            // SAFETY: valid handles and 4 bytes of memory.
            unsafe {
                let (start, end) = (hip.create_event(hipEventDefault), hip.create_event(hipEventDefault));
                let (start, end) = (start.expect("an event"), end.expect("an event"));
                assert!(hip.query_event(start).expect("an answer"), "an event that was never recorded has happened");
                hip.record_event(start, device.stream).expect("recording");
                hip.memset_async(memory, 1, 4, device.stream).expect("a fill");
                hip.record_event(end, device.stream).expect("recording");
                hip.stream_wait_event(other, end).expect("waiting");
                hip.memset_async(memory, 2, 4, other).expect("a fill");
                hip.synchronize_stream(other).expect("the stream");
                assert!(hip.query_event(end).expect("an answer"));
                assert!(hip.elapsed_milliseconds(start, end).expect("a time") >= 0.0);
                device.wait().expect("the stream");
                assert_eq!(device.download::<u32>(memory as u64, 1), [0x0202_0202]);
                hip.destroy_event(start).expect("destroying");
                hip.destroy_event(end).expect("destroying");
                hip.destroy_stream(other).expect("destroying");
                hip.free(memory).expect("freeing");
            }
            device.close();
        });
    }
}

#[test]
fn asking_in_a_loop_ends() {
    with("asking_in_a_loop_ends", &[], (0, 0), |hip| {
        let device = Device::new(hip);
        let memory = device.upload(&[0u32; 4]);
        // SAFETY: valid handles.
        unsafe {
            let event = hip.create_event(hipEventDisableTiming).expect("an event");
            hip.record_event(event, device.stream).expect("recording");
            let mut asked = 0;
            while !hip.query_event(event).expect("an answer") {
                asked += 1;
            }
            assert!(asked > 0, "queued work is not done at once");
            assert!(hip.query_stream(device.stream).expect("an answer"));
            hip.destroy_event(event).expect("destroying");
        }
        device.free(memory);
        device.close();
    });
}

#[test]
fn graphs_run_what_was_recorded_each_time_they_are_launched() {
    with("graphs_run_what_was_recorded_each_time_they_are_launched", &[], (0, 0), |hip| {
        let device = Device::new(hip);
        let side = hip.create_stream().expect("a stream");
        let memory = device.upload(&[1u32, 2, 3, 4]);
        let turn =
            |rounds| device.launch("rf_turn", shape(1, 4), &To { to: memory, count: 4, rounds }).expect("a launch");
        device.wait().expect("the stream");
        assert!(hip.has_graphs());
        // SAFETY: valid handles, destroyed once.
        unsafe {
            let (fork, joined) = (hip.create_event(hipEventDisableTiming), hip.create_event(hipEventDisableTiming));
            let (fork, joined) = (fork.expect("an event"), joined.expect("an event"));
            hip.begin_capture(device.stream, hipStreamCaptureModeThreadLocal).expect("beginning");
            turn(1);
            hip.record_event(fork, device.stream).expect("recording");
            hip.stream_wait_event(side, fork).expect("joining");
            hip.memset_async(memory as *mut c_void, 9, 4, side).expect("a fill");
            hip.record_event(joined, side).expect("recording");
            hip.stream_wait_event(device.stream, joined).expect("waiting");
            let graph = hip.end_capture(device.stream).expect("a graph");
            assert_eq!(hip.graph_nodes(graph).expect("a number"), 2);
            assert_eq!(device.download::<u32>(memory, 4), [1, 2, 3, 4], "recording runs nothing");
            let executable = hip.instantiate_graph(graph).expect("an executable graph");
            hip.destroy_graph(graph).expect("destroying");
            hip.launch_graph(executable, device.stream).expect("a launch");
            assert_eq!(device.download::<u32>(memory, 4), [0x0909_0909, 3, 2, 1]);
            hip.launch_graph(executable, device.stream).expect("a launch");
            assert_eq!(device.download::<u32>(memory, 4), [0x0909_0909, 2, 3, 0x0909_0909]);
            hip.destroy_graph_exec(executable).expect("destroying");
            hip.destroy_event(fork).expect("destroying");
            hip.destroy_event(joined).expect("destroying");
            hip.destroy_stream(side).expect("destroying");
        }
        device.free(memory);
        device.close();
    });
}

#[test]
fn what_no_capture_allows_is_refused() {
    with("what_no_capture_allows_is_refused", &[], (0, 4), |hip| {
        let device = Device::new(hip);
        let side = hip.create_stream().expect("a stream");
        let status = |result: Result<hipGraph_t, HipError>| result.err().and_then(|e| e.status());
        // SAFETY: valid handles.
        unsafe {
            assert_eq!(status(hip.end_capture(device.stream)), Some(hipErrorStreamCaptureUnmatched));
            hip.begin_capture(device.stream, hipStreamCaptureModeThreadLocal).expect("beginning");
            let refused = hip.malloc(16).expect_err("an allocation");
            assert_eq!(refused.status(), Some(hipErrorStreamCaptureUnsupported));
            assert_eq!(status(hip.end_capture(device.stream)), Some(hipErrorStreamCaptureInvalidated));
            hip.begin_capture(device.stream, hipStreamCaptureModeThreadLocal).expect("beginning");
            assert!(hip.synchronize_stream(device.stream).is_err());
            assert_eq!(status(hip.end_capture(device.stream)), Some(hipErrorStreamCaptureInvalidated));
            let event = hip.create_event(hipEventDisableTiming).expect("an event");
            hip.begin_capture(device.stream, hipStreamCaptureModeRelaxed).expect("beginning");
            hip.record_event(event, device.stream).expect("recording");
            hip.stream_wait_event(side, event).expect("joining");
            assert_eq!(status(hip.end_capture(device.stream)), Some(hipErrorStreamCaptureUnjoined));
            hip.destroy_event(event).expect("destroying");
            hip.destroy_stream(side).expect("destroying");
        }
        device.close();
    });
}

#[test]
fn copies_that_leave_their_allocation_or_go_elsewhere_than_they_say_are_refused() {
    let name = "copies_that_leave_their_allocation_or_go_elsewhere_than_they_say_are_refused";
    with(name, &[], (0, 5), |hip| {
        let device = Device::new(hip);
        let memory = hip.malloc(100).expect("memory");
        let mut own = [0u8; 200];
        let own = own.as_mut_ptr().cast::<c_void>();
        let check = |to, from, bytes, kind| {
            // SAFETY: refused before anything is read or written.
            let error = unsafe { hip.memcpy_async(to, from, bytes, kind, device.stream) }.expect_err("a wrong copy");
            assert_eq!(error.status(), Some(hipErrorInvalidValue));
        };
        check(memory, own.cast_const(), 101, hipMemcpyHostToDevice);
        check(own, memory.cast_const(), 101, hipMemcpyDeviceToHost);
        check(memory, own.cast_const(), 100, hipMemcpyDeviceToDevice);
        check(own, memory.cast_const(), 100, hipMemcpyHostToHost);
        // SAFETY: as above.
        unsafe {
            assert!(hip.memset_async(memory, 0, 101, device.stream).is_err());
            hip.memcpy_async(memory, own, 100, hipMemcpyDefault, device.stream).expect("a copy");
            hip.free(memory).expect("freeing");
        }
        device.close();
    });
}

#[test]
fn images_of_another_kind_are_refused() {
    with("images_of_another_kind_are_refused", &[], (0, 4), |hip| {
        let mut amd = vec![0u8; 64];
        amd[..6].copy_from_slice(b"\x7fELF\x02\x01");
        amd[18] = 224;
        let own_without_seam = std::fs::read(common::library()).expect("a library");
        for (image, status) in [
            (vec![7u8; 64], hipErrorInvalidImage),
            (amd, hipErrorNoBinaryForGpu),
            (image(64), hipErrorNoBinaryForGpu),
            (own_without_seam, hipErrorInvalidImage),
        ] {
            // SAFETY: whole files, or refused by their first bytes.
            let error = unsafe { hip.load_module(&image) }.expect_err("an image of another kind");
            assert_eq!(error.status(), Some(status), "{error}");
        }
        let device = Device::new(hip);
        assert_eq!(device.function("rf_nothing").expect_err("no such kernel").status(), Some(hipErrorNotFound));
        device.close();
    });
}

#[test]
fn a_call_fails_when_the_settings_ask_for_it() {
    let settings = [("HIP_STAND_IN_FAIL", "hipMalloc:2:2,hipStreamSynchronize:1:999")];
    with("a_call_fails_when_the_settings_ask_for_it", &settings, (1, 1), |hip| {
        let first = hip.malloc(16).expect("the first one");
        assert!(hip.malloc(16).is_err_and(|e| e.is_out_of_memory()));
        let third = hip.malloc(16).expect("the third one");
        let device = Device::new(hip);
        // SAFETY: from `malloc`.
        unsafe { hip.free(first) }.expect("freeing");
        assert!(device.wait().is_err_and(|e| e.loses_device()));
        // SAFETY: valid; a lost device gives everything back, and says that it is lost.
        unsafe {
            assert!(hip.free(third).is_err_and(|e| e.loses_device()));
            assert!(hip.unload_module(device.module()).is_err());
        }
        assert!(hip.create_stream().is_err());
    });
}

#[test]
fn a_device_is_lost_when_the_kernel_runs_that_loses_it() {
    let settings = [("HIP_STAND_IN_FAIL", "hipModuleLaunchKernel:3:719")];
    with("a_device_is_lost_when_the_kernel_runs_that_loses_it", &settings, (0, 1), |hip| {
        let device = Device::new(hip);
        let memory = device.upload(&[1u32, 2, 3, 4]);
        let turn = || device.launch("rf_turn", shape(1, 4), &To { to: memory, count: 4, rounds: 1 });
        turn().expect("the first launch");
        turn().expect("the second launch");
        device.wait().expect("the stream");
        turn().expect("a launch only queues");
        assert_eq!(device.wait().expect_err("a lost device").status(), Some(hipErrorLaunchFailure));
        assert!(turn().is_err());
        // SAFETY: valid handles.
        unsafe {
            assert!(hip.free(memory as *mut c_void).is_err());
            assert!(hip.destroy_stream(device.stream).is_err());
            assert!(hip.unload_module(device.module()).is_err());
        }
    });
}

#[test]
fn devices_copy_to_each_other_and_keep_apart_otherwise() {
    let settings = [("HIP_STAND_IN_DEVICES", "2")];
    with("devices_copy_to_each_other_and_keep_apart_otherwise", &settings, (0, 2), |hip| {
        let device = Device::new(hip);
        let memory = device.upload(&[5u32; 8]);
        hip.enable_peer_access(1).expect("access");
        hip.set_device(1).expect("the other device");
        let (other, stream) = (hip.malloc(32).expect("memory"), hip.create_stream().expect("a stream"));
        // SAFETY: valid handles and memory.
        unsafe {
            device.wait().expect("the stream");
            hip.memcpy_peer_async((other, 1), (memory as *const c_void, 0), 32, stream).expect("a copy");
            assert!(hip.memcpy_peer_async((other, 0), (memory as *const c_void, 0), 32, stream).is_err());
            hip.synchronize_stream(stream).expect("the stream");
            assert_eq!(device.download::<u32>(other as u64, 8), [5; 8]);
            let function = device.function("rf_turn").expect("a kernel");
            let arguments = To { to: other as u64, count: 8, rounds: 1 };
            let error = hip.launch(function, shape(1, 8), &arguments, stream).expect_err("the first device's kernel");
            assert_eq!(error.status(), Some(hipErrorInvalidHandle));
            hip.free(other).expect("freeing");
            hip.destroy_stream(stream).expect("destroying");
        }
        device.free(memory);
        device.close();
    });
}

#[test]
fn launches_of_impossible_shapes_are_refused() {
    with("launches_of_impossible_shapes_are_refused", &[], (0, 4), |hip| {
        let device = Device::new(hip);
        let check = |shape, status| {
            let arguments = To { to: 0, count: 0, rounds: 0 };
            let error = device.launch("rf_turn", shape, &arguments).expect_err("an impossible launch");
            assert_eq!(error.status(), Some(status), "{shape:?}");
        };
        check(shape(0, 32), hipErrorInvalidConfiguration);
        check(shape(1, 1025), hipErrorInvalidConfiguration);
        check(LaunchShape { grid: [1, 65_536, 1], ..shape(1, 32) }, hipErrorInvalidConfiguration);
        check(LaunchShape { shared_bytes: 4, ..shape(1, 32) }, hipErrorNotSupported);
        device.close();
    });
}
