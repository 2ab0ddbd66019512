use std::sync::{Arc, OnceLock};

use rocmforge_engine::sampler::{GrammarError, Grammars};
use rocmforge_tokenizer::Tokenizer;

/// The compiler of grammars for a model, made when it is first needed: few requests need one.
#[derive(Debug, Default)]
pub struct LazyGrammars(OnceLock<Result<Arc<Grammars>, GrammarError>>);

impl LazyGrammars {
    /// The compiler. Takes a moment the first time.
    pub(crate) fn get(&self, tokenizer: &Tokenizer) -> Result<&Arc<Grammars>, GrammarError> {
        self.0.get_or_init(|| Grammars::new(tokenizer).map(Arc::new)).as_ref().map_err(Clone::clone)
    }
}
