use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use rocmforge_engine::{Event, FinishReason, GenerateRequest, SamplingParams, StopParams};
use rocmforge_loader::Config;
use rocmforge_loader::config::Embeddings;
use rocmforge_tokenizer::{Guard, RenderContext};
use serde_json::json;

use crate::args::{Generate, SamplingArgs};
use crate::models::{self, Running};
use crate::setup;

pub fn run(config: &Config, args: &Generate) -> Result<()> {
    let text = match &args.prompt {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            text
        }
    };
    let plugins = setup::plugins(config)?;
    let (name, mut entry) = models::select(config, &args.model)?;
    args.speculation.apply(&mut entry);
    entry.embeddings = Embeddings::Off;
    let running = models::start(config, &plugins, &name, &entry, args.model.no_fallback, 1, None)?;
    let prompt = match args.chat {
        true => chat_prompt(&running, &[json!({"role": "user", "content": text})])?,
        false => running.tokenizer.encode_prompt(&text),
    };
    let mut stream = running.engine.submit(request(prompt, &args.sampling))?;
    let mut out = std::io::stdout().lock();
    while let Some(event) = stream.blocking_next() {
        if let Some(end) = show(&event, &mut out)? {
            writeln!(out)?;
            tracing::debug!("{end}");
        }
    }
    Ok(())
}

/// A request with the sampling that the command line asks for.
pub fn request(prompt: Vec<u32>, sampling: &SamplingArgs) -> GenerateRequest {
    GenerateRequest {
        prompt,
        sampling: SamplingParams {
            temperature: sampling.temperature,
            top_k: (sampling.top_k > 0).then_some(sampling.top_k as usize),
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            seed: sampling.seed,
            ..SamplingParams::default()
        },
        stop: StopParams { max_tokens: sampling.max_tokens.map(|n| n.get() as usize), ..StopParams::default() },
        ..GenerateRequest::default()
    }
}

/// The tokens of a conversation, with the assistant's turn opened.
pub fn chat_prompt(running: &Running, messages: &[serde_json::Value]) -> Result<Vec<u32>> {
    let messages = json!(messages);
    let guard = match running.control_tokens_in_messages {
        true => Guard::off(&running.tokenizer),
        false => Guard::new(&running.tokenizer, &[&messages])?,
    };
    let text = running.template.render(&guard.value(&messages), &RenderContext::default())?;
    Ok(guard.rendered(text).encode_prompt(&running.tokenizer))
}

/// Prints the text of an event; says how the answer ended if it has.
pub fn show(event: &Event, out: &mut impl Write) -> Result<Option<String>> {
    let end = match event {
        Event::Prompt(_) | Event::Embedding(_) => return Ok(None),
        Event::Token(token) => {
            out.write_all(token.text.as_bytes())?;
            None
        }
        Event::Finished(finish) => {
            out.write_all(finish.text.as_bytes())?;
            let (usage, timings) = (finish.usage, finish.timings);
            let speed = usage.completion_tokens as f64 / timings.decode.as_secs_f64().max(1e-9);
            let why = if finish.reason == FinishReason::Length { ", cut at the limit" } else { "" };
            Some(format!(
                "{} prompt tokens in {:.2} s, {} tokens at {speed:.1}/s{why}",
                usage.prompt_tokens,
                timings.prefill.as_secs_f64(),
                usage.completion_tokens
            ))
        }
        Event::Error(e) => bail!("{e}"),
    };
    out.flush()?;
    Ok(end)
}
