//! Time per kernel.

use std::time::Instant;

use anyhow::Result;
use rocmforge_engine::{Rows, SingleSequence};
use rocmforge_loader::{KernelTime, Model};
use serde::Serialize;

/// Time per kernel in one part.
#[derive(Serialize)]
pub struct Profile {
    part: &'static str,
    tokens: usize,
    /// Of all steps, by the host's clock.
    step_microseconds: f64,
    kernels: Vec<KernelTime>,
}

/// Both parts once more, with every kernel measured.
pub fn profiles(model: &mut Model, tokens: &[u32], step: usize, generate: usize) -> Result<Vec<Profile>> {
    let mut found = vec![];
    for (part, count) in [("prompt", tokens.len()), ("generation", generate)].into_iter().filter(|(_, n)| *n > 0) {
        model.executable.profile(true)?;
        let mut sequence = SingleSequence::new(&mut model.executable, tokens.len().max(generate + 1))?;
        let start = Instant::now();
        match part {
            "prompt" => tokens.chunks(step).try_for_each(|piece| sequence.feed(piece, Rows::Last).map(drop))?,
            _ => (0..count).try_for_each(|_| sequence.feed(&[1], Rows::Last).map(drop))?,
        }
        let step_microseconds = start.elapsed().as_secs_f64() * 1e6;
        drop(sequence);
        let kernels = model.executable.profile(false)?;
        found.push(Profile { part, tokens: count, step_microseconds, kernels });
    }
    Ok(found)
}

pub fn print(profile: &Profile) -> Result<()> {
    let total: f64 = profile.kernels.iter().map(|k| k.microseconds).sum();
    let (calls, tokens) = (profile.kernels.iter().map(|k| k.calls).sum::<u64>(), profile.tokens);
    let (part, steps) = (profile.part, profile.step_microseconds);
    say!(
        "kernels of {part} ({tokens} tokens): {:.2} ms in {calls} launches, {:.1}% of the steps' {:.2} ms",
        total / 1000.0,
        100.0 * total / steps.max(f64::MIN_POSITIVE),
        steps / 1000.0
    );
    say!("  {:<28} {:>8} {:>12} {:>12} {:>8}", "kernel", "calls", "us", "us per call", "share");
    for k in &profile.kernels {
        let (each, share) =
            (k.microseconds / k.calls.max(1) as f64, 100.0 * k.microseconds / total.max(f64::MIN_POSITIVE));
        say!("  {:<28} {:>8} {:>12.1} {each:>12.2} {share:>7.1}%", k.kernel, k.calls, k.microseconds);
    }
    Ok(())
}
