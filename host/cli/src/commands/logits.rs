use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};
use rocmforge_engine::SingleSequence;
use rocmforge_loader::Config;

use crate::args::Logits;
use crate::{models, setup};

pub fn run(config: &Config, args: &Logits) -> Result<()> {
    let plugins = setup::plugins(config)?;
    let (name, mut entry) = models::select(config, &args.model)?;
    let tokens = args.tokens.len();
    let chunk = args.chunk.map_or(tokens, |n| n.get() as usize);
    // Nothing beyond these tokens will be served, and some models choose their rope by that.
    entry.context_length = entry.context_length.or(std::num::NonZeroU32::new(tokens as u32));
    let compile = models::compile_options(config, chunk.min(tokens), 1);
    let mut model = models::load(config, &plugins, &name, &entry, args.model.no_fallback, compile)?;
    let vocab = model.executable.program().info.vocab_size;

    let file = File::create(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let mut out = BufWriter::new(file);
    out.write_all(&npy_header(tokens, vocab))?;
    let mut sequence = SingleSequence::new(&mut model.executable, tokens)?;
    sequence.score(&args.tokens, chunk, |_, row| -> Result<()> {
        row.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
        Ok(())
    })?;
    Ok(out.flush()?)
}

/// Header of NumPy's format 1.0 for little-endian float32 `[rows, columns]`, padded to 64 bytes as NEP 1 asks.
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let padding = 63 - (10 + text.len()) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_headers_are_whole_blocks_of_64_bytes() {
        for (rows, columns) in [(1, 1), (48, 448), (123_456, 151_936)] {
            let header = npy_header(rows, columns);
            assert_eq!(header.len() % 64, 0, "{rows} x {columns}");
            assert_eq!(header.last(), Some(&b'\n'));
            assert!(String::from_utf8_lossy(&header).contains(&format!("({rows}, {columns})")));
        }
    }
}
