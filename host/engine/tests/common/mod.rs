//! A model that lives in its KV cache: what it answers depends on every token that its block tables let it see, so any
//! wrong, stale or shared-by-mistake block changes the answer.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use rocmforge_engine::{RunError, Runner, RunnerLimits, Vocabulary};
use rocmforge_program::{
    CacheDecl, DType, IR_VERSION, InputSource, ModelInfo, NO_BLOCK, NO_TOKEN, Node, Op, OutputBuffer, OutputDecl,
    Program, RowSampling, Step, StepLimits, ValueId, WeightDecl, WeightId, input, output,
};

pub const VOCAB: usize = 64;
/// Ends answers.
pub const END: u32 = 0;

pub struct SimulatedModel {
    program: Program,
    limits: RunnerLimits,
    /// Per group and slot: token, position, and the class it was computed in.
    cache: Vec<Vec<Option<(u32, u32, u32)>>>,
    rows: Vec<f32>,
    /// Pooled [states](state) of the sequences: the mean, and the last.
    pooled: [Vec<f32>; 2],
    /// Steps to fail; `usize::MAX`: panic in the next one.
    pub fail: Arc<AtomicUsize>,
    /// If there is one, each step waits for a message; the sender gone means to run freely.
    pub gate: Option<Receiver<()>>,
    /// Whether it draws tokens, those of the latest step, and whether it can.
    draws: bool,
    drawn: Vec<u32>,
    pub broken: bool,
}

impl SimulatedModel {
    pub fn new(windows: &[Option<u32>], limits: RunnerLimits, context_length: u32) -> SimulatedModel {
        let cache = |(g, &window): (usize, &Option<u32>)| CacheDecl {
            layer: g as u32,
            kv_heads: 1,
            key_dim: 1,
            value_dim: 1,
            group: g as u32,
            window,
        };
        let architecture = "simulated".into();
        let info = ModelInfo { architecture, vocab_size: VOCAB, hidden_size: 1, layers: 1, context_length };
        let caches = windows.iter().enumerate().map(cache).collect();
        let (weights, nodes, outputs) = Default::default();
        let program = Program { ir: IR_VERSION, info, weights, caches, nodes, outputs };
        let (cache, rows, pooled, fail, drawn) = Default::default();
        let (draws, broken) = (false, false);
        SimulatedModel { program, limits, cache, rows, pooled, fail, gate: None, draws, drawn, broken }
    }

    /// A model on a device that draws tokens itself.
    pub fn drawing(mut self) -> SimulatedModel {
        self.draws = true;
        self
    }

    /// A model that tells embeddings: the pooled [states](state).
    pub fn embedding(mut self) -> SimulatedModel {
        let node = |op| Node { op, layer: None };
        let (ids, x, table) = (ValueId(0), ValueId(1), WeightId(0));
        let weight = WeightDecl { name: "states".into(), dims: vec![VOCAB, STATES], dtype: DType::F32 };
        self.program.weights = vec![weight];
        self.program.nodes = vec![
            node(Op::Input { source: InputSource::TokenIds }),
            node(Op::Embed { ids, table, scale: 1.0 }),
            node(Op::MeanPool { x }),
            node(Op::LastPool { x }),
        ];
        let output = |name: &str, value| OutputDecl { name: name.into(), value: ValueId(value) };
        self.program.outputs = vec![output(output::MEAN, 2), output(output::LAST, 3)];
        self
    }

    fn pool(&mut self, step: &Step<'_>) {
        self.pooled = Default::default();
        for ends in step.query_start.windows(2) {
            let tokens = ends[0] as usize..ends[1] as usize;
            let states: Vec<_> = tokens.map(|t| state(step.token_ids[t], step.positions[t])).collect();
            let mean = |i: usize| states.iter().map(|s| s[i]).sum::<f32>() / states.len() as f32;
            self.pooled[0].extend((0..STATES).map(mean));
            self.pooled[1].extend(states[states.len() - 1]);
        }
    }

    /// A model that computes sequences of more tokens than each of these in another way.
    pub fn changing_at(mut self, lengths: &[u32]) -> SimulatedModel {
        let source = |&n: &u32| Node { op: Op::Input { source: input::longer_than(n) }, layer: None };
        // In an order that is not theirs.
        self.program.nodes = lengths.iter().rev().map(source).collect();
        self
    }

    /// Gives its only input another name.
    pub fn rename_input(&mut self, to: &str) {
        let [Node { op: Op::Input { source: InputSource::Named { name, .. } }, .. }] = &mut self.program.nodes[..]
        else {
            panic!("one named input");
        };
        *name = to.into();
    }

    /// A model whose steps wait for messages.
    pub fn gated(mut self) -> (SimulatedModel, Sender<()>) {
        let (open, gate) = channel();
        self.gate = Some(gate);
        (self, open)
    }

    pub fn windows(&self) -> Vec<Option<u32>> {
        self.program.caches.iter().map(|c| c.window).collect()
    }
}

impl Runner for SimulatedModel {
    fn program(&self) -> &Program {
        &self.program
    }

    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<(), RunError> {
        self.cache = blocks.iter().map(|&n| vec![None; n as usize * self.limits.block_size]).collect();
        Ok(())
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<(), RunError> {
        if let Some(gate) = &self.gate {
            // A sender that is gone means to run freely.
            let _ = gate.recv();
        }
        let RunnerLimits { max_tokens, max_sequences, block_size } = self.limits;
        let blocks: Vec<usize> = self.cache.iter().map(|c| c.len() / block_size).collect();
        let limits = StepLimits { vocab_size: VOCAB, max_tokens, max_sequences, block_size, num_blocks: &blocks };
        step.check(&self.program, &limits)?;
        assert_ne!(self.fail.load(Ordering::SeqCst), usize::MAX, "the panic that a test asked for");
        if self.fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err("simulated failure".into());
        }
        for (cache, tables) in self.cache.iter_mut().zip(step.groups) {
            for t in 0..step.tokens() {
                let entry = (step.token_ids[t], step.positions[t], class_of(step, t));
                cache[tables.slot_mapping[t] as usize] = Some(entry);
            }
        }
        self.pool(step);
        self.rows.clear();
        for &row in step.logits_rows {
            let sequence = step.query_start.partition_point(|&start| start <= row) - 1;
            let position = step.positions[row as usize];
            let class = class_of(step, row as usize);
            let mut state = 0;
            for (g, (cache, tables)) in self.cache.iter().zip(step.groups).enumerate() {
                let table = &tables.block_tables[sequence * tables.max_blocks..][..tables.max_blocks];
                for p in first_visible(position, self.program.group_window(g))..=position {
                    let block = table[p as usize / block_size];
                    if block == NO_BLOCK {
                        return Err(format!("position {p} is visible from {position} and has no block").into());
                    }
                    match cache[block as usize * block_size + p as usize % block_size] {
                        Some((token, at, of)) if (at, of) == (p, class) => state = mix(state, token + CLASS * class),
                        other => return Err(format!("position {p} of group {g} holds {other:?}, not {class}").into()),
                    }
                }
            }
            self.rows.extend(logits(state));
        }
        Ok(())
    }

    fn samples(&self) -> bool {
        self.draws
    }

    fn submit_sampling(&mut self, step: &Step<'_>, rows: &[RowSampling]) -> Result<(), RunError> {
        assert!(self.draws && !rows.is_empty());
        // What a plugin would be given, checked as there.
        let mut bytes = vec![];
        rows.iter().for_each(|row| row.write(&mut bytes));
        let rows = RowSampling::read(&bytes, step.logits_rows.len())?;
        self.submit(step)?;
        let all: Vec<Vec<f32>> = self.rows.chunks_exact(VOCAB).map(<[f32]>::to_vec).collect();
        let draw = |r: &RowSampling| match self.broken {
            true => NO_TOKEN,
            false => rocmforge_reference::sample(&all[r.row as usize], r),
        };
        self.drawn = rows.iter().map(draw).collect();
        let left = all.iter().zip(0..).filter(|(_, i)| rows.iter().all(|r| r.row != *i));
        self.rows = left.flat_map(|(row, _)| row).copied().collect();
        Ok(())
    }

    fn sampled(&mut self, tokens: &mut [u32]) -> Result<(), RunError> {
        tokens.copy_from_slice(&self.drawn);
        Ok(())
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), RunError> {
        for output in outputs {
            let found = match output.name {
                output::MEAN => &self.pooled[0],
                output::LAST => &self.pooled[1],
                _ => &self.rows,
            };
            if output.data.len() != found.len() {
                return Err(format!("{}: {} wanted, {} computed", output.name, output.data.len(), found.len()).into());
            }
            output.data.copy_from_slice(found);
        }
        Ok(())
    }
}

/// Numbers in a state.
pub const STATES: usize = 3;

/// What a token at a position says of a text.
pub fn state(token: u32, position: u32) -> [f32; STATES] {
    [token as f32, position as f32, (token * (position + 1) % 17) as f32]
}

/// Sets tokens of sequences of different classes apart.
const CLASS: u32 = 1000;

/// How many of the lengths the token's sequence has passed, as the step's inputs say.
fn class_of(step: &Step<'_>, token: usize) -> u32 {
    step.inputs.iter().map(|i| i.data[token] as u32).sum()
}

fn first_visible(position: u32, window: Option<u32>) -> u32 {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}

fn mix(state: u64, token: u32) -> u64 {
    let mut z = (state ^ u64::from(token)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn logits(state: u64) -> impl Iterator<Item = f32> {
    (0..VOCAB as u32).map(move |i| (mix(state, i) >> 48) as f32 / 8192.0)
}

/// Logits after the last token, straight from the tokens.
pub fn expected_logits(windows: &[Option<u32>], tokens: &[u32]) -> Vec<f32> {
    expected_logits_of_class(windows, tokens, 0)
}

/// The same as a part of a sequence of this class.
pub fn expected_logits_of_class(windows: &[Option<u32>], tokens: &[u32], class: usize) -> Vec<f32> {
    let last = tokens.len() as u32 - 1;
    let visible = |w: &Option<u32>| tokens[first_visible(last, *w) as usize..].to_vec();
    let mixed = |state, token| mix(state, token + CLASS * class as u32);
    logits(windows.iter().flat_map(visible).fold(0, mixed)).collect()
}

/// The greedy answer, straight from the tokens.
pub fn expected_answer(windows: &[Option<u32>], prompt: &[u32], len: usize) -> Vec<u32> {
    expected_answer_changing_at(windows, &[], prompt, len)
}

/// The same of a model with these lengths.
pub fn expected_answer_changing_at(windows: &[Option<u32>], lengths: &[u32], prompt: &[u32], len: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..len {
        tokens.push(argmax(&expected_logits_of_class(windows, &tokens, class(lengths, tokens.len()))));
    }
    tokens.split_off(prompt.len())
}

/// How many of the lengths a sequence has passed.
pub fn class(lengths: &[u32], tokens: usize) -> usize {
    lengths.iter().filter(|&&n| tokens > n as usize).count()
}

pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Token `t` is the `t`-th character from '@' on, but for the last two, which together are "é".
pub struct Letters;

impl Vocabulary for Letters {
    fn is_end_of_generation(&self, token: u32) -> bool {
        token == END
    }

    fn end_of_generation(&self) -> Vec<u32> {
        vec![END]
    }

    fn token_bytes(&self, token: u32, out: &mut Vec<u8>) {
        match token as usize {
            t if t == VOCAB - 2 => out.push(0xC3),
            t if t == VOCAB - 1 => out.push(0xA9),
            t => out.push(b'@' + t as u8),
        }
    }
}

pub fn text(tokens: &[u32]) -> String {
    let mut bytes = Vec::new();
    tokens.iter().for_each(|&t| Letters.token_bytes(t, &mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
