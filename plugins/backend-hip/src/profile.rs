//! Time per kernel, from events around every launch.

use std::collections::BTreeMap;
use std::sync::Arc;

use rocmforge_sdk::{KernelTime, Result};

use crate::gpu::Gpu;
use crate::memory::{Event, Stream};

/// Events of the step under way, and sums of those before.
#[derive(Default)]
pub(crate) struct Profile {
    /// Used again from step to step; the first is before the first launch, each other one behind a launch.
    events: Vec<Event>,
    names: Vec<&'static str>,
    sums: BTreeMap<&'static str, (u64, f64)>,
}

impl Profile {
    fn mark(&mut self, gpu: &Arc<Gpu>, stream: &Stream) -> Result<()> {
        let next = self.names.len();
        if self.events.len() <= next {
            self.events.push(Event::new(gpu, true)?);
        }
        match self.events.get(next) {
            Some(event) => event.record(stream),
            None => Ok(()),
        }
    }

    /// Before the first launch of a step.
    pub(crate) fn begin(&mut self, gpu: &Arc<Gpu>, stream: &Stream) -> Result<()> {
        self.names.clear();
        self.mark(gpu, stream)
    }

    /// Behind a launch.
    pub(crate) fn launched(&mut self, name: &'static str, gpu: &Arc<Gpu>, stream: &Stream) -> Result<()> {
        self.names.push(name);
        self.mark(gpu, stream)
    }

    /// Once the step is done.
    pub(crate) fn end(&mut self) -> Result<()> {
        for (pair, name) in self.events.windows(2).zip(&self.names) {
            let sum = self.sums.entry(name).or_default();
            sum.0 += 1;
            sum.1 += pair[1].microseconds_since(&pair[0])?;
        }
        self.names.clear();
        Ok(())
    }

    /// What was measured, longest first.
    pub(crate) fn times(&self) -> Vec<KernelTime> {
        let time = |(&kernel, &(calls, microseconds)): (&&str, &(u64, f64))| KernelTime {
            kernel: kernel.to_owned(),
            calls,
            microseconds,
        };
        let mut times: Vec<KernelTime> = self.sums.iter().map(time).collect();
        times.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
        times
    }
}
