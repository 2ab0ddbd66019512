//! `/v1/chat/completions`.

mod chunks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rocmforge_engine::{GenerateRequest, SpecialText};
use rocmforge_tokenizer::RenderContext;
use serde_json::{Map, Value};

use crate::answer::{UsageCount, collect, token_limit};
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
use crate::wire::{Envelope, now};
use chunks::{ChatChunks, choice};

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
        let add_generation_prompt = fields.bool("add_generation_prompt")?.unwrap_or(true);
        let include_reasoning = fields.bool("include_reasoning")?.unwrap_or(true);
        let tools = tools(&mut fields)?.map(Arc::new);
        let variables = variables(&mut fields)?;
        let messages = messages(fields.required("messages")?)?;
        check_rest(fields, Route::Chat)?;
        Ok(ChatRequest { common, messages, tools, variables, add_generation_prompt, include_reasoning })
    }

    /// The conversation as the model's template writes it.
    pub(super) fn render(&self, model: &ServedModel) -> Result<String, ApiError> {
        let source = model.template_source.as_deref();
        let extra = self.variables.for_template(source)?;
        let messages = match history::knows_calls(source) {
            true => self.messages.clone(),
            false => history::without_calls(&self.messages),
        };
        let tools = self.tools.as_deref();
        if history::knows_tools(source) {
            return self.render_with(model, &messages, tools.map(Tools::to_json), extra);
        }
        let Some(text) = tools.map(history::instructions) else {
            return self.render_with(model, &messages, None, extra);
        };
        let with = |system| history::with_instructions(&messages, &text, system);
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

/// How the text of an answer is split into reasoning, content and calls.
#[derive(Clone, Debug)]
pub(super) struct Splitting {
    /// The prompt has begun the reasoning.
    open: bool,
    format: Format,
    tools: Option<Arc<Tools>>,
    include_reasoning: bool,
}

impl Splitting {
    /// For one answer.
    pub(super) fn splitter(&self) -> Splitter {
        Splitter::new(self.open, self.tools.clone().map(|tools| (self.format, tools)))
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
    let text = request.render(&model)?;
    let prompt = model.tokenizer.encode_prompt(&text);
    let open = request.add_generation_prompt && is_open(&text);
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
    let splitting = Splitting { open, format, tools, include_reasoning };
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
    let generation = Generation::start(&state, &model, context, requests, usage.prompt_tokens())?;
    let id = unique_id("chatcmpl-");
    let created = now();
    if let Some(options) = common.stream {
        return Ok(respond(generation, ChatChunks::new(id, created, model, options, usage, splitting)));
    }
    let (answers, usage) = collect(generation, usage).await?;
    let choices = answers.into_iter().enumerate().map(|(i, a)| choice(i, a, &common, &model, &splitting)).collect();
    let (usage, timings) = (Some(Some(usage.total())), Some(usage.timings()));
    let answer = Envelope { id: &id, object: OBJECT, created, model: &model.id, choices, usage, timings };
    Ok(Json(answer).into_response())
}
