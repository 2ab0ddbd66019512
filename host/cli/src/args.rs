use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use rocmforge_loader::GpuLayers;
use rocmforge_loader::config::ModelEntry;

/// LLM inference for AMD GPUs and CPUs; backends and model architectures are plugins.
#[derive(Parser)]
#[command(name = "rocmforge-host", version, propagate_version = true)]
pub struct Args {
    /// Configuration [default: plugins.toml beside the program, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Threads to compute with [default: what affinity and cgroup quota leave]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroU32>,
    /// Log filter, e.g. `debug` or `rocmforge_engine=trace`
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log as one JSON object per line
    #[arg(long, global = true)]
    pub log_json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve the OpenAI-compatible API
    Serve(Serve),
    /// Chat in the terminal
    Run(Chat),
    /// Continue a text, or answer one message, and print it
    Generate(Generate),
    /// Say which plugins are loaded, or check one
    Plugins {
        #[command(subcommand)]
        command: PluginsCommand,
    },
    /// Show what a model file holds and needs
    Inspect(Inspect),
    /// Measure how well a model predicts a text
    Perplexity(Perplexity),
    /// Turn text into token ids, as JSON
    Tokenize(Tokenize),
    /// Write the logits after each token of a sequence as a .npy file
    Logits(Logits),
    /// Measure prompt processing and generation speed
    Bench(Bench),
    /// Say what this machine has and lacks, and what to do about it
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Load plugins and report each on standard output; used by the host itself
    #[command(hide = true)]
    ProbePlugins { files: Vec<PathBuf> },
    /// Render the chat template of a model; used by the host itself
    #[command(hide = true)]
    RenderTemplates,
}

impl Command {
    /// The model's arguments, of commands that run one.
    pub fn model(&self) -> Option<&ModelArgs> {
        match self {
            Command::Serve(c) => Some(&c.model),
            Command::Run(c) => Some(&c.model),
            Command::Generate(c) => Some(&c.model),
            Command::Perplexity(c) => Some(&c.model),
            Command::Tokenize(c) => Some(&c.model),
            Command::Logits(c) => Some(&c.model),
            Command::Bench(c) => Some(&c.model),
            Command::Plugins { .. }
            | Command::Inspect(_)
            | Command::Doctor { .. }
            | Command::ProbePlugins { .. }
            | Command::RenderTemplates => None,
        }
    }
}

#[derive(Subcommand)]
pub enum PluginsCommand {
    /// List plugins, their architectures, backends and devices
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check one plugin file and say what it holds or what is wrong with it
    Check { file: PathBuf },
}

/// Which model, for every command that takes one.
#[derive(clap::Args, Clone)]
pub struct ModelArgs {
    /// A GGUF file, or the name of a model in the configuration [default: the configuration's only model]
    #[arg(short, long, value_name = "FILE|NAME")]
    pub model: Option<String>,
    /// Architecture plugin, where several take the file
    #[arg(long, value_name = "NAME")]
    pub architecture: Option<String>,
    /// Longest context in tokens [default: the model's own; of `logits` as many as there are `--tokens`]
    #[arg(long, value_name = "N")]
    pub context_length: Option<NonZeroU32>,
    /// Fail instead of using another backend than the preferred one
    #[arg(long)]
    pub no_fallback: bool,
    /// Layers on the devices of the preferred backend: `auto`, a number, or one per device as in `16,16`
    #[arg(long, value_name = "N")]
    pub gpu_layers: Option<GpuLayers>,
}

/// How the next tokens are guessed, to be checked several at once. The answers are the same as without.
#[derive(clap::Args, Clone)]
pub struct SpeculationArgs {
    /// A smaller model of the same vocabulary that guesses what comes next
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_lookup")]
    pub draft_model: Option<PathBuf>,
    /// Guess that what followed the latest few tokens before follows them again
    #[arg(long)]
    pub prompt_lookup: bool,
    /// Most tokens to guess in a row [default: 8]
    #[arg(long, value_name = "N")]
    pub draft_tokens: Option<NonZeroUsize>,
}

impl SpeculationArgs {
    /// Overrides what the configuration says.
    pub fn apply(&self, entry: &mut ModelEntry) {
        if self.draft_model.is_some() || self.prompt_lookup {
            entry.draft_model.clone_from(&self.draft_model);
            entry.prompt_lookup = self.prompt_lookup;
        }
        entry.draft_tokens = self.draft_tokens.or(entry.draft_tokens);
    }
}

#[derive(clap::Args)]
pub struct Serve {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub speculation: SpeculationArgs,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long)]
    pub host: Option<String>,
    /// Port to listen on; 0 picks a free one [default: 8080]
    #[arg(long)]
    pub port: Option<u16>,
}

/// How the next token is chosen.
#[derive(clap::Args, Clone)]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 40)]
    pub top_k: u32,
    /// Keep the likeliest tokens that add up to this probability
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, default_value_t = 0.05)]
    pub min_p: f32,
    /// Above 1, tokens that occurred become less likely
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Repeat the same choices with the same number
    #[arg(long)]
    pub seed: Option<u64>,
    /// Most tokens to generate [default: the rest of the context]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<NonZeroU32>,
}

#[derive(clap::Args)]
pub struct Chat {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// System message
    #[arg(long)]
    pub system: Option<String>,
}

#[derive(clap::Args)]
pub struct Generate {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub speculation: SpeculationArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The text [default: standard input]
    #[arg(short, long)]
    pub prompt: Option<String>,
    /// Treat the text as a user's message and answer it
    #[arg(long)]
    pub chat: bool,
}

#[derive(clap::Args)]
pub struct Inspect {
    /// A GGUF file; of a split model the first part
    pub file: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print the program that its architecture makes of it
    #[arg(long)]
    pub program: bool,
}

#[derive(clap::Args)]
pub struct Perplexity {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Tokens per window [default: the context length, at most 512]
    #[arg(long, value_name = "N")]
    pub window: Option<NonZeroU32>,
}

#[derive(clap::Args)]
pub struct Tokenize {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Standard input is a JSON array of strings; print an array of arrays
    #[arg(long)]
    pub batch: bool,
    /// Do not add the tokens that the model wants around a text
    #[arg(long)]
    pub no_bos: bool,
    /// Treat special tokens in the text as plain text
    #[arg(long)]
    pub no_special: bool,
}

#[derive(clap::Args)]
pub struct Logits {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids
    #[arg(long, value_delimiter = ',', required = true, value_name = "1,2,3")]
    pub tokens: Vec<u32>,
    /// Tokens per step [default: all in one]
    #[arg(long, value_name = "N")]
    pub chunk: Option<NonZeroU32>,
    /// Where to write float32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE.npy")]
    pub out: PathBuf,
}

#[derive(clap::Args)]
pub struct Bench {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt tokens to process; 0 skips this part
    #[arg(short, long, default_value_t = 512)]
    pub prompt: u32,
    /// Tokens to generate; 0 skips this part
    #[arg(short = 'n', long, default_value_t = 64)]
    pub generate: u32,
    /// Sequences to generate for at once, a quarter of the tokens each; 0 skips this part
    #[arg(short, long, default_value_t = 16)]
    pub batch: u32,
    /// Tokens of context before the prompt and before those that are generated
    #[arg(short, long, default_value_t = 0)]
    pub depth: u32,
    /// Repetitions; the median is reported
    #[arg(short, long, default_value_t = 5)]
    pub repetitions: u32,
    /// Do not measure what the device can do at most, which takes a few seconds
    #[arg(long)]
    pub no_limits: bool,
    /// Print the time that each kernel took, by the device's clock
    #[arg(long)]
    pub profile: bool,
    /// Compare drawing tokens on the device with copying logits to the host and drawing there, for `--batch` sequences
    #[arg(long)]
    pub sampling: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}
