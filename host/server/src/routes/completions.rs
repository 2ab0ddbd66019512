//! `/v1/completions`.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rocmforge_engine::{Event, Finish, GenerateRequest, Logprobs, TokenEvent};
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};

use crate::answer::{Answer, UsageCount, collect, token_limit};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::http::body::json_bytes;
use crate::http::observe::unique_id;
use crate::params::common::{MAX_N, StreamOptions, max_tokens, top_logprobs};
use crate::params::prompt::{MAX_PROMPTS, Prompt, prompts};
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
    /// Answers per prompt of which the best are sent, `common.n` of them.
    pub(super) best_of: usize,
    /// What comes after the text to be written, for models that can fill in.
    suffix: Option<String>,
}

impl CompletionRequest {
    pub(super) fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::take(Fields::parse(body)?)
    }

    /// From the members of a body, none of which may be left.
    pub(super) fn take(mut fields: Fields) -> Result<CompletionRequest, ApiError> {
        let mut common = Common::take(&mut fields)?;
        common.stop.max_tokens = max_tokens(&mut fields, "max_tokens", 0)?;
        common.sampling.logprobs = top_logprobs(&mut fields, "logprobs")?;
        let echo = fields.bool("echo")?.unwrap_or(false);
        let add_special_tokens = fields.bool("add_special_tokens")?.unwrap_or(true);
        let best_of = best_of(&mut fields, &common)?;
        let suffix = fields.string("suffix")?.filter(|s| !s.is_empty());
        if suffix.is_some() && echo {
            return Err(ApiError::invalid("echo", "false in a request with `suffix`", true));
        }
        let prompts = prompts(fields.required("prompt")?, "prompt", MAX_PROMPTS)?;
        check_rest(fields, Route::Completions)?;
        common.check()?;
        let answers = prompts.len().saturating_mul(best_of);
        if answers > MAX_ANSWERS {
            let expected = format!("at most {MAX_ANSWERS} answers to all prompts together");
            return Err(ApiError::invalid("n", expected, answers));
        }
        if echo && common.sampling.logprobs.is_some() && common.stop.max_tokens.is_some_and(|n| n <= 1) {
            // Tools that score a text ask like this, and drop the last entry of the log-probabilities as the generated
            // token's. An end of sequence must therefore be reported like any other token.
            common.stop.ignore_eos = true;
        }
        Ok(CompletionRequest { common, prompts, echo, add_special_tokens, best_of, suffix })
    }

    fn encode(&self, prompt: &Prompt, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
        if let Some(suffix) = &self.suffix {
            return fill_in(prompt, suffix, self.add_special_tokens, tokenizer);
        }
        Ok(match prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) if self.add_special_tokens => tokenizer.encode_prompt(text),
            Prompt::Text(text) => tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true }),
        })
    }
}

/// How many answers are made for each prompt. Which of them are good is known at their end, so they cannot be streamed.
fn best_of(fields: &mut Fields, common: &Common) -> Result<usize, ApiError> {
    let Some(best_of) = fields.count("best_of", 1..=MAX_N)? else { return Ok(common.n) };
    if best_of < common.n {
        return Err(ApiError::invalid("best_of", format!("at least `n`, which is {}", common.n), best_of));
    }
    if best_of > common.n && common.stream.is_some() {
        let expected = "no more than `n` in a request with `stream`";
        return Err(ApiError::invalid("best_of", expected, best_of));
    }
    Ok(best_of)
}

/// The prompt that makes a model write what stands between `prompt` and `suffix`: prefix, suffix and the place to write
/// at, each behind its token.
fn fill_in(prompt: &Prompt, suffix: &str, bos: bool, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
    let special = tokenizer.special_tokens();
    let (Some(before), Some(after), Some(middle)) = (special.fim_prefix, special.fim_suffix, special.fim_middle) else {
        let hint = ": the model has no tokens for filling in the middle".into();
        return Err(ApiError::Unsupported { param: "suffix".into(), hint });
    };
    let plain = |text: &str| tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false });
    let prefix = match prompt {
        Prompt::Text(text) => plain(text),
        Prompt::Tokens(tokens) => tokens.clone(),
    };
    let bos = tokenizer.bos().filter(|_| bos && tokenizer.add_bos());
    let parts = [bos.into_iter().chain([before]).collect(), prefix, vec![after], plain(suffix), vec![middle]];
    Ok(parts.concat())
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
    /// Answers per prompt of which the best are sent.
    best_of: usize,
    /// Per prompt, if asked for.
    echoes: Vec<Arc<Echo>>,
}

/// Tokenizes, which takes long.
pub(super) fn prepare(state: &AppState, request: CompletionRequest) -> Result<Job, ApiError> {
    let model = state.model(request.common.model.as_deref())?;
    let mut common = request.common.clone();
    common.resolve(&model, false)?;
    let best_of = request.best_of;
    if best_of > common.n {
        // By these the best are found.
        common.sampling.logprobs.get_or_insert(0);
    }
    let (mut requests, mut echoes) = (Vec::new(), Vec::new());
    for prompt in &request.prompts {
        let tokens = request.encode(prompt, &model.tokenizer)?;
        let max_tokens = token_limit(state, &model, "prompt", tokens.len(), common.stop.max_tokens)?;
        for sample in 0..best_of {
            let one = common.request(tokens.clone(), sample, max_tokens);
            let echoed = request.common.sampling.logprobs.filter(|_| request.echo);
            requests.push(GenerateRequest { prompt_logprobs: one.prompt_logprobs.max(echoed), ..one });
        }
        if request.echo {
            let text = match prompt {
                Prompt::Text(text) => text.clone(),
                Prompt::Tokens(tokens) => model.tokenizer.decode(tokens, true),
            };
            echoes.push(Arc::new(Echo { text, tokens }));
        }
    }
    common.sampling.logprobs = request.common.sampling.logprobs;
    Ok(Job { model, common, requests, best_of, echoes })
}

pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = json_bytes(&state, request).await?;
    let Job { model, common, requests, best_of, echoes } =
        state.prepare(move |state| prepare(state, CompletionRequest::parse(&body)?)).await?;
    let usage = UsageCount::new(&requests, best_of);
    let pieces = |(i, request): (usize, &GenerateRequest)| Pieces {
        model: model.clone(),
        echo: echoes.get(i / best_of).cloned(),
        scored: common.sampling.logprobs,
        scored_prompt: common.prompt_logprobs.map(|top| (top, request.prompt.clone())),
        offsets: Offsets::default(),
    };
    let pieces: Vec<Pieces> = requests.iter().enumerate().map(pieces).collect();
    let generation = Generation::start(&state, &model, context, requests, usage.prompt_tokens())?;
    let id = unique_id("cmpl-");
    let created = now();
    if let Some(options) = common.stream {
        return Ok(respond(generation, CompletionChunks { id, created, model, options, usage, pieces }));
    }
    let (answers, usage) = collect(generation, usage).await?;
    let choices = best(answers.into_iter().zip(pieces).collect(), best_of, common.n).into_iter().enumerate();
    let choices = choices.map(|(index, (answer, pieces))| choice(index, answer, pieces)).collect();
    let (usage, timings) = (Some(Some(usage.total())), Some(usage.timings()));
    let (id, model, prompt_logprobs) = (id.as_str(), model.id.as_str(), None);
    let answer = Envelope { id, object: OBJECT, created, model, choices, usage, timings, prompt_logprobs };
    Ok(Json(answer).into_response())
}

/// Of each `best_of` answers in a row the `n` with the highest log-probability per token, best first.
fn best(answers: Vec<(Answer, Pieces)>, best_of: usize, n: usize) -> Vec<(Answer, Pieces)> {
    if best_of == n {
        return answers;
    }
    let mut answers: Vec<Option<(Answer, Pieces)>> = answers.into_iter().map(Some).collect();
    let mut kept = Vec::new();
    for group in answers.chunks_mut(best_of) {
        group.sort_by(|a, b| {
            let mean = |a: &Option<(Answer, Pieces)>| a.as_ref().map_or(f32::NEG_INFINITY, |a| a.0.mean_logprob());
            mean(b).total_cmp(&mean(a))
        });
        kept.extend(group.iter_mut().take(n).filter_map(Option::take));
    }
    kept
}

fn choice(index: usize, answer: Answer, mut pieces: Pieces) -> CompletionChoice {
    let (echo, mut logprobs) = pieces.prompt(&answer.prompt);
    for token in &answer.tokens {
        // Without a list nobody asked for them.
        if let Some(all) = &mut logprobs
            && let Some(one) = pieces.token(token)
        {
            all.append(one);
        }
    }
    let scored = pieces.scored_prompt.as_ref();
    let prompt_logprobs =
        scored.map(|(top, prompt)| crate::wire::prompt_logprobs(&pieces.model.tokenizer, prompt, &answer.prompt, *top));
    let (text, finish_reason) = (echo + &answer.text, Some(answer.finish_reason));
    CompletionChoice { index, text, logprobs, finish_reason, prompt_logprobs }
}

/// Makes the texts and log-probabilities of one choice, in order.
struct Pieces {
    model: Arc<ServedModel>,
    echo: Option<Arc<Echo>>,
    /// So many of the likeliest tokens are reported with each.
    scored: Option<usize>,
    /// The same of the prompt's own tokens, in a list apart, and these.
    scored_prompt: Option<(usize, Vec<u32>)>,
    offsets: Offsets,
}

impl Pieces {
    /// The prompt to send back; empty if that was not asked for. `logprobs`: of its second and later tokens.
    fn prompt(&mut self, logprobs: &[Logprobs]) -> (String, Option<CompletionLogprobs>) {
        let mut entries = CompletionLogprobs::default();
        let Some(echo) = self.echo.take() else {
            return (String::new(), self.scored.map(|_| entries));
        };
        if let Some(count) = self.scored {
            let tokenizer = &self.model.tokenizer;
            // Nothing predicts the first token.
            let logprobs = [None].into_iter().chain(logprobs.iter().map(Some));
            for (&id, logprobs) in echo.tokens.iter().zip(logprobs) {
                let offset = self.offsets.push(tokenizer, id);
                entries.push(tokenizer, id, logprobs, count, offset);
            }
        }
        (echo.text.clone(), self.scored.map(|_| entries))
    }

    fn token(&mut self, token: &TokenEvent) -> Option<CompletionLogprobs> {
        let logprobs = token.logprobs.as_ref()?;
        let mut entries = CompletionLogprobs::default();
        let offset = self.offsets.push(&self.model.tokenizer, token.token);
        entries.push(&self.model.tokenizer, token.token, Some(logprobs), usize::MAX, offset);
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
        frame(&Envelope { id, object: OBJECT, created, model, choices, usage, timings, prompt_logprobs: None })
    }

    fn text(&self, index: usize, text: String, logprobs: Option<CompletionLogprobs>) -> Bytes {
        self.chunk(vec![CompletionChoice { index, text, logprobs, finish_reason: None, prompt_logprobs: None }])
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
        let ready = |p: &Pieces| p.echo.is_some() && p.scored.is_none();
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
                let (logprobs, prompt_logprobs) = (None, None);
                vec![self.chunk(vec![CompletionChoice { index, text, logprobs, finish_reason, prompt_logprobs }])]
            }
            Event::Embedding(_) | Event::Error(_) => vec![],
        }
    }

    fn end(&mut self) -> Vec<Bytes> {
        match self.options.include_usage {
            true => vec![self.chunk(vec![])],
            false => vec![],
        }
    }
}
