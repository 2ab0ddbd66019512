//! What each route is for. A route that is missing here fails a test.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::others::{
    anthropic, anthropic_count, ollama_chat, ollama_embed, ollama_embeddings, ollama_generate, responses,
};
use crate::params::Fields;
use crate::params::rules::{Route, described};
use crate::requests::Report;
use crate::routes::shapes::{self, Embeddings, ModelList};
use crate::wire::{ChatChoice, ChunkChoice, CompletionChoice, Envelope};

/// Media types, and schemas of what they hold; of an event stream that of one event.
type Answers = &'static [(&'static str, fn(&mut SchemaGenerator) -> Value)];

pub(super) struct Operation {
    /// In lower case.
    pub(super) method: &'static str,
    /// As the router has it.
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// Names of parameters in the query.
    pub(super) query: &'static [&'static str],
    pub(super) body: Option<Body>,
    pub(super) answers: Answers,
}

pub(super) struct Body {
    /// Members and their schemas.
    pub(super) members: fn() -> Map<String, Value>,
    pub(super) required: &'static [&'static str],
    /// There are further members, which the document of the API says whose form this is.
    pub(super) open: bool,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// An object whose members are those of other servers, and described in their documents.
fn object(_: &mut SchemaGenerator) -> Value {
    json!({"type": "object"})
}

fn text(_: &mut SchemaGenerator) -> Value {
    json!({"type": "string"})
}

/// What a parser asks of a body that has all that it needs.
fn asked(body: Value, parse: impl FnOnce(Fields)) -> Map<String, Value> {
    match Fields::recorded(body) {
        Ok((fields, recorder)) => {
            parse(fields);
            recorder.members()
        }
        Err(_) => Map::new(),
    }
}

fn chat() -> Map<String, Value> {
    let body = json!({"messages": [{"role": "user", "content": ""}]});
    with_known(asked(body, |fields| drop(shapes::parse_chat(fields))), Route::Chat)
}

fn completion() -> Map<String, Value> {
    with_known(asked(json!({"prompt": ""}), |fields| drop(shapes::parse_completion(fields))), Route::Completions)
}

fn embedding() -> Map<String, Value> {
    with_known(asked(json!({"input": ""}), |fields| drop(shapes::parse_embedding(fields))), Route::Embeddings)
}

fn with_known(mut members: Map<String, Value>, route: Route) -> Map<String, Value> {
    members.extend(described(route).map(|(name, schema)| (name.to_string(), schema)));
    members
}

fn tokenize() -> Map<String, Value> {
    let mut members = asked(json!({"content": ""}), |fields| drop(shapes::parse_tokenize(fields)));
    members.extend(asked(json!({"prompt": ""}), |fields| drop(shapes::parse_tokenize(fields))));
    members.extend(chat().into_iter().filter(|(name, _)| !matches!(name.as_str(), "model" | "prompt" | "content")));
    members
}

fn detokenize() -> Map<String, Value> {
    asked(json!({"tokens": []}), |fields| drop(shapes::parse_detokenize(fields)))
}

fn model() -> Map<String, Value> {
    json!({"model": {"type": "string"}}).as_object().cloned().unwrap_or_default()
}

const fn open(members: fn() -> Map<String, Value>, required: &'static [&'static str]) -> Option<Body> {
    Some(Body { members, required, open: true })
}

const NDJSON: &str = "application/x-ndjson";
const CHAT: Option<Body> = Some(Body { members: chat, required: &["messages"], open: false });
const COMPLETION: Option<Body> = Some(Body { members: completion, required: &["prompt"], open: false });
const EMBEDDING: Option<Body> = Some(Body { members: embedding, required: &["input"], open: false });
const NAMED: Option<Body> = Some(Body { members: model, required: &["model"], open: false });
const MODEL: &[&str] = &["model"];

const fn get(path: &'static str, id: &'static str, summary: &'static str, answers: Answers) -> Operation {
    Operation { method: "get", path, id, summary, query: &[], body: None, answers }
}

const fn post(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    body: Option<Body>,
    answers: Answers,
) -> Operation {
    Operation { method: "post", path, id, summary, query: &[], body, answers }
}

pub(super) const OPERATIONS: &[Operation] = &[
    post(
        "/v1/chat/completions",
        "create_chat_completion",
        "Answers a conversation.",
        CHAT,
        &[(JSON, schema::<Envelope<'_, ChatChoice>>), (EVENTS, schema::<Envelope<'_, ChunkChoice>>)],
    ),
    post(
        "/v1/completions",
        "create_completion",
        "Continues one or several texts, and scores them.",
        COMPLETION,
        &[(JSON, schema::<Envelope<'_, CompletionChoice>>), (EVENTS, schema::<Envelope<'_, CompletionChoice>>)],
    ),
    post(
        "/v1/embeddings",
        "create_embedding",
        "What texts mean, as vectors.",
        EMBEDDING,
        &[(JSON, schema::<Embeddings>)],
    ),
    get("/v1/models", "list_models", "The models.", &[(JSON, schema::<ModelList>)]),
    get("/models", "list_models_plainly", "The models.", &[(JSON, schema::<ModelList>)]),
    post(
        "/v1/messages",
        "anthropic_messages",
        "Answers a conversation, as of Anthropic's API.",
        open(anthropic, &["model", "messages", "max_tokens"]),
        &[(JSON, object), (EVENTS, object)],
    ),
    post(
        "/v1/messages/count_tokens",
        "anthropic_count_tokens",
        "The number of tokens of a conversation, as of Anthropic's API.",
        open(anthropic_count, &["model", "messages"]),
        &[(JSON, object)],
    ),
    post(
        "/v1/responses",
        "create_response",
        "Answers an input, as of OpenAI's responses.",
        open(responses, &["input"]),
        &[(JSON, object), (EVENTS, object)],
    ),
    get("/v1/responses/{id}", "retrieve_response", "Responses are not stored: an error.", &[(JSON, object)]),
    Operation {
        method: "delete",
        ..get("/v1/responses/{id}", "delete_response", "Responses are not stored: an error.", &[(JSON, object)])
    },
    post(
        "/api/chat",
        "ollama_chat",
        "Answers a conversation, as of Ollama's API.",
        open(ollama_chat, &["model"]),
        &[(JSON, object), (NDJSON, object)],
    ),
    post(
        "/api/generate",
        "ollama_generate",
        "Continues a text, as of Ollama's API.",
        open(ollama_generate, &["model"]),
        &[(JSON, object), (NDJSON, object)],
    ),
    post(
        "/api/embed",
        "ollama_embed",
        "What texts mean, as vectors, as of Ollama's API.",
        open(ollama_embed, &["model"]),
        &[(JSON, object)],
    ),
    post(
        "/api/embeddings",
        "ollama_embeddings",
        "What a text means, as a vector, as of Ollama's older API.",
        open(ollama_embeddings, &["model"]),
        &[(JSON, object)],
    ),
    get("/api/tags", "ollama_tags", "The models, as of Ollama's API.", &[(JSON, object)]),
    get("/api/ps", "ollama_ps", "The models in memory, as of Ollama's API.", &[(JSON, object)]),
    post("/api/show", "ollama_show", "One model, as of Ollama's API.", open(model, &["model"]), &[(JSON, object)]),
    get("/api/version", "ollama_version", "The version, as of Ollama's API.", &[(JSON, object)]),
    post(
        "/api/create",
        "ollama_create",
        "Refused: the configuration says which models there are.",
        None,
        &[(JSON, object)],
    ),
    post(
        "/api/copy",
        "ollama_copy",
        "Refused: the configuration says which models there are.",
        None,
        &[(JSON, object)],
    ),
    post(
        "/api/pull",
        "ollama_pull",
        "Refused: the configuration says which models there are.",
        None,
        &[(JSON, object)],
    ),
    post(
        "/api/push",
        "ollama_push",
        "Refused: the configuration says which models there are.",
        None,
        &[(JSON, object)],
    ),
    Operation {
        method: "delete",
        ..post(
            "/api/delete",
            "ollama_delete",
            "Refused: the configuration says which models there are.",
            None,
            &[(JSON, object)],
        )
    },
    post("/models/load", "load_model", "Loads a model, and answers when it is there.", NAMED, &[(JSON, object)]),
    post(
        "/models/unload",
        "unload_model",
        "Unloads a model, and answers when its memory is free.",
        NAMED,
        &[(JSON, object)],
    ),
    get("/v1/models/{*id}", "retrieve_model", "One model; its name may contain slashes.", &[(JSON, object)]),
    post(
        "/generate",
        "generate",
        "Continues one text, in a plain shape.",
        COMPLETION,
        &[(JSON, object), (EVENTS, object)],
    ),
    post("/generate/stream", "generate_stream", "The same as a stream.", COMPLETION, &[(EVENTS, object)]),
    get("/status", "server_status", "What the server does at this moment.", &[(JSON, object)]),
    Operation {
        query: &["limit", "request_id", "trace_id"],
        ..get("/traces", "traces", "What the time of the latest requests went to.", &[(JSON, object)])
    },
    get("/status/{*id}", "request_status", "How far a request is.", &[(JSON, schema::<Report>)]),
    post("/cancel/{*id}", "cancel_request", "Ends a request.", None, &[(JSON, schema::<Report>)]),
    post(
        "/tokenize",
        "tokenize",
        "The tokens of a text, in the form of vLLM or of llama-server.",
        Some(Body { members: tokenize, required: &[], open: false }),
        &[(JSON, object)],
    ),
    post(
        "/detokenize",
        "detokenize",
        "The text of tokens.",
        Some(Body { members: detokenize, required: &["tokens"], open: false }),
        &[(JSON, object)],
    ),
    post("/apply-template", "apply_template", "The prompt of a conversation.", CHAT, &[(JSON, object)]),
    Operation { query: MODEL, ..get("/tokenizer_info", "tokenizer_info", "What the tokenizer is.", &[(JSON, object)]) },
    Operation { query: MODEL, ..get("/props", "props", "What the model is, as of llama-server.", &[(JSON, object)]) },
    get("/", "index", "Name and version of the server; for a browser a page.", &[(JSON, object), ("text/html", text)]),
    get("/version", "version", "The version of the server.", &[(JSON, object)]),
    get("/health", "health", "Answers as long as the process lives.", &[(JSON, object)]),
    get("/ready", "ready", "Answers with 503 while nothing is served.", &[(JSON, object)]),
    get(
        "/metrics",
        "metrics",
        "Numbers for Prometheus.",
        &[("application/openmetrics-text; version=1.0.0; charset=utf-8", text)],
    ),
    get("/openapi.json", "openapi", "This document.", &[(JSON, object)]),
];
