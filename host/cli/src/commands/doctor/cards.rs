//! Graphics cards, their driver, and the libraries that reach them.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Section, first_line, mib, number};

/// PCI's number of the vendor whose cards are looked for.
const VENDOR: &str = "0x1002";
/// What the plugin for these cards opens; any version.
const LIBRARIES: &[&str] = &["libamdhip64.so", "libhsa-runtime64.so"];
const FOLDERS: &[&str] = &[
    "lib",
    "lib64",
    "usr/lib",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/local/lib",
    "opt/rocm/lib",
    "opt/rocm/lib64",
];

pub(super) fn cards(root: &Path) -> Section {
    let mut section = Section::new("AMD graphics cards");
    let cards = found(root);
    let none = cards.is_empty();
    for card in &cards {
        card.describe(root, &mut section);
    }
    if none {
        section.fact("none found; models run on the processor");
    }
    driver(root, none, &mut section);
    libraries(root, none, &mut section);
    section
}

struct Card {
    folder: PathBuf,
    /// PCI address.
    slot: String,
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    all.sort();
    all
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn found(root: &Path) -> Vec<Card> {
    let is_card =
        |path: &PathBuf| name(path).strip_prefix("card").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let folders = entries(&root.join("sys/class/drm")).into_iter().filter(is_card).map(|p| p.join("device"));
    let ours = folders.filter(|f| first_line(f, "vendor").as_deref() == Some(VENDOR));
    ours.map(|folder| {
        let uevent = std::fs::read_to_string(folder.join("uevent")).unwrap_or_default();
        let slot = uevent.lines().find_map(|l| l.strip_prefix("PCI_SLOT_NAME=")).unwrap_or("?").to_owned();
        Card { folder, slot }
    })
    .collect()
}

impl Card {
    fn describe(&self, root: &Path, section: &mut Section) {
        let device = first_line(&self.folder, "device").unwrap_or_default();
        let product = first_line(&self.folder, "product_name").filter(|n| !n.is_empty());
        let gfx = gfx(root, &self.slot).map_or_else(|| "gfx not known".into(), |g| format!("gfx{g}"));
        section.fact(format!("{}: {} (device {device}), {gfx}", self.slot, product.as_deref().unwrap_or("card")));
        let shown = |file: &str| number(&self.folder, file).map_or("not known".into(), mib);
        section.fact(format!(
            "{}: VRAM {} of which {} used, GTT (shared with the system) {}",
            self.slot,
            shown("mem_info_vram_total"),
            shown("mem_info_vram_used"),
            shown("mem_info_gtt_total"),
        ));
    }
}

/// `1100` for gfx1100, from the compute driver's topology; the last two digits are hexadecimal.
fn gfx(root: &Path, slot: &str) -> Option<String> {
    let location = location(slot)?;
    entries(&root.join("sys/class/kfd/kfd/topology/nodes")).iter().find_map(|node| {
        let text = std::fs::read_to_string(node.join("properties")).ok()?;
        let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
        if value("location_id ") != Some(location) {
            return None;
        }
        let version = value("gfx_target_version ").filter(|v| *v > 0)?;
        let (major, minor, step) = (version / 10_000, version / 100 % 100, version % 100);
        Some(format!("{major}{minor:x}{step:x}"))
    })
}

/// `0000:03:00.0` as the topology writes it: bus, device and function in one number.
fn location(slot: &str) -> Option<u64> {
    let (bus, rest) = slot.split_once(':')?.1.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(hex(bus)? << 8 | hex(device)? << 3 | hex(function)?)
}

fn driver(root: &Path, none: bool, section: &mut Section) {
    let loaded = root.join("sys/module/amdgpu").exists();
    let version = first_line(root, "sys/module/amdgpu/version");
    match (loaded, none) {
        (true, _) => section.fact(format!("driver amdgpu: {}", version.as_deref().unwrap_or("the kernel's own"))),
        (false, true) => return,
        (false, false) => {
            section.problem("driver amdgpu: not loaded", "modprobe amdgpu, and look at dmesg for its reasons")
        }
    }
    let nodes = entries(&root.join("dev/dri")).into_iter().filter(|p| name(p).starts_with("renderD"));
    let devices: Vec<PathBuf> = [root.join("dev/kfd")].into_iter().chain(nodes).collect();
    for device in devices {
        let shown = format!("/{}", device.strip_prefix(root).unwrap_or(&device).display());
        match File::options().read(true).write(true).open(&device) {
            Ok(_) => section.fact(format!("{shown}: can be opened")),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => section.problem(
                format!("{shown}: permission denied"),
                "usermod -aG render,video USER and log in again; in a container, pass the device and its group",
            ),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => section.problem(
                format!("{shown}: does not exist"),
                "load amdgpu; in a container, pass --device /dev/kfd --device /dev/dri",
            ),
            Err(e) => section.note(format!("{shown}: {e}"), "look at dmesg"),
        }
    }
}

fn libraries(root: &Path, none: bool, section: &mut Section) {
    for library in LIBRARIES {
        let fits = |path: &PathBuf| {
            name(path).strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let mut files = FOLDERS.iter().flat_map(|folder| entries(&root.join(folder))).filter(fits);
        match files.next() {
            Some(file) => section.fact(format!("{library}: {}", file.display())),
            None if none => section.fact(format!("{library}: not found, and not needed without a card")),
            None => section.problem(
                format!("{library}: not found"),
                "install the runtime of ROCm (packages hip-runtime-amd and hsa-rocr, or libamdhip64-5); nothing else of it is needed",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    fn machine(test: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("rocmforge-doctor-{test}-{}", std::process::id()));
        for (file, text) in files {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("created");
            std::fs::write(file, text).expect("written");
        }
        root
    }

    fn texts(section: &Section, mark: Mark) -> String {
        let findings = section.findings.iter().filter(|f| f.mark == mark);
        findings.map(|f| f.what.clone()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_card_is_described_by_what_the_kernel_says() {
        let device = "sys/class/drm/card1/device";
        let root = machine(
            "card",
            &[
                (&format!("{device}/vendor"), "0x1002\n"),
                (&format!("{device}/device"), "0x744c\n"),
                (&format!("{device}/uevent"), "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n"),
                (&format!("{device}/mem_info_vram_total"), "25753026560\n"),
                (&format!("{device}/mem_info_vram_used"), "1073741824\n"),
                (&format!("{device}/mem_info_gtt_total"), "16777216000\n"),
                ("sys/class/drm/card1-DP-1/status", "connected\n"),
                ("sys/class/drm/card0/device/vendor", "0x8086\n"),
                ("sys/class/kfd/kfd/topology/nodes/0/properties", "location_id 0\ngfx_target_version 0\n"),
                ("sys/class/kfd/kfd/topology/nodes/1/properties", "location_id 768\ngfx_target_version 110000\n"),
                ("sys/module/amdgpu/version", "6.8.5\n"),
                ("dev/kfd", ""),
                ("dev/dri/renderD128", ""),
                ("opt/rocm/lib/libamdhip64.so.6", ""),
            ],
        );
        let section = cards(&root);
        let facts = texts(&section, Mark::Fact);
        for part in [
            "0000:03:00.0: card (device 0x744c), gfx1100",
            "VRAM 24560 MiB of which 1024 MiB used",
            "GTT (shared with the system) 16000 MiB",
            "amdgpu: 6.8.5",
            "/dev/kfd: can be opened",
            "/dev/dri/renderD128: can be opened",
            "libamdhip64.so.6",
        ] {
            assert!(facts.contains(part), "expected {part:?} in\n{facts}");
        }
        assert!(!facts.contains("8086"));
        assert_eq!(texts(&section, Mark::Problem), "libhsa-runtime64.so: not found");
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn names_of_architectures_have_hexadecimal_digits() {
        let check = |version: &str, expected: Option<&str>| {
            let node = "sys/class/kfd/kfd/topology/nodes/1/properties";
            let root = machine("gfx", &[(node, &format!("location_id 25\ngfx_target_version {version}\n"))]);
            assert_eq!(gfx(&root, "0000:00:03.1").as_deref(), expected, "{version}");
            std::fs::remove_dir_all(root).expect("removed");
        };
        check("90010", Some("90a"));
        check("90402", Some("942"));
        check("120001", Some("1201"));
        check("0", None);
    }

    #[test]
    fn a_machine_without_a_card_has_no_problem() {
        let root = machine("none", &[("proc/version", "")]);
        let section = cards(&root);
        assert_eq!(texts(&section, Mark::Problem), "");
        assert!(texts(&section, Mark::Fact).contains("none found; models run on the processor"));
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_card_without_a_driver_is_a_problem_with_advice() {
        let device = "sys/class/drm/card0/device";
        let root = machine("driver", &[(&format!("{device}/vendor"), "0x1002\n"), (&format!("{device}/uevent"), "\n")]);
        let section = cards(&root);
        let problems = texts(&section, Mark::Problem);
        assert!(problems.contains("not loaded") && problems.contains("/dev/kfd: does not exist"), "{problems}");
        assert!(section.findings.iter().filter(|f| f.mark == Mark::Problem).all(|f| f.advice.is_some()));
        std::fs::remove_dir_all(root).expect("removed");
    }
}
