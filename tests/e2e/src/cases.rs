//! Tokenizer and chat template cases that were recorded for a model.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rocmforge_gguf::GgufFile;
use rocmforge_test_support::{expected_json, token_ids};
use rocmforge_tokenizer::{ChatTemplate, EncodeOptions, RenderContext, TemplateError, Tokenizer};
use serde_json::Value;

/// How many cases come out as recorded.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// As recorded.
    pub right: usize,
    /// In all.
    pub all: usize,
    /// The first one that differs.
    pub first_wrong: Option<String>,
}

impl Count {
    fn add(&mut self, right: bool, case: impl FnOnce() -> String) {
        self.all += 1;
        self.right += usize::from(right);
        if !right && self.first_wrong.is_none() {
            self.first_wrong = Some(case());
        }
    }
}

/// The cases of one model. None are recorded for a trimmed copy.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Ids without and with special tokens, and the decoded text, each a case.
    pub tokenizer: Count,
    /// Rendered conversations, text and ids together, or the error that the template raises.
    pub chat: Count,
}

const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// Counts the cases of a model directory; where llama.cpp's result was recorded too, either is right.
pub fn cases(dir: &Path) -> Cases {
    let expected = expected_json(dir);
    let mut cases = Cases::default();
    let (texts, chats) = (&expected["tokenizer"]["cases"], &expected["chat"]);
    if texts.is_null() && chats.is_null() {
        return cases;
    }
    let file = GgufFile::open(&dir.join("model.gguf")).unwrap_or_else(|e| panic!("{e}"));
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    texts.as_array().into_iter().flatten().for_each(|case| count_text(&tokenizer, case, &mut cases.tokenizer));
    let template = tokenizer.compile_chat_template().unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for chat in chats.as_array().into_iter().flatten() {
        let right = renders_as_recorded(&tokenizer, &template, chat);
        cases.chat.add(right, || chat["messages"].to_string());
    }
    cases
}

fn count_text(tokenizer: &Tokenizer, case: &Value, count: &mut Count) {
    let text = case["text"].as_str().expect("a text");
    let mut ids = |name: &str, options| {
        let found = tokenizer.encode(text, options);
        let other = case.get(format!("llamacpp_{name}")).map(token_ids);
        count.add(found == token_ids(&case[name]) || Some(&found) == other.as_ref(), || format!("{name} of {text:?}"));
    };
    ids("ids", TEXT);
    ids("ids_with_special", EncodeOptions::default());
    let decoded = tokenizer.decode(&token_ids(&case["ids"]), false);
    let right = ["decoded", "llamacpp_decoded"].into_iter().any(|key| case[key].as_str() == Some(&decoded));
    count.add(right, || format!("decoded: {decoded:?} for {text:?}"));
}

fn renders_as_recorded(tokenizer: &Tokenizer, template: &ChatTemplate, chat: &Value) -> bool {
    let text = chat["text"].as_str();
    let context = RenderContext {
        add_generation_prompt: chat["add_generation_prompt"].as_bool().unwrap_or_default(),
        now: recorded_day(text.unwrap_or_default()),
        ..RenderContext::default()
    };
    match template.render(&chat["messages"], &context) {
        Ok(found) => Some(found.as_str()) == text && tokenizer.encode(&found, TEXT) == token_ids(&chat["ids"]),
        Err(TemplateError::Raised(message)) => chat["error"].as_str() == Some(&message),
        Err(_) => false,
    }
}

/// The day on which a text with "The current date is 2026-11-20" was recorded.
fn recorded_day(text: &str) -> SystemTime {
    let date = text.split("The current date is ").nth(1).and_then(|t| t.get(..10));
    let day = date.and_then(|d| d.parse::<jiff::civil::Date>().ok());
    let epoch = jiff::civil::date(1970, 1, 1);
    let days = day.and_then(|d| u64::try_from((d - epoch).get_days()).ok()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)
}
