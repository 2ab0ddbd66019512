//! Which rows of a step are those of prompts.

use std::ops::Range;

use crate::error::KernelError;

/// Tokens of a sequence in a step from which on they may be computed in ways that are faster for many and not the same to
/// the last bit. Steps of up to 64 tokens, those of guesses and of many sequences, have to give the same bits as one
/// token alone.
pub(crate) const FEWEST: usize = 65;

/// Runs of rows, of sequences with at least [`FEWEST`] tokens in the step and of others.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<(Range<usize>, bool)>);

impl Runs {
    /// Makes room for steps of as many sequences.
    pub(crate) fn reserve(&mut self, sequences: usize) -> Result<(), KernelError> {
        let more = sequences.saturating_sub(self.0.len());
        let bytes = (more * size_of::<(Range<usize>, bool)>()) as u64;
        self.0.try_reserve_exact(more).map_err(|_| KernelError::Memory { bytes })
    }

    /// Of a step with sequences of these lengths, one after the other.
    pub(crate) fn set(&mut self, lengths: impl Iterator<Item = usize>) {
        self.0.clear();
        let mut end = 0;
        for length in lengths {
            let (rows, long) = (end..end + length, length >= FEWEST);
            end = rows.end;
            match self.0.last_mut() {
                Some(last) if last.1 == long => last.0.end = end,
                _ => self.0.push((rows, long)),
            }
        }
    }

    /// Those of `rows` rows, if these are all of a step of which some are long.
    pub(crate) fn of(&self, rows: usize) -> Option<&[(Range<usize>, bool)]> {
        let whole = self.0.last().is_some_and(|(last, _)| last.end == rows);
        (whole && self.0.iter().any(|&(_, long)| long)).then_some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Runs;

    #[test]
    fn rows_of_long_sequences_are_found_in_steps_that_have_them_alone() {
        let check = |lengths: &[usize], rows: usize, expected: &[(usize, usize, bool)]| {
            let mut runs = Runs::default();
            runs.set(lengths.iter().copied());
            let found = runs.of(rows).unwrap_or(&[]).iter().map(|(rows, long)| (rows.start, rows.end, *long));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{lengths:?}, {rows}");
        };
        check(&[], 0, &[]);
        check(&[64, 1, 1], 66, &[]);
        check(&[65], 65, &[(0, 65, true)]);
        check(&[65], 1, &[]);
        check(&[1, 1, 100, 200, 3], 305, &[(0, 2, false), (2, 302, true), (302, 305, false)]);
        check(&[1, 1, 100, 200, 3], 5, &[]);
    }
}
