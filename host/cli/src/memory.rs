//! How much memory the KV cache gets.

use anyhow::Result;
use rocmforge_engine::{Runner, plan_cache};
use rocmforge_loader::config::SchedulerSettings;
use rocmforge_loader::{Executable, Segment};

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

/// Memory that a served model takes.
pub struct Need {
    /// Blocks for each cache group.
    pub blocks: Vec<u64>,
    /// Bytes in all: weights in the file and beside it, activations, and the KV cache.
    pub bytes: u64,
}

/// How the memory of a served model is divided: the KV cache gets as much as the settings say, else what the free memory of
/// each device allows, of the processor's a quarter, but no more than what `room` bytes leave beside the weights, of which
/// `weights` are in the file.
pub fn plan(
    executable: &Executable,
    weights: u64,
    context: usize,
    settings: &SchedulerSettings,
    room: Option<u64>,
) -> Result<Need> {
    let memory = executable.memory();
    let fixed = weights.saturating_add(memory.weights).saturating_add(memory.activations);
    let left = room.map_or(u64::MAX, |room| room.saturating_sub(fixed));
    let (program, limits, costs) = (executable.program(), executable.limits(), &executable.memory().cache_block);
    let mut blocks = vec![u64::MAX; costs.len()];
    match settings.kv_cache_mib {
        Some(mib) => blocks = plan_cache(program, limits, costs, context, mib.get() as u64 * (1 << 20))?,
        None => {
            for (segment, groups) in executable.segments() {
                let mut own = vec![0; costs.len()];
                for (&group, &bytes) in groups.iter().zip(segment.memory().cache_block.iter()) {
                    own[group] = bytes;
                }
                let fits = plan_cache(program, limits, &own, context, budget(segment)?.min(left))?;
                // Blocks of a group are numbered alike on all devices, so the smallest device decides.
                groups.iter().for_each(|&g| blocks[g] = blocks[g].min(fits[g]));
            }
        }
    }
    let bytes: u64 = std::iter::zip(&blocks, costs).map(|(n, cost)| n * cost).sum();
    let size = executable.options().block_size;
    tracing::info!("KV cache: {} MiB, blocks of {size} tokens per group: {blocks:?}", bytes >> 20);
    for (segment, groups) in executable.segments().filter(|_| executable.segments().count() > 1) {
        let own = groups.iter().zip(segment.memory().cache_block.iter()).map(|(&g, &cost)| blocks[g] * cost);
        let id = segment.device()?.map_or_else(String::new, |d| d.id);
        tracing::info!("KV cache on {} {id}: {} MiB", segment.backend().name(), own.sum::<u64>() >> 20);
    }
    Ok(Need { blocks, bytes: fixed.saturating_add(bytes) })
}

/// Bytes that the cache may take on the device of a segment whose weights are loaded.
fn budget(segment: &Segment) -> Result<u64> {
    let device = segment.device()?.filter(|d| d.memory_free > 0 && d.id != "cpu");
    Ok(match device {
        // What is left keeps the device usable for others and for what it allocates itself.
        Some(device) => device.memory_free / 10 * 9,
        None => available().map_or(1 << 30, |bytes| bytes / 4),
    })
}
