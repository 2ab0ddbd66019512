//! Under the address sanitizer a kernel cannot leave its buffers, and lanes can be switched.

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Device, Scale, build, library, shape};
use rocmforge_hip_sys::Hip;

const TEST: &str = "reading_behind_a_buffer_ends_the_process";
const COUNT: &str = "STAND_IN_TEST_COUNT";

/// The sanitizer's library; `None` where the compiler has none.
fn sanitizer() -> Option<PathBuf> {
    let cc = std::env::var_os("CC").unwrap_or("cc".into());
    let output = Command::new(cc).arg("-print-file-name=libasan.so").output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    path.is_absolute().then_some(path)
}

/// Scales `count` numbers of a buffer that has 100, then turns numbers round, with barriers, in the other wave's lanes.
fn child(count: u32) {
    let hip = Hip::load(Some(&library())).expect("the stand-in");
    let device = Device::new(&hip);
    let (from, to) = (device.upload(&[1f32; 100]), device.upload(&[0f32; 1000]));
    device.launch("rf_scale", shape(1, 256), &Scale { from, to, factor: 2.0, count }).expect("a launch");
    assert_eq!(device.download::<f32>(to, 100), [2.0; 100]);
    let sums = device.words("rf_wave_sums", shape(1, 64), 0, 3, 64);
    assert!(sums.iter().all(|sum| *sum > 0));
    let turned = device.words("rf_turn", shape(1, 256), 256, 3, 256);
    assert_eq!(turned, [0; 256]);
    device.free(from);
    device.free(to);
    device.close();
}

#[test]
fn reading_behind_a_buffer_ends_the_process() {
    if let Ok(count) = std::env::var(COUNT) {
        return child(count.parse().expect("a number"));
    }
    let Some(sanitizer) = sanitizer() else {
        println!("skipped: the C compiler has no address sanitizer");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    if !build(folder.path(), &["-fsanitize=address", "-g"]) {
        return;
    }
    for wave in ["32", "64"] {
        let run = |count: &str| -> Output {
            Command::new(std::env::current_exe().expect("the path of this program"))
                .args(["--exact", TEST, "--nocapture"])
                .env("LD_PRELOAD", &sanitizer)
                .env("ASAN_OPTIONS", "detect_leaks=0")
                .env("STAND_IN_TEST_IMAGES", folder.path())
                .env("HIP_STAND_IN_WAVE", wave)
                .env(COUNT, count)
                .output()
                .expect("this program again")
        };
        let within = run("100");
        assert!(within.status.success(), "waves of {wave}: {}", String::from_utf8_lossy(&within.stderr));
        let outside = run("101");
        let text = String::from_utf8_lossy(&outside.stderr);
        assert!(
            !outside.status.success() && text.contains("heap-buffer-overflow") && text.contains("rf_scale"),
            "{text}"
        );
    }
}
