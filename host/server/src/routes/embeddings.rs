//! `/v1/embeddings`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::{Extension, Json};
use rocmforge_engine::{Event, GenerateRequest, Pooling};
use rocmforge_tokenizer::EncodeOptions;
use schemars::JsonSchema;
use serde::Serialize;

use crate::answer::token_limit;
use crate::base64;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::http::body::json_bytes;
use crate::params::Fields;
use crate::params::common::{max_time, priority};
use crate::params::prompt::{Prompt, prompts};
use crate::params::rules::{Route, check_rest};
use crate::recorder::RequestContext;
use crate::state::{AppState, ServedModel};

/// Most texts in one request, as in OpenAI's API.
pub(super) const MAX_TEXTS: usize = 2048;

/// What is wanted of texts, whatever API asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) model: Option<String>,
    pub(super) texts: Vec<Prompt>,
    /// Where the texts came from, for messages.
    pub(super) param: &'static str,
    /// Only so many leading numbers.
    pub(super) dimensions: Option<usize>,
    /// `None`: as the model is set.
    pub(super) pooling: Option<Pooling>,
    /// To length 1.
    pub(super) normalize: bool,
    /// Tokens that the model's file wants around a text.
    pub(super) add_special: bool,
    /// Texts that are too long lose their end.
    pub(super) truncate: bool,
    pub(super) cache_salt: String,
    pub(super) priority: i32,
    pub(super) max_time: Option<Duration>,
}

impl Wanted {
    pub(super) fn of(model: Option<String>, texts: Vec<Prompt>, param: &'static str) -> Wanted {
        Wanted {
            model,
            texts,
            param,
            dimensions: None,
            pooling: None,
            normalize: true,
            add_special: true,
            truncate: false,
            cache_salt: String::new(),
            priority: 0,
            max_time: None,
        }
    }
}

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EmbeddingRequest {
    wanted: Wanted,
    base64: bool,
}

impl EmbeddingRequest {
    pub(super) fn take(mut fields: Fields) -> Result<EmbeddingRequest, ApiError> {
        let base64 = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                return Err(ApiError::invalid("encoding_format", "float or base64", format!("{other:?}")));
            }
        };
        let pooling = match fields.string("pooling")?.as_deref() {
            None => None,
            Some("mean") => Some(Pooling::Mean),
            Some("last") => Some(Pooling::Last),
            Some(other) => return Err(ApiError::invalid("pooling", "mean or last", format!("{other:?}"))),
        };
        let wanted = Wanted {
            dimensions: fields.count("dimensions", 1..=u32::MAX)?,
            pooling,
            normalize: fields.bool("normalize")?.unwrap_or(true),
            add_special: fields.bool("add_special_tokens")?.unwrap_or(true),
            cache_salt: fields.string("cache_salt")?.unwrap_or_default(),
            priority: priority(&mut fields)?,
            max_time: max_time(&mut fields)?,
            ..Wanted::of(fields.string("model")?, prompts(fields.required("input")?, "input", MAX_TEXTS)?, "input")
        };
        check_rest(fields, Route::Embeddings)?;
        Ok(EmbeddingRequest { wanted, base64 })
    }
}

/// What the engine is asked.
pub(super) struct EmbeddingJob {
    pub(super) model: Arc<ServedModel>,
    requests: Vec<GenerateRequest>,
    dimensions: usize,
    normalize: bool,
}

/// Tokenizes, which takes long.
pub(super) fn prepare(state: &AppState, wanted: &Wanted) -> Result<EmbeddingJob, ApiError> {
    let model = state.model(wanted.model.as_deref())?;
    let (Some(own), Some(width)) = (model.pooling, model.engine.embedding_width()) else {
        return Err(ApiError::invalid("model", "one that gives embeddings", format!("`{}`", model.id)));
    };
    let dimensions = wanted.dimensions.unwrap_or(width);
    if dimensions > width {
        let expected = format!("at most the model's {width}");
        return Err(ApiError::invalid("dimensions", expected, dimensions));
    }
    let several = wanted.texts.len() > 1;
    let mut requests = Vec::with_capacity(wanted.texts.len());
    for (i, text) in wanted.texts.iter().enumerate() {
        let name = || if several { format!("{}[{i}]", wanted.param) } else { wanted.param.to_string() };
        let mut prompt = match text {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) => {
                let options = EncodeOptions { add_special: wanted.add_special, parse_special: true };
                model.tokenizer.encode(text, options)
            }
        };
        let size = model.tokenizer.vocab_size();
        if let Some(token) = prompt.iter().find(|&&t| t as usize >= size) {
            return Err(ApiError::invalid(name(), format!("tokens below {size}"), token));
        }
        if prompt.is_empty() {
            return Err(ApiError::invalid(name(), "at least 1 token", "a text without tokens"));
        }
        if wanted.truncate {
            prompt.truncate(model.context_length);
        }
        token_limit(state, &model, wanted.param, prompt.len(), Some(0))?;
        requests.push(GenerateRequest {
            prompt,
            embed: Some(wanted.pooling.unwrap_or(own)),
            cache_salt: wanted.cache_salt.clone(),
            priority: wanted.priority,
            max_time: wanted.max_time,
            ..GenerateRequest::default()
        });
    }
    Ok(EmbeddingJob { model, requests, dimensions, normalize: wanted.normalize })
}

/// The embeddings in the order of the texts, and the number of tokens of all texts.
pub(super) async fn embed(
    state: &Arc<AppState>,
    context: RequestContext,
    job: EmbeddingJob,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let EmbeddingJob { model, requests, dimensions, normalize } = job;
    if requests.is_empty() {
        return Ok((vec![], 0));
    }
    let tokens = requests.iter().map(|r| r.prompt.len()).sum();
    let mut found: Vec<Vec<f32>> = requests.iter().map(|_| Vec::new()).collect();
    let mut generation = Generation::start_in_turn(state, &model, context, requests, tokens, model.max_sequences)?;
    while let Some(item) = generation.next().await {
        let (at, event) = item?;
        if let Event::Embedding(mut embedding) = event {
            embedding.truncate(dimensions);
            if normalize {
                to_length_1(&mut embedding);
            }
            found[at] = embedding;
        }
    }
    Ok((found, tokens))
}

/// Zero stays zero.
fn to_length_1(embedding: &mut [f32]) {
    let length = embedding.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        embedding.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

#[derive(JsonSchema, Serialize)]
pub(crate) struct Embeddings {
    object: &'static str,
    data: Vec<EmbeddingEntry>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(JsonSchema, Serialize)]
struct EmbeddingEntry {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(JsonSchema, Serialize)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// As `encoding_format` says.
#[derive(JsonSchema, Serialize)]
#[serde(untagged)]
enum Numbers {
    Float(Vec<f32>),
    /// Of the numbers as f32, little-endian.
    Base64(String),
}

impl Numbers {
    fn new(embedding: Vec<f32>, base64: bool) -> Numbers {
        match base64 {
            false => Numbers::Float(embedding),
            true => {
                let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
                Numbers::Base64(base64::encode(&bytes))
            }
        }
    }
}

pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Json<Embeddings>, ApiError> {
    let body = json_bytes(&state, request).await?;
    let read = move |state: &AppState| {
        let request = EmbeddingRequest::take(Fields::parse(&body)?)?;
        Ok((prepare(state, &request.wanted)?, request.base64))
    };
    let (job, base64) = state.prepare(read).await?;
    let model = job.model.id.clone();
    let (found, tokens) = embed(&state, context, job).await?;
    let entry =
        |(index, embedding)| EmbeddingEntry { object: "embedding", index, embedding: Numbers::new(embedding, base64) };
    let data = found.into_iter().enumerate().map(entry).collect();
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(Json(Embeddings { object: "list", data, model, usage }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(body: &Value) -> Result<EmbeddingRequest, ApiError> {
        EmbeddingRequest::take(Fields::parse(body.to_string().as_bytes())?)
    }

    #[test]
    fn inputs_have_four_forms() {
        let check = |input: Value, texts: Vec<Prompt>| {
            let expected = EmbeddingRequest { wanted: Wanted::of(None, texts, "input"), base64: false };
            assert_eq!(of(&json!({"input": input, "user": "u"})), Ok(expected), "{input}");
        };
        let text = |t: &str| Prompt::Text(t.into());
        check(json!("a"), vec![text("a")]);
        check(json!(["a", "b"]), vec![text("a"), text("b")]);
        check(json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]);
        check(json!([[1], [2, 3]]), vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
        let all = json!({"input": "a", "model": "m", "encoding_format": "base64", "dimensions": 3, "pooling": "last",
            "normalize": false, "add_special_tokens": false});
        let wanted = Wanted {
            dimensions: Some(3),
            pooling: Some(Pooling::Last),
            normalize: false,
            add_special: false,
            ..Wanted::of(Some("m".into()), vec![text("a")], "input")
        };
        assert_eq!(of(&all), Ok(EmbeddingRequest { wanted, base64: true }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |members: Value, code: &str, param: &str| {
            let mut body = json!({"input": "a"});
            for (key, value) in members.as_object().expect("an object") {
                body[key] = value.clone();
            }
            let error = of(&body).expect_err(param);
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{error}");
        };
        check(json!({"input": null}), "missing_required_parameter", "input");
        check(json!({"input": []}), "invalid_value", "input");
        check(json!({"input": ["a", 1]}), "invalid_value", "input[1]");
        check(json!({"input": [[1], [-1]]}), "invalid_value", "input[1][0]");
        check(json!({"input": vec!["a"; 2049]}), "invalid_value", "input");
        check(json!({"encoding_format": "int8"}), "invalid_value", "encoding_format");
        check(json!({"encoding_format": 1}), "invalid_value", "encoding_format");
        check(json!({"dimensions": 0}), "invalid_value", "dimensions");
        check(json!({"pooling": "cls"}), "invalid_value", "pooling");
        check(json!({"truncate_prompt_tokens": 8}), "unsupported_parameter", "truncate_prompt_tokens");
        check(json!({"temperature": 1}), "unknown_parameter", "temperature");
    }

    #[test]
    fn lengths_become_1() {
        let check = |mut given: Vec<f32>, expected: &[f32]| {
            to_length_1(&mut given);
            assert_eq!(given, expected);
        };
        check(vec![3.0, 4.0], &[0.6, 0.8]);
        check(vec![0.0, 0.0], &[0.0, 0.0]);
        check(vec![-2.0], &[-1.0]);
    }
}
