//! Kernel, processor, memory, limits.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::{Section, first_line, mib, number};

/// Connections and model files need descriptors.
const DESCRIPTORS: u64 = 4096;

pub(super) fn system(root: &Path) -> Section {
    let mut section = Section::new("System");
    let release = std::fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|n| n.trim_matches('"').to_owned());
    section.fact(format!("distribution: {}", name.as_deref().unwrap_or("not known")));
    match first_line(root, "proc/sys/kernel/osrelease") {
        Some(kernel) => section.fact(format!("kernel: {kernel}")),
        None => section.note("kernel: not known", "mount /proc"),
    }
    let files = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or("unlimited".into(), |n: u64| n.to_string());
    let text = format!("open files: {}, at most {}", shown(files.current), shown(files.maximum));
    match files.maximum {
        Some(most) if most < DESCRIPTORS => {
            section
                .note(text, format!("serve {DESCRIPTORS} connections: raise LimitNOFILE of the service, or ulimit -n"));
        }
        _ => section.fact(text),
    }
    section.fact(format!("locked memory: {}", getrlimit(Resource::Memlock).current.map_or("unlimited".into(), mib)));
    section
}

pub(super) fn processor(root: &Path) -> Section {
    let mut section = Section::new("Processor");
    let info = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let field = |name: &str| {
        let value = |l: &str| l.split_once(':').filter(|(key, _)| key.trim() == name).map(|(_, v)| v.trim().to_owned());
        info.lines().find_map(value)
    };
    section.fact(format!("model: {}", field("model name").as_deref().unwrap_or("not known")));
    let processors = info.lines().filter(|l| l.starts_with("processor")).count();
    let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
    section.fact(format!("processors: {processors}, for this process: {usable}, computing with: {}", threads()));
    match quota(root) {
        Some(quota) if quota < processors as f64 => section.note(
            format!("the cgroup allows {quota:.2} processors of time"),
            "more threads than that wait for each other; threads are set accordingly unless `threads` says otherwise",
        ),
        Some(quota) => section.fact(format!("the cgroup allows {quota:.2} processors of time")),
        None => section.fact("the cgroup does not limit processor time"),
    }
    if let Some(flags) = field("flags").or_else(|| field("Features")) {
        section.fact(format!("features: {flags}"));
    }
    section
}

fn threads() -> u32 {
    rocmforge_loader::compute_threads()
}

/// Processors' worth of time per period, from the limits of this process's cgroup and the ones around it.
fn quota(root: &Path) -> Option<f64> {
    let line = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let path = line.lines().find_map(|l| l.strip_prefix("0::"))?.trim_start_matches('/').to_owned();
    let base = root.join("sys/fs/cgroup");
    let folder = base.join(path);
    let limits = folder.ancestors().take_while(|f| f.starts_with(&base)).filter_map(|f| {
        let text = std::fs::read_to_string(f.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|p| *p > 0.0)?)
    });
    limits.reduce(f64::min)
}

pub(super) fn memory(root: &Path) -> Section {
    let mut section = Section::new("Memory");
    let info = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let field = |name: &str| {
        let value = info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    let shown = |bytes: Option<u64>| bytes.map_or("not known".into(), mib);
    section.fact(format!("total {}, available {}", shown(field("MemTotal")), shown(field("MemAvailable"))));
    if let Some(most) = number(root, "sys/fs/cgroup/memory.max") {
        let used = number(root, "sys/fs/cgroup/memory.current").unwrap_or(0);
        section.fact(format!("the cgroup allows {}, of which {} are used", mib(most), mib(used)));
    }
    match first_line(root, "sys/kernel/mm/transparent_hugepage/enabled") {
        Some(setting) if setting.contains("[never]") => section.note(
            "large pages: never",
            "weights are read faster with them: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(setting) => section.fact(format!("large pages: {setting}")),
        None => section.fact("large pages: not available"),
    }
    section
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn the_smallest_quota_around_the_process_counts() {
        let root = std::env::temp_dir().join(format!("rocmforge-doctor-quota-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("created");
            std::fs::write(file, text).expect("written");
        };
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        assert_eq!(quota(&root), None);
        write("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        assert_eq!(quota(&root), Some(1.5));
        write("sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
        assert_eq!(quota(&root), Some(1.5));
        write("proc/cpuinfo", "processor : 0\nmodel name\t: Test\nflags\t: x y\nprocessor : 1\n");
        write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        let all = [processor(&root), memory(&root)];
        let text = |mark: Mark| {
            let findings = all.iter().flat_map(|s| &s.findings).filter(move |f| f.mark == mark);
            findings.map(|f| f.what.clone()).collect::<Vec<_>>().join("\n")
        };
        assert!(text(Mark::Fact).contains("model: Test") && text(Mark::Fact).contains("features: x y"));
        assert_eq!(text(Mark::Note), "the cgroup allows 1.50 processors of time\nlarge pages: never");
        std::fs::remove_dir_all(root).expect("removed");
    }
}
