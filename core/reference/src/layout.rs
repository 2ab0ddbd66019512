//! Operations that move elements or pool rows.

use std::ops::Range;

/// Row `rows[i]` of `x`, rows of `width` elements; `Err` holds the first row number that is too large.
pub(crate) fn gather<E: Copy>(x: &[E], rows: &[u32], width: usize) -> Result<Vec<E>, u32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        let start = row as usize * width;
        out.extend_from_slice(x.get(start..start + width).ok_or(row)?);
    }
    Ok(out)
}

/// The elements `range` of each row of `width` elements.
pub(crate) fn columns(x: &[f32], width: usize, range: Range<usize>) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[range.clone()]).copied().collect()
}

/// Rows of the parts joined; each part is its elements and the width of its rows.
pub(crate) fn concat(parts: &[(&[f32], usize)]) -> Vec<f32> {
    let rows = parts.first().map_or(0, |(x, width)| x.len() / width);
    (0..rows).flat_map(|r| parts.iter().flat_map(move |(x, width)| &x[r * width..(r + 1) * width])).copied().collect()
}

/// The mean of each sequence's rows.
pub(crate) fn mean_pool(x: &[f32], width: usize, query_start: &[u32]) -> Vec<f32> {
    let mut out = Vec::new();
    for bounds in query_start.windows(2) {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        for column in 0..width {
            let sum: f64 = (start..end).map(|row| f64::from(x[row * width + column])).sum();
            out.push((sum / (end - start) as f64) as f32);
        }
    }
    out
}

/// The last row of each sequence.
pub(crate) fn last_pool(x: &[f32], width: usize, query_start: &[u32]) -> Vec<f32> {
    let ends = query_start.iter().skip(1).map(|&end| end as usize);
    ends.flat_map(|end| &x[(end - 1) * width..end * width]).copied().collect()
}
