//! One step: the stages in order, as launches.

mod operations;
mod products;
mod sampling;

use std::collections::HashMap;

use rocmforge_kernels_hip::Launch;
use rocmforge_kernels_hip::launch::attention_partial_bytes;
use rocmforge_sdk::program::Step;
use rocmforge_sdk::{Error, Result};

use crate::arena::{Buffer, BufferId};
use crate::cache::Caches;
use crate::executable::Memory;
use crate::gpu::Facts;
use crate::memory::Stream;
use crate::metadata::Layout;
use crate::plan::{Attention, Home, Plan, Stage, View};
use crate::profile::Profile;
use crate::weights::Weights;
pub(crate) use sampling::Scratch;

/// Positions that a part of the context has at least.
const SPLIT: u32 = 128;

/// What a step's launches need.
pub(crate) struct Run<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) weights: &'a Weights,
    pub(crate) caches: &'a Caches,
    pub(crate) memory: &'a Memory,
    pub(crate) layout: &'a Layout,
    pub(crate) stream: &'a Stream,
    pub(crate) facts: &'a Facts,
    /// The longest context, rounded up.
    pub(crate) context: u32,
    /// Whether the step has exactly one token of each sequence.
    pub(crate) single: bool,
    pub(crate) profile: Option<&'a mut Profile>,
    /// Activations whose codes lack the factor of their norm so far in this step, by number, with its epsilon.
    pub(crate) unscaled: HashMap<usize, f32>,
}

impl Memory {
    /// The device address of a value; values of the step lie in its table.
    pub(crate) fn address(&self, plan: &Plan, view: View, layout: Option<&Layout>) -> Result<u64> {
        let table = |at: fn(&Layout) -> usize| {
            let layout = layout.ok_or_else(|| Error::internal("a value of the step outside of it"))?;
            Ok(self.metadata.address() + 4 * at(layout) as u64)
        };
        match view.home {
            Home::TokenIds => table(|l| l.token_ids),
            Home::Positions => table(|l| l.positions),
            Home::LogitsRows => table(|l| l.logits_rows),
            Home::Buffer(id) => {
                let buffer = plan.buffers.get(id.0 as usize).ok_or_else(|| Error::internal("no such buffer"))?;
                Ok(self.buffer(buffer) + 4 * view.column as u64)
            }
        }
    }

    fn buffer(&self, buffer: &Buffer) -> u64 {
        self.arena[buffer.lead].address() + buffer.before * self.capacity.lead(buffer.lead) as u64
    }
}

fn attentions(plan: &Plan) -> impl Iterator<Item = &Attention> {
    plan.stages.iter().filter_map(|stage| match stage {
        Stage::Attention(attention) => Some(attention),
        _ => None,
    })
}

/// Bytes that attention over parts of a context may use; [`Run::attention`](operations) keeps to them.
pub(crate) fn attention_scratch(plan: &Plan, facts: &Facts) -> u64 {
    // Two blocks to a unit, of at most 64 rows of tokens and heads.
    let parts = 64 * 2 * facts.compute_units.max(1);
    let widest = attentions(plan).map(|a| a.out.width / a.heads.max(1)).max().unwrap_or(0);
    attention_partial_bytes(1, 1, parts, widest as u32)
}

/// The longest context of a step in tokens, rounded up to a power of two, so that it seldom changes.
pub(crate) fn longest_context(step: &Step<'_>) -> u32 {
    let longest = step.context_lens.iter().copied().max().unwrap_or(1);
    longest.max(SPLIT).checked_next_power_of_two().unwrap_or(u32::MAX)
}

impl Run<'_> {
    /// Launches every stage that has rows.
    pub(crate) fn all(&mut self) -> Result<()> {
        if let Some(profile) = self.profile.as_deref_mut() {
            profile.begin(self.stream.gpu(), self.stream)?;
        }
        let plan = self.plan;
        let mut done = false;
        for (i, stage) in plan.stages.iter().enumerate() {
            if std::mem::take(&mut done) {
                continue;
            }
            if self.layout.rows.lead(stage.lead()) > 0 {
                let both = plan.rotated_attention(i).map_or(Ok(false), |(r, a)| self.rotate_and_attend(r, a));
                let run = both.and_then(|both| {
                    done = both;
                    if both { Ok(()) } else { self.stage(stage) }
                });
                run.map_err(|e| {
                    let place = plan.places.get(i).map_or("", String::as_str);
                    Error { message: format!("{place}: {}", e.message), ..e }
                })?;
            }
        }
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: the arguments come from this module, which takes addresses from the plan's buffers, the weights and the
        // caches, whose sizes are those of the plan; all of them are kept until the stream is waited for.
        unsafe { self.stream.launch(launch)? };
        match self.profile.as_deref_mut() {
            Some(profile) => profile.launched(launch.kernel.name, self.stream.gpu(), self.stream),
            None => Ok(()),
        }
    }

    fn at(&self, view: View) -> Result<u64> {
        self.memory.address(self.plan, view, Some(self.layout))
    }

    fn maybe(&self, view: Option<View>) -> Result<u64> {
        view.map_or(Ok(0), |v| self.at(v))
    }

    fn rows(&self, view: View) -> usize {
        self.layout.rows.lead(view.lead)
    }

    fn buffer(&self, id: BufferId) -> Result<u64> {
        let buffer = self.plan.buffers.get(id.0 as usize).ok_or_else(|| Error::internal("no such buffer"))?;
        Ok(self.memory.buffer(buffer))
    }

    /// An address in the step's table.
    fn table(&self, word: usize) -> u64 {
        self.memory.metadata.address() + 4 * word as u64
    }
}

/// A size as the kernels take it.
fn word(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::invalid(format!("a size of {n}: expected less than 2^32")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_change_the_launches_seldom() {
        let check = |contexts: &[u32], expected| {
            let step = Step { context_lens: contexts, ..Step::default() };
            assert_eq!(longest_context(&step), expected, "{contexts:?}");
        };
        check(&[], 128);
        check(&[1, 128], 128);
        check(&[129, 5], 256);
        check(&[4097], 8192);
        check(&[u32::MAX], u32::MAX);
    }
}
