//! The host's own parts in the roles that the engine needs.

use rocmforge_loader::Executable;
use rocmforge_program::{OutputBuffer, Program, RowSampling, Step};
use rocmforge_tokenizer::Tokenizer;

use crate::runner::{RunError, Runner, RunnerLimits};
use crate::text::Vocabulary;

impl Runner for Executable {
    fn program(&self) -> &Program {
        Executable::program(self)
    }

    fn limits(&self) -> RunnerLimits {
        let options = self.options();
        RunnerLimits {
            max_tokens: options.max_tokens as usize,
            max_sequences: options.max_sequences as usize,
            block_size: options.block_size as usize,
        }
    }

    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<(), RunError> {
        Ok(Executable::allocate_cache(self, blocks)?)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<(), RunError> {
        Ok(Executable::submit(self, step)?)
    }

    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), RunError> {
        Ok(Executable::wait(self, outputs)?)
    }

    fn samples(&self) -> bool {
        Executable::samples(self)
    }

    fn submit_sampling(&mut self, step: &Step<'_>, rows: &[RowSampling]) -> Result<(), RunError> {
        Ok(Executable::submit_sampling(self, step, rows)?)
    }

    fn sampled(&mut self, tokens: &mut [u32]) -> Result<(), RunError> {
        Ok(Executable::sampled(self, tokens)?)
    }

    fn recover(&mut self) -> Result<bool, RunError> {
        Ok(Executable::recover(self)?)
    }
}

impl Vocabulary for Tokenizer {
    fn is_end_of_generation(&self, token: u32) -> bool {
        self.is_eog(token)
    }

    fn end_of_generation(&self) -> Vec<u32> {
        self.eog_tokens().collect()
    }

    fn token_bytes(&self, token: u32, out: &mut Vec<u8>) {
        if !self.is_special(token) {
            out.extend_from_slice(Tokenizer::token_bytes(self, token));
        }
    }

    fn special_bytes(&self, token: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(Tokenizer::token_bytes(self, token));
    }
}
