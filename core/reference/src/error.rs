use rocmforge_program::{DType, ProgramError};
use rocmforge_quant::QuantError;

/// Why a Program could not be prepared or a step not be run.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The program or the step breaks a rule.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The source does not have a weight that the program reads.
    #[error("reference: weight '{name}': expected among the weights supplied, found nothing of that name")]
    MissingWeight {
        /// The weight.
        name: String,
    },
    /// A weight of another element type than the program declares.
    #[error("reference: weight '{name}': expected {expected} as the program declares, found {found}")]
    WeightType {
        /// The weight.
        name: String,
        /// The declared type.
        expected: DType,
        /// The type of the source.
        found: DType,
    },
    /// A weight of another size than the program declares.
    #[error("reference: weight '{name}': expected {expected} bytes for the declared dimensions, found {found}")]
    WeightSize {
        /// The weight.
        name: String,
        /// The declared size, in bytes.
        expected: usize,
        /// The size of the source, in bytes.
        found: usize,
    },
    /// A weight whose bytes cannot be turned into numbers.
    #[error("reference: weight '{name}': {source}")]
    Dequantize {
        /// The weight.
        name: String,
        /// The reason.
        source: QuantError,
    },
    /// A cache that does not fit the program, or a step before there is one.
    #[error("reference: cache: expected {expected}, found {found}")]
    Cache {
        /// The rule.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A named input that the step lacks or that has another size.
    #[error("reference: input '{name}': expected {expected} elements, found {found}")]
    Input {
        /// The input.
        name: String,
        /// Elements of its type in this step.
        expected: usize,
        /// What the step has.
        found: String,
    },
    /// A position or token id beyond the table that it looks up.
    #[error("reference: node {node} ({op}): expected an index below {limit}, found {index}")]
    Index {
        /// The node, counted after custom operations were expanded.
        node: usize,
        /// Its operation.
        op: &'static str,
        /// Rows of the table.
        limit: usize,
        /// The index.
        index: u32,
    },
}
