//! Prints how many megabytes of a text a tokenizer encodes each second: `throughput MODEL.gguf TEXT.txt`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Instant;

use rocmforge_gguf::GgufFile;
use rocmforge_tokenizer::{EncodeOptions, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, text] = arguments.as_slice() else {
        return Err("usage: throughput MODEL.gguf TEXT.txt".into());
    };
    let start = Instant::now();
    let file = GgufFile::open(model.as_ref())?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    println!("loaded in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let text = std::fs::read_to_string(text)?;
    for _ in 0..3 {
        let start = Instant::now();
        let ids = tokenizer.encode(&text, EncodeOptions::default());
        let seconds = start.elapsed().as_secs_f64();
        let megabytes = text.len() as f64 / 1e6;
        println!("{} tokens, {:.1} MB/s encoding", ids.len(), megabytes / seconds);
        let start = Instant::now();
        let decoded = tokenizer.decode(&ids, true);
        println!("{:.1} MB/s decoding", decoded.len() as f64 / 1e6 / start.elapsed().as_secs_f64());
    }
    Ok(())
}
