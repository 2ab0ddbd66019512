use crate::Tokenizer;

/// Turns a stream of tokens into text as it arrives, without ever splitting a character.
///
/// All parts put together are [`Tokenizer::decode`] of all tokens. Bytes that can never become UTF-8 turn into U+FFFD as
/// soon as that is certain; bytes that may still be completed are held back, at most three.
///
/// ```no_run
/// # fn f(tokenizer: &rocmforge_tokenizer::Tokenizer, ids: &[u32]) {
/// let mut detokenizer = tokenizer.detokenizer(true);
/// for &id in ids {
///     print!("{}", detokenizer.push(id));
/// }
/// print!("{}", detokenizer.flush());
/// # }
/// ```
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    strip_space: bool,
    pending: Vec<u8>,
}

impl<'t> Detokenizer<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, skip_special: bool, strip_space: bool) -> Self {
        Detokenizer { tokenizer, skip_special, strip_space, pending: Vec::new() }
    }

    /// Adds a token and returns the text that is now complete, possibly empty. An id outside the vocabulary adds nothing.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(id);
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let (text, used) = complete_text(&self.pending);
        self.pending.drain(..used);
        text
    }

    /// Ends the stream: an incomplete character becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// The longest prefix of `bytes` whose text no further byte can change, decoded lossily, and its length.
fn complete_text(bytes: &[u8]) -> (String, usize) {
    let mut text = String::with_capacity(bytes.len());
    let mut used = 0;
    loop {
        match std::str::from_utf8(&bytes[used..]) {
            Ok(valid) => {
                text.push_str(valid);
                return (text, bytes.len());
            }
            Err(e) => {
                let valid = &bytes[used..used + e.valid_up_to()];
                text.push_str(&String::from_utf8_lossy(valid));
                used += valid.len();
                let Some(bad) = e.error_len() else {
                    return (text, used);
                };
                text.push(char::REPLACEMENT_CHARACTER);
                used += bad;
            }
        }
    }
}
