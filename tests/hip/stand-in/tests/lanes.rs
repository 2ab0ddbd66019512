//! Lanes of a block: that they meet where they should, in waves of 32 and of 64.

mod common;

use common::{Device, Scale, To, shape, with};
use rocmforge_hip_sys::*;

/// Runs the body for both waves.
fn both(test: &str, body: impl Fn(&Device<'_>, usize)) {
    for wave in ["32", "64"] {
        with(test, &[("HIP_STAND_IN_WAVE", wave)], (0, 0), |hip| {
            let device = Device::new(hip);
            body(&device, wave.parse().expect("a number"));
            device.close();
        });
    }
}

#[test]
fn lanes_that_never_meet_do_their_own_work() {
    both("lanes_that_never_meet_do_their_own_work", |device, _| {
        let values: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
        let (from, to) = (device.upload(&values), device.upload(&vec![0f32; values.len()]));
        let blocks = values.len().div_ceil(256) as u32;
        let arguments = Scale { from, to, factor: 3.0, count: values.len() as u32 };
        device.launch("rf_scale", shape(blocks, 256), &arguments).expect("a launch");
        let found: Vec<f32> = device.download(to, values.len());
        assert!(found.iter().zip(&values).all(|(f, v)| *f == 3.0 * v));
        device.free(from);
        device.free(to);
    });
}

#[test]
fn every_lane_is_at_its_place() {
    both("every_lane_is_at_its_place", |device, wave| {
        let lanes = wave + 7;
        let shape = LaunchShape { grid: [2, 3, 4], block: [lanes as u32, 1, 1], shared_bytes: 0 };
        let found = device.words("rf_places", shape, lanes as u32, 0, 24 * lanes * 4);
        for (i, place) in found.chunks(4).enumerate() {
            let block = i / lanes;
            let expected = [i % lanes, block % 2, block / 2 % 3, block / 6].map(|n| n as u32);
            assert_eq!(place, expected, "lane {i}");
        }
    });
}

#[test]
fn a_barrier_separates_what_is_before_it_from_what_is_after_it() {
    both("a_barrier_separates_what_is_before_it_from_what_is_after_it", |device, _| {
        for (blocks, lanes, rounds) in [(1usize, 1usize, 3u32), (40, 256, 5), (3, 1024, 2), (5, 100, 7)] {
            let values: Vec<u32> = (0..blocks * lanes).map(|i| i as u32).collect();
            let to = device.upload(&values);
            let arguments = To { to, count: lanes as u32, rounds };
            device.launch("rf_turn", shape(blocks as u32, lanes as u32), &arguments).expect("a launch");
            let found: Vec<u32> = device.download(to, values.len());
            let turned = |block: &[u32]| -> Vec<u32> { block.iter().rev().copied().collect() };
            let expected: Vec<u32> = match rounds % 2 {
                1 => values.chunks(lanes).flat_map(turned).collect(),
                _ => values,
            };
            assert!(found == expected, "{blocks} blocks of {lanes} lanes, {rounds} rounds");
            device.free(to);
        }
    });
}

#[test]
fn shuffles_give_each_lane_what_the_other_had() {
    both("shuffles_give_each_lane_what_the_other_had", |device, wave| {
        for rounds in [1u32, 2, 3, 50] {
            let lanes = 4 * wave;
            let found = device.words("rf_wave_sums", shape(1, lanes as u32), 0, rounds, lanes);
            for (lane, sum) in found.iter().enumerate() {
                let first = lane / wave * wave;
                let numbers: usize = (first..first + wave).sum();
                let expected: usize = (0..rounds as usize).map(|i| numbers + i * wave).sum();
                assert_eq!(*sum as usize, expected, "lane {lane}, {rounds} rounds");
            }
        }
    });
}

#[test]
fn lanes_that_returned_count_as_arrived_and_give_nothing() {
    both("lanes_that_returned_count_as_arrived_and_give_nothing", |device, wave| {
        for (lanes, stay) in [(wave, wave - 1), (2 * wave, wave + 1), (2 * wave, 1), (wave + 5, wave + 3), (7, 7)] {
            let found = device.words("rf_returned", shape(1, lanes as u32), stay as u32, 0, lanes);
            for (lane, sum) in found.iter().enumerate() {
                let first = lane / wave * wave;
                let last = (first + wave).min(stay);
                let expected: usize = if lane < stay { (first..last).map(|l| l + 1).sum() } else { 0 };
                assert_eq!(*sum as usize, expected, "{lanes} lanes, {stay} stay, lane {lane}");
            }
        }
        let (lanes, rounds) = (3 * wave, 10u32);
        let found = device.words("rf_dwindle", shape(1, lanes as u32), 0, rounds, lanes);
        for (lane, sum) in found.iter().enumerate() {
            let own = lane % rounds as usize;
            let first = lane / wave * wave;
            let expected = (first..first + wave).filter(|l| l % rounds as usize >= own).count();
            assert_eq!(*sum as usize, expected, "lane {lane}");
        }
    });
}

#[test]
fn lanes_of_a_wave_that_wait_for_different_things_are_an_error_that_names_the_kernel() {
    for wave in ["32", "64"] {
        let name = "lanes_of_a_wave_that_wait_for_different_things_are_an_error_that_names_the_kernel";
        with(name, &[("HIP_STAND_IN_WAVE", wave)], (0, 1), |hip| {
            let device = Device::new(hip);
            device.launch("rf_torn", shape(9, 256), &To { to: 0, count: 0, rounds: 0 }).expect("a launch");
            let error = device.wait().expect_err("a deadlock");
            assert_eq!(error.status(), Some(hipErrorLaunchFailure));
            assert!(error.loses_device());
            assert!(hip.malloc(16).is_err_and(|e| e.status() == Some(hipErrorLaunchFailure)), "the device is lost");
            // SAFETY: valid handles; a lost device gives them up all the same.
            unsafe {
                assert!(hip.destroy_stream(device.stream).is_err());
                assert!(hip.unload_module(device.module()).is_err());
            }
            let mut report = String::new();
            if let Some(path) = std::env::var_os("HIP_STAND_IN_REPORT") {
                // SAFETY: no arguments but flags; the call writes the report.
                unsafe { (hip.functions.hipInit)(0) };
                report = std::fs::read_to_string(path).expect("the report");
            }
            assert!(report.contains("kernel rf_torn, block ("), "{report}");
            assert!(report.contains("a barrier of the block") && report.contains("a shuffle"), "{report}");
        });
    }
}
