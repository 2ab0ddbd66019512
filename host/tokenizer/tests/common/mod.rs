//! What the integration tests share.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rocmforge_gguf::GgufFile;
use rocmforge_tokenizer::{ChatTemplate, EncodeOptions, RenderContext, TemplateError, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

pub const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// The part of a reference file that concerns tokenizers and templates.
#[derive(Deserialize)]
pub struct Expected {
    pub tokenizer: Cases,
    pub chat: Vec<Chat>,
}

#[derive(Deserialize)]
pub struct Cases {
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub text: String,
    pub ids: Vec<u32>,
    pub ids_with_special: Vec<u32>,
    pub decoded: String,
    pub llamacpp_ids: Option<Vec<u32>>,
    pub llamacpp_ids_with_special: Option<Vec<u32>>,
    pub llamacpp_decoded: Option<String>,
}

#[derive(Deserialize)]
pub struct Chat {
    pub messages: Value,
    pub add_generation_prompt: bool,
    pub text: Option<String>,
    #[serde(default)]
    pub ids: Vec<u32>,
    pub error: Option<String>,
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The data beside the repository, which a clone need not have.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

pub fn load(path: &Path) -> Tokenizer {
    let file = GgufFile::open(path).unwrap();
    Tokenizer::from_metadata(file.metadata()).unwrap()
}

pub fn expected(path: &Path) -> Expected {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Compares a model's tokenizer and template with everything recorded for it.
pub fn check_model(tokenizer: &Tokenizer, expected: &Expected, name: &str) {
    assert!(!expected.tokenizer.cases.is_empty(), "{name}");
    for case in &expected.tokenizer.cases {
        check_case(tokenizer, case, name);
    }
    let template = tokenizer.compile_chat_template().unwrap();
    for chat in &expected.chat {
        check_chat(tokenizer, &template, chat, name);
    }
}

fn check_case(tokenizer: &Tokenizer, case: &Case, name: &str) {
    let text = &case.text;
    let ids = tokenizer.encode(text, TEXT);
    if case.llamacpp_ids.as_ref() != Some(&ids) {
        assert_eq!(ids, case.ids, "{name}: ids of {text:?}");
    }
    let with_special = tokenizer.encode(text, EncodeOptions::default());
    if case.llamacpp_ids_with_special.as_ref() != Some(&with_special) {
        assert_eq!(with_special, case.ids_with_special, "{name}: ids of {text:?} with specials");
    }
    let decoded = tokenizer.decode(&case.ids, false);
    if case.llamacpp_decoded.as_ref() != Some(&decoded) {
        assert_eq!(decoded, case.decoded, "{name}: text of {:?}", case.ids);
    }
    for skip in [false, true] {
        check_stream(tokenizer, &case.ids, skip);
    }
}

/// Decodes token by token; the parts must make up the whole.
pub fn check_stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) {
    let mut stream = tokenizer.detokenizer(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.flush());
    assert_eq!(text, tokenizer.decode(ids, skip_special), "{ids:?}");
}

fn check_chat(tokenizer: &Tokenizer, template: &ChatTemplate, chat: &Chat, name: &str) {
    let context = RenderContext {
        add_generation_prompt: chat.add_generation_prompt,
        now: recorded_day(chat.text.as_deref().unwrap_or_default()),
        ..RenderContext::default()
    };
    let rendered = template.render(&chat.messages, &context);
    let messages = &chat.messages;
    match (&chat.error, rendered) {
        (Some(error), Err(TemplateError::Raised(message))) => {
            assert_eq!(&message, error, "{name}: {messages}")
        }
        (None, Ok(text)) => {
            assert_eq!(Some(&text), chat.text.as_ref(), "{name}: {messages}");
            assert_eq!(tokenizer.encode(&text, TEXT), chat.ids, "{name}: ids of {text:?}");
        }
        (error, rendered) => {
            panic!("{name}: {messages}: expected error {error:?}, found {rendered:?}")
        }
    }
}

/// The day on which a text with "The current date is 2026-11-20" was recorded.
fn recorded_day(text: &str) -> SystemTime {
    let day = text.split("The current date is ").nth(1).map(|t| &t[..10]);
    let Some(day) = day else {
        return SystemTime::UNIX_EPOCH;
    };
    let part = |range: std::ops::Range<usize>| day[range].parse::<i64>().unwrap();
    let (mut year, month, day) = (part(0..4), part(5..7), part(8..10));
    // Days since 1970-01-01, with the year beginning in March.
    year -= i64::from(month < 3);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    SystemTime::UNIX_EPOCH + Duration::from_secs(days as u64 * 86_400)
}
