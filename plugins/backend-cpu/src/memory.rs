//! What the system says of its processor and memory.

/// Memory of the machine, bytes; 0: not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemMemory {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

/// Memory of the machine, or of the control group if that is smaller.
pub(crate) fn system() -> SystemMemory {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut memory = SystemMemory { total: field(&text, "MemTotal:"), available: field(&text, "MemAvailable:") };
    let number = |path| std::fs::read_to_string(path).ok().and_then(|s| s.trim().parse::<u64>().ok());
    if let Some(limit) = number("/sys/fs/cgroup/memory.max") {
        let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
        memory.total = memory.total.min(limit);
        memory.available = memory.available.min(limit.saturating_sub(used));
    }
    memory
}

/// Bytes under a key of `/proc/meminfo`, which counts in KiB.
fn field(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    let number = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// The processor's name.
pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name"));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |l| l.trim_start_matches([' ', '\t', ':']).to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn meminfo_is_read_in_bytes() {
        let check = |text, expected| assert_eq!(super::field(text, "MemTotal:"), expected, "{text}");
        check("MemTotal:       16 kB\nMemFree: 3 kB\n", 16384);
        check("MemFree: 3 kB\nMemTotal: 1 kB", 1024);
        check("MemTotal: many kB", 0);
        check("", 0);
    }
}
