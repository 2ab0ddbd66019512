use rocmforge_program::{OutputBuffer, output};

use crate::batch::StepBatch;
use crate::block::{BlockManager, CacheGroup};
use crate::error::EngineError;
use crate::lengths::Lengths;
use crate::runner::Runner;
use crate::sequence::Sequence;

/// After which tokens of a piece logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// The last one.
    Last,
    /// None.
    None,
}

/// Runs one sequence on the calling thread, for tools that measure or compare a model and need no engine.
pub struct SingleSequence<'r> {
    runner: &'r mut dyn Runner,
    sequence: Sequence,
    blocks: BlockManager,
    batch: StepBatch,
    logits: Vec<f32>,
    most: usize,
    lengths: Lengths,
    expected: usize,
}

impl<'r> SingleSequence<'r> {
    /// Allocates a KV cache for `tokens` tokens, in place of any that the runner has.
    ///
    /// # Errors
    /// More tokens than the model was made for, or lack of memory.
    pub fn new(runner: &'r mut dyn Runner, tokens: usize) -> Result<SingleSequence<'r>, EngineError> {
        let context = runner.program().info.context_length as usize;
        if tokens > context {
            return Err(EngineError::ContextExceeded { prompt: tokens, context });
        }
        let size = runner.limits().block_size.max(1);
        let per_group = tokens.div_ceil(size).max(1);
        let group = |g| CacheGroup { blocks: per_group, window: runner.program().group_window(g).map(|w| w as usize) };
        let groups: Vec<CacheGroup> = (0..runner.program().group_count()).map(group).collect();
        let blocks = BlockManager::new(size, &groups, false)?;
        let lengths = Lengths::of(runner.program())?;
        let batch = StepBatch::new(groups.len(), size).with_lengths(lengths.clone());
        runner.allocate_cache(&vec![per_group as u64; groups.len()]).map_err(EngineError::step)?;
        let sequence = Sequence::new(Vec::new(), String::new());
        let (logits, expected) = Default::default();
        Ok(SingleSequence { runner, sequence, blocks, batch, logits, most: tokens, lengths, expected })
    }

    /// Says that the sequence will have so many tokens. A model that computes longer sequences in another way then does
    /// so from the first token on, as with all of them in one step. Otherwise it changes over when the sequence has
    /// grown that long, and what went before is computed anew.
    pub fn expect(&mut self, tokens: usize) {
        self.expected = tokens;
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.sequence.tokens().len()
    }

    /// Whether there is no token yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all tokens; the cache stays allocated.
    pub fn clear(&mut self) {
        self.blocks.release(&mut self.sequence.blocks);
        self.sequence = Sequence::new(Vec::new(), String::new());
    }

    /// Appends tokens in one step and returns the wanted logits, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// No token, one beyond the vocabulary, more than a step or the cache holds, or a backend that fails. The
    /// sequence is as before.
    pub fn feed(&mut self, tokens: &[u32], rows: Rows) -> Result<&mut [f32], EngineError> {
        let info = &self.runner.program().info;
        let vocab = info.vocab_size;
        let limit = self.runner.limits().max_tokens.min(self.most - self.len());
        if tokens.is_empty() || tokens.len() > limit {
            return Err(EngineError::request("tokens", format!("1 to {limit} in this step"), tokens.len()));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(EngineError::request("tokens", format!("tokens below {vocab}"), token));
        }
        let start = self.len();
        let end = start + tokens.len();
        self.change_class(self.lengths.class(end.max(self.expected)), vocab)?;
        tokens.iter().for_each(|&t| self.sequence.push(t));
        let result = self.compute(end, rows, vocab);
        if let Err(error) = result {
            self.sequence.truncate(start);
            return Err(error);
        }
        Ok(&mut self.logits)
    }

    /// Computes the tokens so far in the way of another class.
    fn change_class(&mut self, class: usize, vocab: usize) -> Result<(), EngineError> {
        if class != self.sequence.class() {
            self.blocks.release(&mut self.sequence.blocks);
            self.sequence.computed = 0;
            self.sequence.set_class(class);
        }
        while self.sequence.remaining() > 0 {
            let end = self.len().min(self.sequence.computed + self.runner.limits().max_tokens);
            self.compute(end, Rows::None, vocab)?;
        }
        Ok(())
    }

    /// Computes the tokens before `end` that the cache does not hold.
    fn compute(&mut self, end: usize, rows: Rows, vocab: usize) -> Result<(), EngineError> {
        self.run(self.sequence.computed, end, rows, vocab)?;
        self.sequence.computed = end;
        self.blocks.advance_sequence(&mut self.sequence);
        Ok(())
    }

    fn run(&mut self, start: usize, end: usize, rows: Rows, vocab: usize) -> Result<(), EngineError> {
        if !self.blocks.reserve(&mut self.sequence.blocks, end) {
            let capacity = self.most;
            return Err(EngineError::CacheTooSmall { prompt: end, capacity });
        }
        self.batch.clear(end);
        self.batch.push(&self.sequence, start, end);
        let len = (end - start) as u32;
        let wanted = match rows {
            Rows::All => 0..len,
            Rows::Last => len - 1..len,
            Rows::None => 0..0,
        };
        let count = wanted.len();
        wanted.for_each(|row| self.batch.want_logits(row));
        self.logits.resize(count.saturating_mul(vocab), 0.0);
        let runner = &mut *self.runner;
        self.batch.with_step(|step| runner.submit(step)).map_err(EngineError::step)?;
        let mut outputs = [OutputBuffer { name: output::LOGITS, data: &mut self.logits }];
        runner.wait(&mut outputs).map_err(EngineError::step)
    }

    /// Appends tokens in steps of at most `chunk` and calls `f` with the index of each among them and the logits
    /// after it.
    ///
    /// # Errors
    /// Those of [`feed`](Self::feed), a chunk of 0, and what `f` returns.
    pub fn score<E: From<EngineError>>(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        mut f: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        if chunk == 0 {
            return Err(EngineError::request("chunk", "at least 1 token", 0).into());
        }
        let chunk = chunk.min(self.runner.limits().max_tokens);
        self.expect(self.len() + tokens.len());
        let vocab = self.runner.program().info.vocab_size;
        for (i, piece) in tokens.chunks(chunk).enumerate() {
            let logits = self.feed(piece, Rows::All)?;
            for (k, row) in logits.chunks_exact(vocab).enumerate() {
                f(i * chunk + k, row)?;
            }
        }
        Ok(())
    }
}
