//! How much memory the KV cache gets.

use anyhow::Result;
use rocmforge_engine::{Runner, plan_cache};
use rocmforge_loader::Executable;
use rocmforge_loader::config::SchedulerSettings;

/// Bytes of memory that the system can still give, from `/proc/meminfo` and the cgroup's limit.
pub fn available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let cgroup = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(most, used)| most.saturating_sub(used));
    Some(cgroup.map_or(kib * 1024, |c| c.min(kib * 1024)))
}

/// Blocks for each cache group of a served model: as the settings say, else a quarter of the memory that is free.
pub fn cache_blocks(executable: &Executable, context: usize, settings: &SchedulerSettings) -> Result<Vec<u64>> {
    let budget = match settings.kv_cache_mib {
        Some(mib) => mib.get() as u64 * (1 << 20),
        None => available().map_or(1 << 30, |bytes| bytes / 4),
    };
    let costs = &executable.memory().cache_block;
    let blocks = plan_cache(executable.program(), executable.limits(), costs, context, budget)?;
    let bytes: u64 = std::iter::zip(&blocks, costs).map(|(n, cost)| n * cost).sum();
    let size = executable.options().block_size;
    tracing::info!("KV cache: {} MiB, blocks of {size} tokens per group: {blocks:?}", bytes >> 20);
    Ok(blocks)
}
