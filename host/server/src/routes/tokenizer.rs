//! Between text and tokens, in the forms of vLLM and of llama-server.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

use super::chat::ChatRequest;
use super::operations::{ModelQuery, model_of};
use crate::error::ApiError;
use crate::http::body::json_bytes;
use crate::params::Fields;
use crate::params::common::tokens;
use crate::params::fields::describe;
use crate::state::{AppState, ServedModel};

const WITHOUT_SPECIAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// A checked request.
#[derive(Debug, PartialEq)]
pub(super) enum Tokenize {
    /// vLLM's: what a completion of this prompt, or an answer to these messages, would compute.
    Prompt {
        model: Option<String>,
        text: String,
        add_special: bool,
        strings: bool,
    },
    Chat {
        request: Box<ChatRequest>,
        add_special: bool,
        strings: bool,
    },
    /// llama-server's.
    Content {
        model: Option<String>,
        text: String,
        options: EncodeOptions,
        pieces: bool,
    },
}

impl Tokenize {
    pub(super) fn take(mut fields: Fields) -> Result<Tokenize, ApiError> {
        let given = ["prompt", "messages", "content"].map(|form| fields.has(form));
        match given {
            [true, false, false] => {
                let (add_special, strings) = vllm_options(&mut fields)?;
                let text = fields.string("prompt")?.unwrap_or_default();
                Ok(Tokenize::Prompt { model: only_model(fields)?, text, add_special, strings })
            }
            [false, true, false] => {
                let (add_special, strings) = vllm_options(&mut fields)?;
                let request = Box::new(ChatRequest::take(fields)?);
                Ok(Tokenize::Chat { request, add_special, strings })
            }
            [false, false, true] => {
                let add_special = fields.bool("add_special")?.unwrap_or(false);
                let parse_special = fields.bool("parse_special")?.unwrap_or(true);
                let pieces = fields.bool("with_pieces")?.unwrap_or(false);
                let text = fields.string("content")?.unwrap_or_default();
                let options = EncodeOptions { add_special, parse_special };
                Ok(Tokenize::Content { model: only_model(fields)?, text, options, pieces })
            }
            [false, false, false] => Err(ApiError::Missing("prompt".into())),
            [_, messages, content] => {
                let param = if content || !messages { "content" } else { "messages" };
                Err(ApiError::invalid(param, "only one of prompt, messages and content", "several"))
            }
        }
    }

    fn model(&self) -> Option<&str> {
        match self {
            Tokenize::Prompt { model, .. } | Tokenize::Content { model, .. } => model.as_deref(),
            Tokenize::Chat { request, .. } => request.common.model.as_deref(),
        }
    }

    fn answer(&self, model: &ServedModel) -> Result<Value, ApiError> {
        let tokenizer = &model.tokenizer;
        match self {
            Tokenize::Prompt { text, add_special, strings, .. } => {
                Ok(counted(model, prompt_tokens(tokenizer, text, *add_special), *strings))
            }
            Tokenize::Chat { request, add_special, strings } => {
                let rendered = request.render(model)?;
                let ids = match add_special {
                    true => rendered.encode_prompt(tokenizer),
                    false => rendered.encode(tokenizer, WITHOUT_SPECIAL),
                };
                Ok(counted(model, ids, *strings))
            }
            Tokenize::Content { text, options, pieces, .. } => {
                let ids = tokenizer.encode(text, *options);
                let piece = |&id: &u32| json!({"id": id, "piece": piece(tokenizer.token_bytes(id))});
                match pieces {
                    true => Ok(json!({"tokens": ids.iter().map(piece).collect::<Vec<_>>()})),
                    false => Ok(json!({"tokens": ids})),
                }
            }
        }
    }
}

/// `add_special_tokens` and `return_token_strs`.
fn vllm_options(fields: &mut Fields) -> Result<(bool, bool), ApiError> {
    let add_special = fields.bool("add_special_tokens")?.unwrap_or(true);
    Ok((add_special, fields.bool("return_token_strs")?.unwrap_or(false)))
}

/// `model`, after which nothing may be left.
fn only_model(mut fields: Fields) -> Result<Option<String>, ApiError> {
    let model = fields.string("model")?;
    match fields.rest().find(|(_, _, value)| !value.is_null()) {
        Some((param, ..)) => Err(ApiError::Unknown(param)),
        None => Ok(model),
    }
}

fn prompt_tokens(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Vec<u32> {
    match add_special {
        true => tokenizer.encode_prompt(text),
        false => tokenizer.encode(text, WITHOUT_SPECIAL),
    }
}

fn counted(model: &ServedModel, ids: Vec<u32>, strings: bool) -> Value {
    let strings = strings.then(|| ids.iter().map(|&id| model.tokenizer.token_text(id)).collect::<Vec<_>>());
    json!({"count": ids.len(), "max_model_len": model.context_length, "tokens": ids, "token_strs": strings})
}

/// A text, or bytes where a token is only a part of a character.
fn piece(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text))
}

pub(super) async fn tokenize(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = json_bytes(&state, request).await?;
    let answer = move |state: &AppState| {
        let request = Tokenize::take(Fields::parse(&body)?)?;
        request.answer(&*state.model(request.model())?)
    };
    state.prepare(answer).await.map(Json)
}

/// The ids, and which model they are for.
pub(super) fn take_ids(mut fields: Fields) -> Result<(Option<String>, Vec<u32>), ApiError> {
    let ids = match fields.required("tokens")? {
        Value::Array(items) => tokens(&items, "tokens")?,
        other => return Err(ApiError::invalid("tokens", "an array of token ids", describe(&other))),
    };
    Ok((only_model(fields)?, ids))
}

pub(super) async fn detokenize(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = json_bytes(&state, request).await?;
    let answer = move |state: &AppState| {
        let (model, ids) = take_ids(Fields::parse(&body)?)?;
        let model = state.model(model.as_deref())?;
        let size = model.tokenizer.vocab_size();
        if let Some(at) = ids.iter().position(|&id| id as usize >= size) {
            return Err(ApiError::invalid(format!("tokens[{at}]"), format!("a token below {size}"), ids[at]));
        }
        let text = model.tokenizer.decode(&ids, false);
        // The request does not say whose form it has.
        Ok(json!({"prompt": text, "content": text}))
    };
    state.prepare(answer).await.map(Json)
}

/// What a client needs to tokenize and to render conversations by itself, under the names of transformers.
pub(super) async fn info(
    State(state): State<Arc<AppState>>,
    query: Result<Query<ModelQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let name = model_of(query)?;
    let model = state.prepare(move |state| state.model(name.as_deref())).await?;
    let tokenizer = &model.tokenizer;
    let special = tokenizer.special_tokens();
    let text = |id: Option<u32>| id.map(|id| tokenizer.token_text(id).to_string());
    Ok(Json(json!({
        "model": model.id,
        // The tokenizer is what the GGUF file says, no class of transformers.
        "tokenizer_class": "GGUFTokenizer",
        "tokenizer_model": tokenizer.model_name(),
        "tokenizer_pre": tokenizer.pre(),
        "vocab_size": tokenizer.vocab_size(),
        "model_max_length": model.context_length,
        "add_bos_token": tokenizer.add_bos(),
        "add_eos_token": tokenizer.add_eos(),
        "bos_token": text(special.bos),
        "bos_token_id": special.bos,
        "eos_token": text(special.eos),
        "eos_token_id": special.eos,
        "pad_token": text(special.padding),
        "pad_token_id": special.padding,
        "unk_token": text(special.unknown),
        "unk_token_id": special.unknown,
        "chat_template": model.template_source,
    })))
}

/// A chat request, answered with the prompt that it would be.
pub(super) async fn apply_template(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = json_bytes(&state, request).await?;
    let answer = move |state: &AppState| {
        let request = ChatRequest::take(Fields::parse(&body)?)?;
        let model = state.model(request.common.model.as_deref())?;
        Ok(json!({"prompt": request.render(&model)?.text()}))
    };
    state.prepare(answer).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_to_tokenize_have_three_forms() {
        let check = |body: Value, expected: Tokenize| {
            assert_eq!(Fields::parse(body.to_string().as_bytes()).and_then(Tokenize::take), Ok(expected), "{body}");
        };
        let prompt = |add_special, strings| Tokenize::Prompt { model: None, text: "x".into(), add_special, strings };
        check(json!({"prompt": "x"}), prompt(true, false));
        check(json!({"prompt": "x", "add_special_tokens": false, "return_token_strs": true}), prompt(false, true));
        check(json!({"prompt": "x", "content": null, "unknown": null}), prompt(true, false));
        let content = |add_special, parse_special, pieces| {
            let options = EncodeOptions { add_special, parse_special };
            Tokenize::Content { model: Some("m".into()), text: "x".into(), options, pieces }
        };
        check(json!({"content": "x", "model": "m"}), content(false, true, false));
        let all =
            json!({"content": "x", "model": "m", "add_special": true, "parse_special": false, "with_pieces": true});
        check(all, content(true, false, true));
    }

    #[test]
    fn wrong_parameters_are_named() {
        let check = |error: Option<ApiError>, body: &Value, code: &str, param: &str| {
            let error = error.unwrap_or_else(|| panic!("{body} is taken"));
            assert_eq!((error.code(), &error.body()["error"]["param"]), (code, &json!(param)), "{body}: {error}");
        };
        let tokenize = |body: Value, code: &str, param: &str| {
            check(Fields::parse(body.to_string().as_bytes()).and_then(Tokenize::take).err(), &body, code, param);
        };
        tokenize(json!({}), "missing_required_parameter", "prompt");
        tokenize(json!({"prompt": 1}), "invalid_value", "prompt");
        tokenize(json!({"prompt": "x", "content": "x"}), "invalid_value", "content");
        tokenize(json!({"prompt": "x", "add_special": true}), "unknown_parameter", "add_special");
        tokenize(json!({"content": ["x"]}), "invalid_value", "content");
        tokenize(json!({"content": "x", "with_pieces": 1}), "invalid_value", "with_pieces");
        tokenize(json!({"messages": []}), "invalid_value", "messages");
        tokenize(json!({"messages": [{"role": "x"}]}), "invalid_value", "messages[0].role");
        let detokenize = |body: Value, code: &str, param: &str| {
            check(Fields::parse(body.to_string().as_bytes()).and_then(take_ids).err(), &body, code, param);
        };
        detokenize(json!({}), "missing_required_parameter", "tokens");
        detokenize(json!({"tokens": "x"}), "invalid_value", "tokens");
        detokenize(json!({"tokens": [1, -1]}), "invalid_value", "tokens[1]");
        detokenize(json!({"tokens": [1], "text": "x"}), "unknown_parameter", "text");
    }

    #[test]
    fn parts_of_characters_are_bytes() {
        let check = |bytes: &[u8], expected: Value| assert_eq!(piece(bytes), expected, "{bytes:?}");
        check(b" the", json!(" the"));
        check("é".as_bytes(), json!("é"));
        check(&[0xc3], json!([0xc3]));
        check(b"", json!(""));
    }
}
