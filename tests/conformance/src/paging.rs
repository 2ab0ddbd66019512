use rocmforge_program::{GroupTables, NO_BLOCK, NamedInput, Program, Step};

use crate::random::Random;

/// A step as the host would make it: owned, so that it can be given to two executors.
pub struct OwnedStep {
    pub token_ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub query_start: Vec<u32>,
    pub context_lens: Vec<u32>,
    pub logits_rows: Vec<u32>,
    groups: Vec<(usize, Vec<u32>, Vec<u32>)>,
    inputs: Vec<(String, Vec<f32>)>,
}

impl OwnedStep {
    /// Borrows it as a [`Step`].
    pub fn with<R>(&self, run: impl FnOnce(&Step<'_>) -> R) -> R {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|(max_blocks, tables, slots)| GroupTables {
                block_tables: tables,
                max_blocks: *max_blocks,
                slot_mapping: slots,
            })
            .collect();
        let inputs: Vec<_> = self.inputs.iter().map(|(name, data)| NamedInput { name, data }).collect();
        run(&Step {
            token_ids: &self.token_ids,
            positions: &self.positions,
            query_start: &self.query_start,
            context_lens: &self.context_lens,
            groups: &groups,
            logits_rows: &self.logits_rows,
            inputs: &inputs,
        })
    }
}

/// What happens in a case: per step, which sequences get how many tokens.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Tokens per block.
    pub block_size: usize,
    /// Sequences in a step at most.
    pub sequences: usize,
    /// Blocks of each cache group.
    pub blocks: usize,
    /// Tokens that every sequence has behind it at the start; 0 where there is a cache.
    pub start: usize,
    /// Sequence and number of tokens, step by step.
    pub steps: &'static [&'static [(usize, usize)]],
}

/// One, a few, and many rows: backends have a kernel for each.
pub const ROWS: Scenario =
    Scenario { block_size: 16, start: 3, steps: &[&[(0, 1)], &[(1, 5)], &[(0, 2), (2, 17)]], ..USUAL };

const USUAL: Scenario = Scenario { block_size: 4, sequences: 4, blocks: 48, start: 0, steps: &[] };

/// As many rows as backends take at once where they read each weight once.
pub const FULL: Scenario = Scenario { start: 3, steps: &[&[(0, 64)]], ..USUAL };

/// More than that, and as many as a long prompt has.
pub const MORE: Scenario = Scenario { start: 3, blocks: 180, steps: &[&[(0, 100)], &[(0, 600)]], ..USUAL };

/// As [`ROWS`], at positions where an angle in f32 has few digits left after the point.
pub const FAR: Scenario = Scenario { start: 100_000, ..ROWS };

/// Prefill, decode, both in one step, chunked prefill, and sequences in changing order.
pub const MIXED: Scenario = Scenario {
    steps: &[
        &[(0, 7)],
        &[(0, 1), (1, 5)],
        &[(1, 1), (0, 1), (2, 9)],
        &[(0, 4), (1, 1), (2, 1)],
        &[(2, 1)],
        &[(2, 1), (1, 6), (0, 1)],
    ],
    ..USUAL
};

/// Several sequences that get a token each, as in decoding.
pub const TOGETHER: Scenario = Scenario { sequences: 8, steps: &[EIGHT; 4], ..USUAL };
const EIGHT: &[(usize, usize)] = &each::<8>();

/// As [`TOGETHER`] with 64 of them.
pub const CROWD: Scenario = Scenario { sequences: 64, blocks: 128, steps: &[SIXTY_FOUR; 5], ..USUAL };
const SIXTY_FOUR: &[(usize, usize)] = &each::<64>();

/// A token for each of the first sequences.
const fn each<const N: usize>() -> [(usize, usize); N] {
    let mut chunks = [(0, 1); N];
    let mut i = 0;
    while i < N {
        chunks[i].0 = i;
        i += 1;
    }
    chunks
}

/// Contexts that span many blocks.
pub const LONG: Scenario = Scenario {
    block_size: 16,
    steps: &[&[(0, 50)], &[(0, 1)], &[(1, 37), (0, 1)], &[(0, 30), (1, 1)], &[(1, 1), (0, 1)]],
    ..USUAL
};

impl Scenario {
    /// The most tokens of a step that a backend is asked to take: those of the largest, and 64 where there are fewer.
    pub fn most_tokens(&self) -> usize {
        let sizes = self.steps.iter().map(|step| step.iter().map(|(_, tokens)| tokens).sum());
        sizes.max().unwrap_or(0).max(64)
    }
}

/// Gives out blocks as a host does, in an order without pattern.
pub struct Pager<'a> {
    program: &'a Program,
    scenario: Scenario,
    random: Random,
    free: Vec<Vec<u32>>,
    sequences: Vec<Sequence>,
    made: usize,
}

#[derive(Clone)]
struct Sequence {
    len: usize,
    tables: Vec<Vec<u32>>,
}

impl<'a> Pager<'a> {
    /// An empty cache.
    pub fn new(program: &'a Program, scenario: Scenario, name: &str) -> Pager<'a> {
        let mut random = Random::new(name);
        let groups = program.group_count();
        let free = (0..groups).map(|_| random.permutation(scenario.blocks)).collect();
        let sequence = Sequence { len: scenario.start, tables: vec![vec![]; groups] };
        Pager { program, scenario, random, free, sequences: vec![sequence; scenario.sequences], made: 0 }
    }

    /// A step in which these sequences get these numbers of tokens.
    pub fn step(&mut self, chunks: &[(usize, usize)]) -> Option<OwnedStep> {
        let (mut positions, mut query_start, mut context_lens) = (vec![], vec![0], vec![]);
        for &(s, n) in chunks {
            let len = self.sequences[s].len;
            positions.extend((len..len + n).map(|p| p as u32));
            query_start.push(positions.len() as u32);
            context_lens.push((len + n) as u32);
        }
        let tokens = positions.len();
        let groups = (0..self.free.len()).map(|g| self.group(g, chunks)).collect::<Option<Vec<_>>>()?;
        for &(s, n) in chunks {
            self.sequences[s].len += n;
        }
        // Any rows in any order, one of them twice, and once none at all; in decoding every second time each, as hosts ask.
        let mut rows = self.random.permutation(tokens);
        rows.truncate(1 + self.random.below(tokens));
        rows.push(rows[0]);
        if self.made == 2 {
            rows.clear();
        } else if self.made.is_multiple_of(2) && tokens > 1 && tokens == chunks.len() {
            rows = (0..tokens as u32).collect();
        }
        self.made += 1;
        let vocab = self.program.info.vocab_size;
        let token_ids = (0..tokens).map(|_| self.random.below(vocab) as u32).collect();
        let inputs = self.inputs(tokens, chunks.len(), rows.len());
        Some(OwnedStep { token_ids, positions, query_start, context_lens, logits_rows: rows, groups, inputs })
    }

    fn inputs(&mut self, tokens: usize, sequences: usize, rows: usize) -> Vec<(String, Vec<f32>)> {
        use rocmforge_program::{InputSource, Lead, Op};
        let mut inputs = vec![];
        for node in &self.program.nodes {
            if let Op::Input { source: InputSource::Named { name, ty } } = &node.op {
                let lead = match ty.shape.lead {
                    Lead::T => tokens,
                    Lead::S => sequences,
                    Lead::L => rows,
                };
                let elements = lead * ty.shape.row_elements().unwrap_or(0);
                inputs.push((name.clone(), (0..elements).map(|_| self.random.normal()).collect()));
            }
        }
        inputs
    }

    /// Columns, block tables and slots of a group; `None` if the blocks do not suffice.
    fn group(&mut self, g: usize, chunks: &[(usize, usize)]) -> Option<(usize, Vec<u32>, Vec<u32>)> {
        let size = self.scenario.block_size;
        let window = self.program.group_window(g);
        let mut slots = vec![];
        for &(s, n) in chunks {
            let first = self.sequences[s].len;
            let table = &mut self.sequences[s].tables[g];
            let oldest = window.map_or(0, |w| (first + 1).saturating_sub(w as usize)) / size;
            for block in table.iter_mut().take(oldest).filter(|b| **b != NO_BLOCK) {
                // To the front: it is written again by another sequence before long.
                self.free[g].push(std::mem::replace(block, NO_BLOCK));
            }
            for p in first..first + n {
                if p / size == table.len() {
                    table.push(self.free[g].pop()?);
                }
                slots.push(table[p / size] * size as u32 + (p % size) as u32);
            }
        }
        let tables = || chunks.iter().map(|&(s, _)| &self.sequences[s].tables[g]);
        let columns = tables().map(Vec::len).max().unwrap_or(0) + 1;
        let padded = tables().flat_map(|t| t.iter().copied().chain(std::iter::repeat(NO_BLOCK)).take(columns));
        Some((columns, padded.collect(), slots))
    }
}
