//! Tokens drawn on the device, and results of a step on their way to the host.

use std::sync::OnceLock;

use rocmforge_kernels_hip::launch::sample_scratch_bytes;
use rocmforge_sdk::program::{Lead, OutputBuffer, RowSampling, Step, output};
use rocmforge_sdk::{Error, Result};

use super::{HipExecutable, Results, Running, single};
use crate::arena::lead_index;
use crate::graph::Key;
use crate::metadata::{Layout, Rows};
use crate::plan::{Plan, View};
use crate::run::{Scratch, longest_context};

/// Drawing tokens from the logits of a program.
pub(super) struct Sampling {
    /// The number of the output that holds them.
    pub(super) output: usize,
    logits: View,
    /// Rows of the step under way that tokens are drawn from.
    pub(super) rows: Vec<RowSampling>,
    /// Tokens of the step waited for last.
    pub(super) drawn: Vec<u32>,
}

impl Sampling {
    /// For a program with logits, if it is wanted.
    pub(super) fn of(plan: &Plan, wanted: bool) -> Option<Sampling> {
        let is_logits = |name: &str, view: &View| name == output::LOGITS && view.lead == lead_index(Lead::L);
        let output = plan.outputs.iter().position(|o| is_logits(&o.name, &o.view))?;
        wanted.then(|| Sampling { output, logits: plan.outputs[output].view, rows: vec![], drawn: vec![] })
    }
}

/// Rows that nothing is drawn from, among so many, as ranges.
fn left(drawn: &[RowSampling], rows: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = vec![];
    let mut start = 0;
    for row in drawn.iter().map(|r| r.row as usize) {
        ranges.push(start..row);
        start = row + 1;
    }
    ranges.push(start..rows.max(start));
    ranges.retain(|r| !r.is_empty());
    ranges
}

/// Floats that are worth a thread that copies them: 4 MiB, of which one thread copies some GB/s and the machine several times that.
const COPY_OF_THREAD: usize = 1 << 20;

/// Most threads of one copy, asked for once: the answer takes tens of microseconds, because it reads the limits of control groups.
fn copy_threads() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from).min(8))
}

/// Copies floats, many of them with several threads: the logits of 64 sequences are tens of megabytes a step.
fn copy_wide(to: &mut [f32], from: &[f32]) {
    let worth = from.len() / COPY_OF_THREAD;
    let threads = if worth < 2 { 1 } else { worth.min(copy_threads()) };
    if threads < 2 {
        return to.copy_from_slice(from);
    }
    let each = from.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let mut pieces = to.chunks_mut(each).zip(from.chunks(each));
        let own = pieces.next();
        for (to, from) in pieces {
            scope.spawn(move || to.copy_from_slice(from));
        }
        if let Some((to, from)) = own {
            to.copy_from_slice(from);
        }
    });
}

/// Most rows that are drawn from at once: enough to keep a device busy.
const ROWS_AT_ONCE: usize = 16;

impl HipExecutable {
    fn rows_at_once(&self) -> usize {
        self.max_sequences.min(ROWS_AT_ONCE)
    }

    /// Bytes in which tokens are drawn.
    pub(super) fn candidate_bytes(&self) -> u64 {
        let rows = self.rows_at_once() as u32;
        self.sampling.as_ref().map_or(0, |s| sample_scratch_bytes(rows, s.logits.width as u32))
    }

    /// Starts a step, in which tokens are drawn from these rows of logits.
    pub(super) fn start(&mut self, step: &Step<'_>, sampled: &[RowSampling]) -> Result<()> {
        self.gpu.enter()?;
        match &mut self.sampling {
            Some(sampling) => {
                sampling.rows.clear();
                sampling.rows.extend_from_slice(sampled);
                sampling.drawn.clear();
            }
            None if sampled.is_empty() => {}
            None => return Err(Error::invalid("sampling: the program has no logits, or the option is off")),
        }
        let rows = Rows::of(step);
        self.single = single(step);
        let recorded = self.filled_up(step);
        let filled = recorded.unwrap_or(rows);
        let blocks = step.groups.iter().map(|g| g.max_blocks).max().unwrap_or(0);
        self.make_room(Rows { logits: filled.logits, ..rows }, blocks)?;
        let columns = self.memory.as_ref().map_or(0, |m| m.blocks);
        let layout = Layout::new(filled, self.caches.groups(), columns);
        self.upload(step, &layout)?;
        let context = longest_context(step);
        let checked = match recorded {
            Some(rows_of_graph) => {
                let key = Key { rows: rows_of_graph, blocks: columns, context };
                self.launch_recorded(&layout, key, rows)?
            }
            None => {
                self.launch(&layout, context)?;
                None
            }
        };
        self.draw(&layout)?;
        self.download(rows, checked.is_some())?;
        self.running = Some(Running { rows, checked });
        Ok(())
    }

    /// Launches the drawing of tokens, behind the step.
    pub(super) fn draw(&mut self, layout: &Layout) -> Result<()> {
        let (Some(sampling), Some(memory)) = (&self.sampling, &self.memory) else { return Ok(()) };
        if sampling.rows.is_empty() {
            return Ok(());
        }
        let (candidates, tokens) = (memory.candidates.address(), memory.tokens.address());
        let scratch = Scratch { rows: self.rows_at_once(), candidates, tokens };
        let mut profile = self.profile.take();
        let run = self.run(layout, profile.as_mut());
        let result = run.and_then(|mut run| run.sample(sampling.logits, &sampling.rows, &scratch));
        self.profile = profile;
        result
    }

    /// Queues copies of the outputs' rows to the host, without rows of logits that tokens are drawn from unless `all` are
    /// compared, and of the tokens.
    pub(super) fn download(&self, rows: Rows, all: bool) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let mut at = 0;
        for (i, output) in self.plan.outputs.iter().enumerate() {
            let (count, row_bytes) = (rows.lead(output.view.lead), 4 * output.view.width);
            let drawn = match &self.sampling {
                Some(sampling) if sampling.output == i && !all => &sampling.rows[..],
                _ => &[],
            };
            for range in left(drawn, count).into_iter().filter(|_| row_bytes > 0) {
                let from = memory.address(&self.plan, output.view, None)? + (row_bytes * range.start) as u64;
                // SAFETY: the buffers are kept until the stream is waited for.
                unsafe { self.stream.download(from, row_bytes * range.len(), &memory.outputs_host, at)? };
                at += row_bytes * range.len();
            }
        }
        match &self.sampling {
            Some(sampling) if !sampling.rows.is_empty() => {
                let bytes = 4 * sampling.rows.len();
                // SAFETY: as above.
                unsafe { self.stream.download(memory.tokens.address(), bytes, &memory.tokens_host, 0) }
            }
            _ => Ok(()),
        }
    }

    /// What the last [`download`](HipExecutable::download) has brought, once the stream was waited for.
    pub(super) fn results(&self, rows: Rows, all: bool) -> Result<Results> {
        let Some(memory) = &self.memory else { return Err(Error::internal("a step without memory")) };
        let count = self.output_floats(rows, all).1;
        let sampled = self.sampling.as_ref().map_or(0, |s| s.rows.len());
        let (values, tokens) = (&memory.outputs_host.floats()[..count], &memory.tokens_host.words()[..sampled]);
        Ok(Results { values: values.to_vec(), tokens: tokens.to_vec() })
    }

    /// Hands results to the host's buffers: those that lie in pinned memory, or `compared` ones, in which rows that tokens
    /// were drawn from are left out here.
    pub(super) fn take_results(
        &mut self,
        rows: Rows,
        compared: Option<&Results>,
        outputs: &mut [OutputBuffer<'_>],
    ) -> Result<()> {
        let Some(memory) = &self.memory else { return Err(Error::internal("a step without memory")) };
        let all = compared.is_some();
        let (sizes, count) = self.output_floats(rows, all);
        let mut values = compared.map_or(&memory.outputs_host.floats()[..count], |c| &c.values);
        for (i, (output, &n)) in self.plan.outputs.iter().zip(&sizes).enumerate() {
            let (own, others) = values.split_at(n);
            values = others;
            let Some(to) = outputs.iter_mut().find(|o| o.name == output.name) else { continue };
            match &self.sampling {
                Some(sampling) if sampling.output == i && all => {
                    let width = output.view.width;
                    let mut at = 0;
                    for range in left(&sampling.rows, rows.lead(output.view.lead)) {
                        let part = &own[range.start * width..range.end * width];
                        copy_wide(&mut to.data[at..at + part.len()], part);
                        at += part.len();
                    }
                }
                _ => copy_wide(to.data, own),
            }
        }
        if let Some(sampling) = &mut self.sampling {
            let drawn = compared.map_or(&memory.tokens_host.words()[..sampling.rows.len()], |c| &c.tokens);
            sampling.drawn.extend_from_slice(drawn);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_nothing_is_drawn_from_are_ranges() {
        let check = |drawn: &[u32], rows: usize, expected: &[std::ops::Range<usize>]| {
            let drawn: Vec<_> = drawn.iter().map(|&row| RowSampling { row, ..RowSampling::default() }).collect();
            assert_eq!(left(&drawn, rows), expected, "{drawn:?} of {rows}");
        };
        check(&[], 0, &[]);
        check(&[], 3, std::slice::from_ref(&(0..3)));
        check(&[0, 1, 2], 3, &[]);
        check(&[1], 3, &[0..1, 2..3]);
        check(&[0, 3], 6, &[1..3, 4..6]);
    }

    #[test]
    fn many_floats_are_copied_whole() {
        for n in [0, 5, COPY_OF_THREAD * 3 + 7] {
            let from: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut to = vec![-1.0; n];
            copy_wide(&mut to, &from);
            assert!(to == from, "{n}");
        }
    }
}
