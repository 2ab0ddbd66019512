//! Where keys and values lie within a block of the paged cache.

use crate::args::RfCache;

/// How the cache holds numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// Half precision.
    F16 = 0,
    /// Single precision.
    F32 = 1,
    /// 8-bit codes with an f16 scale per 32 elements.
    Q8 = 2,
}

/// The cache of one layer at device address `base` (a multiple of 256), with the bytes of each of its blocks.
pub fn cache(kind: CacheKind, base: u64, kv_heads: u32, block_size: u32, key_dim: u32, value_dim: u32) -> RfCache {
    let rows = kv_heads * block_size;
    let side = |dim: u32| {
        let bytes = match kind {
            CacheKind::F16 => 2,
            CacheKind::F32 => 4,
            CacheKind::Q8 => 1,
        };
        (rows * dim * bytes).next_multiple_of(16)
    };
    let scales = |dim: u32| match kind {
        CacheKind::Q8 => (rows * dim.div_ceil(32) * 2).next_multiple_of(16),
        _ => 0,
    };
    let value_offset = side(key_dim);
    let key_scale_offset = value_offset + side(value_dim);
    let value_scale_offset = key_scale_offset + scales(key_dim);
    let block_bytes = (value_scale_offset + scales(value_dim)).next_multiple_of(256);
    RfCache {
        base,
        block_bytes: u64::from(block_bytes),
        value_offset,
        key_scale_offset,
        value_scale_offset,
        kind: kind as u32,
        kv_heads,
        block_size,
        key_dim,
        value_dim,
    }
}
