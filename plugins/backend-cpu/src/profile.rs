//! How long operations take, for `bench --profile`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rocmforge_sdk::KernelTime;
use rocmforge_sdk::program::Program;

use crate::fusion::Item;

/// Times by operation, while they are measured.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    on: bool,
    times: BTreeMap<String, (u64, Duration)>,
}

impl Profile {
    /// Switches the measuring on or off; gives what was measured so far, the longest first.
    pub(crate) fn switch(&mut self, on: bool) -> Vec<KernelTime> {
        self.on = on;
        let times = std::mem::take(&mut self.times).into_iter();
        let mut times: Vec<KernelTime> = times
            .map(|(kernel, (calls, time))| KernelTime { kernel, calls, microseconds: time.as_secs_f64() * 1e6 })
            .collect();
        times.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
        times
    }

    /// Now, if anybody wants to know.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    /// An operation that began at `start` is done.
    pub(crate) fn end(&mut self, start: Option<Instant>, label: impl FnOnce() -> String) {
        if let Some(start) = start {
            let (calls, time) = self.times.entry(label()).or_default();
            *calls += 1;
            *time += start.elapsed();
        }
    }
}

/// Operation, and the types of its matrices.
pub(crate) fn label(program: &Program, item: &Item) -> String {
    let nodes = match item {
        Item::Node(node) => vec![*node],
        Item::Linears(_, _, layers) => layers.iter().flatten().map(|layer| layer.node).collect(),
    };
    let source = match item {
        Item::Linears(_, Some(node), _) => format!("{} + ", program.nodes[*node].op.name()),
        _ => String::new(),
    };
    let ops = nodes.iter().map(|&node| &program.nodes[node].op);
    let name = ops.clone().next().map_or("", |op| op.name());
    let matrices = ops.flat_map(|op| op.weights()).filter_map(|id| program.weights.get(id.index()));
    let mut types: Vec<_> = matrices.filter(|decl| decl.dims.len() > 1).map(|decl| decl.dtype.name()).collect();
    types.dedup();
    types.iter().fold(source + name, |name, dtype| name + " " + dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_measured_unless_asked_for() {
        let mut profile = Profile::default();
        let label = || "add".to_owned();
        profile.end(profile.start(), label);
        assert!(profile.switch(true).is_empty());
        (0..2).for_each(|_| profile.end(profile.start(), label));
        let found = profile.switch(false);
        assert_eq!((found.len(), found[0].kernel.as_str(), found[0].calls), (1, "add", 2));
    }
}
