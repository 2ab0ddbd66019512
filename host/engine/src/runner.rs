use std::error::Error;

use rocmforge_program::{OutputBuffer, Program, RowSampling, Step};

/// Why a step could not be run; the backend's own error.
pub type RunError = Box<dyn Error + Send + Sync>;

/// What an executable was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Most tokens in one step.
    pub max_tokens: usize,
    /// Most sequences in one step.
    pub max_sequences: usize,
    /// Tokens per block of the KV cache.
    pub block_size: usize,
}

/// Something that runs steps of a program: a loaded executable, several of them in a row, or a simulation in a test.
pub trait Runner: Send {
    /// The program.
    fn program(&self) -> &Program;

    /// What it was compiled for.
    fn limits(&self) -> RunnerLimits;

    /// Allocates so many blocks per cache group, in place of any before; their content is lost.
    ///
    /// # Errors
    /// Mostly lack of memory.
    fn allocate_cache(&mut self, blocks: &[u64]) -> Result<(), RunError>;

    /// Starts a step. One at a time.
    ///
    /// # Errors
    /// The step breaks a rule, or the device fails.
    fn submit(&mut self, step: &Step<'_>) -> Result<(), RunError>;

    /// Waits for the step and copies its outputs.
    ///
    /// # Errors
    /// The device failed, or an output is unknown or of another size.
    fn wait(&mut self, outputs: &mut [OutputBuffer<'_>]) -> Result<(), RunError>;

    /// Whether it draws tokens from rows of logits by itself. It may change when it moves to another device.
    fn samples(&self) -> bool {
        false
    }

    /// Starts a step and draws tokens from these of its rows of logits, in rising order, of which `wait` then gives no
    /// logits. Only where it [`samples`](Runner::samples).
    ///
    /// # Errors
    /// As [`submit`](Runner::submit).
    fn submit_sampling(&mut self, _step: &Step<'_>, _rows: &[RowSampling]) -> Result<(), RunError> {
        Err("tokens are not drawn here".into())
    }

    /// After [`wait`](Runner::wait): the tokens drawn, in the order in which they were asked for;
    /// [`NO_TOKEN`](rocmforge_program::NO_TOKEN) where a row cannot be drawn from.
    ///
    /// # Errors
    /// As [`wait`](Runner::wait).
    fn sampled(&mut self, _tokens: &mut [u32]) -> Result<(), RunError> {
        Err("tokens are not drawn here".into())
    }

    /// After a failed step: moves to another device, with an empty cache, if the one before is lost and that is wanted.
    /// `false`: nothing is lost, so the next step may go well.
    ///
    /// # Errors
    /// The device is lost and nothing takes its place: no further step will go well.
    fn recover(&mut self) -> Result<bool, RunError> {
        Ok(false)
    }
}
