//! Blocks of the paged KV cache: who holds which, and what can be used again.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use rocmforge_program::NO_BLOCK;

use crate::error::EngineError;
use crate::sequence::Sequence;

/// A cache group as the block manager sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheGroup {
    /// Blocks allocated for it.
    pub blocks: usize,
    /// Positions that stay visible; `None`: all.
    pub window: Option<usize>,
}

/// How the blocks of a group are used; `free + cached + used == total` at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Hold nothing of use.
    pub free: usize,
    /// Held by no sequence, but their content can be used again; given away when `free` runs out.
    pub cached: usize,
    /// Held by at least one sequence.
    pub used: usize,
    /// All.
    pub total: usize,
}

/// Names the content of a block: its tokens and everything before them. Two hashes with random keys, so that neither
/// chance nor intent makes two contents share a name.
type PrefixKey = (u64, u64);

/// The blocks of one sequence: one table per cache group. Empty until the [`BlockManager`] fills it.
#[derive(Debug, Default)]
pub struct BlockTables {
    tables: Vec<Vec<u32>>,
    /// Keys of the leading full blocks; they depend on the tokens only and so outlive a release.
    chain: Vec<PrefixKey>,
    /// Leading blocks that were offered for reuse.
    sealed: usize,
}

impl BlockTables {
    /// The table of a group: block of positions `i * block_size ..`, or [`NO_BLOCK`].
    pub fn group(&self, group: usize) -> &[u32] {
        self.tables.get(group).map_or(&[], Vec::as_slice)
    }

    fn held(&self, group: usize) -> usize {
        self.group(group).iter().filter(|&&b| b != NO_BLOCK).count()
    }

    /// Whether no block is held.
    pub fn is_empty(&self) -> bool {
        (0..self.tables.len()).all(|g| self.held(g) == 0)
    }
}

#[derive(Debug)]
struct Pool {
    window: Option<usize>,
    refs: Vec<u32>,
    free: Vec<u32>,
    keys: Vec<Option<PrefixKey>>,
    index: HashMap<PrefixKey, u32>,
    /// Unheld blocks with a key, by the time they were let go: the first is the least recently used.
    idle: BTreeMap<u64, u32>,
    idle_since: Vec<u64>,
    clock: u64,
}

impl Pool {
    fn new(group: &CacheGroup) -> Pool {
        Pool {
            window: group.window,
            refs: vec![0; group.blocks],
            free: (0..group.blocks as u32).rev().collect(),
            keys: vec![None; group.blocks],
            index: HashMap::new(),
            idle: BTreeMap::new(),
            idle_since: vec![0; group.blocks],
            clock: 0,
        }
    }

    fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    fn take(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first()?;
                if let Some(key) = self.keys[block as usize].take() {
                    self.index.remove(&key);
                }
                block
            }
        };
        self.refs[block as usize] = 1;
        Some(block)
    }

    fn share(&mut self, block: u32) {
        let b = block as usize;
        if self.refs[b] == 0 {
            self.idle.remove(&self.idle_since[b]);
        }
        self.refs[b] += 1;
    }

    fn drop_one(&mut self, block: u32) {
        let b = block as usize;
        self.refs[b] -= 1;
        if self.refs[b] > 0 {
            return;
        }
        if self.keys[b].is_some() {
            self.clock += 1;
            self.idle_since[b] = self.clock;
            self.idle.insert(self.clock, block);
        } else {
            self.free.push(block);
        }
    }

    /// The first block of a table that a query at position `next` or later can see.
    fn first_visible(&self, next: usize, block_size: usize) -> usize {
        self.window.map_or(0, |w| (next + 1).saturating_sub(w) / block_size)
    }

    /// Most blocks that a sequence of `tokens` holds at once when it grows by at most `chunk` tokens per step.
    fn most_held(&self, tokens: usize, chunk: usize, block_size: usize) -> usize {
        let all = tokens.div_ceil(block_size);
        self.window.map_or(all, |w| all.min((w - 1 + chunk).div_ceil(block_size) + 1))
    }
}

/// Hands out blocks of a fixed number of tokens, with reference counts, per cache group.
///
/// Full blocks are offered for reuse by sequences with the same beginning ([`adopt_prefix`](Self::adopt_prefix)).
/// Only full blocks are shared, and a full block is never written again, so nothing ever has to be copied on write:
/// a sequence that branches off inside a block computes the few tokens of that block itself.
#[derive(Debug)]
pub struct BlockManager {
    block_size: usize,
    pools: Vec<Pool>,
    prefix_caching: bool,
    hashers: (RandomState, RandomState),
}

impl BlockManager {
    /// A manager of empty groups.
    ///
    /// # Errors
    /// A block size of 0, a group without blocks or with a window of 0, or more slots than a `u32` numbers.
    pub fn new(block_size: usize, groups: &[CacheGroup], prefix_caching: bool) -> Result<BlockManager, EngineError> {
        if block_size == 0 {
            return Err(EngineError::config("block size", "at least 1 token", 0));
        }
        for (g, group) in groups.iter().enumerate() {
            let most = (u32::MAX as usize - 1) / block_size;
            if group.blocks == 0 || group.blocks > most {
                return Err(EngineError::config(
                    format!("blocks of cache group {g}"),
                    format!("1 to {most}"),
                    group.blocks,
                ));
            }
            if group.window == Some(0) {
                return Err(EngineError::config(format!("window of cache group {g}"), "at least 1 token", 0));
            }
        }
        Ok(BlockManager {
            block_size,
            pools: groups.iter().map(Pool::new).collect(),
            prefix_caching: prefix_caching && !groups.is_empty(),
            hashers: Default::default(),
        })
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Number of cache groups.
    pub fn groups(&self) -> usize {
        self.pools.len()
    }

    /// How the blocks of each group are used.
    pub fn counts(&self) -> Vec<BlockCounts> {
        let count = |p: &Pool| BlockCounts {
            free: p.free.len(),
            cached: p.idle.len(),
            used: p.refs.iter().filter(|&&r| r > 0).count(),
            total: p.refs.len(),
        };
        self.pools.iter().map(count).collect()
    }

    /// The longest sequence that fits when nothing else runs and it grows by at most `chunk` tokens per step.
    pub fn longest_sequence(&self, chunk: usize) -> usize {
        let longest = |p: &Pool| match p.most_held(usize::MAX, chunk, self.block_size) <= p.refs.len() {
            true => usize::MAX,
            false => p.refs.len() * self.block_size,
        };
        self.pools.iter().map(longest).min().unwrap_or(usize::MAX)
    }

    /// Per group: blocks that the sequence still has to get until `tokens` of it are in the cache.
    pub fn missing(&self, tables: &BlockTables, tokens: usize, chunk: usize) -> Vec<usize> {
        let missing = |(g, p): (usize, &Pool)| {
            let table = tables.group(g);
            let growth = tokens.div_ceil(self.block_size).saturating_sub(table.len());
            growth.min(p.most_held(tokens, chunk, self.block_size).saturating_sub(tables.held(g)))
        };
        self.pools.iter().enumerate().map(missing).collect()
    }

    /// Whether every group has that many blocks to give.
    pub fn available(&self, blocks: &[usize]) -> bool {
        self.pools.iter().zip(blocks).all(|(p, &n)| n <= p.available())
    }

    /// Makes room for the first `tokens` tokens of a sequence in every group, or changes nothing and returns false.
    #[must_use]
    pub fn reserve(&mut self, tables: &mut BlockTables, tokens: usize) -> bool {
        tables.tables.resize_with(self.pools.len(), Vec::new);
        let needed = tokens.div_ceil(self.block_size);
        let fits = |(p, t): (&Pool, &Vec<u32>)| needed.saturating_sub(t.len()) <= p.available();
        if !self.pools.iter().zip(&tables.tables).all(fits) {
            return false;
        }
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.tables) {
            while table.len() < needed {
                let Some(block) = pool.take() else { return false };
                table.push(block);
            }
        }
        true
    }

    /// Takes the blocks that hold the beginning of `tokens` already, as far as every group has them, and returns the
    /// number of tokens that need not be computed. The last token always is, for its logits. `salt` keeps the
    /// prefixes of different owners apart. `tables` must hold no block.
    pub fn adopt_prefix(&mut self, tables: &mut BlockTables, tokens: &[u32], salt: &str) -> usize {
        if !self.prefix_caching || tokens.is_empty() {
            return 0;
        }
        let most = (tokens.len() - 1) / self.block_size;
        self.extend_chain(tables, &tokens[..most * self.block_size], salt);
        let chain = &tables.chain[..most];
        let usable = |n: usize| {
            self.pools.iter().all(|p| {
                let first = p.first_visible(n * self.block_size, self.block_size).min(n);
                // The first of them is the oldest, and so the likeliest to be gone.
                chain[first..n].iter().all(|key| p.index.contains_key(key))
            })
        };
        let Some(n) = (1..=self.longest_full_prefix(chain)).rev().find(|&n| usable(n)) else { return 0 };
        tables.tables = self
            .pools
            .iter_mut()
            .map(|p| {
                let first = p.first_visible(n * self.block_size, self.block_size).min(n);
                let blocks: Vec<u32> = chain[first..n].iter().map(|key| p.index[key]).collect();
                blocks.iter().for_each(|&b| p.share(b));
                std::iter::repeat_n(NO_BLOCK, first).chain(blocks).collect()
            })
            .collect();
        tables.sealed = n;
        n * self.block_size
    }

    /// Leading blocks that the groups without a window have; bounds the search of `adopt_prefix`.
    fn longest_full_prefix(&self, chain: &[PrefixKey]) -> usize {
        let full = |p: &&Pool| p.window.is_none();
        let leading = |p: &Pool| chain.iter().take_while(|key| p.index.contains_key(key)).count();
        self.pools.iter().filter(full).map(leading).min().unwrap_or(chain.len())
    }

    fn extend_chain(&self, tables: &mut BlockTables, tokens: &[u32], salt: &str) {
        let hash = |parent: &PrefixKey, tokens: &[u32]| {
            (self.hashers.0.hash_one((parent, tokens)), self.hashers.1.hash_one((parent, tokens)))
        };
        for block in tokens.chunks_exact(self.block_size).skip(tables.chain.len()) {
            let parent = match tables.chain.last() {
                Some(parent) => *parent,
                None => (self.hashers.0.hash_one(salt), self.hashers.1.hash_one(salt)),
            };
            tables.chain.push(hash(&parent, block));
        }
    }

    /// To be called when the cache holds `computed` tokens of the sequence: offers its full blocks for reuse, and lets
    /// go of blocks that the window has passed. `tokens` are the sequence's tokens, at least `computed` of them.
    pub fn advance(&mut self, tables: &mut BlockTables, tokens: &[u32], computed: usize, salt: &str) {
        if self.prefix_caching {
            let full = computed / self.block_size;
            self.extend_chain(tables, &tokens[..full * self.block_size], salt);
            for (pool, table) in self.pools.iter_mut().zip(&tables.tables) {
                for (i, &block) in table.iter().enumerate().take(full).skip(tables.sealed) {
                    let key = tables.chain[i];
                    if block != NO_BLOCK && !pool.index.contains_key(&key) {
                        pool.keys[block as usize] = Some(key);
                        pool.index.insert(key, block);
                    }
                }
            }
            tables.sealed = tables.sealed.max(full);
        }
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.tables) {
            let passed = pool.first_visible(computed, self.block_size).min(table.len());
            // Passed blocks are a prefix of the table, so the walk back ends at the first one already let go.
            for entry in table[..passed].iter_mut().rev() {
                if *entry == NO_BLOCK {
                    break;
                }
                pool.drop_one(*entry);
                *entry = NO_BLOCK;
            }
        }
    }

    pub(crate) fn advance_sequence(&mut self, sequence: &mut Sequence) {
        let mut tables = std::mem::take(&mut sequence.blocks);
        self.advance(&mut tables, sequence.tokens(), sequence.computed(), sequence.cache_key());
        sequence.blocks = tables;
    }

    /// The contents of all blocks are gone: none is offered for reuse any more.
    pub fn forget(&mut self) {
        for pool in &mut self.pools {
            pool.index.clear();
            pool.keys.fill(None);
            pool.free.extend(std::mem::take(&mut pool.idle).into_values());
        }
    }

    /// Lets go of every block of the sequence.
    pub fn release(&mut self, tables: &mut BlockTables) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.tables) {
            // From the end, so that beginnings, which others are likelier to share, are given away last.
            table.drain(..).rev().filter(|&b| b != NO_BLOCK).for_each(|b| pool.drop_one(b));
        }
        tables.sealed = 0;
    }

    /// Checks that reference counts match `live`, the tables of all sequences, and that every block is accounted for.
    ///
    /// # Errors
    /// What does not add up.
    pub fn audit<'a>(&self, live: impl IntoIterator<Item = &'a BlockTables>) -> Result<(), String> {
        let live: Vec<&BlockTables> = live.into_iter().collect();
        for (g, pool) in self.pools.iter().enumerate() {
            let mut refs = vec![0u32; pool.refs.len()];
            for &block in live.iter().flat_map(|t| t.group(g)).filter(|&&b| b != NO_BLOCK) {
                refs[block as usize] += 1;
            }
            if refs != pool.refs {
                return Err(format!("group {g}: tables hold {refs:?}, counted {:?}", pool.refs));
            }
            let counts = self.counts()[g];
            if counts.free + counts.cached + counts.used != counts.total {
                return Err(format!("group {g}: {counts:?} does not add up"));
            }
            if pool.index.iter().any(|(key, &b)| pool.keys[b as usize] != Some(*key)) {
                return Err(format!("group {g}: the prefix index names a block of other content"));
            }
            let unheld = pool.free.iter().chain(pool.idle.values());
            if let Some(block) = unheld.clone().find(|&&b| pool.refs[b as usize] != 0) {
                return Err(format!("group {g}: block {block} is held and free"));
            }
        }
        Ok(())
    }
}
