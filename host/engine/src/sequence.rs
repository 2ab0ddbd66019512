use crate::block::BlockTables;
use crate::request::Pooling;

/// Names a request. Numbers rise in the order of arrival, and the scheduler serves them in this order where their
/// priorities do not differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Place in the order of service: smaller priority numbers first, then order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: i32,
    pub(crate) id: RequestId,
}

/// What the scheduler knows of a request: tokens, and how far the cache holds them.
#[derive(Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    prompt_len: usize,
    pub(crate) computed: usize,
    pub(crate) reused: usize,
    pub(crate) blocks: BlockTables,
    salt: String,
    /// What keeps cached prefixes apart: the class, and after it `salt`.
    key: String,
    /// See [`Lengths`](crate::Lengths).
    class: usize,
    pub(crate) priority: i32,
    /// Guesses of the tokens that follow, for the next step to check.
    pub(crate) draft: Vec<u32>,
    /// First position whose logits are wanted although the next token is known; `None` if none is.
    pub(crate) prompt_logits_from: Option<usize>,
    /// What is wanted of it is its embedding, and no token.
    pub(crate) pooling: Option<Pooling>,
}

impl Sequence {
    /// A sequence that nothing is computed of. `salt`: see [`adopt_prefix`](crate::BlockManager::adopt_prefix).
    pub fn new(prompt: Vec<u32>, salt: String) -> Sequence {
        let prompt_len = prompt.len();
        let blocks = BlockTables::default();
        let mut sequence = Sequence {
            tokens: prompt,
            prompt_len,
            computed: 0,
            reused: 0,
            blocks,
            salt,
            key: String::new(),
            class: 0,
            priority: 0,
            draft: Vec::new(),
            prompt_logits_from: None,
            pooling: None,
        };
        sequence.set_class(0);
        sequence
    }

    /// The same, but with logits for every token of the prompt.
    #[must_use]
    pub fn with_prompt_logits(mut self) -> Sequence {
        self.prompt_logits_from = Some(0);
        self
    }

    /// The same, but for its embedding instead of its next token.
    #[must_use]
    pub fn with_pooling(mut self, pooling: Pooling) -> Sequence {
        self.pooling = Some(pooling);
        self
    }

    /// Whether every token has to be computed for it, even those that a cache holds.
    pub(crate) fn wants_all(&self) -> bool {
        self.prompt_logits_from.is_some() || self.pooling == Some(Pooling::Mean)
    }

    /// The same with another priority than 0: smaller numbers are served first.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Sequence {
        self.priority = priority;
        self
    }

    /// Prompt and generated tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_len]
    }

    /// The generated tokens.
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Tokens that the cache holds.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Tokens that the cache held already when the sequence first ran.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Its blocks.
    pub fn blocks(&self) -> &BlockTables {
        &self.blocks
    }

    /// What keeps cached prefixes apart: those of other owners, and those that were computed in another way.
    pub(crate) fn cache_key(&self) -> &str {
        &self.key
    }

    /// See [`Lengths`](crate::Lengths).
    pub(crate) fn class(&self) -> usize {
        self.class
    }

    /// Changes the class of a sequence that holds no blocks, and forgets the keys under which blocks were shared.
    pub(crate) fn set_class(&mut self, class: usize) {
        if class != self.class || self.key.is_empty() {
            self.class = class;
            self.key = format!("{class}/{}", self.salt);
            self.blocks = BlockTables::default();
        }
    }

    pub(crate) fn take_tokens(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.tokens)
    }

    pub(crate) fn put_tokens(&mut self, tokens: Vec<u32>) {
        self.tokens = tokens;
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub(crate) fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
    }

    /// Tokens to compute before the next one can be sampled.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the next step continues its answer: only the newest token is not computed.
    pub(crate) fn generates(&self) -> bool {
        self.remaining() == 1 && self.tokens.len() > self.prompt_len
    }

    /// Positions in `start..end` whose logits are wanted for the prompt's own probabilities.
    pub(crate) fn prompt_logit_positions(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        match self.prompt_logits_from {
            Some(from) => start.max(from)..end.min(self.prompt_len - 1),
            None => 0..0,
        }
    }
}
