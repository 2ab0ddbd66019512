//! Buffers of all values with the same leading dimension and element.
//!
//! A value's place is an offset in elements per row; with `n` rows in a step it lies at `offset * n`, so that a step
//! with few tokens uses little memory, close together.

use std::ops::Range;

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

/// An output and the inputs beside it.
pub(crate) type Split<'a, E, const N: usize> = (&'a mut [E], [&'a [E]; N]);

impl<E: Copy + Default> Regions<E> {
    /// For rows of so many elements; takes no memory yet.
    pub(crate) fn new(widths: [usize; 3]) -> Regions<E> {
        Regions { widths, data: Default::default(), rows: [0; 3] }
    }

    /// The sizes of the step to come.
    pub(crate) fn set_rows(&mut self, rows: [usize; 3]) -> Result<()> {
        for (lead, data) in self.data.iter_mut().enumerate() {
            let needed = self.widths[lead].checked_mul(rows[lead]);
            let more = needed.map(|n| n.saturating_sub(data.len()));
            let Some(more) = more.filter(|&n| data.try_reserve_exact(n).is_ok()) else {
                let bytes = self.widths[lead] as f64 * rows[lead] as f64 * size_of::<E>() as f64;
                return Err(Error::out_of_memory(format!(
                    "activations of {} rows: {:.1} MiB; use fewer tokens per step or fewer rows with logits",
                    rows[lead],
                    bytes / f64::from(1 << 20)
                )));
            };
            data.resize(data.len() + more, E::default());
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
        let hole = self.range(out);
        let ranges = ins.map(|p| (p.lead, self.range(p)));
        let [t, s, l] = &mut self.data;
        let (own, others): (&mut [E], [&[E]; 3]) = match out.lead {
            0 => (t, [&[], s, l]),
            1 => (s, [t, &[], l]),
            _ => (l, [t, s, &[]]),
        };
        let (before, rest) = own.split_at_mut(hole.start);
        let (written, after) = rest.split_at_mut(hole.len());
        let (before, after) = (&*before, &*after);
        let mut read: [&[E]; N] = [&[]; N];
        for (slot, (lead, range)) in read.iter_mut().zip(ranges) {
            *slot = if lead != out.lead {
                &others[lead][range]
            } else if range.end <= hole.start {
                &before[range]
            } else if range.start >= hole.end {
                &after[range.start - hole.end..range.end - hole.end]
            } else {
                return Err(Error::internal("the plan lets a result overwrite its operand"));
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
    }
}
