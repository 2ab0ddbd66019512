use rocmforge_program::{GroupTables, NO_BLOCK, Step, output};
use rocmforge_reference::{Interpreter, ReferenceError};

/// Sequences whose blocks lie scattered over the cache, and blocks taken back as a window passes them.
pub struct Paged {
    block_size: usize,
    windows: Vec<Option<u32>>,
    /// Free blocks of each group.
    free: Vec<Vec<u32>>,
    sequences: Vec<Sequence>,
}

#[derive(Clone)]
struct Sequence {
    len: usize,
    /// Block table of each group.
    tables: Vec<Vec<u32>>,
}

/// Tokens for the sequence of this number.
pub type Chunk<'a> = (usize, &'a [u32]);

impl Paged {
    /// An empty cache of `blocks` blocks per group, allocated in the interpreter too.
    pub fn new(interpreter: &mut Interpreter, sequences: usize, block_size: usize, blocks: u32) -> Paged {
        let groups = interpreter.program().group_count();
        interpreter.allocate_cache(block_size, &vec![blocks as usize; groups]).expect("a cache");
        let free = (0..groups as u32).map(|g| shuffled(blocks, g)).collect();
        let windows = (0..groups).map(|g| interpreter.program().group_window(g)).collect();
        let sequence = Sequence { len: 0, tables: vec![vec![]; groups] };
        Paged { block_size, windows, free, sequences: vec![sequence; sequences] }
    }

    /// Appends the chunks to their sequences in one step and returns the logits of all their tokens.
    pub fn run(&mut self, interpreter: &mut Interpreter, chunks: &[Chunk<'_>]) -> Result<Vec<f32>, ReferenceError> {
        let (mut positions, mut query_start, mut context_lens) = (vec![], vec![0], vec![]);
        for &(s, tokens) in chunks {
            let len = self.sequences[s].len;
            positions.extend((len..len + tokens.len()).map(|p| p as u32));
            query_start.push(positions.len() as u32);
            context_lens.push((len + tokens.len()) as u32);
        }
        let owned: Vec<_> = (0..self.free.len()).map(|g| self.group(g, chunks)).collect();
        let groups: Vec<_> = owned
            .iter()
            .map(|(max_blocks, tables, slots)| GroupTables {
                block_tables: tables,
                max_blocks: *max_blocks,
                slot_mapping: slots,
            })
            .collect();
        let token_ids: Vec<u32> = chunks.iter().flat_map(|(_, tokens)| *tokens).copied().collect();
        let logits_rows: Vec<u32> = (0..token_ids.len() as u32).collect();
        let step = Step {
            token_ids: &token_ids,
            positions: &positions,
            query_start: &query_start,
            context_lens: &context_lens,
            groups: &groups,
            logits_rows: &logits_rows,
            inputs: &[],
        };
        let mut outputs = interpreter.run(&step)?;
        for &(s, tokens) in chunks {
            self.sequences[s].len += tokens.len();
        }
        Ok(outputs.remove(output::LOGITS).expect("logits"))
    }

    /// Columns, block tables and slots of a group.
    fn group(&mut self, g: usize, chunks: &[Chunk<'_>]) -> (usize, Vec<u32>, Vec<u32>) {
        let mut slots = vec![];
        for &(s, tokens) in chunks {
            let (first, table) = (self.sequences[s].len, &mut self.sequences[s].tables[g]);
            let oldest = self.windows[g].map_or(0, |w| (first + 1).saturating_sub(w as usize));
            for block in &mut table[..oldest / self.block_size] {
                if *block != NO_BLOCK {
                    self.free[g].insert(0, std::mem::replace(block, NO_BLOCK));
                }
            }
            for p in first..first + tokens.len() {
                if p / self.block_size == table.len() {
                    table.push(self.free[g].pop().expect("a free block"));
                }
                slots.push(table[p / self.block_size] * self.block_size as u32 + (p % self.block_size) as u32);
            }
        }
        let tables = || chunks.iter().map(|&(s, _)| &self.sequences[s].tables[g]);
        // One column more than any sequence needs.
        let columns = tables().map(Vec::len).max().unwrap_or(0) + 1;
        let padded = tables().flat_map(|t| t.iter().copied().chain(std::iter::repeat(NO_BLOCK)).take(columns));
        (columns, padded.collect(), slots)
    }
}

/// The numbers below `n` in an order without pattern, the same every time.
pub fn shuffled(n: u32, seed: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..n).collect();
    numbers.sort_by_key(|i| (i + 1 + 977 * seed).wrapping_mul(2_654_435_761) ^ 0x5bd1_e995);
    numbers
}

/// Logits of one sequence, fed in chunks of `chunk` tokens.
pub fn logits_in_chunks(interpreter: &mut Interpreter, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut paged = Paged::new(interpreter, 1, 5, 24);
    ids.chunks(chunk).flat_map(|tokens| paged.run(interpreter, &[(0, tokens)]).expect("a step")).collect()
}

/// The largest difference, which no element that is not a number escapes.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d <= max || max.is_nan() { max } else { d })
}
