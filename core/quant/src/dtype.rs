use serde::{Deserialize, Serialize};

/// How many elements share a block, and how many bytes that block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Elements per block; 1 for plain types.
    pub block_elements: usize,
    /// Bytes per block.
    pub block_bytes: usize,
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $elements:literal x $bytes:literal;)*) => {
        /// The element type of a tensor, numbered as in a GGUF tensor header (`enum ggml_type`).
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(u32)]
        pub enum DType {
            $($(#[$doc])* $variant = $id,)*
        }

        impl DType {
            /// Every type, in the order of its number.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The type with this number in a GGUF file; `None` for numbers never given out or withdrawn.
            pub fn from_id(id: u32) -> Option<DType> {
                match id { $($id => Some(DType::$variant),)* _ => None }
            }

            /// The name as ggml's tools print it.
            pub fn name(self) -> &'static str {
                match self { $(DType::$variant => stringify!($variant),)* }
            }

            /// Elements and bytes of one block.
            pub fn layout(self) -> Layout {
                match self {
                    $(DType::$variant => Layout { block_elements: $elements, block_bytes: $bytes },)*
                }
            }
        }
    };
}

dtypes! {
    /// IEEE 754 single precision.
    F32 = 0, 1 x 4;
    /// IEEE 754 half precision.
    F16 = 1, 1 x 2;
    /// 4-bit codes, one f16 scale.
    Q4_0 = 2, 32 x 18;
    /// 4-bit codes, f16 scale and minimum.
    Q4_1 = 3, 32 x 20;
    /// 5-bit codes, one f16 scale.
    Q5_0 = 6, 32 x 22;
    /// 5-bit codes, f16 scale and minimum.
    Q5_1 = 7, 32 x 24;
    /// 8-bit codes, one f16 scale.
    Q8_0 = 8, 32 x 34;
    /// 8-bit codes, f16 scale and f16 sum; an activation format.
    Q8_1 = 9, 32 x 36;
    /// 2-bit codes in super-blocks.
    Q2_K = 10, 256 x 84;
    /// 3-bit codes in super-blocks.
    Q3_K = 11, 256 x 110;
    /// 4-bit codes in super-blocks.
    Q4_K = 12, 256 x 144;
    /// 5-bit codes in super-blocks.
    Q5_K = 13, 256 x 176;
    /// 6-bit codes in super-blocks.
    Q6_K = 14, 256 x 210;
    /// 8-bit codes, f32 scale and sums; an activation format.
    Q8_K = 15, 256 x 292;
    /// 2.06 bits per weight, grid of 256.
    IQ2_XXS = 16, 256 x 66;
    /// 2.31 bits per weight, grid of 512.
    IQ2_XS = 17, 256 x 74;
    /// 3.06 bits per weight, grid of 256.
    IQ3_XXS = 18, 256 x 98;
    /// 1.56 bits per weight, grid of 2048.
    IQ1_S = 19, 256 x 50;
    /// 4-bit codes into a fixed non-linear table.
    IQ4_NL = 20, 32 x 18;
    /// 3.44 bits per weight, grid of 512.
    IQ3_S = 21, 256 x 110;
    /// 2.5 bits per weight, grid of 1024.
    IQ2_S = 22, 256 x 82;
    /// The table of `IQ4_NL` in super-blocks.
    IQ4_XS = 23, 256 x 136;
    /// Signed 8-bit integer.
    I8 = 24, 1 x 1;
    /// Signed 16-bit integer.
    I16 = 25, 1 x 2;
    /// Signed 32-bit integer.
    I32 = 26, 1 x 4;
    /// Signed 64-bit integer.
    I64 = 27, 1 x 8;
    /// IEEE 754 double precision.
    F64 = 28, 1 x 8;
    /// 1.75 bits per weight, grid of 2048.
    IQ1_M = 29, 256 x 56;
    /// bfloat16.
    BF16 = 30, 1 x 2;
    /// Ternary, 1.69 bits per weight.
    TQ1_0 = 34, 256 x 54;
    /// Ternary, 2.06 bits per weight.
    TQ2_0 = 35, 256 x 66;
    /// 4-bit floats with one shared power-of-two exponent (OCP MX).
    MXFP4 = 39, 32 x 17;
    /// 4-bit floats with four E4M3-like scales per 64.
    NVFP4 = 40, 64 x 36;
    /// 1-bit signs, one f16 scale.
    Q1_0 = 41, 128 x 18;
    /// 2-bit codes, one f16 scale.
    Q2_0 = 42, 64 x 18;
}

impl DType {
    /// Bytes of a row of `elements`, or `None` if the row is not whole blocks or its size overflows.
    pub fn row_bytes(self, elements: usize) -> Option<usize> {
        let layout = self.layout();
        if !elements.is_multiple_of(layout.block_elements) {
            return None;
        }
        (elements / layout.block_elements).checked_mul(layout.block_bytes)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
