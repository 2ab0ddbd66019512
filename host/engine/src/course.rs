use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Pieces of a prompt that are told apart; what follows counts into the last one.
const MAX_PIECES: usize = 128;

/// What happened to a request in the engine, and when.
#[derive(Clone, Debug)]
pub struct Course {
    /// It was submitted.
    pub arrived: Instant,
    /// It was part of a step for the first time.
    pub started: Option<Instant>,
    /// Tokens of its prompt that the cache held then.
    pub cached_tokens: usize,
    /// The pieces in which its prompt was computed, and after a preemption what was known of its answer as well.
    pub pieces: Vec<Piece>,
    /// Its first token was drawn.
    pub first_token: Option<Instant>,
    /// Steps that continued its answer.
    pub steps: usize,
    /// Tokens of its answer that were guessed and computed before they were drawn.
    pub guessed_tokens: usize,
    /// Times that it lost its blocks and had to be computed again.
    pub preemptions: usize,
    /// It was over.
    pub ended: Option<Instant>,
}

/// Consecutive known tokens that one step has computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of the first.
    pub start: usize,
    /// How many.
    pub tokens: usize,
    /// When the step began.
    pub begin: Instant,
    /// When it had ended.
    pub end: Instant,
}

impl Course {
    /// Adds a piece.
    fn computed(&mut self, piece: Piece) {
        let full = self.pieces.len() >= MAX_PIECES;
        match self.pieces.last_mut() {
            Some(last) if full => {
                last.tokens += piece.tokens;
                last.end = piece.end;
            }
            _ => self.pieces.push(piece),
        }
    }
}

/// A course that the engine writes and whoever follows the request reads.
#[derive(Clone, Debug)]
pub struct CourseHandle(Arc<Mutex<Course>>);

impl CourseHandle {
    pub(crate) fn new(arrived: Instant) -> CourseHandle {
        CourseHandle(Arc::new(Mutex::new(Course {
            arrived,
            started: None,
            cached_tokens: 0,
            pieces: Vec::new(),
            first_token: None,
            steps: 0,
            guessed_tokens: 0,
            preemptions: 0,
            ended: None,
        })))
    }

    /// What has happened so far.
    pub fn read(&self) -> Course {
        self.lock().clone()
    }

    /// Held for moments only: the engine's thread may wait for it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Course> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a slice of a step that continued the answer, or computed what was known.
    pub(crate) fn step(&self, generates: bool, guesses: usize, piece: Piece) {
        let mut course = self.lock();
        if generates {
            course.steps += 1;
            course.guessed_tokens += guesses;
        } else {
            course.computed(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_course_keeps_its_size_and_forgets_no_token() {
        let begin = Instant::now();
        let course = CourseHandle::new(begin);
        for i in 0..1000u32 {
            let at = begin + Duration::from_millis(u64::from(i));
            let piece = Piece { start: 3 * i as usize, tokens: 3, begin: at, end: at + Duration::from_millis(1) };
            course.step(false, 0, piece);
        }
        let course = course.lock();
        assert_eq!(course.pieces.len(), MAX_PIECES);
        assert_eq!(course.pieces.iter().map(|p| p.tokens).sum::<usize>(), 3000);
        assert_eq!(course.pieces.last().map(|p| p.end), Some(begin + Duration::from_secs(1)));
    }
}
