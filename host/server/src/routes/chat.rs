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
use crate::wire::{ChatChoice, ChatLogprobs, ChunkChoice, Delta, Envelope, Message, TokenLogprob, finish_reason, now};

const OBJECT: &str = "chat.completion";
const CHUNK: &str = "chat.completion.chunk";

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ChatRequest {
    pub(super) common: Common,
    /// In the form that templates expect.
    messages: Value,
    add_generation_prompt: bool,
}

impl ChatRequest {
    fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
        ChatRequest::take(Fields::parse(body)?)
    }

    /// From the members of a body, none of which may be left.
    pub(super) fn take(mut fields: Fields) -> Result<ChatRequest, ApiError> {
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

    /// The conversation as the model's template writes it.
    pub(super) fn render(&self, model: &ServedModel) -> Result<String, ApiError> {
        let add_generation_prompt = self.add_generation_prompt;
        let context = RenderContext { add_generation_prompt, ..RenderContext::default() };
        Ok(model.template.render(&self.messages, &context)?)
    }
}

/// Everything that takes long: parsing, rendering, tokenizing.
fn prepare(state: &AppState, body: &[u8]) -> Result<(Arc<ServedModel>, Common, Vec<GenerateRequest>), ApiError> {
    let request = ChatRequest::parse(body)?;
    let model = state.model(request.common.model.as_deref())?;
    let prompt = model.tokenizer.encode_prompt(&request.render(&model)?);
    let common = request.common;
    let max_tokens = token_limit(state, &model, "messages", prompt.len(), common.stop.max_tokens)?;
    let one = |sample| {
        let sampling: SamplingParams = common.sampling_of(sample);
        let stop = rocmforge_engine::StopParams { max_tokens, ..common.stop.clone() };
        let (prompt, cache_salt) = (prompt.clone(), common.cache_salt.clone());
        let (priority, max_time) = (common.priority, common.max_time);
        GenerateRequest { prompt, sampling, stop, cache_salt, priority, max_time, ..Default::default() }
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
    let (model, common, requests) = state.prepare(move |state| prepare(state, &body)).await?;
    let usage = UsageCount::new(&requests, common.n);
    let generation = Generation::start(&state, &model, context, requests, usage.prompt_tokens())?;
    let id = unique_id("chatcmpl-");
    let created = now();
    if let Some(options) = common.stream {
        return Ok(respond(generation, ChatChunks { id, created, model, options, usage }));
    }
    let (answers, usage) = collect(generation, usage).await?;
    let choices = answers.into_iter().enumerate().map(|(i, a)| choice(i, a, &common, &model)).collect();
    let (usage, timings) = (Some(Some(usage.total())), Some(usage.timings()));
    let answer = Envelope { id: &id, object: OBJECT, created, model: &model.id, choices, usage, timings };
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
        let finish = choices.iter().any(|c| c.finish_reason.is_some());
        let timings = self.usage.timings_of_chunk(self.options, choices.is_empty(), finish);
        let usage = self.usage.of_chunk(self.options, choices.is_empty());
        let (id, created, model) = (&self.id, self.created, &self.model.id);
        frame(&Envelope { id, object: CHUNK, created, model, choices, usage, timings })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request with these members besides a message.
    fn parse(members: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        for (key, value) in members.as_object().expect("an object") {
            body[key] = value.clone();
        }
        ChatRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn parameters_reach_the_engine() {
        let check = |members: Value, expected: fn(&ChatRequest) -> bool| {
            let request = parse(members.clone()).unwrap_or_else(|e| panic!("{members}: {e}"));
            assert!(expected(&request), "{members} gave {request:?}");
        };
        check(json!({}), |r| r.common.sampling == SamplingParams::default() && r.common.n == 1);
        check(json!({"max_tokens": 5}), |r| r.common.stop.max_tokens == Some(5));
        check(json!({"max_tokens": 5, "max_completion_tokens": 7}), |r| r.common.stop.max_tokens == Some(7));
        check(json!({"max_tokens": 5, "max_completion_tokens": null}), |r| r.common.stop.max_tokens == Some(5));
        check(json!({"max_tokens": 5.0}), |r| r.common.stop.max_tokens == Some(5));
        check(json!({"temperature": 0}), |r| r.common.sampling.temperature == 0.0);
        check(json!({"top_p": 0}), |r| r.common.sampling.top_p > 0.0 && r.common.sampling.top_p < 1e-30);
        check(json!({"top_k": -1}), |r| r.common.sampling.top_k.is_none());
        check(json!({"top_k": 3, "min_p": 0.5}), |r| {
            r.common.sampling.top_k == Some(3) && r.common.sampling.min_p == 0.5
        });
        check(json!({"repetition_penalty": 1.5}), |r| r.common.sampling.repetition_penalty == 1.5);
        check(json!({"frequency_penalty": -2}), |r| r.common.sampling.frequency_penalty == -2.0);
        check(json!({"presence_penalty": 2}), |r| r.common.sampling.presence_penalty == 2.0);
        check(json!({"seed": 3, "n": 2}), |r| r.common.sampling_of(1).seed == Some(4));
        check(json!({"seed": -1}), |r| r.common.sampling.seed == Some(u64::MAX));
        check(json!({"seed": u64::MAX, "n": 2}), |r| r.common.sampling_of(1).seed == Some(0));
        check(json!({"stop": "a"}), |r| r.common.stop.strings == ["a"]);
        check(json!({"stop": ["a", "", "b"]}), |r| r.common.stop.strings == ["a", "b"]);
        check(json!({"stop_token_ids": [1, 2]}), |r| r.common.stop.tokens == [1, 2]);
        check(json!({"ignore_eos": true}), |r| r.common.stop.ignore_eos);
        check(json!({"logit_bias": {"7": -100, "8": 1.5}}), |r| {
            r.common.sampling.logit_bias == [(7, -100.0), (8, 1.5)]
        });
        check(json!({"logprobs": true}), |r| r.common.sampling.logprobs == Some(0));
        check(json!({"logprobs": true, "top_logprobs": 20}), |r| r.common.sampling.logprobs == Some(20));
        check(json!({"logprobs": false, "top_logprobs": 0}), |r| r.common.sampling.logprobs.is_none());
        check(json!({"stream": false}), |r| r.common.stream.is_none());
        check(json!({"stream": true}), |r| r.common.stream == Some(StreamOptions::default()));
        let options = json!({"include_usage": true, "continuous_usage_stats": true, "include_obfuscation": false});
        check(json!({"stream": true, "stream_options": options}), |r| {
            r.common.stream == Some(StreamOptions { include_usage: true, continuous: true })
        });
        check(json!({"priority": -5}), |r| r.common.priority == -5);
        check(json!({"max_time": 1.5}), |r| r.common.max_time == Some(std::time::Duration::from_millis(1500)));
        check(json!({"cache_salt": "s", "model": "m"}), |r| {
            r.common.cache_salt == "s" && r.common.model.as_deref() == Some("m")
        });
    }

    #[test]
    fn null_counts_as_absent_everywhere() {
        let names = "model max_tokens max_completion_tokens temperature top_p top_k min_p frequency_penalty \
            presence_penalty repetition_penalty seed stop logit_bias logprobs top_logprobs n stream stream_options user \
            ignore_eos tools tool_choice response_format audio functions metadata stop_token_ids cache_salt priority max_time \
            reasoning_effort no_such_parameter";
        for name in names.split_whitespace() {
            assert_eq!(parse(json!({name: null})), parse(json!({})), "{name}");
        }
    }

    #[test]
    fn wrong_parameters_are_named() {
        let check = |members: Value, code: &str, param: &str| {
            let error = parse(members.clone()).expect_err(&members.to_string());
            let body = error.body();
            assert_eq!((error.status().as_u16(), &body["error"]["code"]), (400, &json!(code)), "{members}: {error}");
            assert_eq!(body["error"]["param"], param, "{members}: {error}");
            assert!(error.to_string().contains(param), "{members}: {error}");
        };
        let invalid = |members: Value, param: &str| check(members, "invalid_value", param);
        invalid(json!({"temperature": 2.1}), "temperature");
        invalid(json!({"temperature": "1"}), "temperature");
        invalid(json!({"top_p": -0.1}), "top_p");
        invalid(json!({"top_k": -2}), "top_k");
        invalid(json!({"min_p": 1.5}), "min_p");
        invalid(json!({"frequency_penalty": 3}), "frequency_penalty");
        invalid(json!({"presence_penalty": -3}), "presence_penalty");
        invalid(json!({"repetition_penalty": 0}), "repetition_penalty");
        invalid(json!({"max_tokens": 0}), "max_tokens");
        invalid(json!({"max_tokens": -1}), "max_tokens");
        invalid(json!({"max_tokens": 1.5}), "max_tokens");
        invalid(json!({"max_completion_tokens": "many"}), "max_completion_tokens");
        invalid(json!({"n": 0}), "n");
        invalid(json!({"n": 129}), "n");
        invalid(json!({"seed": "x"}), "seed");
        invalid(json!({"seed": 1.5}), "seed");
        invalid(json!({"stop": 1}), "stop");
        invalid(json!({"stop": vec!["x"; 17]}), "stop");
        invalid(json!({"stop": ["a", 1]}), "stop[1]");
        invalid(json!({"logit_bias": []}), "logit_bias");
        invalid(json!({"logit_bias": {"x": 1}}), "logit_bias");
        invalid(json!({"logit_bias": {"5": 101}}), "logit_bias.5");
        invalid(json!({"logprobs": 1}), "logprobs");
        invalid(json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs");
        invalid(json!({"top_logprobs": 1}), "top_logprobs");
        invalid(json!({"stream": "yes"}), "stream");
        invalid(json!({"stream_options": {}}), "stream_options");
        invalid(json!({"stream": true, "stream_options": []}), "stream_options");
        invalid(json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage");
        invalid(json!({"priority": 1i64 << 31}), "priority");
        invalid(json!({"priority": "high"}), "priority");
        invalid(json!({"max_time": -1}), "max_time");
        invalid(json!({"max_time": 100_000}), "max_time");
        invalid(json!({"messages": []}), "messages");
        invalid(json!({"messages": "Hi"}), "messages");
        invalid(json!({"model": 1}), "model");
        check(json!({"messages": null}), "missing_required_parameter", "messages");
        check(json!({"temperatur": 1}), "unknown_parameter", "temperatur");
        check(json!({"prompt": "x"}), "unknown_parameter", "prompt");
        check(json!({"stream": true, "stream_options": {"x": 1}}), "unknown_parameter", "stream_options.x");
    }

    #[test]
    fn what_is_not_implemented_is_refused_unless_it_changes_nothing() {
        let check = |members: Value, ok: bool| {
            let param = members.as_object().and_then(|m| m.keys().next().cloned()).expect("a member");
            let body = parse(members.clone()).err().map(|e| e.body());
            let found = body.as_ref().map(|b| (&b["error"]["code"], &b["error"]["param"]));
            let (code, param) = (json!("unsupported_parameter"), json!(param));
            assert_eq!(found, (!ok).then_some((&code, &param)), "{members}");
        };
        check(json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), false);
        check(json!({"tools": []}), true);
        check(json!({"tool_choice": "required"}), false);
        check(json!({"tool_choice": "auto"}), true);
        check(json!({"response_format": {"type": "json_object"}}), false);
        check(json!({"response_format": {"type": "text"}}), true);
        check(json!({"functions": [{}]}), false);
        check(json!({"audio": {"voice": "x"}}), false);
        check(json!({"modalities": ["text"]}), true);
        check(json!({"modalities": ["text", "audio"]}), false);
        check(json!({"web_search_options": {}}), false);
        check(json!({"reasoning_effort": "high"}), false);
        check(json!({"best_of": 1}), true);
        check(json!({"best_of": 2}), false);
        check(json!({"guided_json": {}}), false);
        check(json!({"chat_template": "x"}), false);
        check(json!({"user": "u"}), true);
        check(json!({"metadata": {"a": "b"}}), true);
        check(json!({"store": true}), true);
        check(json!({"service_tier": "auto"}), true);
    }

    #[test]
    fn bodies_that_are_no_objects_are_malformed() {
        let check = |body: &[u8]| {
            let error = ChatRequest::parse(body).expect_err("malformed");
            assert_eq!((error.status().as_u16(), error.code()), (400, "invalid_json"), "{error}");
        };
        check(b"");
        check(b"{");
        check(b"[]");
        check(b"\"x\"");
        check(b"{\"messages\": [}");
        check(b"{} {}");
        check(b"\xff\xfe");
        check(["[".repeat(100_000), "]".repeat(100_000)].concat().as_bytes());
    }
}
