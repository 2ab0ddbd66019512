use std::io::Read;

use anyhow::{Context, Result};
use rocmforge_gguf::GgufFile;
use rocmforge_loader::Config;
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};

use crate::args::Tokenize;
use crate::models;

pub fn run(config: &Config, args: &Tokenize) -> Result<()> {
    let (_, entry) = models::select(config, &args.model)?;
    let file = GgufFile::open(&entry.path)?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: !args.no_special };
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).context("reading standard input")?;
    let ids = if args.batch {
        let texts: Vec<String> =
            serde_json::from_str(&input).context("standard input: expected a JSON array of strings")?;
        let all: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, options)).collect();
        serde_json::to_string(&all)?
    } else {
        serde_json::to_string(&tokenizer.encode(&input, options))?
    };
    say!("{ids}");
    Ok(())
}
