//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rocmforge_engine::{Event, Finish, GenerateRequest, SamplingParams, TokenEvent};
use rocmforge_tokenizer::RenderContext;
use serde_json::Value;

use crate::answer::{Answer, UsageCount, collect, token_limit};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::http::body::json_bytes;
use crate::http::observe::unique_id;
use crate::params::common::{StreamOptions, max_tokens, top_logprobs};
use crate::params::messages::messages;
use crate::params::rules::{Route, check_rest};
use crate::params::{Common, Fields};
use crate::recorder::RequestContext;
use crate::sse::{Chunks, frame, respond};
use crate::state::{AppState, ServedModel};
use crate::tokens::encode_prompt;
use crate::wire::{
    ChatChoice, ChatLogprobs, ChunkChoice, Delta, Envelope, Message, TokenLogprob, finish_reason, now,
};

const OBJECT: &str = "chat.completion";
const CHUNK: &str = "chat.completion.chunk";

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
struct ChatRequest {
    common: Common,
    /// In the form that templates expect.
    messages: Value,
    add_generation_prompt: bool,
}

impl ChatRequest {
    fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
        let mut fields = Fields::parse(body)?;
        let mut common = Common::take(&mut fields)?;
        // The newer name has precedence.
        let older = max_tokens(&mut fields, "max_tokens", 1)?;
        common.stop.max_tokens = max_tokens(&mut fields, "max_completion_tokens", 1)?.or(older);
        let logprobs = fields.bool("logprobs")?.unwrap_or(false);
        let top = top_logprobs(&mut fields, "top_logprobs")?;
        if top.is_some_and(|n| n > 0) && !logprobs {
            return Err(ApiError::invalid("top_logprobs", "`logprobs` to be true", "a request without it"));
        }
        common.sampling.logprobs = logprobs.then_some(top.unwrap_or(0));
        let add_generation_prompt = fields.bool("add_generation_prompt")?.unwrap_or(true);
        let messages = messages(fields.required("messages")?)?;
        check_rest(fields, Route::Chat)?;
        Ok(ChatRequest { common, messages, add_generation_prompt })
    }

    fn prompt(&self, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
        let add_generation_prompt = self.add_generation_prompt;
        let context = RenderContext { add_generation_prompt, ..RenderContext::default() };
        Ok(encode_prompt(&model.tokenizer, &model.template.render(&self.messages, &context)?))
    }
}

/// Everything that takes long: parsing, rendering, tokenizing.
fn prepare(state: &AppState, body: &[u8]) -> Result<(Arc<ServedModel>, Common, Vec<GenerateRequest>), ApiError> {
    let request = ChatRequest::parse(body)?;
    let model = state.model(request.common.model.as_deref())?;
    let prompt = request.prompt(&model)?;
    let common = request.common;
    let max_tokens = token_limit(state, &model, prompt.len(), common.stop.max_tokens)?;
    let one = |sample| {
        let sampling: SamplingParams = common.sampling_of(sample);
        let stop = rocmforge_engine::StopParams { max_tokens, ..common.stop.clone() };
        let cache_salt = common.cache_salt.clone();
        GenerateRequest { prompt: prompt.clone(), sampling, stop, prompt_logprobs: None, cache_salt }
    };
    let requests = (0..common.n).map(one).collect();
    Ok((model, common, requests))
}

pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let job = state.clone();
    let (model, common, requests) = state.workers.run(move || prepare(&job, &body)).await?;
    let usage = UsageCount::new(&requests, common.n);
    let generation = Generation::start(&state, &model, context, requests)?;
    let id = unique_id("chatcmpl-");
    let created = now();
    if let Some(options) = common.stream {
        return Ok(respond(generation, ChatChunks { id, created, model, options, usage }));
    }
    let (answers, usage) = collect(generation, usage).await?;
    let choices = answers.into_iter().enumerate().map(|(i, a)| choice(i, a, &common, &model)).collect();
    let usage = Some(Some(usage.total()));
    let answer = Envelope { id: &id, object: OBJECT, created, model: &model.id, choices, usage };
    Ok(Json(answer).into_response())
}

fn choice(index: usize, answer: Answer, common: &Common, model: &ServedModel) -> ChatChoice {
    let logprobs = common.sampling.logprobs.map(|_| logprobs(&answer.tokens, model));
    let message = Message { role: "assistant", content: answer.text, refusal: None };
    ChatChoice { index, message, logprobs, finish_reason: answer.finish_reason }
}

fn logprobs(tokens: &[TokenEvent], model: &ServedModel) -> ChatLogprobs {
    let entry = |t: &TokenEvent| t.logprobs.as_ref().map(|l| TokenLogprob::new(&model.tokenizer, t.token, l));
    ChatLogprobs { content: tokens.iter().filter_map(entry).collect() }
}

struct ChatChunks {
    id: String,
    created: u64,
    model: Arc<ServedModel>,
    options: StreamOptions,
    usage: UsageCount,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> Bytes {
        let usage = self.usage.of_chunk(self.options, choices.is_empty());
        frame(&Envelope { id: &self.id, object: CHUNK, created: self.created, model: &self.model.id, choices, usage })
    }

    fn content(&self, index: usize, text: String, logprobs: Option<ChatLogprobs>) -> Bytes {
        let delta = Delta { role: None, content: Some(text) };
        self.chunk(vec![ChunkChoice { index, delta, logprobs, finish_reason: None }])
    }
}

impl Chunks for ChatChunks {
    fn start(&mut self) -> Vec<Bytes> {
        let first = |index| {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            self.chunk(vec![ChunkChoice { index, delta, logprobs: None, finish_reason: None }])
        };
        (0..self.usage.sequences()).map(first).collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<Bytes> {
        self.usage.event(index, &event);
        match event {
            Event::Token(token) if token.text.is_empty() && token.logprobs.is_none() => vec![],
            Event::Token(token) => {
                let logprobs = token.logprobs.is_some().then(|| logprobs(std::slice::from_ref(&token), &self.model));
                vec![self.content(index, token.text, logprobs)]
            }
            Event::Finished(Finish { reason, text, .. }) => {
                let rest = (!text.is_empty()).then(|| self.content(index, text, None));
                let finish_reason = Some(finish_reason(&reason));
                let last = ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
                rest.into_iter().chain([self.chunk(vec![last])]).collect()
            }
            Event::Prompt(_) | Event::Error(_) => vec![],
        }
    }

    fn end(&mut self) -> Vec<Bytes> {
        match self.options.include_usage {
            true => vec![self.chunk(vec![])],
            false => vec![],
        }
    }
}
