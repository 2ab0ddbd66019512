/// Why a kernel did not run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A buffer, shape or index does not fit the others.
    #[error("{place}: expected {expected}, found {found}")]
    Mismatch {
        /// The argument.
        place: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The processor lacks an instruction set that was asked for.
    #[error("instruction set '{asked}' is not available here; this processor has {available}")]
    Isa {
        /// The name asked for.
        asked: String,
        /// The names that would work.
        available: String,
    },
    /// There is no way to read weights of this type.
    #[error("weights of type {dtype} cannot be computed with: {reason}")]
    Weights {
        /// The element type.
        dtype: rocmforge_quant::DType,
        /// The decoder's answer.
        reason: String,
    },
    /// A task of a parallel loop panicked; the other tasks of that loop did not all run.
    #[error("a compute task panicked: {message}")]
    Panic {
        /// The panic message.
        message: String,
    },
    /// The system has no memory for a buffer.
    #[error("no memory for a buffer of {bytes} bytes")]
    Memory {
        /// Its size.
        bytes: u64,
    },
    /// The system refused to start a thread.
    #[error("cannot start compute thread {index}: {reason}")]
    Thread {
        /// Which of the pool's threads.
        index: usize,
        /// The system's answer.
        reason: String,
    },
}

impl KernelError {
    pub(crate) fn mismatch(
        place: &'static str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> KernelError {
        KernelError::Mismatch { place, expected: expected.to_string(), found: found.to_string() }
    }
}

/// `Ok` if `found` is `expected`.
pub(crate) fn exact(place: &'static str, found: usize, expected: usize) -> Result<(), KernelError> {
    if found == expected { Ok(()) } else { Err(KernelError::mismatch(place, expected, found)) }
}
