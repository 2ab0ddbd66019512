use rocmforge_program::{OutputBuffer, RowSampling, output};

use crate::batch::StepBatch;
use crate::block::{BlockManager, CacheGroup};
use crate::error::EngineError;
use crate::lengths::Lengths;
use crate::runner::Runner;
use crate::sequence::Sequence;

/// Runs several sequences side by side on the calling thread, a token of each per step, for tools that measure a model
/// and need no engine.
pub struct SeveralSequences<'r> {
    runner: &'r mut dyn Runner,
    sequences: Vec<Sequence>,
    blocks: BlockManager,
    batch: StepBatch,
    logits: Vec<f32>,
    drawn: Vec<u32>,
    most: usize,
}

impl<'r> SeveralSequences<'r> {
    /// `count` empty sequences, with a KV cache for `tokens` tokens each in place of any that the runner has.
    ///
    /// # Errors
    /// More sequences or tokens than the model was made for, or lack of memory.
    pub fn new(runner: &'r mut dyn Runner, count: usize, tokens: usize) -> Result<SeveralSequences<'r>, EngineError> {
        let (context, limits) = (runner.program().info.context_length as usize, runner.limits());
        if tokens > context {
            return Err(EngineError::ContextExceeded { prompt: tokens, context });
        }
        let most = limits.max_sequences.min(limits.max_tokens);
        if count == 0 || count > most {
            return Err(EngineError::request("sequences", format!("1 to {most}"), count));
        }
        let size = limits.block_size.max(1);
        let per_group = tokens.div_ceil(size).max(1).saturating_mul(count);
        let group = |g| CacheGroup { blocks: per_group, window: runner.program().group_window(g).map(|w| w as usize) };
        let groups: Vec<CacheGroup> = (0..runner.program().group_count()).map(group).collect();
        let blocks = BlockManager::new(size, &groups, false)?;
        let lengths = Lengths::of(runner.program())?;
        let class = lengths.class(tokens);
        let batch = StepBatch::new(groups.len(), size).with_lengths(lengths);
        runner.allocate_cache(&vec![per_group as u64; groups.len()]).map_err(EngineError::step)?;
        let sequence = |_| {
            let mut sequence = Sequence::new(Vec::new(), String::new());
            sequence.set_class(class);
            sequence
        };
        let sequences = (0..count).map(sequence).collect();
        Ok(SeveralSequences { runner, sequences, blocks, batch, logits: vec![], drawn: vec![], most: tokens })
    }

    /// Appends a token to each sequence in one step and returns the logits after them, `[sequences, vocabulary]`.
    ///
    /// # Errors
    /// Not one token per sequence, one beyond the vocabulary, more than the cache holds, or a backend that fails.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&mut [f32], EngineError> {
        self.run(tokens, &[])?;
        Ok(&mut self.logits)
    }

    /// The same with the next token of each sequence drawn by the backend, in place of logits; `sampling` has one for each
    /// row. Only where the runner [`samples`](Runner::samples).
    ///
    /// # Errors
    /// As [`feed`](Self::feed), and parameters out of range.
    pub fn feed_sampling(&mut self, tokens: &[u32], sampling: &[RowSampling]) -> Result<&[u32], EngineError> {
        if sampling.len() != tokens.len() {
            return Err(EngineError::request("sampling", tokens.len(), sampling.len()));
        }
        self.run(tokens, sampling)?;
        self.drawn.resize(sampling.len(), 0);
        self.runner.sampled(&mut self.drawn).map_err(EngineError::step)?;
        Ok(&self.drawn)
    }

    fn run(&mut self, tokens: &[u32], sampling: &[RowSampling]) -> Result<(), EngineError> {
        let (count, vocab) = (self.sequences.len(), self.runner.program().info.vocab_size);
        if tokens.len() != count {
            return Err(EngineError::request("tokens", count, tokens.len()));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(EngineError::request("tokens", format!("tokens below {vocab}"), token));
        }
        let end = self.sequences[0].tokens().len() + 1;
        if end > self.most {
            return Err(EngineError::CacheTooSmall { prompt: end, capacity: self.most });
        }
        self.batch.clear(end);
        for (row, (sequence, &token)) in self.sequences.iter_mut().zip(tokens).enumerate() {
            sequence.push(token);
            if !self.blocks.reserve(&mut sequence.blocks, end) {
                return Err(EngineError::CacheTooSmall { prompt: end, capacity: self.most });
            }
            self.batch.push(sequence, end - 1, end);
            self.batch.want_logits(row as u32);
        }
        self.logits.resize((count - sampling.len()).saturating_mul(vocab), 0.0);
        let runner = &mut *self.runner;
        let submitted = self.batch.with_step(|step| match sampling {
            [] => runner.submit(step),
            rows => runner.submit_sampling(step, rows),
        });
        submitted.map_err(EngineError::step)?;
        let mut outputs = [OutputBuffer { name: output::LOGITS, data: &mut self.logits }];
        runner.wait(&mut outputs).map_err(EngineError::step)?;
        for sequence in &mut self.sequences {
            sequence.computed = end;
            self.blocks.advance_sequence(sequence);
        }
        Ok(())
    }
}
