//! Drawing tokens where the logits are, against copying the logits to the host and drawing there.

use std::time::Instant;

use anyhow::{Result, bail};
use rocmforge_engine::sampler::Sampler;
use rocmforge_engine::{SamplingParams, SeveralSequences};
use rocmforge_loader::{KernelTime, Model};
use rocmforge_program::RowSampling;
use serde::Serialize;

/// One way of drawing, per step.
#[derive(Serialize)]
pub struct Comparison {
    name: &'static str,
    rows: usize,
    vocabulary: usize,
    /// Microseconds of a step whose tokens the device draws, and of one whose logits are copied and drawn from on the host.
    device_step: f64,
    host_step: f64,
    /// Microseconds of the kernels that draw, by the device's clock.
    device: f64,
    /// What is left of the host's step without the model: that of the device's step without its drawing.
    host: f64,
    /// Tokens that both have drawn alike, and tokens in all.
    alike: usize,
    tokens: usize,
}

/// Measures them: steps of so many sequences, so many of them.
pub fn comparisons(model: &mut Model, rows: usize, steps: usize) -> Result<Vec<Comparison>> {
    if !model.executable.samples() {
        bail!("--sampling: backend '{}' draws no tokens", model.executable.backend().name());
    }
    let params = |temperature, top_k, top_p, min_p| SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        seed: Some(1),
        ..SamplingParams::default()
    };
    let kinds = [
        ("greedy", params(0.0, None, 1.0, 0.0)),
        ("temperature", params(0.8, None, 1.0, 0.0)),
        ("top-k 40", params(0.8, Some(40), 1.0, 0.0)),
        ("top-p 0.95", params(0.8, None, 0.95, 0.0)),
        ("as generate", params(0.8, Some(40), 0.95, 0.05)),
    ];
    kinds.into_iter().map(|(name, params)| comparison(model, name, &params, rows, steps)).collect()
}

fn comparison(
    model: &mut Model,
    name: &'static str,
    params: &SamplingParams,
    rows: usize,
    steps: usize,
) -> Result<Comparison> {
    let vocabulary = model.executable.program().info.vocab_size;
    let sampler = Sampler::new(params.clone(), &[]);
    let request = |row: u32, step: usize| sampler.row_sampling(row, step);
    let (host_step, by_host) = run(model, rows, steps, &mut |sequences, step| {
        let logits = sequences.feed(&vec![token(step, vocabulary); rows])?;
        on_host(logits, params, step, vocabulary)
    })?;
    let draw = |sequences: &mut SeveralSequences<'_>, step: usize| {
        let sampling: Option<Vec<RowSampling>> = (0..rows as u32).map(|row| request(row, step)).collect();
        Ok(sequences.feed_sampling(&vec![token(step, vocabulary); rows], &sampling.unwrap_or_default())?.to_vec())
    };
    let (device_step, by_device) = run(model, rows, steps, &mut { draw })?;
    let device = kernels(model, rows, steps, &mut { draw })?;
    let alike = by_host.iter().zip(&by_device).filter(|(a, b)| a == b).count();
    let host = host_step - (device_step - device);
    Ok(Comparison { name, rows, vocabulary, device_step, host_step, device, host, alike, tokens: by_host.len() })
}

fn token(step: usize, vocabulary: usize) -> u32 {
    (step as u32).wrapping_mul(2_654_435_761) % vocabulary as u32
}

type Step<'a> = dyn FnMut(&mut SeveralSequences<'_>, usize) -> Result<Vec<u32>> + 'a;

/// The median of the steps in microseconds, and the tokens drawn.
fn run(model: &mut Model, rows: usize, steps: usize, step: &mut Step<'_>) -> Result<(f64, Vec<u32>)> {
    // The first steps of a kind are recorded and compared.
    let warm = steps.min(4);
    let mut sequences = SeveralSequences::new(&mut model.executable, rows, steps + warm)?;
    let (mut times, mut tokens) = (vec![], vec![]);
    for i in 0..steps + warm {
        let start = Instant::now();
        let drawn = step(&mut sequences, i)?;
        if i >= warm {
            times.push(start.elapsed().as_secs_f64() * 1e6);
            tokens.extend(drawn);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], tokens))
}

/// Draws from rows of logits as the engine does: on several threads where there is much to do.
fn on_host(logits: &mut [f32], params: &SamplingParams, step: usize, vocabulary: usize) -> Result<Vec<u32>> {
    let rows = logits.len() / vocabulary;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(logits.len() >> 18).clamp(1, rows);
    let draw = |part: &mut [f32]| -> Result<Vec<u32>> {
        let row = |row: &mut [f32]| Ok(Sampler::new(params.clone(), &[]).sample(row, step, &[])?.token);
        part.chunks_exact_mut(vocabulary).map(row).collect()
    };
    let (own, others) = logits.split_at_mut(rows.div_ceil(threads) * vocabulary);
    std::thread::scope(|scope| {
        let parts: Vec<_> = others.chunks_mut(own.len()).map(|part| scope.spawn(|| draw(part))).collect();
        let mut tokens = draw(own)?;
        for part in parts {
            let drawn = part.join().map_err(|_| anyhow::anyhow!("a thread that samples has panicked"))?;
            tokens.extend(drawn?);
        }
        Ok(tokens)
    })
}

/// Microseconds per step of the kernels that steps have only when tokens are drawn in them.
fn kernels(model: &mut Model, rows: usize, steps: usize, draw: &mut Step<'_>) -> Result<f64> {
    let vocabulary = model.executable.program().info.vocab_size;
    let measured = |model: &mut Model, step: &mut Step<'_>| -> Result<Vec<KernelTime>> {
        let mut sequences = SeveralSequences::new(&mut model.executable, rows, steps + 1)?;
        step(&mut sequences, 0)?;
        drop(sequences);
        model.executable.profile(true)?;
        let mut sequences = SeveralSequences::new(&mut model.executable, rows, steps + 1)?;
        (0..steps).try_for_each(|i| step(&mut sequences, i).map(drop))?;
        drop(sequences);
        Ok(model.executable.profile(false)?)
    };
    let plain = measured(model, &mut |sequences, i| {
        sequences.feed(&vec![token(i, vocabulary); rows])?;
        Ok(vec![])
    })?;
    let drawing = measured(model, draw)?;
    let only = drawing.iter().filter(|k| plain.iter().all(|p| p.kernel != k.kernel));
    Ok(only.map(|k| k.microseconds).sum::<f64>() / steps as f64)
}

pub fn print(found: &[Comparison]) -> Result<()> {
    let Some(first) = found.first() else { return Ok(()) };
    say!("drawing a token from {} rows of {} logits, microseconds of a step:", first.rows, first.vocabulary);
    say!(
        "  {:<12} {:>12} {:>12} {:>12} {:>12} {:>8}  tokens alike",
        "",
        "device step",
        "host step",
        "device",
        "copy + host",
        "ratio"
    );
    for c in found {
        let ratio = c.host / c.device.max(f64::MIN_POSITIVE);
        let (device_step, host_step) = (c.device_step, c.host_step);
        say!(
            "  {:<12} {device_step:>12.1} {host_step:>12.1} {:>12.1} {:>12.1} {ratio:>7.1}x  {} of {}",
            c.name,
            c.device,
            c.host,
            c.alike,
            c.tokens
        );
    }
    Ok(())
}
