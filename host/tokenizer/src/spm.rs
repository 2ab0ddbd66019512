//! SentencePiece BPE: score-driven merges over characters, with byte fallback.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::FixedState;

use crate::TokenType;
use crate::vocab::Vocab;

/// SentencePiece's stand-in for a space.
pub(crate) const SPACE: char = '\u{2581}';
const NONE: u32 = u32::MAX;
/// Below this many symbols a linear scan for the best merge beats a heap.
const SCAN_LIMIT: usize = 48;

pub(crate) struct Spm {
    pieces: HashMap<Box<str>, u32, FixedState>,
    scores: Vec<f32>,
    /// Length in bytes of the longest piece.
    longest: usize,
    /// Token of each byte, or `NONE`.
    bytes: [u32; 256],
    unknown: Option<u32>,
    space_prefix: bool,
    /// No piece has a space after another character, so words can be merged one at a time.
    words: bool,
}

/// A candidate merge: higher score first, then leftmost.
struct Candidate {
    score: f32,
    left: usize,
    /// Byte length of the merged text; a candidate is stale once its symbols have changed.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    pub fn new(vocab: &Vocab, scores: Vec<f32>, space_prefix: bool) -> Spm {
        let mut pieces: HashMap<Box<str>, u32, FixedState> = HashMap::default();
        let mut bytes = [NONE; 256];
        for id in vocab.ids() {
            match vocab.token_type(id) {
                TokenType::Normal | TokenType::UserDefined if !vocab.text(id).is_empty() => {
                    pieces.insert(vocab.text(id).into(), id);
                }
                TokenType::Byte => bytes[usize::from(vocab.bytes(id)[0])] = id,
                _ => {}
            }
        }
        let inner_space = |p: &str| p.trim_start_matches(SPACE).contains(SPACE);
        Spm {
            longest: pieces.keys().map(|p| p.len()).max().unwrap_or(0),
            words: !pieces.keys().any(|p| inner_space(p)),
            pieces,
            scores,
            bytes,
            unknown: vocab.special.unknown,
            space_prefix,
        }
    }

    /// Whether decoding drops the space that encoding put in front.
    pub fn strips_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the tokens of `text`, which begins the input or follows a special token.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + 3);
        if self.space_prefix {
            escaped.push(SPACE);
        }
        for c in text.chars() {
            escaped.push(if c == ' ' { SPACE } else { c });
        }
        let mut rest = escaped.as_str();
        let mut ends = Vec::new();
        while !rest.is_empty() {
            let cut = if self.words { word_end(rest) } else { rest.len() };
            let (word, after) = rest.split_at(cut);
            self.encode_word(word, &mut ends, out);
            rest = after;
        }
    }

    fn encode_word(&self, word: &str, ends: &mut Vec<usize>, out: &mut Vec<u32>) {
        ends.clear();
        ends.extend(word.char_indices().map(|(at, c)| at + c.len_utf8()));
        if ends.len() <= SCAN_LIMIT {
            self.merge_by_scan(word, ends);
        } else {
            self.merge_by_heap(word, ends);
        }
        let mut start = 0;
        for &end in ends.iter() {
            self.push_symbol(&word[start..end], out);
            start = end;
        }
    }

    fn push_symbol(&self, symbol: &str, out: &mut Vec<u32>) {
        if let Some(&id) = self.pieces.get(symbol) {
            return out.push(id);
        }
        let bytes = symbol.bytes().map(|b| self.bytes[usize::from(b)]);
        if bytes.clone().all(|id| id != NONE) {
            out.extend(bytes);
        } else {
            out.extend(self.unknown);
        }
    }

    fn score(&self, text: &str) -> Option<f32> {
        if text.len() > self.longest {
            return None;
        }
        let &id = self.pieces.get(text)?;
        self.scores.get(id as usize).copied()
    }

    /// Merges the symbols of `word`, given by their ends, best score first and leftmost among equals.
    fn merge_by_scan(&self, word: &str, ends: &mut Vec<usize>) {
        let start = |ends: &[usize], i: usize| if i == 0 { 0 } else { ends[i - 1] };
        let score = |ends: &[usize], i: usize| {
            let end = *ends.get(i + 1)?;
            self.score(&word[start(ends, i)..end])
        };
        let mut scores: Vec<Option<f32>> = (0..ends.len()).map(|i| score(ends, i)).collect();
        loop {
            let mut best: Option<(usize, f32)> = None;
            for (i, s) in scores.iter().enumerate() {
                if let Some(s) = *s
                    && best.is_none_or(|(_, b)| s.total_cmp(&b) == Ordering::Greater)
                {
                    best = Some((i, s));
                }
            }
            let Some((at, _)) = best else { return };
            ends.remove(at);
            scores.remove(at + 1);
            scores[at] = score(ends, at);
            if at > 0 {
                scores[at - 1] = score(ends, at - 1);
            }
        }
    }

    /// The same result in O(n log n).
    fn merge_by_heap(&self, word: &str, ends: &mut Vec<usize>) {
        let n = ends.len();
        let starts: Vec<usize> = std::iter::once(0).chain(ends.iter().copied()).take(n).collect();
        let mut alive = vec![true; n];
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let push = |heap: &mut BinaryHeap<Candidate>, ends: &[usize], left: usize, right: usize| {
            if left < n && right < n {
                let text = &word[starts[left]..ends[right]];
                if let Some(score) = self.score(text) {
                    let len = text.len();
                    heap.push(Candidate { score, left, len });
                }
            }
        };
        for left in 0..n {
            push(&mut heap, ends, left, left + 1);
        }
        while let Some(Candidate { left, len, .. }) = heap.pop() {
            let right = next[left];
            if !alive[left] || right >= n || ends[right] - starts[left] != len {
                continue;
            }
            ends[left] = ends[right];
            alive[right] = false;
            next[left] = next[right];
            if next[left] < n {
                previous[next[left]] = left;
            }
            push(&mut heap, ends, previous[left], left);
            push(&mut heap, ends, left, next[left]);
        }
        let mut i = 0;
        ends.retain(|_| {
            i += 1;
            alive[i - 1]
        });
    }
}

/// Where the first word ends: before the first space that follows another character.
fn word_end(text: &str) -> usize {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        if c != SPACE {
            inside = true;
        } else if inside {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::{self, Encoding};

    #[test]
    fn both_merge_algorithms_agree() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama-spm.gguf");
        let file = rocmforge_gguf::GgufFile::open(path.as_ref()).unwrap();
        let vocab = Vocab::new(file.metadata(), Encoding::SentencePiece).unwrap();
        let scores = vocab::scores(file.metadata(), vocab.len()).unwrap();
        let spm = Spm::new(&vocab, scores, true);
        let (word, mixed) = ("[a-e▁]{1,120}", "[the▁ingrands]{1,120}|\\PC{1,60}");
        proptest!(ProptestConfig::with_cases(500), |(word in prop_oneof![word, mixed])| {
            let ends: Vec<usize> = word.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
            let (mut scanned, mut heaped) = (ends.clone(), ends);
            spm.merge_by_scan(&word, &mut scanned);
            spm.merge_by_heap(&word, &mut heaped);
            prop_assert_eq!(scanned, heaped);
        });
    }

    #[test]
    fn words_end_before_a_space() {
        for (text, expected) in [("▁a▁b", 4), ("▁▁a", 7), ("a", 1), ("▁", 3), ("ab▁", 2)] {
            assert_eq!(word_end(text), expected, "{text}");
        }
    }
}
