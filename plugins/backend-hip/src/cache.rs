//! The KV cache: one allocation for all layers.

use std::sync::Arc;
use std::time::Duration;

use rocmforge_kernels_hip::{CacheKind, RfCache, cache};
use rocmforge_sdk::program::{CacheDecl, Program};
use rocmforge_sdk::{Error, Result};

use crate::gpu::Gpu;
use crate::memory::{DeviceBuffer, Stream};
use crate::options::KvOption;

/// The caches of a program.
pub(crate) struct Caches {
    gpu: Arc<Gpu>,
    decls: Vec<CacheDecl>,
    /// Of each cache, as if it began at address 0.
    layouts: Vec<RfCache>,
    groups: usize,
    memory: Option<DeviceBuffer>,
    /// Where each cache begins.
    offsets: Vec<u64>,
}

fn layout(decl: &CacheDecl, block_size: usize, kind: CacheKind) -> Result<RfCache> {
    let word = |n: usize| u32::try_from(n).ok();
    let sizes = [decl.kv_heads, block_size, decl.key_dim, decl.value_dim].map(word);
    // All offsets within a block are 32-bit words.
    let bytes = [decl.kv_heads, block_size, decl.key_dim.saturating_add(decl.value_dim), 8];
    let fits = bytes.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some_and(|n| n < 1 << 31);
    match sizes {
        [Some(heads), Some(block), Some(key), Some(value)] if fits => Ok(cache(kind, 0, heads, block, key, value)),
        _ => Err(Error::unsupported(format!("KV cache of layer {}: blocks too large to count", decl.layer))),
    }
}

impl Caches {
    pub(crate) fn new(gpu: &Arc<Gpu>, program: &Program, block_size: usize, kv_type: KvOption) -> Result<Caches> {
        let kind = match kv_type {
            KvOption::F16 => CacheKind::F16,
            KvOption::F32 => CacheKind::F32,
        };
        let decls = program.caches.clone();
        let layouts = decls.iter().map(|d| layout(d, block_size, kind)).collect::<Result<_>>()?;
        let (groups, memory, offsets) = (program.group_count(), None, vec![]);
        Ok(Caches { gpu: Arc::clone(gpu), decls, layouts, groups, memory, offsets })
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// Bytes per block of each group.
    pub(crate) fn block_bytes(&self) -> Vec<u64> {
        let mut bytes = vec![0u64; self.groups];
        for (decl, layout) in self.decls.iter().zip(&self.layouts) {
            let group = &mut bytes[decl.group as usize];
            *group = group.saturating_add(layout.block_bytes);
        }
        bytes
    }

    /// Allocates so many blocks per group, in place of those before.
    pub(crate) fn allocate(&mut self, blocks: &[u64], stream: &Stream, patience: Duration) -> Result<()> {
        // First, so that old and new are never held together.
        stream.wait(patience)?;
        self.memory = None;
        self.offsets.clear();
        let mut next = 0u64;
        for (decl, layout) in self.decls.iter().zip(&self.layouts) {
            let n = blocks.get(decl.group as usize).copied().unwrap_or(0);
            self.offsets.push(next);
            let end = layout.block_bytes.checked_mul(n).and_then(|bytes| next.checked_add(bytes));
            next = end.ok_or_else(|| Error::out_of_memory(format!("KV cache of {blocks:?} blocks: too large")))?;
        }
        let what = format!("KV cache of {blocks:?} blocks (kv_cache_mib makes it smaller)");
        let memory = DeviceBuffer::new(&self.gpu, next, what)?;
        // SAFETY: waited for below.
        let cleared = unsafe { stream.clear(&memory) };
        stream.wait(patience)?;
        cleared?;
        self.memory = Some(memory);
        Ok(())
    }

    /// A cache as the kernels take it.
    pub(crate) fn cache(&self, number: usize) -> Result<RfCache> {
        let found = self.memory.as_ref().zip(self.offsets.get(number)).zip(self.layouts.get(number));
        let ((memory, &offset), &layout) =
            found.ok_or_else(|| Error::invalid("a step before the KV cache was allocated"))?;
        Ok(RfCache { base: memory.address() + offset, ..layout })
    }
}
