//! Tokens that a backend draws itself, against those that the reference draws from the logits that it gives otherwise.

use std::sync::Arc;

use rocmforge_loader::{Backend, Executable};
use rocmforge_program::{DType, NO_TOKEN, Op, OutputBuffer, RowSampling, output};
use rocmforge_reference::sample;

use crate::error::Error;
use crate::net::Net;
use crate::ops::{OpCase, compile};
use crate::paging::{OwnedStep, Pager, ROWS, Scenario};
use crate::random::Random;
use crate::report::Outcome;
use crate::tolerance::Family;

/// How far, in quantiles, a backend may be off where two tokens meet: weights are f32 and sums are rounded.
const SLACK: f64 = 1e-5;
/// Many rows in a step, and one.
const STEPS: Scenario = Scenario { steps: &[&[(0, 24), (1, 30)], &[(2, 1)], &[(0, 1)]], ..ROWS };

/// One way of drawing.
pub struct SampleCase {
    /// `sample/` and what is set.
    pub name: &'static str,
    sampling: RowSampling,
    /// Draws from every row, or leaves out each third, whose logits are wanted.
    every: bool,
}

const fn case(name: &'static str, temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> SampleCase {
    SampleCase { name, sampling: RowSampling { row: 0, top_k, temperature, top_p, min_p, draw: 0 }, every: true }
}

/// All of them.
pub const CASES: &[SampleCase] = &[
    case("sample/greedy", 0.0, 0, 1.0, 0.0),
    case("sample/temperature", 0.5, 0, 1.0, 0.0),
    case("sample/top-k", 1.5, 5, 1.0, 0.0),
    case("sample/top-p", 1.5, 0, 0.6, 0.0),
    case("sample/min-p", 1.5, 0, 1.0, 0.3),
    case("sample/everything", 1.2, 20, 0.9, 0.05),
    SampleCase { every: false, ..case("sample/beside rows of logits", 0.9, 0, 0.95, 0.0) },
];

impl SampleCase {
    /// Draws from many rows, if the backend announces that it draws.
    pub fn run(&self, backend: &Backend) -> Outcome {
        self.compare(backend).unwrap_or_else(|e| Outcome::Failed(e.to_string()))
    }

    fn compare(&self, backend: &Backend) -> Result<Outcome, Error> {
        let case = net()?;
        let mut executable = compile(backend, &Arc::new(case.program.clone()), &case.weights, STEPS)?;
        if !executable.samples() {
            return Ok(Outcome::Skipped("it does not announce sample/1".into()));
        }
        let mut pager = Pager::new(&case.program, STEPS, self.name);
        let mut random = Random::new(self.name);
        for (i, chunks) in STEPS.steps.iter().enumerate() {
            let step = pager.step(chunks).ok_or_else(|| Error::Kit(format!("step {i}: no free block")))?;
            let logits = rows_of(&mut executable, &step, &[], case.width)?.0;
            let sampling = self.rows(step.logits_rows.len(), &mut random);
            let (left, tokens) = rows_of(&mut executable, &step, &sampling, case.width)?;
            if let Err(difference) = difference(&logits, &sampling, &left, &tokens, case.width) {
                return Ok(Outcome::Failed(format!("step {i}: {difference}")));
            }
        }
        Ok(Outcome::Passed)
    }

    fn rows(&self, count: usize, random: &mut Random) -> Vec<RowSampling> {
        let rows = (0..count as u32).filter(|row| self.every || row % 3 != 1);
        rows.map(|row| RowSampling { row, draw: random.bits(), ..self.sampling }).collect()
    }
}

/// Logits of several hundred tokens, some of them equal.
struct Case {
    program: rocmforge_program::Program,
    weights: Vec<crate::weights::Stored>,
    width: usize,
}

fn net() -> Result<Case, Error> {
    let width = 391;
    let mut net = Net::new("sample");
    let x = net.rows(&[32], 2.0)?;
    let x = net.gather(x)?;
    let half = net.linear(x, width / 2, DType::F32)?;
    let rest = net.linear(x, width - 2 * (width / 2), DType::F32)?;
    let logits = net.push(Op::Concat { xs: vec![half, half, rest] })?;
    net.builder().output(output::LOGITS, logits);
    let OpCase { program, weights, .. } = net.finish(Family::Exact, STEPS)?;
    Ok(Case { program, weights, width })
}

/// The logits of the rows that are not drawn from, and the tokens of the others.
fn rows_of(
    executable: &mut Executable,
    step: &OwnedStep,
    sampling: &[RowSampling],
    width: usize,
) -> Result<(Vec<f32>, Vec<u32>), Error> {
    let rows = step.logits_rows.len() - sampling.len();
    let (mut logits, mut tokens) = (vec![f32::NAN; rows * width], vec![NO_TOKEN; sampling.len()]);
    step.with(|step| executable.submit_sampling(step, sampling))?;
    executable.wait(&mut [OutputBuffer { name: output::LOGITS, data: &mut logits }])?;
    if !sampling.is_empty() {
        executable.sampled(&mut tokens)?;
    }
    Ok((logits, tokens))
}

fn difference(
    logits: &[f32],
    sampling: &[RowSampling],
    left: &[f32],
    tokens: &[u32],
    width: usize,
) -> Result<(), String> {
    let row = |i: usize| &logits[i * width..(i + 1) * width];
    let mut left = left.chunks_exact(width);
    for i in (0..logits.len() / width).filter(|&i| sampling.iter().all(|s| s.row as usize != i)) {
        if left.next() != Some(row(i)) {
            return Err(format!("row {i} of logits beside rows that are drawn from: not those of the step without"));
        }
    }
    for (s, &token) in sampling.iter().zip(tokens) {
        let logits = row(s.row as usize);
        let slack = (SLACK * 2f64.powi(64)) as u64;
        let allowed = [s.draw, s.draw.saturating_sub(slack), s.draw.saturating_add(slack)];
        let allowed = allowed.map(|draw| sample(logits, &RowSampling { draw, ..*s }));
        if !allowed.contains(&token) {
            return Err(format!("{s:?}: expected token {}, found {token}", allowed[0]));
        }
    }
    Ok(())
}
