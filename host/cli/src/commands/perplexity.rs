use anyhow::{Context, Result, bail};
use rocmforge_engine::{Rows, SingleSequence};
use rocmforge_loader::Config;
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};

use crate::args::Perplexity;
use crate::{models, setup};

/// Most tokens per step.
const CHUNK: usize = 128;

/// Over windows without overlap; the first half of each gives context only, and every token of the second half is
/// scored, as llama.cpp's tool does, so that figures compare.
pub fn run(config: &Config, args: &Perplexity) -> Result<()> {
    let plugins = setup::plugins(config)?;
    let (name, entry) = models::select(config, &args.model)?;
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let compile = models::compile_options(config, CHUNK, 1);
    let mut model = models::load(config, &plugins, &name, &entry, args.model.no_fallback, compile)?;
    let tokenizer = Tokenizer::from_metadata(model.file.metadata())?;
    let tokens = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false });
    let window = args.window.map_or(model.context_length.min(512), |n| n.get()) as usize;
    if window < 4 || tokens.len() < window {
        bail!(
            "the text has {} tokens, expected at least one window of {window} (and a window of 4 or more)",
            tokens.len()
        );
    }
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());

    let mut sequence = SingleSequence::new(&mut model.executable, window)?;
    sequence.expect(window);
    let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0usize);
    let windows = tokens.len() / window;
    for (i, window_tokens) in tokens.chunks_exact(window).enumerate() {
        let mut input = window_tokens.to_vec();
        if let Some(bos) = bos {
            input[0] = bos;
        }
        sequence.clear();
        let mut score = |position: usize, row: &[f32]| {
            if position >= window / 2 && position + 1 < window {
                let loss = negative_log_likelihood(row, window_tokens[position + 1] as usize);
                (sum, squares, count) = (sum + loss, squares + loss * loss, count + 1);
            }
        };
        for (c, piece) in input.chunks(CHUNK).enumerate() {
            let start = c * CHUNK;
            if start + piece.len() <= window / 2 {
                sequence.feed(piece, Rows::None)?;
                continue;
            }
            let logits = sequence.feed(piece, Rows::All)?;
            let vocab = logits.len() / piece.len();
            logits.chunks_exact(vocab).enumerate().for_each(|(k, row)| score(start + k, row));
        }
        eprint!("\rwindow {} of {windows}: perplexity {:.4} ", i + 1, (sum / count as f64).exp());
    }
    eprintln!();
    let mean = sum / count as f64;
    let deviation = ((squares / count as f64 - mean * mean).max(0.0) / (count.max(2) - 1) as f64).sqrt();
    say!(
        "perplexity {:.4} +/- {:.4} ({count} tokens in {windows} windows of {window})",
        mean.exp(),
        mean.exp() * deviation
    );
    Ok(())
}

/// `-ln softmax(row)[token]`.
fn negative_log_likelihood(row: &[f32], token: usize) -> f64 {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    sum.ln() + f64::from(max) - f64::from(row.get(token).copied().unwrap_or(f32::NEG_INFINITY))
}
