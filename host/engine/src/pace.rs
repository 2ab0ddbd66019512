//! How many tokens of prompts may join a step without holding up the streams in it.

use std::time::Duration;

/// A measured value and the newest ones' weight in it.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, value: f64, weight: f64) {
        self.0 = Some(self.0.map_or(value, |mean| mean + weight * (value - mean)));
    }
}

/// Part of the allowance that is used, as measured times vary.
const MARGIN: f64 = 0.85;
/// The same beside one prompt alone, which takes as little longer as it holds up the streams less.
const MARGIN_OF_ONE: f64 = 0.75;
/// A first guess, where nothing is known of the cost of a prompt's tokens.
const FIRST_CHUNK: usize = 8;
/// After so many steps with prompts the streams are measured alone again, as the machine may have become faster or slower.
const PROBE_AFTER: usize = 24;

/// Learns from the durations of steps how long one takes that only generates, and what each token of a prompt adds;
/// from these follows how many tokens of prompts keep a step within `ratio` times the former.
///
/// The yardstick is a step in which all prompts but one generate as well: with one long prompt beside a few streams this
/// is the step that they are used to, and with many prompts beside one stream it is not a reason to leave the others
/// waiting for ever.
#[derive(Debug)]
pub(crate) struct Pace {
    ratio: f64,
    max_sequences: usize,
    /// Seconds of a step without prompts, by its number of tokens.
    alone: Vec<Mean>,
    /// Seconds that a token of a prompt adds.
    per_token: Mean,
    last_chunk: usize,
    /// Steps with prompts since one without.
    mixed: usize,
    probing: bool,
}

impl Pace {
    /// For steps of up to so many tokens and streams.
    pub(crate) fn new(ratio: f64, max_tokens: usize, max_sequences: usize) -> Pace {
        let alone = vec![Mean::default(); max_tokens + 1];
        Pace { ratio, max_sequences, alone, per_token: Mean::default(), last_chunk: 0, mixed: 0, probing: false }
    }

    /// Most tokens of prompts in a step beside `streams` tokens of streams that generate, while `prompts` are being computed or wait.
    /// 0, never twice in a row: the streams are to be measured alone.
    pub(crate) fn allowance(&mut self, streams: usize, prompts: usize) -> usize {
        let alone = self.alone(streams);
        let stale = alone.is_none() || self.mixed >= PROBE_AFTER;
        self.probing = stale && !self.probing;
        if self.probing {
            return 0;
        }
        let (Some(alone), Some(per_token)) = (alone, self.per_token.0) else { return FIRST_CHUNK };
        let others = prompts.saturating_sub(1);
        let together = (streams + others).min(self.max_sequences).saturating_sub(streams) as f64;
        let margin = if others == 0 { MARGIN_OF_ONE } else { MARGIN };
        let room = (self.ratio * (alone + together * per_token) - alone) * margin;
        // What is measured on few tokens says little of many, so the number grows step by step.
        let most = (2 * self.last_chunk).max(FIRST_CHUNK);
        ((room / per_token) as usize).clamp(1, most)
    }

    /// Seconds of a step with so many tokens of streams and nothing else; `None` where no step like it was measured.
    fn alone(&self, streams: usize) -> Option<f64> {
        let near = (streams / 2).max(1)..=(2 * streams);
        let measured = self.alone.iter().enumerate().filter(|(n, _)| near.contains(n));
        let measured = measured.filter_map(|(n, mean)| Some((n, mean.0?)));
        let (n, seconds) = measured.min_by_key(|(n, _)| n.abs_diff(streams))?;
        let per_stream = self.per_token.0.unwrap_or(0.0);
        Some((seconds + (streams as f64 - n as f64) * per_stream).max(seconds / 2.0))
    }

    /// Takes in how long a step of `streams` tokens of streams and `prompt_tokens` of prompts took.
    pub(crate) fn observe(&mut self, streams: usize, prompt_tokens: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        if prompt_tokens == 0 {
            self.mixed = 0;
            if let Some(mean) = self.alone.get_mut(streams) {
                // One step among many, or the only one for a while.
                mean.add(seconds, if self.probing { 0.5 } else { 0.25 });
            }
            return;
        }
        self.mixed += usize::from(streams > 0);
        self.last_chunk = prompt_tokens;
        let alone = if streams == 0 { Some(0.0) } else { self.alone(streams) };
        if let Some(alone) = alone {
            // Never nothing: the division above must stay finite.
            self.per_token.add(((seconds - alone) / prompt_tokens as f64).max(1e-9), 0.3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a device on which a step costs `fixed`, and `token` for each of its tokens; in seconds.
    fn settle(ratio: f64, fixed: f64, token: f64, streams: usize, prompts: usize) -> usize {
        let mut pace = Pace::new(ratio, 512, 16);
        let mut chunk = 0;
        for _ in 0..40 {
            let last = chunk;
            chunk = pace.allowance(streams, prompts);
            assert!(chunk > 0 || last > 0 || pace.mixed == 0, "twice nothing in a row");
            pace.observe(streams, chunk, Duration::from_secs_f64(fixed + token * (streams + chunk) as f64));
        }
        chunk
    }

    #[test]
    fn a_prompt_takes_the_time_that_the_ratio_leaves() {
        let check = |ratio, fixed, token, streams, prompts, within: std::ops::RangeInclusive<usize>| {
            let chunk = settle(ratio, fixed, token, streams, prompts);
            assert!(within.contains(&chunk), "{ratio} {fixed} {token} {streams} {prompts}: {chunk}");
        };
        check(2.0, 0.014, 0.002, 1, 1, 6..=8); // 16 ms alone, 32 ms allowed
        check(3.0, 0.014, 0.002, 1, 1, 11..=14);
        check(2.0, 0.014, 0.002, 3, 14, 30..=40); // as if 16 streams generated: 92 ms allowed
        check(2.0, 0.014, 0.002, 15, 1, 14..=20); // 44 ms alone, 88 ms allowed
        check(2.0, 0.010, 0.00001, 4, 1, 500..=2000); // as on a device for which more tokens are nearly free
        check(1.01, 0.010, 0.010, 1, 1, 1..=1); // never nothing
    }

    #[test]
    fn streams_are_measured_alone_now_and_then() {
        let mut pace = Pace::new(2.0, 64, 4);
        let mut alone = 0;
        for _ in 0..300 {
            let chunk = pace.allowance(2, 1);
            alone += usize::from(chunk == 0);
            pace.observe(2, chunk, Duration::from_millis(10 + chunk as u64));
        }
        assert!((8..=16).contains(&alone), "{alone}");
    }

    #[test]
    fn a_prompt_advances_even_if_nothing_is_ever_measured() {
        let mut pace = Pace::new(2.0, 64, 4);
        let chunks: Vec<usize> = (0..4).map(|_| pace.allowance(2, 1)).collect();
        assert_eq!(chunks, [0, FIRST_CHUNK, 0, FIRST_CHUNK]);
    }
}
