mod profile;
mod sampling;
mod work;

use std::time::Instant;

use anyhow::{Result, bail};
use rocmforge_engine::{Rows, SeveralSequences, SingleSequence};
use rocmforge_loader::{Config, Limits, Model};
use serde::Serialize;
use serde_json::json;

use crate::args::Bench;
use crate::{models, setup};
use work::Work;

/// Speed of one part.
#[derive(Serialize)]
struct Part {
    name: &'static str,
    /// Tokens of a repetition, of all sequences together.
    tokens: usize,
    sequences: usize,
    /// Median, and the slowest and fastest repetition.
    tokens_per_second: f64,
    low: f64,
    high: f64,
    /// Shares of what the device can do, of weights that are read once per step and of the products with them.
    bandwidth_share: Option<f64>,
    products_share: Option<f64>,
}

/// What is measured.
struct Plan<'a> {
    args: &'a Bench,
    /// Tokens per step of the prompt.
    step: usize,
    vocab: u32,
}

impl Plan<'_> {
    fn token(&self, i: usize) -> u32 {
        (i as u32).wrapping_mul(2_654_435_761) % self.vocab
    }

    fn tokens(&self, count: usize) -> Vec<u32> {
        (0..count).map(|i| self.token(i)).collect()
    }

    fn prompt(&self) -> usize {
        self.args.prompt as usize
    }

    fn generate(&self) -> usize {
        self.args.generate as usize
    }

    fn depth(&self) -> usize {
        self.args.depth as usize
    }

    /// Steps of several sequences.
    fn batch_steps(&self) -> usize {
        if self.args.batch == 0 { 0 } else { self.generate().div_ceil(4) }
    }

    /// Tokens of the longest sequence.
    fn longest(&self) -> usize {
        self.depth() + self.prompt().max(self.generate() + 1)
    }
}

pub fn run(config: &Config, args: &Bench) -> Result<()> {
    if args.prompt == 0 && args.generate == 0 {
        bail!("nothing to measure: --prompt and --generate are both 0");
    }
    let plugins = setup::plugins(config)?;
    let (name, mut entry) = models::select(config, &args.model)?;
    let step = (args.prompt.max(args.depth) as usize).clamp(1, config.scheduler.max_step_tokens.get());
    let mut plan = Plan { args, step, vocab: 1 };
    entry.context_length = std::num::NonZeroU32::new(plan.longest() as u32);
    let sequences = args.batch.max(1) as usize;
    let compile = models::compile_options(config, step.max(sequences), sequences);
    let mut model = models::load(config, &plugins, &name, &entry, args.model.no_fallback, compile)?;
    plan.vocab = model.executable.program().info.vocab_size as u32;
    let limits = if args.no_limits { Limits::default() } else { model.executable.limits().unwrap_or_default() };
    let work = Work::of(model.executable.program());
    let parts = [prompt(&plan, &mut model)?, generation(&plan, &mut model)?, batch(&plan, &mut model)?];
    let mut parts: Vec<Part> = parts.into_iter().flatten().collect();
    parts.iter_mut().for_each(|part| shares(part, &work, &limits));
    let profiles = match args.profile {
        true => profile::profiles(&mut model, &plan.tokens(plan.prompt()), step, plan.generate())?,
        false => vec![],
    };
    let sampling = match args.sampling {
        true => sampling::comparisons(&mut model, sequences, plan.generate().max(1))?,
        false => vec![],
    };
    let threads = rocmforge_loader::compute_threads();
    if args.json {
        let of = |name| parts.iter().find(|p| p.name == name);
        let backend = model.placement.rows.first().map(|r| r.backend.clone());
        say!(
            "{:#}",
            json!({
                "model": entry.path, "backend": backend, "threads": threads, "repetitions": args.repetitions,
                "depth": args.depth, "limits": limits, "pp": of("prompt"), "tg": of("generation"), "batch": of("batch"),
                "profile": profiles, "sampling": sampling,
            })
        );
        return Ok(());
    }
    say!("{name}, {threads} threads, median of {} (low to high):", args.repetitions);
    parts.iter().try_for_each(print)?;
    if let (Some(bytes), Some(products)) = (limits.bytes_per_second, limits.products_per_second) {
        say!(
            "  limits: {:.1} GB/s read, {:.0} G products of 8 bits or of bfloat16 per second",
            bytes / 1e9,
            products / 1e9
        );
    }
    profiles.iter().try_for_each(profile::print)?;
    sampling::print(&sampling)
}

fn print(part: &Part) -> Result<()> {
    let Part { name, tokens, sequences, tokens_per_second, low, high, .. } = part;
    let what = if *sequences > 1 { format!("{sequences} sequences, ") } else { String::new() };
    let share = |what, share: Option<f64>| share.map_or(String::new(), |s| format!(", {:.0} % of {what}", 100.0 * s));
    let shares = share("bandwidth", part.bandwidth_share) + &share("products", part.products_share);
    say!("  {name} of {what}{tokens} tokens: {tokens_per_second:.2} tokens/s ({low:.2} to {high:.2}){shares}");
    Ok(())
}

/// Weights are read once per step in generation; a prompt reads them too rarely to tell.
fn shares(part: &mut Part, work: &Work, limits: &Limits) {
    let speed = part.tokens_per_second;
    let prompt = part.name == "prompt";
    let head = if prompt { work.head_products * (1.0 - 1.0 / part.tokens.max(1) as f64) } else { 0.0 };
    part.products_share = limits.products_per_second.map(|limit| speed * (work.products - head) / limit);
    let steps = speed / part.sequences as f64;
    part.bandwidth_share = limits.bytes_per_second.filter(|_| !prompt).map(|limit| steps * work.bytes / limit);
}

fn prompt(plan: &Plan<'_>, model: &mut Model) -> Result<Option<Part>> {
    let (context, tokens) = (plan.tokens(plan.depth()), plan.tokens(plan.prompt()));
    let mut sequence = SingleSequence::new(&mut model.executable, plan.longest())?;
    measure(plan, ("prompt", tokens.len(), 1), || {
        sequence.clear();
        feed(&mut sequence, &context, plan.step)?;
        let start = Instant::now();
        feed(&mut sequence, &tokens, plan.step)?;
        Ok(start.elapsed().as_secs_f64())
    })
}

/// Feeds tokens in steps; the last one gives logits.
fn feed(sequence: &mut SingleSequence<'_>, tokens: &[u32], step: usize) -> Result<()> {
    let mut pieces = tokens.chunks(step).peekable();
    while let Some(piece) = pieces.next() {
        sequence.feed(piece, if pieces.peek().is_none() { Rows::Last } else { Rows::None })?;
    }
    Ok(())
}

fn generation(plan: &Plan<'_>, model: &mut Model) -> Result<Option<Part>> {
    let context = plan.tokens(plan.depth().max(1));
    let mut sequence = SingleSequence::new(&mut model.executable, plan.longest())?;
    measure(plan, ("generation", plan.generate(), 1), || {
        sequence.clear();
        feed(&mut sequence, &context, plan.step)?;
        let start = Instant::now();
        for i in 0..plan.generate() {
            sequence.feed(&[plan.token(i)], Rows::Last)?;
        }
        Ok(start.elapsed().as_secs_f64())
    })
}

fn batch(plan: &Plan<'_>, model: &mut Model) -> Result<Option<Part>> {
    let (count, steps) = (plan.args.batch as usize, plan.batch_steps());
    measure(plan, ("batch", count * steps, count), || {
        let mut sequences = SeveralSequences::new(&mut model.executable, count, steps + 1)?;
        sequences.feed(&plan.tokens(count))?;
        let start = Instant::now();
        for i in 0..steps {
            let tokens: Vec<u32> = (0..count).map(|s| plan.token(i * count + s)).collect();
            sequences.feed(&tokens)?;
        }
        Ok(start.elapsed().as_secs_f64())
    })
}

/// Runs once to warm up, then as often as asked for; `None` if there is nothing to do.
fn measure(
    plan: &Plan<'_>,
    (name, tokens, sequences): (&'static str, usize, usize),
    mut run: impl FnMut() -> Result<f64>,
) -> Result<Option<Part>> {
    if tokens == 0 {
        return Ok(None);
    }
    run()?;
    let count = plan.args.repetitions.max(1);
    let mut speeds = (0..count).map(|_| Ok(tokens as f64 / run()?)).collect::<Result<Vec<_>>>()?;
    speeds.sort_by(f64::total_cmp);
    let tokens_per_second = (speeds[(speeds.len() - 1) / 2] + speeds[speeds.len() / 2]) / 2.0;
    let (low, high) = (speeds[0], speeds[speeds.len() - 1]);
    let (bandwidth_share, products_share) = (None, None);
    Ok(Some(Part { name, tokens, sequences, tokens_per_second, low, high, bandwidth_share, products_share }))
}
