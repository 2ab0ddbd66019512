//! Where values lie: decided once, for the largest step.

use std::ops::Range;

use rocmforge_sdk::program::Lead;

/// The number of a leading dimension: rows are tokens, sequences, or rows with logits.
pub(crate) fn lead_index(lead: Lead) -> usize {
    match lead {
        Lead::T => 0,
        Lead::S => 1,
        Lead::L => 2,
    }
}

/// A buffer of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BufferId(pub(crate) u32);

/// A piece of the arena that holds rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) lead: usize,
    /// A multiple of [`ALIGNMENT`].
    pub(crate) row_bytes: u64,
    /// Bytes per row that lie before it, once [`place`] has run.
    pub(crate) before: u64,
}

/// Every buffer starts on a multiple of this, whatever the number of rows.
pub(crate) const ALIGNMENT: u64 = 64;

impl Buffer {
    pub(crate) fn new(lead: usize, row_bytes: u64) -> Buffer {
        Buffer { lead, row_bytes: row_bytes.next_multiple_of(ALIGNMENT), before: 0 }
    }
}

/// Gives each buffer a place that no other one uses between its first and its last use. `uses[i]` are the buffers that stage
/// `i` reads or writes; `kept` are needed until the end. Returns the bytes per row of each leading dimension.
pub(crate) fn place(buffers: &mut [Buffer], uses: &[Vec<BufferId>], kept: &[BufferId]) -> [u64; 3] {
    let mut last = vec![None; buffers.len()];
    for (i, used) in uses.iter().enumerate() {
        used.iter().for_each(|b| last[b.0 as usize] = Some(i));
    }
    kept.iter().for_each(|b| last[b.0 as usize] = Some(usize::MAX));
    let mut intervals: [Intervals; 3] = Default::default();
    let mut placed = vec![false; buffers.len()];
    for (i, used) in uses.iter().enumerate() {
        for id in used {
            let b = id.0 as usize;
            if !placed[b] {
                placed[b] = true;
                buffers[b].before = intervals[buffers[b].lead].take(buffers[b].row_bytes);
            }
        }
        for id in used {
            let b = id.0 as usize;
            if last[b] == Some(i) {
                intervals[buffers[b].lead].free(buffers[b].before);
            }
        }
    }
    intervals.map(|i| i.width)
}

/// Bytes per row that are in use, as intervals; hands out the lowest that is wide enough.
#[derive(Debug, Default)]
struct Intervals {
    used: Vec<Range<u64>>,
    width: u64,
}

impl Intervals {
    fn take(&mut self, width: u64) -> u64 {
        let (mut start, mut at) = (0, 0);
        for (i, used) in self.used.iter().enumerate() {
            if used.start - start >= width {
                break;
            }
            (start, at) = (used.end, i + 1);
        }
        self.used.insert(at, start..start + width);
        self.width = self.width.max(start + width);
        start
    }

    fn free(&mut self, start: u64) {
        self.used.retain(|r| r.start != start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_share_bytes_only_when_their_uses_do_not_overlap() {
        let ids = |n: &[u32]| n.iter().copied().map(BufferId).collect::<Vec<_>>();
        let mut buffers: Vec<Buffer> = [64, 100, 64, 64, 128].map(|bytes| Buffer::new(0, bytes)).to_vec();
        let uses = [ids(&[0, 1]), ids(&[1, 2]), ids(&[2, 3]), ids(&[3, 4])];
        let widths = place(&mut buffers, &uses, &ids(&[4]));
        let before: Vec<u64> = buffers.iter().map(|b| b.before).collect();
        assert_eq!(before, [0, 64, 0, 64, 128]);
        assert_eq!(widths, [256, 0, 0]);
        for (i, used) in uses.iter().enumerate() {
            for a in used {
                for b in used.iter().filter(|b| *b != a) {
                    let [a, b] = [a, b].map(|id| buffers[id.0 as usize]);
                    let apart = a.before + a.row_bytes <= b.before || b.before + b.row_bytes <= a.before;
                    assert!(apart, "stage {i}: {a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn leading_dimensions_have_arenas_of_their_own() {
        let mut buffers = vec![Buffer::new(0, 4), Buffer::new(2, 8), Buffer::new(2, 70)];
        let uses = [vec![BufferId(0)], vec![BufferId(1), BufferId(2)]];
        assert_eq!(place(&mut buffers, &uses, &[]), [64, 0, 192]);
    }
}
