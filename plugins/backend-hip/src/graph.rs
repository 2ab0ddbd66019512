//! Recorded decoding steps: one launch instead of hundreds.

use std::collections::HashMap;
use std::sync::Arc;

use rocmforge_hip_sys::{hipGraphExec_t, hipStreamCaptureModeThreadLocal};
use rocmforge_sdk::Result;

use crate::gpu::Gpu;
use crate::memory::Stream;
use crate::metadata::Rows;

/// A recorded step that can be launched.
pub(crate) struct Graph {
    gpu: Arc<Gpu>,
    handle: hipGraphExec_t,
    /// Pieces of work in it; 0: not known.
    pub(crate) nodes: usize,
}

impl Graph {
    /// Records what `work` queues to the stream, without running it.
    pub(crate) fn record(stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let gpu = stream.gpu();
        let hip = gpu.hip();
        // SAFETY: the stream lives; `work` only launches.
        let begun = unsafe { hip.begin_capture(stream.handle(), hipStreamCaptureModeThreadLocal) };
        gpu.check("recording a step", begun)?;
        let worked = work();
        // A capture that failed must end all the same.
        // SAFETY: the stream lives.
        let graph = gpu.check("recording a step", unsafe { hip.end_capture(stream.handle()) });
        worked?;
        let graph = graph?;
        // SAFETY: the graph was made above, and is destroyed here only.
        let (handle, nodes) = unsafe {
            let handle = hip.instantiate_graph(graph);
            let nodes = hip.graph_nodes(graph).unwrap_or(0);
            let _ = hip.destroy_graph(graph);
            (handle, nodes)
        };
        let handle = gpu.check("making a recorded step launchable", handle)?;
        Ok(Graph { gpu: Arc::clone(gpu), handle, nodes })
    }

    /// Queues it.
    ///
    /// # Safety
    /// Every address that was recorded is valid until the stream has passed this.
    pub(crate) unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the graph lives; for addresses the caller vouches.
        let launched = unsafe { self.gpu.hip().launch_graph(self.handle, stream.handle()) };
        self.gpu.check("a recorded step", launched)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made by `record`, destroyed here only; its owner has waited for the stream.
            let _ = unsafe { self.gpu.hip().destroy_graph_exec(self.handle) };
        }
    }
}

/// What a recorded step depends on, beside the addresses of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) rows: Rows,
    /// Columns of the block tables.
    pub(crate) blocks: usize,
    /// The longest context, rounded up as [`longest_context`](crate::run::longest_context) does.
    pub(crate) context: u32,
}

/// The recorded steps of an executable.
#[derive(Default)]
pub(crate) struct Graphs {
    /// `None`: recording failed once, so these steps are launched kernel by kernel.
    steps: HashMap<Key, Option<Graph>>,
}

impl Graphs {
    pub(crate) fn get(&self, key: &Key) -> Option<&Option<Graph>> {
        self.steps.get(key)
    }

    pub(crate) fn insert(&mut self, key: Key, graph: Option<Graph>) {
        self.steps.insert(key, graph);
    }

    /// Addresses have changed.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
    }
}

/// The number of sequences that a decoding step is filled up to.
pub(crate) fn bucket(sequences: usize, most: usize) -> usize {
    let step = match sequences {
        0..=4 => 1,
        5..=16 => 4,
        17..=64 => 8,
        _ => 32,
    };
    sequences.next_multiple_of(step).min(most.max(sequences))
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_hold_the_step_and_are_few() {
        for most in [1, 6, 16, 100, 256] {
            let sizes: std::collections::BTreeSet<usize> = (1..=most).map(|n| bucket(n, most)).collect();
            assert!(sizes.len() <= 20, "{sizes:?}");
            assert!((1..=most).all(|n| (n..=most).contains(&bucket(n, most))));
        }
        assert_eq!([1, 3, 5, 17, 65].map(|n| bucket(n, 256)), [1, 3, 8, 24, 96]);
    }
}
