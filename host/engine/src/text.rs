//! From tokens to text that can be sent.

/// What the engine needs to know of a tokenizer.
pub trait Vocabulary: Send + Sync {
    /// Whether a model ends its answer with this token.
    fn is_end_of_generation(&self, token: u32) -> bool;

    /// All tokens that a model ends its answer with.
    fn end_of_generation(&self) -> Vec<u32>;

    /// Adds the bytes of a token to `out`; nothing for control tokens.
    fn token_bytes(&self, token: u32, out: &mut Vec<u8>);

    /// The same, but a control token is its text.
    fn special_bytes(&self, token: u32, out: &mut Vec<u8>) {
        self.token_bytes(token, out);
    }
}

/// Collects bytes and gives out whole UTF-8 characters. Bytes that cannot become one turn into U+FFFD, in the way of
/// [`String::from_utf8_lossy`].
#[derive(Debug, Default)]
pub struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Bytes that wait for the rest of their character; more may be added, [`take`](Self::take) empties it.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// The text as far as it is complete.
    pub fn take(&mut self) -> String {
        let mut text = String::new();
        let mut incomplete = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let at_end = invalid.as_ptr_range().end == self.pending.as_ptr_range().end;
            if at_end && may_continue(invalid) {
                incomplete = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - incomplete);
        text
    }

    /// What is left at the end: an incomplete character as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Whether more bytes can complete these to a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Looks for stop strings in a text that comes in pieces, and holds back what may turn out to be the start of one.
///
/// The first stop string to be complete ends the text; of several that end at the same place, the one that starts
/// first. What is sent therefore does not depend on how tokens cut the text.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What came of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub enum StopState {
    /// Goes on; this text can be sent.
    Continue(String),
    /// Ended; this text came before the stop string.
    Stopped {
        /// The rest of the text.
        text: String,
        /// Index of the stop string.
        stop: usize,
    },
}

impl StopMatcher {
    /// A matcher for these strings. Empty ones are ignored.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher { stops, held: String::new() }
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: &str) -> StopState {
        self.held.push_str(piece);
        let stops = || self.stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        let matches = stops().filter_map(|(i, s)| self.held.find(s.as_str()).map(|at| (at + s.len(), at, i)));
        if let Some((_, at, stop)) = matches.min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return StopState::Stopped { text, stop };
        }
        let overlap = |s: &str| {
            let longest = (s.len() - 1).min(self.held.len());
            (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&s.as_bytes()[..n])).unwrap_or(0)
        };
        let hold = stops().map(|(_, s)| overlap(s)).max().unwrap_or(0);
        let send = self.held.floor_char_boundary(self.held.len() - hold);
        StopState::Continue(self.held.drain(..send).collect())
    }

    /// What is held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: character by character, stop at the first place where the text ends in a stop string.
    fn spec(text: &str, stops: &[String]) -> (String, Option<usize>) {
        for end in (1..=text.len()).filter(|&i| text.is_char_boundary(i)) {
            let ends = |s: &&String| !s.is_empty() && text[..end].ends_with(s.as_str());
            if let Some(stop) = stops.iter().filter(ends).max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].into(), stops.iter().position(|s| s == stop));
            }
        }
        (text.into(), None)
    }

    fn run(pieces: &[String], stops: &[String]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.to_vec());
        let mut sent = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                StopState::Continue(text) => sent.push_str(&text),
                StopState::Stopped { text, stop } => return (sent + &text, Some(stop)),
            }
        }
        (sent + &matcher.finish(), None)
    }

    proptest! {
        #[test]
        fn stop_strings_are_found_however_tokens_cut_the_text(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{0,5}", 0..4),
        ) {
            let (text, stop) = spec(&pieces.concat(), &stops);
            prop_assert_eq!(run(&pieces, &stops), (text, stop));
        }

        #[test]
        fn no_part_of_a_stop_string_is_sent_before_it_is_ruled_out(pieces in prop::collection::vec("[ab]{0,3}", 0..12)) {
            let stop = "abab".to_string();
            let mut matcher = StopMatcher::new(vec![stop.clone()]);
            let mut sent = String::new();
            for (i, piece) in pieces.iter().enumerate() {
                let StopState::Continue(text) = matcher.push(piece) else { break };
                sent.push_str(&text);
                let all = pieces[..=i].concat();
                let hold = (0..stop.len()).rev().find(|&n| all.ends_with(&stop[..n])).unwrap_or(0);
                prop_assert_eq!(&sent, &all[..all.len() - hold]);
            }
        }

        #[test]
        fn bytes_in_pieces_give_the_same_text_as_at_once(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..4),
                    "\\PC{0,2}".prop_map(String::into_bytes),
                    prop::sample::select(vec![vec![0xE2], vec![0x82], vec![0xAC], vec![0xF0, 0x9F], vec![0x98, 0x80]]),
                ],
                0..16,
            )
        ) {
            let mut stream = Utf8Stream::default();
            let mut text = String::new();
            for piece in &pieces {
                stream.bytes().extend_from_slice(piece);
                text.push_str(&stream.take());
            }
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }

    #[test]
    fn stop_strings_of_known_texts() {
        let check = |pieces: &[&str], stops: &[&str], text: &str, stop: Option<usize>| {
            let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
            assert_eq!(run(&own(pieces), &own(stops)), (text.to_string(), stop), "{pieces:?} {stops:?}");
        };
        check(&["Hello wor", "ld"], &["o w"], "Hell", Some(0));
        check(&["a\n", "\nb"], &["\n\n"], "a", Some(0));
        check(&["a\n", "b"], &["\n\n"], "a\nb", None);
        check(&["abcd"], &["abcd", "bc"], "a", Some(1));
        check(&["xabc"], &["bc", "abc"], "x", Some(1));
        check(&["unfinish"], &["finished"], "unfinish", None);
        check(&["€"], &["", "¬"], "€", None);
    }
}
