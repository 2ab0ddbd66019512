//! Byte-pair encoding by a list of merges: byte-level (GPT-2 and its descendants), or over plain text (Gemma 4).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::FixedState;
use rocmforge_gguf::Metadata;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::pre::{PreType, Splitter};
use crate::vocab::{self, Vocab};
use crate::{TokenType, TokenizerError};

const MERGES: &str = "tokenizer.ggml.merges";
const NONE: u32 = u32::MAX;
/// Below this many symbols a linear scan for the best merge beats a queue.
const SCAN_LIMIT: usize = 48;

/// Merge priority (lower first) and the token that the pair becomes.
#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

const NO_MERGE: Merge = Merge { rank: NONE, id: NONE };

/// Candidate merges, the lowest rank first and the leftmost among equals. One bucket for each rank: candidates of a rank
/// come nearly always from left to right, so that a heap has to order ranks only, of which a vocabulary has a fixed number.
#[derive(Default)]
struct Queue {
    ranks: BinaryHeap<Reverse<u32>>,
    buckets: HashMap<u32, Bucket, FixedState>,
}

#[derive(Default)]
struct Bucket {
    positions: Vec<usize>,
    /// Positions before this one have been taken.
    taken: usize,
    unordered: bool,
}

impl Queue {
    fn push(&mut self, rank: u32, position: usize) {
        let ranks = &mut self.ranks;
        let bucket = self.buckets.entry(rank).or_insert_with(|| {
            ranks.push(Reverse(rank));
            Bucket::default()
        });
        bucket.unordered |= bucket.positions.last().is_some_and(|&last| last > position);
        bucket.positions.push(position);
    }

    fn pop(&mut self) -> Option<(u32, usize)> {
        loop {
            let rank = self.ranks.peek()?.0;
            let bucket = self.buckets.get_mut(&rank)?;
            if std::mem::take(&mut bucket.unordered) {
                bucket.positions[bucket.taken..].sort_unstable();
            }
            if let Some(&position) = bucket.positions.get(bucket.taken) {
                bucket.taken += 1;
                return Some((rank, position));
            }
            self.buckets.remove(&rank);
            self.ranks.pop();
        }
    }
}

pub(crate) struct Bpe {
    splitter: Splitter,
    /// Token of each single byte, or `NONE`.
    bytes: [u32; 256],
    merges: HashMap<u64, Merge, FixedState>,
    /// Token of each character, where the vocabulary is plain text.
    characters: Option<HashMap<char, u32, FixedState>>,
    /// Tokens that stand for a whole piece whatever the merges say, by their bytes.
    pieces: HashMap<Box<[u8]>, u32, FixedState>,
    nfc: bool,
}

/// Working memory that is reused from piece to piece.
#[derive(Default)]
struct Scratch {
    ids: Vec<u32>,
    merges: Vec<Merge>,
}

impl Bpe {
    pub fn new(meta: &Metadata, pre: &PreType, vocab: &Vocab) -> Result<Bpe, TokenizerError> {
        let by_text: HashMap<&str, u32, FixedState> = vocab.ids().map(|id| (vocab.text(id), id)).collect();
        let is_piece = |id: &u32| {
            let only_new_lines = || vocab.bytes(*id).iter().all(|&b| b == b'\n');
            let whole = pre.ignore_merges || (pre.plain_text && only_new_lines());
            whole && vocab.token_type(*id) == TokenType::Normal && !vocab.bytes(*id).is_empty()
        };
        let pieces = vocab.ids().filter(is_piece).map(|id| (vocab.bytes(id).into(), id));
        Ok(Bpe {
            splitter: Splitter::new(pre)?,
            bytes: byte_tokens(&by_text, pre.plain_text),
            characters: pre.plain_text.then(|| character_tokens(&by_text)),
            merges: read_merges(meta, &by_text)?,
            pieces: pieces.collect(),
            nfc: pre.nfc,
        })
    }

    /// Appends the tokens of `text`. A byte that has no token in the vocabulary is left out.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut scratch = Scratch::default();
        let mut piece = |p: &str| self.encode_piece(p, &mut scratch, out);
        let text = if self.characters.is_some() {
            Cow::from(text.replace(' ', "\u{2581}"))
        } else if self.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            text.nfc().collect()
        } else {
            Cow::from(text)
        };
        self.splitter.split(&text, &mut piece);
    }

    fn encode_piece(&self, piece: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(&id) = self.pieces.get(piece.as_bytes()) {
            return out.push(id);
        }
        scratch.ids.clear();
        match &self.characters {
            None => scratch.ids.extend(self.byte_ids(piece)),
            Some(characters) => {
                for (at, c) in piece.char_indices() {
                    match characters.get(&c) {
                        Some(&id) => scratch.ids.push(id),
                        None => scratch.ids.extend(self.byte_ids(&piece[at..at + c.len_utf8()])),
                    }
                }
            }
        }
        if scratch.ids.len() <= SCAN_LIMIT {
            self.merge_by_scan(scratch);
            out.extend_from_slice(&scratch.ids);
        } else {
            self.merge_by_queue(&scratch.ids, out);
        }
    }

    fn byte_ids(&self, text: &str) -> impl Iterator<Item = u32> {
        let ids = text.bytes().map(|b| self.bytes[usize::from(b)]);
        ids.filter(|&id| id != NONE)
    }

    fn lookup(&self, left: u32, right: u32) -> Merge {
        self.merges.get(&pair(left, right)).copied().unwrap_or(NO_MERGE)
    }

    /// Applies the best merge until none is left, leftmost first among equals; quadratic in the number of symbols.
    fn merge_by_scan(&self, scratch: &mut Scratch) {
        let Scratch { ids, merges } = scratch;
        merges.clear();
        merges.extend(ids.windows(2).map(|w| self.lookup(w[0], w[1])));
        while let Some((at, best)) = merges.iter().copied().enumerate().min_by_key(|(_, m)| m.rank) {
            if best.rank == NONE {
                break;
            }
            ids[at] = best.id;
            ids.remove(at + 1);
            merges.remove(at);
            if at > 0 {
                merges[at - 1] = self.lookup(ids[at - 1], best.id);
            }
            if at < merges.len() {
                merges[at] = self.lookup(best.id, ids[at + 1]);
            }
        }
    }

    /// The same result, linear in the number of symbols for one vocabulary: a queue of candidate merges over a linked
    /// list of symbols.
    fn merge_by_queue(&self, symbols: &[u32], out: &mut Vec<u32>) {
        let n = symbols.len();
        let mut ids = symbols.to_vec();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        // The merge of each symbol with its successor; a candidate is stale unless its rank is the one here.
        let mut merge: Vec<Merge> = symbols.windows(2).map(|w| self.lookup(w[0], w[1])).collect();
        merge.push(NO_MERGE);
        let mut queue = Queue::default();
        merge.iter().enumerate().filter(|(_, m)| m.rank != NONE).for_each(|(i, m)| queue.push(m.rank, i));
        while let Some((rank, left)) = queue.pop() {
            let best = merge[left];
            if best.rank != rank {
                continue;
            }
            let right = next[left];
            ids[left] = best.id;
            ids[right] = NONE;
            merge[right] = NO_MERGE;
            next[left] = next[right];
            if next[left] < n {
                previous[next[left]] = left;
            }
            let mut update = |at: usize, ids: &[u32], right: usize| {
                merge[at] = if right < n { self.lookup(ids[at], ids[right]) } else { NO_MERGE };
                if merge[at].rank != NONE {
                    queue.push(merge[at].rank, at);
                }
            };
            update(left, &ids, next[left]);
            if previous[left] < n {
                update(previous[left], &ids, left);
            }
        }
        out.extend(ids.into_iter().filter(|&id| id != NONE));
    }
}

/// The token of each byte, or `NONE`.
fn byte_tokens(by_text: &HashMap<&str, u32, FixedState>, plain_text: bool) -> [u32; 256] {
    let mut bytes = [NONE; 256];
    for (byte, slot) in (0..=255u8).zip(&mut bytes) {
        let text = match plain_text {
            true => format!("<0x{byte:02X}>"),
            false => byte_to_char(byte).to_string(),
        };
        *slot = by_text.get(text.as_str()).copied().unwrap_or(NONE);
    }
    bytes
}

fn character_tokens(by_text: &HashMap<&str, u32, FixedState>) -> HashMap<char, u32, FixedState> {
    let single = |text: &str| {
        let mut chars = text.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    let tokens = by_text.iter();
    tokens.filter_map(|(text, &id)| Some((single(text)?, id))).collect()
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Reads the merge list, in order of rank. A merge that names, or would make, a token that the vocabulary lacks can
/// never apply and is skipped; of a pair listed twice the first counts.
fn read_merges(
    meta: &Metadata,
    by_text: &HashMap<&str, u32, FixedState>,
) -> Result<HashMap<u64, Merge, FixedState>, TokenizerError> {
    let list = vocab::strings(meta, MERGES, "a byte-level BPE tokenizer needs its merge list")?;
    let mut merges = HashMap::with_capacity_and_hasher(list.len(), FixedState::default());
    let mut joined = String::new();
    for (index, entry) in list.iter().enumerate() {
        // A space cannot be the first character of a half, but it may follow one.
        let space = entry.bytes().skip(1).position(|b| b == b' ').map(|p| p + 1);
        let Some((left, right)) = space.map(|p| (&entry[..p], &entry[p + 1..])) else {
            return Err(TokenizerError::Entry {
                key: MERGES,
                index,
                what: format!("expected two tokens separated by a space, found {entry:?}"),
            });
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |text: &str| by_text.get(text).copied();
        if let (Some(l), Some(r), Some(id)) = (id(left), id(right), id(&joined)) {
            let rank = index as u32;
            merges.entry(pair(l, r)).or_insert(Merge { rank, id });
        }
    }
    Ok(merges)
}

/// GPT-2's printable stand-in for a byte: itself where it is a printable Latin-1 character, else one from U+0100 on.
pub(crate) fn byte_to_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The inverse of [`byte_to_char`].
pub(crate) fn char_to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        v @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(v as u8),
        v @ 0x100..=0x120 => Some((v - 0x100) as u8),
        v @ 0x121..=0x142 => Some((v - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::Encoding;

    #[test]
    fn both_merge_algorithms_agree() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen2.gguf");
        let file = rocmforge_gguf::GgufFile::open(path.as_ref()).unwrap();
        let vocab = Vocab::new(file.metadata(), Encoding::ByteLevel).unwrap();
        let bpe = Bpe::new(file.metadata(), PreType::find("qwen2").unwrap(), &vocab).unwrap();
        let (word, mixed) = ("[a-e ]{1,120}", "[the ingrands=-]{1,120}|\\PC{1,60}");
        proptest!(ProptestConfig::with_cases(500), |(word in prop_oneof![word, mixed])| {
            let ids: Vec<u32> = word.bytes().map(|b| bpe.bytes[usize::from(b)]).collect();
            let mut queued = Vec::new();
            bpe.merge_by_queue(&ids, &mut queued);
            let mut scanned = Scratch { ids, merges: Vec::new() };
            bpe.merge_by_scan(&mut scanned);
            prop_assert_eq!(scanned.ids, queued);
        });
    }

    #[test]
    fn byte_characters_round_trip() {
        for byte in 0..=255u8 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte), "{byte:#x}");
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(char_to_byte('▁'), None);
    }
}
