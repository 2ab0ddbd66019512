use std::time::Instant;

use anyhow::{Result, bail};
use rocmforge_engine::{Rows, SingleSequence};
use rocmforge_loader::{Config, KernelTime, Model};
use serde::Serialize;
use serde_json::json;

use crate::args::Bench;
use crate::{models, setup};

/// Speed of one part, tokens per second.
struct Figures {
    median: f64,
    low: f64,
    high: f64,
}

pub fn run(config: &Config, args: &Bench) -> Result<()> {
    if args.prompt == 0 && args.generate == 0 {
        bail!("nothing to measure: --prompt and --generate are both 0");
    }
    let plugins = setup::plugins(config)?;
    let (name, mut entry) = models::select(config, &args.model)?;
    let (prompt, generate) = (args.prompt as usize, args.generate as usize);
    entry.context_length = std::num::NonZeroU32::new((prompt.max(generate + 1)) as u32);
    let step = prompt.clamp(1, config.scheduler.max_step_tokens.get());
    let compile = models::compile_options(config, step, 1);
    let mut model = models::load(config, &plugins, &name, &entry, args.model.no_fallback, compile)?;
    let placement = model.placement.clone();
    let vocab = model.executable.program().info.vocab_size as u32;
    let token = |i: usize| (i as u32).wrapping_mul(2_654_435_761) % vocab;
    let mut sequence = SingleSequence::new(&mut model.executable, prompt.max(generate + 1))?;

    let tokens: Vec<u32> = (0..prompt).map(token).collect();
    let pp = measure(args.repetitions, prompt, || {
        sequence.clear();
        let mut pieces = tokens.chunks(step).peekable();
        let start = Instant::now();
        while let Some(piece) = pieces.next() {
            sequence.feed(piece, if pieces.peek().is_none() { Rows::Last } else { Rows::None })?;
        }
        Ok(start.elapsed().as_secs_f64())
    })?;
    let tg = measure(args.repetitions, generate, || {
        sequence.clear();
        sequence.feed(&[token(1)], Rows::Last)?;
        let start = Instant::now();
        for i in 0..generate {
            sequence.feed(&[token(i)], Rows::Last)?;
        }
        Ok(start.elapsed().as_secs_f64())
    })?;
    drop(sequence);
    let profiles = if args.profile { profiles(&mut model, &tokens, step, generate)? } else { vec![] };
    let threads = rocmforge_loader::compute_threads();
    if args.json {
        let part = |tokens: usize, f: &Option<Figures>| {
            f.as_ref().map(|f| json!({"tokens": tokens, "tokens_per_second": f.median, "low": f.low, "high": f.high}))
        };
        let backend = placement.rows.first().map(|r| r.backend.clone());
        say!(
            "{:#}",
            json!({
                "model": entry.path, "backend": backend, "threads": threads, "repetitions": args.repetitions,
                "pp": part(prompt, &pp), "tg": part(generate, &tg), "profile": profiles,
            })
        );
        return Ok(());
    }
    say!("{name}, {threads} threads, median of {} (low to high):", args.repetitions);
    for (what, tokens, figures) in [("prompt", prompt, &pp), ("generation", generate, &tg)] {
        if let Some(f) = figures {
            say!("  {what} of {tokens} tokens: {:.2} tokens/s ({:.2} to {:.2})", f.median, f.low, f.high);
        }
    }
    profiles.iter().try_for_each(print_profile)
}

/// Time per kernel in one part.
#[derive(Serialize)]
struct Profile {
    part: &'static str,
    tokens: usize,
    kernels: Vec<KernelTime>,
}

/// Both parts once more, with every kernel measured.
fn profiles(model: &mut Model, tokens: &[u32], step: usize, generate: usize) -> Result<Vec<Profile>> {
    let mut found = vec![];
    for (part, count) in [("prompt", tokens.len()), ("generation", generate)].into_iter().filter(|(_, n)| *n > 0) {
        model.executable.profile(true)?;
        let mut sequence = SingleSequence::new(&mut model.executable, tokens.len().max(generate + 1))?;
        match part {
            "prompt" => tokens.chunks(step).try_for_each(|piece| sequence.feed(piece, Rows::Last).map(drop))?,
            _ => (0..count).try_for_each(|_| sequence.feed(&[1], Rows::Last).map(drop))?,
        }
        drop(sequence);
        found.push(Profile { part, tokens: count, kernels: model.executable.profile(false)? });
    }
    Ok(found)
}

fn print_profile(profile: &Profile) -> Result<()> {
    let total: f64 = profile.kernels.iter().map(|k| k.microseconds).sum();
    let (calls, tokens) = (profile.kernels.iter().map(|k| k.calls).sum::<u64>(), profile.tokens);
    say!("kernels of {} ({tokens} tokens): {:.2} ms in {calls} launches", profile.part, total / 1000.0);
    say!("  {:<28} {:>8} {:>12} {:>12} {:>8}", "kernel", "calls", "us", "us per call", "share");
    for k in &profile.kernels {
        let (each, share) =
            (k.microseconds / k.calls.max(1) as f64, 100.0 * k.microseconds / total.max(f64::MIN_POSITIVE));
        say!("  {:<28} {:>8} {:>12.1} {each:>12.2} {share:>7.1}%", k.kernel, k.calls, k.microseconds);
    }
    Ok(())
}

/// Runs once to warm up, then `repetitions` times; `None` if there is nothing to do.
fn measure(repetitions: u32, tokens: usize, mut run: impl FnMut() -> Result<f64>) -> Result<Option<Figures>> {
    if tokens == 0 {
        return Ok(None);
    }
    run()?;
    let mut speeds = (0..repetitions.max(1)).map(|_| Ok(tokens as f64 / run()?)).collect::<Result<Vec<_>>>()?;
    speeds.sort_by(f64::total_cmp);
    let median = (speeds[(speeds.len() - 1) / 2] + speeds[speeds.len() / 2]) / 2.0;
    Ok(Some(Figures { median, low: speeds[0], high: speeds[speeds.len() - 1] }))
}
