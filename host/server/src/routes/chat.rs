//! `/v1/chat/completions`.

mod chunks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rocmforge_engine::{GenerateRequest, SpecialText};
use rocmforge_tokenizer::{Guard, RenderContext, Rendered};
use serde_json::{Map, Value};

use crate::answer::{UsageCount, collect_with, token_limit};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::http::body::json_bytes;
use crate::http::observe::unique_id;
use crate::output::{Format, Splitter, forced, format, history, is_open};
use crate::params::common::{max_tokens, top_logprobs};
use crate::params::messages::messages;
use crate::params::rules::{Route, check_rest};
use crate::params::structured::Structured;
use crate::params::template::{Variables, variables};
use crate::params::tools::{Tools, tools};
use crate::params::{Common, Fields};
use crate::recorder::RequestContext;
use crate::sse::respond;
use crate::state::{AppState, ServedModel};
use crate::wire::{Envelope, now, prompt_logprobs};
use chunks::{ChatChunks, Parts, choice};

const OBJECT: &str = "chat.completion";
const CHUNK: &str = "chat.completion.chunk";

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ChatRequest {
    pub(super) common: Common,
    /// In the form that templates expect.
    messages: Value,
    tools: Option<Arc<Tools>>,
    variables: Variables,
    add_generation_prompt: bool,
    /// The answer goes on with the last message, which is the assistant's.
    continue_final: bool,
    /// Reasoning is part of the answer.
    include_reasoning: bool,
}

impl ChatRequest {
    pub(super) fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
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
        common.check()?;
        let continue_final = fields.bool("continue_final_message")?.unwrap_or(false);
        let add_generation_prompt = fields.bool("add_generation_prompt")?;
        if continue_final && add_generation_prompt == Some(true) {
            let expected = "false in a request with `continue_final_message`";
            return Err(ApiError::invalid("add_generation_prompt", expected, true));
        }
        let add_generation_prompt = add_generation_prompt.unwrap_or(!continue_final);
        let include_reasoning = fields.bool("include_reasoning")?.unwrap_or(true);
        let tools = tools(&mut fields)?.map(Arc::new);
        let variables = variables(&mut fields)?;
        let messages = messages(fields.required("messages")?)?;
        check_rest(fields, Route::Chat)?;
        if continue_final && final_text(&messages).is_none() {
            let expected = "false, or a last message of the assistant that has text";
            return Err(ApiError::invalid("continue_final_message", expected, true));
        }
        Ok(ChatRequest { common, messages, tools, variables, add_generation_prompt, continue_final, include_reasoning })
    }

    /// The prompt: the conversation as the model's template writes it, as far as the answer goes on.
    pub(super) fn render(&self, model: &ServedModel) -> Result<Rendered, ApiError> {
        let tools = self.tools.as_deref().map_or(Value::Null, Tools::to_json);
        let extra = Value::Object(self.variables.for_template(model.template_source.as_deref())?);
        let guard = match model.control_tokens_in_messages {
            true => Guard::off(&model.tokenizer),
            false => Guard::new(&model.tokenizer, &[&self.messages, &tools, &extra])?,
        };
        let messages = guard.value(&self.messages);
        let text = self.render_all(model, &guard, &messages, &tools, &extra)?;
        let text = match final_text(&messages).filter(|_| self.continue_final) {
            None => text,
            Some(last) => continued(text, last)?,
        };
        Ok(guard.rendered(text))
    }

    /// The conversation as the model's template writes it. `messages` are marked already.
    fn render_all(
        &self,
        model: &ServedModel,
        guard: &Guard<'_>,
        messages: &Value,
        tools: &Value,
        extra: &Value,
    ) -> Result<String, ApiError> {
        let source = model.template_source.as_deref();
        let extra = guard.value(extra).as_object().cloned().unwrap_or_default();
        let plain;
        let messages = match history::knows_calls(source) {
            true => messages,
            false => {
                plain = history::without_calls(messages);
                &plain
            }
        };
        if history::knows_tools(source) {
            let tools = guard.value(tools).into_owned();
            return self.render_with(model, messages, Some(tools).filter(|t| !t.is_null()), extra);
        }
        let Some(text) = self.tools.as_deref().map(history::instructions) else {
            return self.render_with(model, messages, None, extra);
        };
        let text = guard.text(&text);
        let with = |system| history::with_instructions(messages, &text, system);
        self.render_with(model, &with(true), None, extra.clone())
            // Some templates refuse messages of the system.
            .or_else(|_| self.render_with(model, &with(false), None, extra))
    }

    fn render_with(
        &self,
        model: &ServedModel,
        messages: &Value,
        tools: Option<Value>,
        extra: Map<String, Value>,
    ) -> Result<String, ApiError> {
        let add_generation_prompt = self.add_generation_prompt;
        let context = RenderContext { add_generation_prompt, tools, extra, ..RenderContext::default() };
        Ok(model.template.render(messages, &context)?)
    }
}

/// The text of the last message, if it is the assistant's and calls nothing.
fn final_text(messages: &Value) -> Option<&str> {
    let last = messages.as_array()?.last()?;
    let text = last["content"].as_str().filter(|text| !text.trim().is_empty())?;
    (last["role"] == "assistant" && last.get("tool_calls").is_none()).then_some(text)
}

/// The prompt as far as the end of its last message, without what templates write to close one. Many of them trim what
/// they write.
fn continued(mut prompt: String, last: &str) -> Result<String, ApiError> {
    let Some(at) = prompt.rfind(last.trim()) else {
        return Err(ApiError::Template("it does not write the last message, so that nothing can go on with it".into()));
    };
    let whole = last.trim_start();
    let len = if prompt[at..].starts_with(whole) { whole.len() } else { last.trim().len() };
    prompt.truncate(at + len);
    Ok(prompt)
}

/// How the text of an answer is split into reasoning, content and calls.
#[derive(Clone, Debug)]
pub(super) struct Splitting {
    /// The prompt has begun the reasoning.
    open: bool,
    format: Format,
    tools: Option<Arc<Tools>>,
    include_reasoning: bool,
    /// Nothing in the text means anything.
    plain: bool,
}

impl Splitting {
    /// For answers to prompts that are no conversations.
    pub(super) fn none() -> Splitting {
        Splitting { open: false, format: Format::Tagged, tools: None, include_reasoning: true, plain: true }
    }

    /// Whether calls are told as `function_call`.
    fn legacy(&self) -> bool {
        self.tools.as_ref().is_some_and(|t| t.legacy)
    }

    /// For one answer.
    pub(super) fn splitter(&self) -> Splitter {
        match self.plain {
            true => Splitter::plain(),
            false => Splitter::new(self.open, self.tools.clone().map(|tools| (self.format, tools))),
        }
    }

    /// An id for a call.
    pub(super) fn call_id(&self) -> String {
        let id = unique_id("");
        let tail = &id[id.len().saturating_sub(self.format.id_length())..];
        if self.format.id_length() > 9 { format!("call_{tail}") } else { tail.into() }
    }
}

/// A request that is ready for the engine.
pub(super) struct ChatJob {
    pub(super) model: Arc<ServedModel>,
    pub(super) common: Common,
    pub(super) requests: Vec<GenerateRequest>,
    pub(super) splitting: Splitting,
}

/// Everything that takes long: rendering, tokenizing, compiling a grammar.
pub(super) fn prepare(state: &AppState, request: ChatRequest) -> Result<ChatJob, ApiError> {
    let model = state.model(request.common.model.as_deref())?;
    let rendered = request.render(&model)?;
    let prompt = rendered.encode_prompt(&model.tokenizer);
    let open = (request.add_generation_prompt || request.continue_final) && is_open(&rendered.text());
    let format = Format::of(model.template_source.as_deref());
    let ChatRequest { mut common, tools, include_reasoning, .. } = request;
    if let Some(grammar) = tools.as_deref().and_then(|t| forced::grammar(t, format, &model.tokenizer)) {
        common.structured = Some(Structured { grammar, param: "tools".into() });
    }
    if common.special == SpecialText::None {
        common.special = SpecialText::Some(format::markers(&model.tokenizer));
    }
    common.resolve(&model, open)?;
    let max_tokens = token_limit(state, &model, "messages", prompt.len(), common.stop.max_tokens)?;
    let requests = (0..common.n).map(|sample| common.request(prompt.clone(), sample, max_tokens)).collect();
    let splitting = Splitting { open, format, tools, include_reasoning, plain: false };
    Ok(ChatJob { model, common, requests, splitting })
}

pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let job = state.prepare(move |state| prepare(state, ChatRequest::parse(&body)?)).await?;
    let ChatJob { model, common, requests, splitting } = job;
    let usage = UsageCount::new(&requests, common.n);
    let scored = common.prompt_logprobs.and_then(|top| Some((top, requests.first()?.prompt.clone())));
    let generation = Generation::start(&state, &model, context, requests, usage.prompt_tokens())?;
    let id = unique_id("chatcmpl-");
    let created = now();
    if let Some(options) = common.stream {
        return Ok(respond(generation, ChatChunks::new(id, created, model, options, usage, splitting)));
    }
    let mut parts = Parts::new(usage.sequences(), &splitting);
    let (answers, mut usage) = collect_with(generation, usage, |at, event| parts.take(at, event)).await?;
    usage.set_reasoning(parts.reasoning_tokens());
    let prompt_logprobs = scored
        .zip(answers.first())
        .map(|((top, prompt), answer)| prompt_logprobs(&model.tokenizer, &prompt, &answer.prompt, top));
    let whole = answers.into_iter().zip(parts.finish()).enumerate();
    let choices = whole.map(|(i, (answer, parts))| choice(i, answer, parts, &common, &model, &splitting)).collect();
    let (usage, timings) = (Some(Some(usage.total())), Some(usage.timings()));
    let (id, model) = (id.as_str(), model.id.as_str());
    let answer = Envelope { id, object: OBJECT, created, model, choices, usage, timings, prompt_logprobs };
    Ok(Json(answer).into_response())
}
