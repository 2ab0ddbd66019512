use crate::DType;

/// Why bytes and values could not be converted into each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The number of values is not a whole number of blocks.
    #[error("{dtype}: {elements} values, expected a multiple of {block_elements}")]
    PartialBlock {
        /// The element type.
        dtype: DType,
        /// Values on the unpacked side.
        elements: usize,
        /// Values per block of that type.
        block_elements: usize,
    },
    /// The number of bytes does not belong to the number of values.
    #[error("{dtype}: {bytes} bytes for {elements} values, expected {expected} bytes")]
    Length {
        /// The element type.
        dtype: DType,
        /// Bytes on the packed side.
        bytes: usize,
        /// Values on the unpacked side.
        elements: usize,
        /// Bytes that many values take.
        expected: usize,
    },
    /// There is no quantiser for this type here.
    #[error("{dtype}: cannot be quantised here, only dequantised; quantise to {supported} instead")]
    NoQuantizer {
        /// The element type.
        dtype: DType,
        /// The types that can be written.
        supported: &'static str,
    },
}
