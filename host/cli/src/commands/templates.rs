//! The process in which the chat template of a model is rendered.

use anyhow::Result;
use rocmforge_tokenizer::render_templates;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Renders what the parent asks for, with no more memory than that takes.
pub fn run() -> Result<()> {
    let limit = |resource, bytes: u64| {
        let maximum = getrlimit(resource).maximum;
        let current = Some(maximum.map_or(bytes, |maximum| bytes.min(maximum)));
        // Where the system sets no limit the parent still watches the time.
        let _ = setrlimit(resource, Rlimit { current, maximum });
    };
    limit(Resource::Core, 0);
    render_templates(&mut std::io::stdin().lock(), &mut std::io::stdout().lock(), |bytes| {
        limit(Resource::Data, bytes);
    })?;
    Ok(())
}
