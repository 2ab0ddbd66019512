//! The paged cache and attention over it.

use rocmforge_program::{Attention, CacheDecl, Program, Step};

use crate::elementwise::softcap;
use crate::error::ReferenceError;
use crate::experts::softmax;

/// Keys and values of one layer, by slot: `[blocks * block_size, kv_heads, dim]`.
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// All caches of a program.
pub(crate) struct Caches {
    pub(crate) block_size: usize,
    /// Blocks per cache group.
    pub(crate) num_blocks: Vec<usize>,
    caches: Vec<Cache>,
}

impl Caches {
    /// Caches of a program that has none.
    pub(crate) fn empty() -> Caches {
        Caches { block_size: 1, num_blocks: vec![], caches: vec![] }
    }

    pub(crate) fn new(program: &Program, block_size: usize, num_blocks: &[usize]) -> Result<Caches, ReferenceError> {
        let fail = |expected: String, found: String| Err(ReferenceError::Cache { expected, found });
        if block_size == 0 {
            return fail("at least 1 token per block".into(), "0".into());
        }
        if num_blocks.len() != program.group_count() {
            return fail(
                format!("a number of blocks for each of {} cache groups", program.group_count()),
                format!("{} numbers", num_blocks.len()),
            );
        }
        let mut caches = Vec::with_capacity(program.caches.len());
        for decl in &program.caches {
            let slots = block_size.checked_mul(num_blocks[decl.group as usize]);
            let (Some(keys), Some(values)) =
                (storage(slots, decl.kv_heads, decl.key_dim), storage(slots, decl.kv_heads, decl.value_dim))
            else {
                return fail("a cache that fits into memory".into(), format!("{num_blocks:?} blocks of {block_size}"));
            };
            caches.push(Cache { keys, values });
        }
        Ok(Caches { block_size, num_blocks: num_blocks.to_vec(), caches })
    }

    /// Writes the keys and values of the step's tokens to their slots.
    pub(crate) fn append(&mut self, index: usize, decl: &CacheDecl, step: &Step<'_>, k: &[f32], v: &[f32]) {
        let cache = &mut self.caches[index];
        let (key, value) = (decl.kv_heads * decl.key_dim, decl.kv_heads * decl.value_dim);
        for (t, &slot) in step.groups[decl.group as usize].slot_mapping.iter().enumerate() {
            let slot = slot as usize;
            cache.keys[slot * key..(slot + 1) * key].copy_from_slice(&k[t * key..(t + 1) * key]);
            cache.values[slot * value..(slot + 1) * value].copy_from_slice(&v[t * value..(t + 1) * value]);
        }
    }

    /// Attention of `q` `[T, heads, key_dim]` over the cached keys and values: `[T, heads, value_dim]`.
    pub(crate) fn attend(
        &self,
        attention: &Attention,
        decl: &CacheDecl,
        step: &Step<'_>,
        q: &[f32],
        sinks: Option<&[f32]>,
    ) -> Vec<f32> {
        let heads = q.len().checked_div(step.tokens() * decl.key_dim).unwrap_or(0);
        let tables = &step.groups[decl.group as usize];
        let mut out = Vec::with_capacity(step.tokens() * heads * decl.value_dim);
        for s in 0..step.sequences() {
            let table = &tables.block_tables[s * tables.max_blocks..(s + 1) * tables.max_blocks];
            for t in step.query_start[s] as usize..step.query_start[s + 1] as usize {
                let position = step.positions[t] as usize;
                let oldest = attention.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
                let visible: Vec<usize> = (oldest..=position)
                    .map(|j| table[j / self.block_size] as usize * self.block_size + j % self.block_size)
                    .collect();
                for h in 0..heads {
                    let q = &q[(t * heads + h) * decl.key_dim..][..decl.key_dim];
                    let sink = sinks.map(|s| f64::from(s[h]));
                    // Query heads are in groups of heads / kv_heads that share a key and value head.
                    let kv_head = h / (heads / decl.kv_heads);
                    self.attend_head(attention, decl, &visible, kv_head, q, sink, &mut out);
                }
            }
        }
        out
    }

    /// One query against the slots that it sees; appends `value_dim` elements.
    #[allow(clippy::too_many_arguments)]
    fn attend_head(
        &self,
        attention: &Attention,
        decl: &CacheDecl,
        visible: &[usize],
        kv_head: usize,
        q: &[f32],
        sink: Option<f64>,
        out: &mut Vec<f32>,
    ) {
        let cache = &self.caches[attention.cache.index()];
        let row = |slot: usize| slot * decl.kv_heads + kv_head;
        let mut scores: Vec<f64> = visible
            .iter()
            .map(|&slot| {
                let key = &cache.keys[row(slot) * decl.key_dim..][..decl.key_dim];
                let score = crate::dense::dot(q, key) * f64::from(attention.scale);
                attention.softcap.map_or(score, |cap| softcap(score, f64::from(cap)))
            })
            .collect();
        scores.extend(sink);
        let weights = softmax(&scores);
        for d in 0..decl.value_dim {
            let value = |slot: usize| f64::from(cache.values[row(slot) * decl.value_dim + d]);
            // A sink is the last weight and has no slot, so it takes no part in this sum.
            out.push(visible.iter().zip(&weights).map(|(&slot, w)| w * value(slot)).sum::<f64>() as f32);
        }
    }
}

/// Storage for one side of a cache, filled with NaN so that a slot which is read before it is written shows.
fn storage(slots: Option<usize>, heads: usize, dim: usize) -> Option<Vec<f32>> {
    let elements = slots?.checked_mul(heads)?.checked_mul(dim)?;
    let mut out = Vec::new();
    out.try_reserve_exact(elements).ok()?;
    out.resize(elements, f32::NAN);
    Some(out)
}
