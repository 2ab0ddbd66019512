//! Decoding steps that are recorded.

use rocmforge_sdk::program::Step;
use rocmforge_sdk::{Result, log};

use super::check::Checked;
use super::{HipExecutable, single};
use crate::graph::{Graph, Key, bucket};
use crate::metadata::{Layout, Rows};

impl HipExecutable {
    /// What a step is filled up to so that its launches are those of a recorded one; `None`: it is launched as it is.
    pub(super) fn filled_up(&self, step: &Step<'_>) -> Option<Rows> {
        let rows = Rows::of(step);
        let decodes = single(step) && rows.logits == rows.sequences && rows.tokens > 0;
        let recordable = self.graphs_wanted && self.profile.is_none() && self.plan.inputs.is_empty();
        (decodes && recordable).then(|| {
            let n = bucket(rows.sequences, self.max_sequences.min(self.capacity.logits));
            Rows { tokens: n, sequences: n, logits: n }
        })
    }

    /// Launches a decoding step as it was recorded. The first of its kind is launched kernel by kernel, recorded, and
    /// launched again as recorded, to compare.
    pub(super) fn launch_recorded(&mut self, layout: &Layout, key: Key, rows: Rows) -> Result<Option<Checked>> {
        match self.graphs.get(&key) {
            Some(Some(graph)) => {
                // SAFETY: graphs are cleared when buffers are replaced.
                unsafe { graph.launch(&self.stream)? };
                return Ok(None);
            }
            Some(None) => return self.launch(layout, key.context).map(|()| None),
            None => {}
        }
        self.launch(layout, key.context)?;
        self.draw(layout)?;
        self.download(rows, true)?;
        self.stream.wait(self.patience)?;
        let first = self.results(rows, true)?;
        let recorded = self.run(layout, None).and_then(|mut run| {
            run.context = key.context;
            Graph::record(&self.stream, || run.all())
        });
        match recorded {
            Ok(graph) => {
                log!(Debug, "decoding steps of {} sequences recorded: {} pieces", key.rows.sequences, graph.nodes);
                // SAFETY: as above.
                unsafe { graph.launch(&self.stream)? };
                self.graphs.insert(key, Some(graph));
                Ok(Some(Checked { key, layout: layout.clone(), first }))
            }
            Err(e) if self.gpu.is_lost() => Err(e),
            Err(e) => {
                log!(Warn, "decoding steps of {} sequences are not recorded: {e}", key.rows.sequences);
                self.graphs.insert(key, None);
                Ok(None)
            }
        }
    }
}
