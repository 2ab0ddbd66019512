//! From the logits of a step to tokens, on several threads where there is much to do.

use std::num::NonZero;
use std::sync::LazyLock;

use crate::active::{Active, Progress, RowResult};
use crate::batch::LogitsRow;
use crate::error::EngineError;
use crate::request::FinishReason;
use crate::sequence::RequestId;
use crate::text::Vocabulary;

/// So many logits take longer than it takes to start a thread.
const LOGITS_PER_THREAD: usize = 1 << 18;
/// Asked for once: the system reads files for it, which takes longer than all else that a small model's step needs here.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));

/// The rows of one sequence, and what came of them.
pub(crate) struct Job<'a> {
    pub(crate) id: RequestId,
    pub(crate) active: &'a mut Active,
    /// Of the sequence; new ones are added.
    pub(crate) tokens: Vec<u32>,
    pub(crate) rows: &'a [LogitsRow],
    /// What the device has drawn, by row; `None`: the row has logits.
    pub(crate) drawn: &'a [Option<u32>],
    /// `[rows with logits, vocabulary]`
    pub(crate) logits: &'a mut [f32],
    pub(crate) outcome: Outcome,
}

/// What came of the rows of a sequence.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Tokens generated.
    pub(crate) generated: usize,
    /// Of these, how many the backend has computed already because they were guessed.
    pub(crate) guessed: usize,
    pub(crate) end: Option<Result<FinishReason, EngineError>>,
}

impl Job<'_> {
    fn run(&mut self, vocab_size: usize, vocabulary: &dyn Vocabulary) {
        let mut logits = self.logits.chunks_exact_mut(vocab_size);
        for (row, drawn) in self.rows.iter().zip(self.drawn) {
            let result = match drawn {
                Some(token) => RowResult::Token(*token),
                None => RowResult::Logits(logits.next().unwrap_or_default()),
            };
            match take_row(self.active, &mut self.tokens, row, result, vocabulary) {
                Ok(None) => {}
                Ok(Some(progress)) => {
                    self.outcome.generated += 1;
                    if let Progress::Ends(reason) = progress {
                        self.outcome.end = Some(Ok(reason));
                        return;
                    }
                    if row.guess.is_none() || row.guess != self.tokens.last().copied() {
                        return;
                    }
                    self.outcome.guessed += 1;
                }
                Err(end) => {
                    self.outcome.end = Some(end);
                    return;
                }
            }
        }
    }
}

/// Draws a token from a row of logits, or takes a prompt token's probability from it, for which there is no progress.
fn take_row(
    active: &mut Active,
    tokens: &mut Vec<u32>,
    row: &LogitsRow,
    result: RowResult<'_>,
    vocabulary: &dyn Vocabulary,
) -> Result<Option<Progress>, Result<FinishReason, EngineError>> {
    if let (false, RowResult::Logits(logits)) = (row.samples, &result) {
        let next = tokens.get(row.position + 1).copied().unwrap_or_default();
        return active.score(logits, row.position, next).map(|()| None).map_err(Err);
    }
    let Some(sampled) = active.draw(result, row.position).map_err(Err)? else {
        return Err(Ok(FinishReason::Length));
    };
    tokens.push(sampled.token);
    Ok(Some(active.advance(sampled, tokens, vocabulary)))
}

/// Runs the jobs. What comes of one does not depend on the others, and so not on the threads either.
pub(crate) fn run(jobs: &mut [Job<'_>], vocab_size: usize, vocabulary: &dyn Vocabulary) {
    let logits: usize = jobs.iter().map(|j| j.logits.len()).sum();
    let threads = PROCESSORS.min(logits / LOGITS_PER_THREAD).min(jobs.len()).max(1);
    let (own, others) = jobs.split_at_mut(jobs.len().div_ceil(threads));
    std::thread::scope(|scope| {
        for part in others.chunks_mut(own.len().max(1)) {
            scope.spawn(|| part.iter_mut().for_each(|job| job.run(vocab_size, vocabulary)));
        }
        own.iter_mut().for_each(|job| job.run(vocab_size, vocabulary));
    });
}
