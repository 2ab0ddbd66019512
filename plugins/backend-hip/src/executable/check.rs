//! Whether a recorded step gives what the same step gives kernel by kernel, and what differs where it does not.

use rocmforge_sdk::{Result, log};

use super::{HipExecutable, Results};
use crate::graph::Key;
use crate::metadata::{Layout, Rows};

/// A recorded step that runs for the first time, behind the same step kernel by kernel.
pub(super) struct Checked {
    pub(super) key: Key,
    pub(super) layout: Layout,
    /// What the launches gave.
    pub(super) first: Results,
}

impl HipExecutable {
    /// The results of a recorded step that ran for the first time. Where they are not those of the launches, these, and a
    /// warning tells where they differ, and whether the launches give the same when they are repeated.
    pub(super) fn checked(&mut self, rows: Rows, checked: Checked) -> Result<Results> {
        let Checked { key, layout, first } = checked;
        let found = self.results(rows, true)?;
        let Some(differs) = self.difference(rows, &first, &found) else { return Ok(found) };
        self.launch(&layout, key.context)?;
        self.draw(&layout)?;
        self.download(rows, true)?;
        self.stream.wait(self.patience)?;
        let again = match self.difference(rows, &first, &self.results(rows, true)?) {
            None => "repeated kernel by kernel it gives the same".to_owned(),
            Some(differs) => {
                format!("repeated kernel by kernel it differs as well, so that recording is not why: {differs}")
            }
        };
        log!(
            Warn,
            "device {}: a recorded step of {} sequences gave other results than the same step launched kernel by kernel: \
             {differs}; {again}; steps are not recorded from now on",
            self.gpu.facts,
            key.rows.sequences
        );
        self.graphs_wanted = false;
        Ok(first)
    }

    fn difference(&self, rows: Rows, first: &Results, second: &Results) -> Option<String> {
        let outputs = self.plan.outputs.iter().map(|o| (o.name.as_str(), rows.lead(o.view.lead), o.view.width));
        difference(&outputs.collect::<Vec<_>>(), first, second)
    }
}

/// Where two runs of a step differ, in words: outputs by name, rows and elements per row, one behind the other.
fn difference(outputs: &[(&str, usize, usize)], first: &Results, second: &Results) -> Option<String> {
    let mut found = vec![];
    let mut at = 0;
    for &(name, rows, width) in outputs {
        let end = (at + rows * width).min(first.values.len()).min(second.values.len());
        let (a, b) = (&first.values[at..end], &second.values[at..end]);
        at = end;
        let other = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if width == 0 || !a.iter().zip(b).any(other) {
            continue;
        }
        let row_pairs = || a.chunks(width).zip(b.chunks(width)).enumerate();
        let differing: Vec<usize> =
            row_pairs().filter(|(_, (a, b))| a.iter().zip(*b).any(other)).map(|(row, _)| row).collect();
        let (row, of) = (differing[0], differing.len());
        let (a, b) = (&a[row * width..], &b[row * width..]);
        let columns: Vec<usize> = (0..width.min(a.len())).filter(|&c| other((&a[c], &b[c]))).collect();
        let most = columns.iter().map(|&c| (a[c] - b[c]).abs()).fold(0.0, f32::max);
        let size = a[..width.min(a.len())].iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        found.push(format!(
            "'{name}' in {of} of {rows} rows, row {row} the first, there in {} of {width} elements from {} to {} by at most \
             {most:e} of {size:e}",
            columns.len(),
            columns[0],
            columns[columns.len() - 1]
        ));
    }
    let tokens = first.tokens.iter().zip(&second.tokens).filter(|(a, b)| a != b).count();
    if tokens > 0 {
        found.push(format!("{tokens} of {} drawn tokens", first.tokens.len()));
    }
    (!found.is_empty()).then(|| found.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_with_their_place() {
        let check = |values: &[f32], tokens: &[u32], expected: Option<&str>| {
            let first = Results { values: vec![1.0, -2.0, 3.0, 4.0, 0.0, 6.0, 7.0], tokens: vec![8, 9] };
            let second = Results { values: values.to_vec(), tokens: tokens.to_vec() };
            let found = difference(&[("a", 2, 3), ("none", 0, 3), ("b", 1, 1)], &first, &second);
            assert_eq!(found.as_deref(), expected, "{values:?} {tokens:?}");
        };
        check(&[1.0, -2.0, 3.0, 4.0, 0.0, 6.0, 7.0], &[8, 9], None);
        // Bit by bit.
        check(
            &[1.0, -2.0, 3.0, 4.0, -0.0, 6.0, 7.0],
            &[8, 9],
            Some("'a' in 1 of 2 rows, row 1 the first, there in 1 of 3 elements from 1 to 1 by at most 0e0 of 6e0"),
        );
        check(
            &[1.0, -2.5, 3.25, 5.0, 0.0, 6.0, 8.0],
            &[8, 1],
            Some(
                "'a' in 2 of 2 rows, row 0 the first, there in 2 of 3 elements from 1 to 2 by at most 5e-1 of 3e0, \
                 'b' in 1 of 1 rows, row 0 the first, there in 1 of 1 elements from 0 to 0 by at most 1e0 of 7e0, \
                 1 of 2 drawn tokens",
            ),
        );
    }
}
