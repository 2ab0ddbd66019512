//! Keeps what messages say from becoming control tokens: who writes `<|im_end|>` into a message must not end a turn.
//!
//! A template puts messages and its own text together into one string, and both may spell a control token. Where a message
//! does, a character that nothing else contains is put into what it spells, behind the first character. The template
//! writes it like any other, the tokenizer does not find the token there, and takes the character out before it goes on.
//! Conversations without such texts are not touched.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use crate::{EncodeOptions, TemplateError, Tokenizer};

/// Private characters, of which the mark is one.
const PRIVATE: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

/// Marks what spells a control token in the values that a template is given.
pub struct Guard<'t> {
    tokenizer: &'t Tokenizer,
    mark: Option<char>,
}

/// A prompt as a template has written it, which knows what in it is no control token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    mark: Option<char>,
}

impl<'t> Guard<'t> {
    /// A guard for a conversation of these values: messages, tools and whatever else does not come from the template.
    ///
    /// # Errors
    /// A control token is spelled, and the values hold every character that could mark it.
    pub fn new(tokenizer: &'t Tokenizer, values: &[&Json]) -> Result<Guard<'t>, TemplateError> {
        let mut spelled = false;
        values.iter().for_each(|value| strings(value, &mut |text| spelled |= tokenizer.special().spells_control(text)));
        if !spelled {
            return Ok(Guard::off(tokenizer));
        }
        let mut used = HashSet::new();
        let private = |c: &char| PRIVATE.contains(c);
        values.iter().for_each(|value| strings(value, &mut |text| used.extend(text.chars().filter(private))));
        match PRIVATE.into_iter().find(|c| !used.contains(c)) {
            Some(mark) => Ok(Guard { tokenizer, mark: Some(mark) }),
            None => Err(TemplateError::Raised("the messages hold every private character".into())),
        }
    }

    /// A guard that does nothing: whatever spells a control token is one.
    pub fn off(tokenizer: &'t Tokenizer) -> Guard<'t> {
        Guard { tokenizer, mark: None }
    }

    /// The value for the template, with its texts marked.
    pub fn value<'j>(&self, value: &'j Json) -> Cow<'j, Json> {
        match self.mark {
            None => Cow::Borrowed(value),
            Some(_) => Cow::Owned(self.marked(value)),
        }
    }

    fn marked(&self, value: &Json) -> Json {
        match value {
            Json::String(text) => Json::String(self.text(text)),
            Json::Array(items) => items.iter().map(|item| self.marked(item)).collect(),
            Json::Object(members) => {
                let member = |(key, value): (&String, &Json)| (self.text(key), self.marked(value));
                Json::Object(members.iter().map(member).collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    /// A text, marked.
    pub fn text(&self, text: &str) -> String {
        let Some(mark) = self.mark else { return text.into() };
        let mut out = String::with_capacity(text.len() + 16);
        let mut at = 0;
        for place in self.tokenizer.special().inside_control(text) {
            out.push_str(&text[at..place]);
            out.push(mark);
            at = place;
        }
        out.push_str(&text[at..]);
        out
    }

    /// What the template has made of the values.
    pub fn rendered(&self, text: String) -> Rendered {
        Rendered { text, mark: self.mark }
    }
}

impl Rendered {
    /// The prompt for people to read, or for whoever tokenizes it elsewhere.
    pub fn text(&self) -> Cow<'_, str> {
        without(&self.text, self.mark)
    }

    /// Its tokens: what only the template has written may be control tokens.
    pub fn encode(&self, tokenizer: &Tokenizer, options: EncodeOptions) -> Vec<u32> {
        tokenizer.encode_marked(&self.text, options, self.mark)
    }

    /// The same with the BOS token that the model expects, as [`Tokenizer::encode_prompt`] has it.
    pub fn encode_prompt(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        tokenizer.encode_prompt_marked(&self.text, self.mark)
    }
}

/// `text` without the marks.
pub(crate) fn without(text: &str, mark: Option<char>) -> Cow<'_, str> {
    match mark.filter(|&mark| text.contains(mark)) {
        None => Cow::Borrowed(text),
        Some(mark) => Cow::Owned(text.replace(mark, "")),
    }
}

/// Calls `f` with every text in a value, names of members included.
fn strings(value: &Json, f: &mut impl FnMut(&str)) {
    match value {
        Json::String(text) => f(text),
        Json::Array(items) => items.iter().for_each(|item| strings(item, f)),
        Json::Object(members) => members.iter().for_each(|(key, value)| {
            f(key);
            strings(value, f);
        }),
        _ => {}
    }
}
