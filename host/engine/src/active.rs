use std::time::{Duration, Instant};

use rocmforge_program::{NO_TOKEN, RowSampling};

use crate::course::CourseHandle;
use crate::embedding::Embedding;
use crate::engine::Place;
use crate::error::EngineError;
use crate::request::{
    Event, Finish, FinishReason, GenerateRequest, SpecialText, StopParams, Timings, TokenEvent, Usage,
};
use crate::sampler::{Logprobs, Sampled, Sampler, check_logits, logprobs};
use crate::stream::EventSender;
use crate::text::{StopMatcher, StopState, Utf8Stream, Vocabulary};

/// What a step gives for a row.
#[derive(Debug)]
pub(crate) enum RowResult<'a> {
    /// `[vocabulary]`, to draw from.
    Logits(&'a mut [f32]),
    /// What the device has drawn.
    Token(u32),
}

/// Whether a request goes on after a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Goes,
    Ends(FinishReason),
}

/// A request in the engine: everything about it that the scheduler does not need to know.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) events: EventSender,
    pub(crate) paused_since: Option<Instant>,
    pub(crate) generated: usize,
    sampler: Sampler,
    bytes: Utf8Stream,
    matcher: StopMatcher,
    stop: StopParams,
    special: SpecialText,
    /// Tokens that would end the answer too early.
    suppressed: Vec<u32>,
    limit: usize,
    max_time: Option<Duration>,
    prompt_tokens: usize,
    prompt_top: Option<usize>,
    prompt_logprobs: Vec<Logprobs>,
    pub(crate) embedding: Option<Embedding>,
    arrived: Instant,
    pub(crate) course: CourseHandle,
    place: Place,
}

impl Active {
    pub(crate) fn new(
        request: GenerateRequest,
        limit: usize,
        events: EventSender,
        course: CourseHandle,
        place: Place,
        vocabulary: &dyn Vocabulary,
    ) -> Active {
        let arrived = course.lock().arrived;
        let stop = request.stop;
        let mut suppressed = Vec::new();
        if stop.min_tokens > 0 {
            suppressed.extend(vocabulary.end_of_generation().into_iter().filter(|_| !stop.ignore_eos));
            suppressed.extend(&stop.tokens);
        }
        Active {
            events,
            paused_since: None,
            generated: 0,
            sampler: Sampler::new(request.sampling, &request.prompt).constrained(request.constraint),
            bytes: Utf8Stream::default(),
            matcher: StopMatcher::new(stop.strings.clone()),
            stop,
            special: request.special,
            suppressed,
            limit,
            max_time: request.max_time,
            prompt_tokens: request.prompt.len(),
            prompt_top: request.prompt_logprobs,
            prompt_logprobs: Vec::new(),
            embedding: request.embed.map(Embedding::new),
            arrived,
            course,
            place,
        }
    }

    /// Tokens that it may still generate.
    pub(crate) fn left(&self) -> usize {
        self.limit.saturating_sub(self.generated)
    }

    /// When its time is over, and how long that is.
    pub(crate) fn deadline(&self) -> Option<(Instant, Duration)> {
        // A limit beyond the clock's range is none.
        self.max_time.and_then(|t| Some((self.arrived.checked_add(t)?, t)))
    }

    /// When it has waited for so long without running.
    pub(crate) fn waited(&self, limit: Duration) -> Option<Instant> {
        self.course.lock().started.map_or_else(|| self.arrived.checked_add(limit), |_| None)
    }

    /// Notes the log-probability of `next`, the prompt's token after `position`.
    pub(crate) fn score(&mut self, logits: &[f32], position: usize, next: u32) -> Result<(), EngineError> {
        check_logits(logits, position)?;
        self.prompt_logprobs.push(logprobs(logits, next, self.prompt_top.unwrap_or(0)));
        Ok(())
    }

    /// What a backend needs to draw the token after `position` in place of [`draw`](Active::draw), if it can.
    pub(crate) fn row_sampling(&self, row: u32, position: usize) -> Option<RowSampling> {
        let whole = self.suppressed.is_empty() || self.generated >= self.stop.min_tokens;
        if whole { self.sampler.row_sampling(row, position) } else { None }
    }

    /// Draws the token after `position`, or takes what was drawn; `None` if only the prompt was to be computed.
    pub(crate) fn draw(&mut self, row: RowResult<'_>, position: usize) -> Result<Option<Sampled>, EngineError> {
        if self.generated == 0 && self.prompt_top.take().is_some() {
            let prompt = std::mem::take(&mut self.prompt_logprobs);
            self.send(Event::Prompt(prompt));
        }
        self.course.lock().first_token.get_or_insert_with(Instant::now);
        if self.limit == 0 {
            return Ok(None);
        }
        let early = self.generated < self.stop.min_tokens;
        let suppressed = if early { self.suppressed.as_slice() } else { &[] };
        match row {
            RowResult::Logits(logits) => self.sampler.sample(logits, position, suppressed).map(Some),
            RowResult::Token(NO_TOKEN) => Err(EngineError::NoToken { position }),
            RowResult::Token(token) => Ok(Some(Sampled { token, logprobs: None })),
        }
    }

    /// Sends the embedding, of which everything is known.
    pub(crate) fn send_embedding(&mut self) {
        self.course.lock().first_token.get_or_insert_with(Instant::now);
        if let Some(embedding) = self.embedding.take() {
            self.send(Event::Embedding(embedding.finish()));
        }
    }

    /// Takes in a drawn token, the last of `tokens`.
    pub(crate) fn advance(&mut self, sampled: Sampled, tokens: &[u32], vocabulary: &dyn Vocabulary) -> Progress {
        let Sampled { token, logprobs } = sampled;
        self.generated += 1;
        self.sampler.accept(tokens);
        // At the end of a grammar nothing else is possible, so it must be the end of the answer.
        let ignores = self.stop.ignore_eos && !self.sampler.is_constrained();
        let ends = !ignores && vocabulary.is_end_of_generation(token);
        if ends || self.stop.tokens.contains(&token) {
            return Progress::Ends(FinishReason::StopToken(token));
        }
        let shown = match &self.special {
            SpecialText::None => false,
            SpecialText::Some(shown) => shown.contains(&token),
            SpecialText::All => true,
        };
        match shown {
            true => vocabulary.special_bytes(token, self.bytes.bytes()),
            false => vocabulary.token_bytes(token, self.bytes.bytes()),
        }
        let piece = self.bytes.take();
        let (text, stop) = match self.generated <= self.stop.min_tokens {
            true => (piece, None),
            false => self.match_stop(&piece),
        };
        self.send(Event::Token(TokenEvent { token, text, logprobs }));
        match stop {
            Some(stop) => {
                // An unfinished character after the stop string is not part of the answer.
                self.bytes = Utf8Stream::default();
                Progress::Ends(FinishReason::StopString(stop))
            }
            None if self.generated >= self.limit => Progress::Ends(FinishReason::Length),
            None => Progress::Goes,
        }
    }

    /// Text that can be sent now, and the stop string that ended it.
    fn match_stop(&mut self, piece: &str) -> (String, Option<usize>) {
        match self.matcher.push(piece) {
            StopState::Continue(text) => (text, None),
            StopState::Stopped { mut text, stop } => {
                if self.stop.keep_stop {
                    text.push_str(&self.stop.strings[stop]);
                }
                (text, Some(stop))
            }
        }
    }

    /// Ends the stream.
    pub(crate) fn finish(mut self, reason: FinishReason, cached_tokens: usize) {
        let rest = self.bytes.finish();
        let (mut text, stop) = self.match_stop(&rest);
        if stop.is_none() {
            text += &self.matcher.finish();
        }
        let now = Instant::now();
        let since = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        let (started, first_token) = {
            let course = self.course.lock();
            (course.started, course.first_token)
        };
        let timings = Timings {
            queue: since(Some(self.arrived), started.or(Some(now))),
            prefill: since(started, first_token.or(Some(now))),
            decode: since(first_token, Some(now)),
        };
        let usage = Usage { prompt_tokens: self.prompt_tokens, cached_tokens, completion_tokens: self.generated };
        self.end(Event::Finished(Finish { reason, text, usage, timings }));
    }

    /// Ends the stream with this event, and makes room for another request before the client can know.
    pub(crate) fn end(self, event: Event) {
        let Active { events, course, place, .. } = self;
        course.lock().ended = Some(Instant::now());
        drop(place);
        // A client that is gone needs no goodbye.
        let _ = events.send(event);
    }

    fn send(&self, event: Event) {
        // Whether the client is gone is looked at after every step.
        let _ = self.events.send(event);
    }
}
