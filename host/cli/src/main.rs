//! `rocmforge-host`: loads plugins and models, and serves or runs them.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod draft;
mod memory;
mod models;
mod served;
mod setup;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command, PluginsCommand};

fn main() -> ExitCode {
    let args = Args::parse();
    match dispatch(args) {
        Ok(code) => code,
        // Whoever read the output, `head` for example, has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with every cause; `main` returning the error would print several.
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            eprintln!("error: {}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.into_iter().any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(args: Args) -> anyhow::Result<ExitCode> {
    if let Command::ProbePlugins { files } = &args.command {
        rocmforge_loader::probe::child(files)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::RenderTemplates = &args.command {
        commands::templates::run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = setup::config(&args)?;
    setup::logging(&args, &config)?;
    setup::threads(&args, &config);
    setup::placement(&args, &mut config);
    match args.command {
        Command::Serve(serve) => commands::serve::run(&mut config, &serve),
        Command::Run(chat) => commands::chat::run(&config, &chat),
        Command::Generate(generate) => commands::generate::run(&config, &generate),
        Command::Plugins { command: PluginsCommand::List { json } } => commands::plugins::list(&config, json),
        Command::Plugins { command: PluginsCommand::Check { file } } => commands::plugins::check(&file),
        Command::Inspect(inspect) => commands::inspect::run(&config, &inspect),
        Command::Perplexity(perplexity) => commands::perplexity::run(&config, &perplexity),
        Command::Tokenize(tokenize) => commands::tokenize::run(&config, &tokenize),
        Command::Logits(logits) => commands::logits::run(&config, &logits),
        Command::Bench(bench) => commands::bench::run(&config, &bench),
        Command::Doctor { json } => commands::doctor::run(&config, json),
        Command::ProbePlugins { .. } | Command::RenderTemplates => Ok(()),
    }?;
    Ok(ExitCode::SUCCESS)
}
