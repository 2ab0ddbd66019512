//! Buffers of all values with the same leading dimension and element.
//!
//! A value's place is an offset in elements per row; with `n` rows in a step it lies at `offset * n`, so that a step
//! with few tokens uses little memory, close together.

use std::ops::Range;

use rocmforge_kernels_cpu::{Zero, advise_huge_pages, zeros};
use rocmforge_sdk::program::Lead;
use rocmforge_sdk::{Error, Result};

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lead: usize,
    /// Elements per row that lie before it.
    pub(crate) offset: usize,
    /// Elements per row.
    pub(crate) width: usize,
}

impl Place {
    /// No elements.
    pub(crate) const NONE: Place = Place { lead: 0, offset: 0, width: 0 };
}

/// The number of a leading dimension.
pub(crate) fn lead_index(lead: Lead) -> usize {
    match lead {
        Lead::T => 0,
        Lead::S => 1,
        Lead::L => 2,
    }
}

/// Values with elements `E`, per leading dimension.
#[derive(Debug)]
pub(crate) struct Regions<E> {
    widths: [usize; 3],
    data: [Vec<E>; 3],
    rows: [usize; 3],
}

/// Outputs and the inputs beside them.
pub(crate) type SplitMany<'a, E, const M: usize, const N: usize> = ([&'a mut [E]; M], [&'a [E]; N]);
/// An output and the inputs beside it.
pub(crate) type Split<'a, E, const N: usize> = (&'a mut [E], [&'a [E]; N]);

/// The most outputs at a time.
const OUTPUTS: usize = 4;

impl<E: Zero> Regions<E> {
    /// For rows of so many elements; takes no memory yet.
    pub(crate) fn new(widths: [usize; 3]) -> Regions<E> {
        Regions { widths, data: Default::default(), rows: [0; 3] }
    }

    /// The sizes of the step to come.
    pub(crate) fn set_rows(&mut self, rows: [usize; 3]) -> Result<()> {
        for (lead, data) in self.data.iter_mut().enumerate() {
            let needed = self.widths[lead].checked_mul(rows[lead]);
            if needed.is_some_and(|n| n <= data.len()) {
                continue;
            }
            // Nothing is kept from one step to the next.
            *data = vec![];
            let Some(mut made) = needed.and_then(|n| zeros(n).ok()) else {
                let bytes = self.widths[lead] as f64 * rows[lead] as f64 * size_of::<E>() as f64;
                return Err(Error::out_of_memory(format!(
                    "activations of {} rows: {:.1} MiB; use fewer tokens per step or fewer rows with logits",
                    rows[lead],
                    bytes / f64::from(1 << 20)
                )));
            };
            advise_huge_pages(&mut made);
            *data = made;
        }
        self.rows = rows;
        Ok(())
    }

    /// Rows of a leading dimension in this step.
    pub(crate) fn rows(&self, lead: usize) -> usize {
        self.rows[lead]
    }

    fn range(&self, place: Place) -> Range<usize> {
        let n = self.rows[place.lead];
        place.offset * n..(place.offset + place.width) * n
    }

    /// A value.
    pub(crate) fn get(&self, place: Place) -> &[E] {
        &self.data[place.lead][self.range(place)]
    }

    /// A value to be written.
    pub(crate) fn get_mut(&mut self, place: Place) -> &mut [E] {
        let range = self.range(place);
        &mut self.data[place.lead][range]
    }

    /// A value to be written and others to be read.
    pub(crate) fn split<const N: usize>(&mut self, out: Place, ins: [Place; N]) -> Result<Split<'_, E, N>> {
        let ([out], ins) = self.split_many([out], ins)?;
        Ok((out, ins))
    }

    /// Values to be written, all with the leading dimension of the first, and others to be read.
    pub(crate) fn split_many<const M: usize, const N: usize>(
        &mut self,
        outs: [Place; M],
        ins: [Place; N],
    ) -> Result<SplitMany<'_, E, M, N>> {
        const { assert!(M > 0 && M <= OUTPUTS) }
        let lead = outs[0].lead;
        let overlap = || Error::internal("the plan lets a result overwrite another one or an operand");
        let (holes, ranges) = (outs.map(|p| self.range(p)), ins.map(|p| (p.lead, self.range(p))));
        let mut order: [usize; M] = std::array::from_fn(|i| i);
        order.sort_unstable_by_key(|&i| (holes[i].start, holes[i].end));
        let [t, s, l] = &mut self.data;
        let (mut rest, others): (&mut [E], [&[E]; 3]) = match lead {
            0 => (t, [&[], s, l]),
            1 => (s, [t, &[], l]),
            _ => (l, [t, s, &[]]),
        };
        let mut written: [&mut [E]; M] = std::array::from_fn(|_| Default::default());
        // What lies before, between and after the holes, and where each begins.
        let mut gaps: [(usize, &[E]); OUTPUTS + 1] = [(0, &[]); OUTPUTS + 1];
        let mut at = 0;
        for (gap, i) in gaps.iter_mut().zip(order) {
            let hole = &holes[i];
            let before = hole.start.checked_sub(at).ok_or_else(overlap)?;
            let (kept, more) = rest.split_at_mut(before);
            let (taken, more) = more.split_at_mut(hole.len());
            (*gap, written[i], rest) = ((at, &*kept), taken, more);
            at = hole.end;
        }
        gaps[M] = (at, &*rest);
        let mut read: [&[E]; N] = [&[]; N];
        for (slot, (place, range)) in read.iter_mut().zip(ranges) {
            let within = |&(start, gap): &(usize, &'_ [E])| -> Option<Range<usize>> {
                (start <= range.start && range.end <= start + gap.len()).then(|| range.start - start..range.end - start)
            };
            *slot = match place == lead {
                _ if range.is_empty() => &[],
                false => &others[place][range],
                true => {
                    let found = gaps.iter().find_map(|gap| Some((gap.1, within(gap)?)));
                    let (gap, range) = found.ok_or_else(overlap)?;
                    &gap[range]
                }
            };
        }
        Ok((written, read))
    }
}

/// Elements per row that are in use, as intervals; hands out the lowest that is wide enough.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    used: Vec<Range<usize>>,
    width: usize,
}

impl Intervals {
    /// A free interval.
    pub(crate) fn take(&mut self, width: usize) -> usize {
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

    /// Gives an interval back.
    pub(crate) fn free(&mut self, start: usize) {
        self.used.retain(|r| r.start != start);
    }

    /// The end of the last interval that was ever in use.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_reused_and_never_overlap() {
        let mut intervals = Intervals::default();
        let (a, b, c) = (intervals.take(4), intervals.take(2), intervals.take(3));
        assert_eq!((a, b, c), (0, 4, 6));
        intervals.free(b);
        assert_eq!(intervals.take(3), 9);
        assert_eq!(intervals.take(1), 4);
        intervals.free(a);
        assert_eq!(intervals.take(4), 0);
        assert_eq!(intervals.width(), 12);
    }

    #[test]
    fn an_operand_under_the_result_is_an_error() {
        let place = |lead, offset, width| Place { lead, offset, width };
        let mut regions = Regions::<f32>::new([6, 2, 0]);
        regions.set_rows([3, 1, 0]).unwrap();
        regions.get_mut(place(0, 0, 2)).fill(1.0);
        regions.get_mut(place(0, 4, 2)).fill(2.0);
        regions.get_mut(place(1, 0, 2)).fill(3.0);
        let (out, [a, b, c]) = regions.split(place(0, 2, 2), [place(0, 0, 2), place(0, 4, 2), place(1, 0, 2)]).unwrap();
        assert_eq!((out.len(), a, b, c), (6, &[1.0; 6][..], &[2.0; 6][..], &[3.0; 2][..]));
        for bad in [place(0, 2, 2), place(0, 1, 2), place(0, 3, 1)] {
            assert!(regions.split(place(0, 2, 2), [bad]).is_err());
        }
        let ([last, first, none], [between, before]) = regions
            .split_many([place(0, 4, 2), place(0, 1, 1), Place::NONE], [place(0, 2, 2), place(0, 0, 1)])
            .unwrap();
        assert_eq!((last, first.len(), none.len(), between.len()), (&mut [2.0; 6][..], 3, 0, 6));
        assert_eq!(before, [1.0; 3]);
        assert!(regions.split_many([place(0, 2, 2), place(0, 3, 2)], []).is_err());
    }
}
