//! Guesses of what comes next, which one step checks all at once. A guess changes the speed of an answer, never the
//! answer: every token is drawn from the model's own logits for what really precedes it, with the random number that
//! its position has in any case, and a guess counts only where it is the token drawn.

mod lookup;
mod model;

pub use lookup::PromptLookup;
pub use model::DraftModel;

use crate::error::EngineError;
use crate::sequence::RequestId;

/// A sequence whose continuation is to be guessed.
#[derive(Clone, Copy, Debug)]
pub struct DraftRequest<'a> {
    /// Names it from step to step.
    pub id: RequestId,
    /// All of its tokens.
    pub tokens: &'a [u32],
    /// Most tokens to guess, at least 1.
    pub most: usize,
}

/// Guesses how sequences go on.
pub trait Drafter: Send {
    /// One guess, possibly empty, for each sequence.
    ///
    /// # Errors
    /// A backend that fails. The engine goes on without guesses.
    fn propose(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, EngineError>;

    /// A sequence is over.
    fn forget(&mut self, id: RequestId);
}

/// Guesses that came true lately, out of those made; a new sequence gets the benefit of the doubt.
const HOPE: f32 = 0.5;
/// Below it, guesses cost more than they bring.
const TOO_RARE: f32 = 0.2;
/// Tokens after which a sequence that was hard to guess is tried again.
const TRY_AGAIN: usize = 16;

/// How well a sequence can be guessed, and so how far to guess.
#[derive(Clone, Debug)]
pub(crate) struct Luck {
    rate: f32,
    len: usize,
    rest: usize,
}

impl Luck {
    pub(crate) fn new(most: usize) -> Luck {
        Luck { rate: HOPE, len: most.div_ceil(2), rest: 0 }
    }

    /// Tokens to guess next, at most `most`; 0 while it is not worth it.
    pub(crate) fn next(&mut self, most: usize) -> usize {
        if self.rest > 0 {
            self.rest -= 1;
            return 0;
        }
        self.len.clamp(1, most.max(1)).min(most)
    }

    /// Takes in how many of `guessed` tokens came true.
    pub(crate) fn observe(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        self.rate += 0.25 * (right as f32 / guessed as f32 - self.rate);
        self.len = if right == guessed { guessed + 2 } else { right + 1 };
        if self.rate < TOO_RARE {
            (self.rest, self.rate) = (TRY_AGAIN, HOPE / 2.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_grow_while_they_are_right_and_cease_while_they_are_not() {
        let lengths = |right: fn(usize) -> usize| {
            let mut luck = Luck::new(8);
            let step = |_| {
                let n = luck.next(8);
                luck.observe(n, right(n));
                n
            };
            (0..24).map(step).collect::<Vec<usize>>()
        };
        assert_eq!(lengths(|n| n)[..5], [4, 6, 8, 8, 8]);
        assert_eq!(lengths(|n| n.min(2))[..5], [4, 3, 3, 3, 3]);
        let never = lengths(|_| 0);
        assert!(never.iter().sum::<usize>() <= 10, "{never:?}");
        assert!(never[12..].iter().any(|&n| n > 0), "tried again: {never:?}");
    }
}
