use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result};
use rocmforge_engine::{Event, GenerateRequest};
use rocmforge_loader::Config;
use rocmforge_loader::config::Embeddings;
use serde_json::{Value, json};

use crate::args::Chat;
use crate::commands::generate::{chat_prompt, request, show};
use crate::models::{self, Running};
use crate::setup;

const HELP: &str = "/clear forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops an answer";

pub fn run(config: &Config, args: &Chat) -> Result<()> {
    let plugins = setup::plugins(config)?;
    let (name, mut entry) = models::select(config, &args.model)?;
    entry.embeddings = Embeddings::Off;
    let running = models::start(config, &plugins, &name, &entry, args.model.no_fallback, 1, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let system: Vec<Value> = args.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
    let mut messages = system.clone();
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        eprintln!("{name}. {HELP}.");
    }
    loop {
        if interactive {
            eprint!("> ");
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).context("reading standard input")? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/clear" => messages = system.clone(),
            "/help" => eprintln!("{HELP}"),
            text => {
                messages.push(json!({"role": "user", "content": text}));
                match answer(&running, &messages, args, &runtime) {
                    Ok(reply) => messages.push(json!({"role": "assistant", "content": reply})),
                    Err(e) => {
                        // The conversation goes on without the message that could not be answered.
                        eprintln!("error: {e:#}");
                        messages.pop();
                    }
                }
            }
        }
    }
}

fn answer(running: &Running, messages: &[Value], args: &Chat, runtime: &tokio::runtime::Runtime) -> Result<String> {
    let prompt = chat_prompt(running, messages)?;
    runtime.block_on(stream(running, request(prompt, &args.sampling)))
}

/// Prints an answer as it comes; Ctrl-C ends it.
async fn stream(running: &Running, request: GenerateRequest) -> Result<String> {
    let mut stream = running.engine.submit(request)?;
    let mut reply = String::new();
    let mut out = std::io::stdout();
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(event) = event else {
            writeln!(out, " [stopped]")?;
            return Ok(reply);
        };
        match &event {
            Event::Token(token) => reply.push_str(&token.text),
            Event::Finished(finish) => reply.push_str(&finish.text),
            Event::Prompt(_) | Event::Embedding(_) | Event::Error(_) => {}
        }
        if let Some(end) = show(&event, &mut out)? {
            writeln!(out)?;
            if std::io::stderr().is_terminal() {
                eprintln!("[{end}]");
            }
            return Ok(reply);
        }
    }
}
