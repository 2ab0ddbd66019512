use std::collections::HashMap;

use rocmforge_program::{OutputBuffer, output};

use super::{DraftRequest, Drafter};
use crate::batch::StepBatch;
use crate::block::{BlockManager, CacheGroup};
use crate::error::EngineError;
use crate::lengths::Lengths;
use crate::runner::Runner;
use crate::sequence::{RequestId, Sequence};

/// Most tokens of prompts that the draft model takes in per step of the engine.
const CATCH_UP: usize = 128;

/// A sequence as the draft model knows it.
struct Known {
    sequence: Sequence,
    /// When it was used last; the one not used for longest gives up its blocks first.
    used: u64,
}

/// Guesses with the likeliest tokens of a smaller model of the same vocabulary.
pub struct DraftModel {
    runner: Box<dyn Runner>,
    blocks: BlockManager,
    batch: StepBatch,
    lengths: Lengths,
    logits: Vec<f32>,
    known: HashMap<RequestId, Known>,
    clock: u64,
}

/// Where the guess for one request stands.
struct Guess {
    id: RequestId,
    /// Tokens of the request itself.
    real: usize,
    most: usize,
    /// There is no room for it, or it is complete.
    done: bool,
}

impl DraftModel {
    /// Allocates the model's KV cache: so many blocks per cache group.
    ///
    /// # Errors
    /// Blocks that do not go with the model, or lack of memory.
    pub fn new(mut runner: Box<dyn Runner>, cache_blocks: &[u64]) -> Result<DraftModel, EngineError> {
        let (size, program) = (runner.limits().block_size, runner.program());
        if program.group_count() != cache_blocks.len() {
            let expected = format!("one number for each of {} cache groups", program.group_count());
            return Err(EngineError::config("cache blocks of the draft model", expected, format!("{cache_blocks:?}")));
        }
        let group = |(g, &blocks): (usize, &u64)| CacheGroup {
            blocks: usize::try_from(blocks).unwrap_or(usize::MAX),
            window: program.group_window(g).map(|w| w as usize),
        };
        let groups: Vec<_> = cache_blocks.iter().enumerate().map(group).collect();
        let blocks = BlockManager::new(size, &groups, false)?;
        runner.allocate_cache(cache_blocks).map_err(EngineError::step)?;
        let lengths = Lengths::of(runner.program())?;
        let batch = StepBatch::new(groups.len(), size).with_lengths(lengths.clone());
        Ok(DraftModel { runner, blocks, batch, lengths, logits: Vec::new(), known: HashMap::new(), clock: 0 })
    }

    /// Brings what is known of a sequence up to date: keeps what the cache holds of its beginning.
    fn update(&mut self, request: &DraftRequest<'_>) {
        self.clock += 1;
        let used = self.clock;
        let fresh = || Known { sequence: Sequence::new(Vec::new(), String::new()), used };
        let known = self.known.entry(request.id).or_insert_with(fresh);
        known.used = used;
        let sequence = &mut known.sequence;
        // The cache holds tokens up to `computed`, guesses included, of which those that did not come go.
        let same = |(a, b): &(&u32, &u32)| a == b;
        let common = sequence.tokens().iter().zip(request.tokens).take_while(same).count();
        sequence.computed = sequence.computed.min(common);
        let class = self.lengths.class(request.tokens.len());
        if class != sequence.class() {
            self.blocks.release(&mut sequence.blocks);
            sequence.computed = 0;
            sequence.set_class(class);
        }
        sequence.put_tokens(request.tokens.to_vec());
    }

    /// Makes room for `tokens` tokens of a sequence, if need be at the expense of one that is in nobody's way.
    fn reserve(&mut self, id: RequestId, tokens: usize, wanted: &[Guess]) -> bool {
        loop {
            let Some(known) = self.known.get_mut(&id) else { return false };
            if self.blocks.reserve(&mut known.sequence.blocks, tokens) {
                return true;
            }
            let idle = |(other, known): &(&RequestId, &mut Known)| {
                !known.sequence.blocks.is_empty() && wanted.iter().all(|g| g.id != **other)
            };
            let oldest = self.known.iter_mut().filter(idle).min_by_key(|(_, known)| known.used);
            let Some((_, known)) = oldest else { return false };
            self.blocks.release(&mut known.sequence.blocks);
            known.sequence.computed = 0;
        }
    }

    /// One step for all guesses that are not complete, with up to `catch_up` tokens of sequences that the cache has
    /// little of. False when there was nothing to do.
    fn step(&mut self, guesses: &mut [Guess], mut catch_up: usize) -> Result<bool, EngineError> {
        let limits = self.runner.limits();
        let mut slices: Vec<(usize, usize, usize)> = Vec::new();
        let mut tokens = 0;
        for i in 0..guesses.len() {
            let Some(known) = self.known.get(&guesses[i].id) else { continue };
            let (start, all) = (known.sequence.computed, known.sequence.tokens().len());
            let behind = all - start > guesses[i].most + 1;
            let most = if behind { catch_up } else { usize::MAX };
            let len = (all - start).min(limits.max_tokens - tokens).min(most);
            if guesses[i].done || len == 0 || slices.len() == limits.max_sequences {
                continue;
            }
            catch_up -= if behind { len } else { 0 };
            if !self.reserve(guesses[i].id, start + len, guesses) {
                guesses[i].done = true;
                continue;
            }
            tokens += len;
            slices.push((i, start, start + len));
        }
        if slices.is_empty() {
            return Ok(false);
        }
        let wanted = self.run(&slices, guesses)?;
        let vocab = self.runner.program().info.vocab_size;
        for (i, _, end) in slices {
            let guess = &mut guesses[i];
            let Some(known) = self.known.get_mut(&guess.id) else { continue };
            let sequence = &mut known.sequence;
            sequence.computed = end;
            // What the window has passed goes only where the tokens are certain: a guess may be taken back.
            let mut tables = std::mem::take(&mut sequence.blocks);
            self.blocks.advance(&mut tables, sequence.tokens(), end.min(guess.real), "");
            sequence.blocks = tables;
            if let Some(row) = wanted.iter().position(|&w| w == i) {
                sequence.push(likeliest(&self.logits[row * vocab..][..vocab]));
                guess.done = sequence.tokens().len() == guess.real + guess.most;
            }
        }
        Ok(true)
    }

    /// Runs slices of `(guess, start, end)`; the logits are those of the guesses returned.
    fn run(&mut self, slices: &[(usize, usize, usize)], guesses: &[Guess]) -> Result<Vec<usize>, EngineError> {
        let vocab = self.runner.program().info.vocab_size;
        self.batch.clear(slices.iter().map(|s| s.2).max().unwrap_or(0));
        let (mut row, mut wanted) = (0, Vec::new());
        for &(i, start, end) in slices {
            let Some(known) = self.known.get(&guesses[i].id) else { continue };
            self.batch.push(&known.sequence, start, end);
            row += end - start;
            if end == known.sequence.tokens().len() {
                self.batch.want_logits(row as u32 - 1);
                wanted.push(i);
            }
        }
        self.logits.resize(wanted.len().saturating_mul(vocab), 0.0);
        let runner = &mut self.runner;
        self.batch.with_step(|step| runner.submit(step)).map_err(EngineError::step)?;
        let mut outputs = [OutputBuffer { name: output::LOGITS, data: &mut self.logits }];
        runner.wait(&mut outputs).map_err(EngineError::step)?;
        Ok(wanted)
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let larger = |best: (usize, f32), (i, &x): (usize, &f32)| if x > best.1 { (i, x) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0 as u32
}

impl Drafter for DraftModel {
    fn propose(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, EngineError> {
        let context = self.runner.program().info.context_length as usize;
        requests.iter().for_each(|r| self.update(r));
        let guess = |r: &DraftRequest<'_>| Guess {
            id: r.id,
            real: r.tokens.len(),
            most: r.most,
            done: r.tokens.len() + r.most > context,
        };
        let mut guesses: Vec<Guess> = requests.iter().map(guess).collect();
        // Long prompts are caught up with over several steps of the engine, so that they hold nobody up.
        let mut catch_up = CATCH_UP;
        while self.step(&mut guesses, catch_up)? {
            catch_up = 0;
        }
        let guessed = |g: &Guess| self.known.get(&g.id).map_or(&[][..], |k| &k.sequence.tokens()[g.real..]).to_vec();
        Ok(guesses.iter().map(guessed).collect())
    }

    fn forget(&mut self, id: RequestId) {
        if let Some(mut known) = self.known.remove(&id) {
            self.blocks.release(&mut known.sequence.blocks);
        }
    }
}
