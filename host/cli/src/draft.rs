//! What guesses the next tokens of a model, as its entry in the configuration says.

use std::sync::Arc;

use anyhow::{Result, bail};
use rocmforge_engine::{DraftModel, Drafter, PromptLookup};
use rocmforge_loader::config::ModelEntry;
use rocmforge_loader::{CompileOptions, Config, Plugins};
use rocmforge_tokenizer::Tokenizer;

use crate::{memory, models};

/// The drafter for a model with this tokenizer, if it has one.
pub fn drafter(
    config: &Config,
    plugins: &Arc<Plugins>,
    name: &str,
    entry: &ModelEntry,
    tokenizer: &Tokenizer,
    compile: CompileOptions,
) -> Result<Option<Box<dyn Drafter>>> {
    let Some(path) = &entry.draft_model else {
        return Ok(entry.prompt_lookup.then(|| Box::new(PromptLookup) as Box<dyn Drafter>));
    };
    if entry.prompt_lookup {
        bail!("model '{name}': expected either `draft_model` or `prompt_lookup`, found both");
    }
    let own = ModelEntry { path: path.clone(), context_length: entry.context_length, ..ModelEntry::default() };
    let draft = models::load(config, plugins, &format!("{name}, draft"), &own, false, compile)?;
    let own = Tokenizer::from_metadata(draft.file.metadata())?;
    let (found, expected) = (own.vocab_size(), tokenizer.vocab_size());
    let differs = (0..found.min(expected) as u32).find(|&id| own.token_text(id) != tokenizer.token_text(id));
    if let Some(id) = differs {
        let (found, expected) = (own.token_text(id), tokenizer.token_text(id));
        bail!(
            "draft model {}: expected the vocabulary of model '{name}', found token {id} as {found:?} instead of {expected:?}",
            path.display()
        );
    }
    if found != expected {
        bail!("draft model {}: expected the {expected} tokens of model '{name}', found {found}", path.display());
    }
    let context = draft.context_length.min(draft.executable.program().info.context_length);
    let weights = draft.placement.rows.iter().map(|r| r.weight_bytes).sum();
    let need = memory::plan(&draft.executable, weights, context as usize, &config.scheduler, None)?;
    Ok(Some(Box::new(DraftModel::new(Box::new(draft.executable), &need.blocks)?)))
}
