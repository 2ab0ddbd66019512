//! `/v1/completions`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rocmforge_engine::{Event, Finish, GenerateRequest, Logprobs, StopParams, TokenEvent};
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};

use crate::answer::{Answer, UsageCount, collect, token_limit};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::http::body::json_bytes;
use crate::http::observe::unique_id;
use crate::params::common::{StreamOptions, max_tokens, top_logprobs};
use crate::params::prompt::{Prompt, prompts};
use crate::params::rules::{Route, check_rest};
use crate::params::{Common, Fields};
use crate::recorder::RequestContext;
use crate::sse::{Chunks, frame, respond};
use crate::state::{AppState, ServedModel};
use crate::tokens::Offsets;
use crate::wire::{CompletionChoice, CompletionLogprobs, Envelope, finish_reason, now};

const OBJECT: &str = "text_completion";
/// Each holds a copy of its prompt while it waits.
const MAX_ANSWERS: usize = 1024;

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CompletionRequest {
    pub(super) common: Common,
    pub(super) prompts: Vec<Prompt>,
    pub(super) echo: bool,
    add_special_tokens: bool,
}

impl CompletionRequest {
    pub(super) fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
        let mut fields = Fields::parse(body)?;
        let mut common = Common::take(&mut fields)?;
        common.stop.max_tokens = max_tokens(&mut fields, "max_tokens", 0)?;
        common.sampling.logprobs = top_logprobs(&mut fields, "logprobs")?;
        let echo = fields.bool("echo")?.unwrap_or(false);
        let add_special_tokens = fields.bool("add_special_tokens")?.unwrap_or(true);
        let prompts = prompts(fields.required("prompt")?)?;
        check_rest(fields, Route::Completions)?;
        let answers = prompts.len().saturating_mul(common.n);
        if answers > MAX_ANSWERS {
            let expected = format!("at most {MAX_ANSWERS} answers to all prompts together");
            return Err(ApiError::invalid("n", expected, answers));
        }
        if echo && common.sampling.logprobs.is_some() && common.stop.max_tokens.is_some_and(|n| n <= 1) {
            // Tools that score a text ask like this, and drop the last entry of the log-probabilities as the generated
            // token's. An end of sequence must therefore be reported like any other token.
            common.stop.ignore_eos = true;
        }
        Ok(CompletionRequest { common, prompts, echo, add_special_tokens })
    }

    fn encode(&self, prompt: &Prompt, tokenizer: &Tokenizer) -> Vec<u32> {
        match prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) if self.add_special_tokens => tokenizer.encode_prompt(text),
            Prompt::Text(text) => tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true }),
        }
    }
}

/// A prompt as it is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Echo {
    text: String,
    tokens: Vec<u32>,
}

pub(super) struct Job {
    pub(super) model: Arc<ServedModel>,
    pub(super) common: Common,
    pub(super) requests: Vec<GenerateRequest>,
    /// Per prompt, if asked for.
    echoes: Vec<Arc<Echo>>,
}

/// Tokenizes, which takes long.
pub(super) fn prepare(state: &AppState, request: CompletionRequest) -> Result<Job, ApiError> {
    let model = state.model(request.common.model.as_deref())?;
    let common = request.common.clone();
    let (mut requests, mut echoes) = (Vec::new(), Vec::new());
    for prompt in &request.prompts {
        let tokens = request.encode(prompt, &model.tokenizer);
        let max_tokens = token_limit(state, &model, "prompt", tokens.len(), common.stop.max_tokens)?;
        for sample in 0..common.n {
            requests.push(GenerateRequest {
                prompt: tokens.clone(),
                sampling: common.sampling_of(sample),
                stop: StopParams { max_tokens, ..common.stop.clone() },
                prompt_logprobs: common.sampling.logprobs.filter(|_| request.echo),
                cache_salt: common.cache_salt.clone(),
                priority: common.priority,
                max_time: common.max_time,
                ..Default::default()
            });
        }
        if request.echo {
            let text = match prompt {
                Prompt::Text(text) => text.clone(),
                Prompt::Tokens(tokens) => model.tokenizer.decode(tokens, true),
            };
            echoes.push(Arc::new(Echo { text, tokens }));
        }
    }
    Ok(Job { model, common, requests, echoes })
}

pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let Job { model, common, requests, echoes } =
        state.prepare(move |state| prepare(state, CompletionRequest::parse(&body)?)).await?;
    let usage = UsageCount::new(&requests, common.n);
    let scored = common.sampling.logprobs.is_some();
    let pieces: Vec<Pieces> =
        (0..requests.len()).map(|i| Pieces::new(model.clone(), echoes.get(i / common.n).cloned(), scored)).collect();
    let generation = Generation::start(&state, &model, context, requests, usage.prompt_tokens())?;
    let id = unique_id("cmpl-");
    let created = now();
    if let Some(options) = common.stream {
        return Ok(respond(generation, CompletionChunks { id, created, model, options, usage, pieces }));
    }
    let (answers, usage) = collect(generation, usage).await?;
    let choices = answers.into_iter().zip(pieces).enumerate();
    let choices = choices.map(|(index, (answer, pieces))| choice(index, answer, pieces)).collect();
    let (usage, timings) = (Some(Some(usage.total())), Some(usage.timings()));
    let answer = Envelope { id: &id, object: OBJECT, created, model: &model.id, choices, usage, timings };
    Ok(Json(answer).into_response())
}

fn choice(index: usize, answer: Answer, mut pieces: Pieces) -> CompletionChoice {
    let (echo, mut logprobs) = pieces.prompt(&answer.prompt);
    for token in &answer.tokens {
        if let (Some(all), Some(one)) = (&mut logprobs, pieces.token(token)) {
            all.append(one);
        }
    }
    CompletionChoice { index, text: echo + &answer.text, logprobs, finish_reason: Some(answer.finish_reason) }
}

/// Makes the texts and log-probabilities of one choice, in order.
struct Pieces {
    model: Arc<ServedModel>,
    echo: Option<Arc<Echo>>,
    scored: bool,
    offsets: Offsets,
}

impl Pieces {
    fn new(model: Arc<ServedModel>, echo: Option<Arc<Echo>>, scored: bool) -> Pieces {
        Pieces { model, echo, scored, offsets: Offsets::default() }
    }

    /// The prompt to send back; empty if that was not asked for. `logprobs`: of its second and later tokens.
    fn prompt(&mut self, logprobs: &[Logprobs]) -> (String, Option<CompletionLogprobs>) {
        let mut entries = CompletionLogprobs::default();
        let Some(echo) = self.echo.take() else {
            return (String::new(), self.scored.then_some(entries));
        };
        if self.scored {
            let tokenizer = &self.model.tokenizer;
            // Nothing predicts the first token.
            let logprobs = [None].into_iter().chain(logprobs.iter().map(Some));
            for (&id, logprobs) in echo.tokens.iter().zip(logprobs) {
                let offset = self.offsets.push(tokenizer, id);
                entries.push(tokenizer, id, logprobs, offset);
            }
        }
        (echo.text.clone(), self.scored.then_some(entries))
    }

    fn token(&mut self, token: &TokenEvent) -> Option<CompletionLogprobs> {
        let logprobs = token.logprobs.as_ref()?;
        let mut entries = CompletionLogprobs::default();
        let offset = self.offsets.push(&self.model.tokenizer, token.token);
        entries.push(&self.model.tokenizer, token.token, Some(logprobs), offset);
        Some(entries)
    }
}

struct CompletionChunks {
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    options: StreamOptions,
    usage: UsageCount,
    /// Per sequence.
    pieces: Vec<Pieces>,
}

impl CompletionChunks {
    fn chunk(&self, choices: Vec<CompletionChoice>) -> Bytes {
        let finish = choices.iter().any(|c| c.finish_reason.is_some());
        let timings = self.usage.timings_of_chunk(self.options, choices.is_empty(), finish);
        let usage = self.usage.of_chunk(self.options, choices.is_empty());
        let (id, created, model) = (&self.id, self.created, &self.model.id);
        frame(&Envelope { id, object: OBJECT, created, model, choices, usage, timings })
    }

    fn text(&self, index: usize, text: String, logprobs: Option<CompletionLogprobs>) -> Bytes {
        self.chunk(vec![CompletionChoice { index, text, logprobs, finish_reason: None }])
    }

    fn echo(&mut self, index: usize, logprobs: &[Logprobs]) -> Option<Bytes> {
        self.pieces[index].echo.as_ref()?;
        let (text, logprobs) = self.pieces[index].prompt(logprobs);
        Some(self.text(index, text, logprobs))
    }
}

impl Chunks for CompletionChunks {
    fn start(&mut self) -> Vec<Bytes> {
        // With log-probabilities the prompt is sent when they are known.
        let ready = |p: &Pieces| p.echo.is_some() && !p.scored;
        let ready: Vec<usize> = (0..self.pieces.len()).filter(|&i| ready(&self.pieces[i])).collect();
        ready.into_iter().filter_map(|i| self.echo(i, &[])).collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<Bytes> {
        self.usage.event(index, &event);
        match event {
            Event::Prompt(logprobs) => self.echo(index, &logprobs).into_iter().collect(),
            Event::Token(token) if token.text.is_empty() && token.logprobs.is_none() => vec![],
            Event::Token(token) => {
                let logprobs = self.pieces[index].token(&token);
                vec![self.text(index, token.text, logprobs)]
            }
            Event::Finished(Finish { reason, text, .. }) => {
                let finish_reason = Some(finish_reason(&reason));
                vec![self.chunk(vec![CompletionChoice { index, text, logprobs: None, finish_reason }])]
            }
            Event::Error(_) => vec![],
        }
    }

    fn end(&mut self) -> Vec<Bytes> {
        match self.options.include_usage {
            true => vec![self.chunk(vec![])],
            false => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: Value) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn prompts_have_four_forms() {
        let check = |prompt: Value, expected: &[Prompt]| {
            assert_eq!(parse(json!({"prompt": prompt})).map(|r| r.prompts), Ok(expected.to_vec()));
        };
        let text = |t: &str| Prompt::Text(t.into());
        check(json!("a"), &[text("a")]);
        check(json!(["a", "b"]), &[text("a"), text("b")]);
        check(json!([1, 2]), &[Prompt::Tokens(vec![1, 2])]);
        check(json!([[1, 2], [3]]), &[Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]);
    }

    #[test]
    fn wrong_parameters_are_named() {
        let check = |body: Value, code: &str, param: &str| {
            let error = parse(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
        };
        let invalid = |prompt: Value, param: &str| check(json!({"prompt": prompt}), "invalid_value", param);
        invalid(json!([]), "prompt");
        invalid(json!({}), "prompt");
        invalid(json!([true]), "prompt[0]");
        invalid(json!(["a", 1]), "prompt[1]");
        invalid(json!([[1], "a"]), "prompt[1]");
        invalid(json!([1, "a"]), "prompt[1]");
        invalid(json!([1, -1]), "prompt[1]");
        invalid(json!([[1, 1.5]]), "prompt[0][1]");
        invalid(json!([u64::MAX]), "prompt[0]");
        check(json!({}), "missing_required_parameter", "prompt");
        check(json!({"prompt": null}), "missing_required_parameter", "prompt");
        check(json!({"prompt": "x", "logprobs": true}), "invalid_value", "logprobs");
        check(json!({"prompt": "x", "logprobs": 21}), "invalid_value", "logprobs");
        check(json!({"prompt": "x", "max_tokens": -1}), "invalid_value", "max_tokens");
        check(json!({"prompt": vec!["x"; 9], "n": 128}), "invalid_value", "n");
        check(json!({"prompt": vec!["x"; 1025]}), "invalid_value", "prompt");
        check(json!({"prompt": "x", "suffix": "y"}), "unsupported_parameter", "suffix");
        check(json!({"prompt": "x", "best_of": 2}), "unsupported_parameter", "best_of");
        check(json!({"prompt": "x", "messages": []}), "unknown_parameter", "messages");
    }

    #[test]
    fn scoring_a_text_reports_the_token_after_it_whatever_it_is() {
        let check = |members: Value, ignore: bool| {
            let mut body = json!({"prompt": "x"});
            for (key, value) in members.as_object().expect("an object") {
                body[key] = value.clone();
            }
            assert_eq!(parse(body).map(|r| r.common.stop.ignore_eos), Ok(ignore), "{members}");
        };
        check(json!({"echo": true, "logprobs": 1, "max_tokens": 1}), true);
        check(json!({"echo": true, "logprobs": 1, "max_tokens": 2}), false);
        check(json!({"echo": true, "logprobs": 1}), false);
        check(json!({"echo": true, "max_tokens": 1}), false);
        check(json!({"logprobs": 1, "max_tokens": 1}), false);
    }
}
