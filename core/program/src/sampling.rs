use crate::error::ProgramError;

/// In the place of a token: the row cannot be drawn from, because a logit is NaN or +infinity, or none is finite.
pub const NO_TOKEN: u32 = u32::MAX;

/// How a backend draws the token that follows one of a step's rows of logits.
///
/// Weights are `exp((logit - largest) / temperature)`. Left out, in this order, are tokens by `min_p`, by `top_k`, and by
/// `top_p` of the weights that are left then. The token drawn is the first at which the sum of weights exceeds `draw` of their
/// total, in the order of token ids, or in that of rank (larger logits first, then smaller ids) where `top_k` or `top_p`
/// is set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowSampling {
    /// The row, by its place in [`Step::logits_rows`](crate::Step::logits_rows).
    pub row: u32,
    /// Only so many of the first by rank; 0: all.
    pub top_k: u32,
    /// 0: the largest logit, the first one of equals, and nothing else of this counts. Else at least [`LEAST_TEMPERATURE`].
    pub temperature: f32,
    /// Only the first by rank whose weights reach this part of the total; 1: all.
    pub top_p: f32,
    /// Only tokens whose weight is at least this; the largest weight is 1. 0: all.
    pub min_p: f32,
    /// The quantile, in units of 2^-64.
    pub draw: u64,
}

/// The lowest temperature but 0: below it weights are no numbers any more where logits differ by little.
pub const LEAST_TEMPERATURE: f32 = 1e-6;

impl RowSampling {
    /// Bytes of one in the step extension `sample/1`.
    pub const BYTES: usize = 32;

    /// Adds its bytes: the fields in their order, with 4 bytes of 0 before `draw`, in the machine's byte order.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.row.to_ne_bytes());
        out.extend(self.top_k.to_ne_bytes());
        out.extend(self.temperature.to_ne_bytes());
        out.extend(self.top_p.to_ne_bytes());
        out.extend(self.min_p.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(self.draw.to_ne_bytes());
    }

    /// Reads what [`write`](RowSampling::write) has written, for a step with so many rows of logits.
    ///
    /// # Errors
    /// Bytes that are no whole number of rows; rows that are not there or do not rise; numbers out of range.
    pub fn read(bytes: &[u8], rows: usize) -> Result<Vec<RowSampling>, ProgramError> {
        let (chunks, []) = bytes.as_chunks::<{ RowSampling::BYTES }>() else {
            return Err(ProgramError::step("sampling", format!("{} bytes per row", RowSampling::BYTES), bytes.len()));
        };
        let found: Vec<RowSampling> = chunks.iter().map(RowSampling::of_bytes).collect();
        let rising = found.windows(2).all(|pair| pair[0].row < pair[1].row);
        if !rising || found.last().is_some_and(|last| last.row as usize >= rows) {
            let places: Vec<u32> = found.iter().map(|r| r.row).collect();
            return Err(ProgramError::step("sampling", format!("rising rows below {rows}"), format!("{places:?}")));
        }
        match found.iter().find(|r| !r.is_in_range()) {
            Some(wrong) => Err(ProgramError::step("sampling", "parameters in range", format!("{wrong:?}"))),
            None => Ok(found),
        }
    }

    fn of_bytes(bytes: &[u8; RowSampling::BYTES]) -> RowSampling {
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let ([a, b, c, d], [e, f, g, h]) = (word(24), word(28));
        RowSampling {
            row: u32::from_ne_bytes(word(0)),
            top_k: u32::from_ne_bytes(word(4)),
            temperature: f32::from_ne_bytes(word(8)),
            top_p: f32::from_ne_bytes(word(12)),
            min_p: f32::from_ne_bytes(word(16)),
            draw: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        }
    }

    fn is_in_range(&self) -> bool {
        let temperature = self.temperature == 0.0 || (LEAST_TEMPERATURE..f32::INFINITY).contains(&self.temperature);
        temperature && self.top_p > 0.0 && self.top_p <= 1.0 && (0.0..=1.0).contains(&self.min_p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: RowSampling =
        RowSampling { row: 1, top_k: 40, temperature: 0.7, top_p: 0.9, min_p: 0.05, draw: 0x0123_4567_89ab_cdef };

    #[test]
    fn rows_are_read_as_they_were_written() {
        let rows = [RowSampling { row: 0, temperature: 0.0, ..GOOD }, GOOD, RowSampling { row: 4, top_k: 0, ..GOOD }];
        let mut bytes = vec![];
        rows.iter().for_each(|r| r.write(&mut bytes));
        assert_eq!(bytes.len(), 3 * RowSampling::BYTES);
        assert_eq!(RowSampling::read(&bytes, 5).expect("they are right"), rows);
        assert_eq!(RowSampling::read(&[], 0).expect("none is right"), []);
    }

    #[test]
    fn what_no_backend_should_see_is_refused() {
        let check = |rows: &[RowSampling], expected: &str| {
            let mut bytes = vec![];
            rows.iter().for_each(|r| r.write(&mut bytes));
            let error = RowSampling::read(&bytes, 3).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[RowSampling { row: 3, ..GOOD }], "rising rows below 3");
        check(&[GOOD, GOOD], "rising rows below 3");
        for temperature in [-1.0, 1e-7, f32::NAN, f32::INFINITY] {
            check(&[RowSampling { temperature, ..GOOD }], "in range");
        }
        for top_p in [0.0, 1.5, f32::NAN] {
            check(&[RowSampling { top_p, ..GOOD }], "in range");
        }
        for min_p in [-0.1, 1.5, f32::NAN] {
            check(&[RowSampling { min_p, ..GOOD }], "in range");
        }
        let error = RowSampling::read(&[0; 33], 3).expect_err("33 bytes are no row").to_string();
        assert!(error.contains("32 bytes per row"), "{error}");
    }
}
