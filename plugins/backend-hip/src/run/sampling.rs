//! Tokens drawn from rows of logits, behind the launches of the step.

use rocmforge_kernels_hip::{RfSampleArgs, launch};
use rocmforge_sdk::Result;
use rocmforge_sdk::program::RowSampling;

use super::{Run, word};
use crate::metadata::REQUEST_WORDS;
use crate::plan::View;

/// Where tokens are drawn.
pub(crate) struct Scratch {
    /// Rows that the same launches draw from: each takes about a megabyte at usual vocabularies.
    pub(crate) rows: usize,
    pub(crate) candidates: u64,
    pub(crate) tokens: u64,
}

/// Whether candidates are put in order of rank.
fn ranked(sampling: &RowSampling) -> bool {
    sampling.temperature != 0.0 && (sampling.top_k != 0 || sampling.top_p < 1.0)
}

impl Run<'_> {
    /// Draws from these rows of `logits`; how, is in the step's table.
    pub(crate) fn sample(&mut self, logits: View, sampling: &[RowSampling], scratch: &Scratch) -> Result<()> {
        let first = self.at(logits)?;
        let mut done = 0usize;
        // Rows are usually all that there are, in order.
        for run in sampling.chunk_by(|a, b| a.row + 1 == b.row) {
            for rows in run.chunks(scratch.rows.max(1)) {
                let args = RfSampleArgs {
                    logits: first + 4 * logits.stride as u64 * u64::from(rows[0].row),
                    requests: self.table(self.layout.requests + REQUEST_WORDS * done),
                    tokens: scratch.tokens + 4 * done as u64,
                    scratch: scratch.candidates,
                    rows: word(rows.len())?,
                    n: word(logits.width)?,
                    stride: word(logits.stride)?,
                    reserved: 0,
                };
                for launch in launch::sample(&args, self.facts.wave) {
                    let needed = match launch.kernel.name {
                        "rf_sample_histogram" => rows.iter().any(|r| r.temperature != 0.0),
                        "rf_sample_scatter" => rows.iter().any(ranked),
                        _ => true,
                    };
                    if needed {
                        self.launch(&launch)?;
                    }
                }
                done += rows.len();
            }
        }
        Ok(())
    }
}
