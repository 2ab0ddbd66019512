use super::{DraftRequest, Drafter};
use crate::error::EngineError;
use crate::sequence::RequestId;

/// Longest and shortest end of a sequence that is looked for in it.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;

/// Guesses that what followed the sequence's last few tokens earlier in it follows them again (prompt lookup). Costs
/// nothing but the search, and is often right where an answer repeats parts of its prompt: summaries, code, extraction.
#[derive(Debug, Default)]
pub struct PromptLookup;

impl Drafter for PromptLookup {
    fn propose(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, EngineError> {
        Ok(requests.iter().map(|r| lookup(r.tokens, r.most).to_vec()).collect())
    }

    fn forget(&mut self, _id: RequestId) {}
}

/// What followed the latest earlier place with the longest run of tokens in common with the end.
fn lookup(tokens: &[u32], most: usize) -> &[u32] {
    let Some((&last, before)) = tokens.split_last() else { return &[] };
    let mut best = (SHORTEST - 1, 0);
    for end in (1..tokens.len()).rev().filter(|&end| tokens[end - 1] == last) {
        let same = before.iter().rev().zip(tokens[..end - 1].iter().rev()).take(LONGEST - 1);
        let length = 1 + same.take_while(|(a, b)| a == b).count();
        if length > best.0 {
            best = (length, end);
        }
        if length == LONGEST {
            break;
        }
    }
    match best {
        (_, 0) => &[],
        (_, end) => &tokens[end..(end + most).min(tokens.len())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_match_is_continued() {
        let check = |tokens: &[u32], most, expected: &[u32]| assert_eq!(lookup(tokens, most), expected, "{tokens:?}");
        check(&[], 4, &[]);
        check(&[1], 4, &[]);
        check(&[1, 2, 3], 4, &[]);
        check(&[1, 2, 3, 2], 4, &[]); // one token in common is too few
        check(&[1, 2, 3, 4, 1, 2], 4, &[3, 4, 1, 2]);
        check(&[1, 2, 3, 4, 1, 2], 1, &[3]);
        check(&[1, 2, 3, 1, 2, 4, 1, 2], 1, &[4]);
        check(&[9, 1, 2, 3, 1, 2, 4, 9, 1, 2], 1, &[3]);
        check(&[5, 5, 5], 4, &[5]);
    }
}
