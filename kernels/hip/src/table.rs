//! Every kernel by name: its image, the lanes of its blocks, its arguments.

/// A kernel: where it is and how many lanes its blocks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its symbol in the image.
    pub name: &'static str,
    /// The image that holds it.
    pub source: &'static str,
    /// Lanes of a block.
    pub threads: Threads,
    /// The name of its argument struct.
    pub args: &'static str,
}

/// How many lanes a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The same number on every target.
    Fixed(u32),
    /// A number of waves.
    Waves(u32),
}

impl Threads {
    /// Lanes on a target with waves of this width.
    pub fn on(self, wave: u32) -> u32 {
        match self {
            Threads::Fixed(threads) => threads,
            Threads::Waves(waves) => waves * wave,
        }
    }
}

const ROW: Threads = Threads::Fixed(256);

/// A product of matrices of one format, by the end of its name.
macro_rules! product {
    ($source:literal, $operation:literal, $format:ident, $end:literal, $args:literal, $threads:expr) => {
        Kernel {
            name: concat!("rf_", $operation, "_", stringify!($format), "_", $end),
            source: $source,
            threads: $threads,
            args: $args,
        }
    };
}

/// Kernels by their names; then products of one or a few rows, the same with those that end in the codes of a gated
/// activation or of the norm that follows, and products of many rows, by the formats that a source has them for.
macro_rules! kernels {
    (
        $($source:literal { $($name:ident: $args:ident, $threads:expr;)* })*
        gemv { $($few:literal: $($few_format:ident)*;)* }
        gemv_norm { $($norm:literal: $($norm_format:ident)*;)* }
        gemm { $($many:literal: $($many_format:ident)*;)* }
    ) => {
        /// Every kernel.
        pub const KERNELS: &[Kernel] = &[
            $($(Kernel { name: stringify!($name), source: $source, threads: $threads, args: stringify!($args) },)*)*
            $($(
                product!($few, "gemv", $few_format, "1", "RfGemvArgs", ROW),
                product!($few, "gemv", $few_format, "4", "RfGemvArgs", ROW),
            )*)*
            $($(
                product!($norm, "gemv", $norm_format, "1", "RfGemvArgs", ROW),
                product!($norm, "gemv", $norm_format, "4", "RfGemvArgs", ROW),
                product!($norm, "gemv", $norm_format, "pair", "RfGemvArgs", ROW),
                product!($norm, "gemv", $norm_format, "norm", "RfGemvArgs", Threads::Fixed(512)),
            )*)*
            $($(
                product!($many, "gemm", $many_format, "16", "RfGemmArgs", Threads::Waves(4)),
                product!($many, "gemm", $many_format, "32", "RfGemmArgs", Threads::Waves(4)),
                product!($many, "gemm", $many_format, "64", "RfGemmArgs", Threads::Waves(4)),
                product!($many, "gemm", $many_format, "128", "RfGemmArgs", ROW),
            )*)*
        ];

        /// The names of the sources.
        pub fn sources() -> impl Iterator<Item = &'static str> {
            [$($source,)* $($few,)* $($norm,)* $($many),*].into_iter()
        }
    };
}

kernels! {
    "elementwise" {
        rf_binary: RfBinaryArgs, ROW;
        rf_unary: RfUnaryArgs, ROW;
        rf_copy: RfCopyArgs, ROW;
        rf_position_scale: RfPositionScaleArgs, ROW;
        rf_pool: RfPoolArgs, ROW;
    }
    "gated" { rf_gated: RfGatedArgs, Threads::Fixed(512); }
    "rope" { rf_rope: RfRopeArgs, Threads::Waves(4); }
    "attention" {
        rf_attention: RfAttentionArgs, Threads::Fixed(128);
        rf_attention_reduce: RfAttentionArgs, Threads::Waves(1);
    }
    "embed" { rf_embed: RfEmbedArgs, Threads::Fixed(128); }
    "norm" {
        rf_norm: RfNormArgs, Threads::Fixed(512);
        rf_norm_short: RfNormArgs, Threads::Fixed(512);
    }
    "repack" { rf_repack: RfRepackArgs, ROW; }
    "flash" {
        rf_flash_64_many: RfAttentionArgs, Threads::Waves(4);
        rf_flash_128_many: RfAttentionArgs, Threads::Waves(4);
        rf_flash_256_many: RfAttentionArgs, Threads::Waves(4);
        rf_flash_64_few: RfAttentionArgs, Threads::Waves(4);
        rf_flash_128_few: RfAttentionArgs, Threads::Waves(4);
        rf_flash_256_few: RfAttentionArgs, Threads::Waves(4);
    }
    "decode" {
        rf_decode_64: RfDecodeArgs, Threads::Waves(4);
        rf_decode_128: RfDecodeArgs, Threads::Waves(4);
    }
    "experts" {
        rf_router: RfRouterArgs, Threads::Waves(1);
        rf_expert_sort: RfExpertSortArgs, ROW;
        rf_expert_combine: RfExpertCombineArgs, ROW;
    }
    "linear" { rf_linear: RfLinearArgs, ROW; }
    "sample" {
        rf_sample_max: RfSampleArgs, ROW;
        rf_sample_histogram: RfSampleArgs, ROW;
        rf_sample_scatter: RfSampleArgs, ROW;
        rf_sample_pick: RfSampleArgs, ROW;
    }
    gemv {
        "gemv_plain": f32 f16 bf16;
        "gemv_iq": iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s;
        "gemv_low": tq1_0 tq2_0 nvfp4 q1_0 q2_0 q8_k;
    }
    gemv_norm {
        "gemv_legacy": q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl mxfp4;
        "gemv_k": q2_k q3_k q4_k q5_k q6_k iq4_xs;
    }
    gemm {
        "gemm_plain": f16 bf16;
        "gemm_legacy": q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl mxfp4;
        "gemm_k": q2_k q3_k q4_k q5_k q6_k iq4_xs;
        "gemm_iq": iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s;
        "gemm_low": tq1_0 tq2_0 nvfp4 q1_0 q2_0 q8_k;
    }
}
