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

macro_rules! kernels {
    ($($source:literal { $($name:ident: $args:ident, $threads:expr;)* })*) => {
        /// Every kernel.
        pub const KERNELS: &[Kernel] = &[
            $($(Kernel { name: stringify!($name), source: $source, threads: $threads, args: stringify!($args) },)*)*
        ];

        /// The names of the sources.
        pub fn sources() -> impl Iterator<Item = &'static str> {
            [$($source),*].into_iter()
        }
    };
}

const ROW: Threads = Threads::Fixed(256);

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
    "norm" { rf_norm: RfNormArgs, Threads::Fixed(512); }
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
    "gemv_plain" {
        rf_gemv_f32_1: RfGemvArgs, ROW; rf_gemv_f32_4: RfGemvArgs, ROW;
        rf_gemv_f16_1: RfGemvArgs, ROW; rf_gemv_f16_4: RfGemvArgs, ROW;
        rf_gemv_bf16_1: RfGemvArgs, ROW; rf_gemv_bf16_4: RfGemvArgs, ROW;
    }
    "gemv_legacy" {
        rf_gemv_q4_0_1: RfGemvArgs, ROW; rf_gemv_q4_0_4: RfGemvArgs, ROW;
        rf_gemv_q4_0_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q4_1_1: RfGemvArgs, ROW; rf_gemv_q4_1_4: RfGemvArgs, ROW;
        rf_gemv_q4_1_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q5_0_1: RfGemvArgs, ROW; rf_gemv_q5_0_4: RfGemvArgs, ROW;
        rf_gemv_q5_0_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q5_1_1: RfGemvArgs, ROW; rf_gemv_q5_1_4: RfGemvArgs, ROW;
        rf_gemv_q5_1_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q8_0_1: RfGemvArgs, ROW; rf_gemv_q8_0_4: RfGemvArgs, ROW;
        rf_gemv_q8_0_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_iq4_nl_1: RfGemvArgs, ROW; rf_gemv_iq4_nl_4: RfGemvArgs, ROW;
        rf_gemv_iq4_nl_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_mxfp4_1: RfGemvArgs, ROW; rf_gemv_mxfp4_4: RfGemvArgs, ROW;
        rf_gemv_mxfp4_norm: RfGemvArgs, Threads::Fixed(512);
    }
    "gemv_k" {
        rf_gemv_q2_k_1: RfGemvArgs, ROW; rf_gemv_q2_k_4: RfGemvArgs, ROW;
        rf_gemv_q2_k_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q3_k_1: RfGemvArgs, ROW; rf_gemv_q3_k_4: RfGemvArgs, ROW;
        rf_gemv_q3_k_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q4_k_1: RfGemvArgs, ROW; rf_gemv_q4_k_4: RfGemvArgs, ROW;
        rf_gemv_q4_k_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q5_k_1: RfGemvArgs, ROW; rf_gemv_q5_k_4: RfGemvArgs, ROW;
        rf_gemv_q5_k_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_q6_k_1: RfGemvArgs, ROW; rf_gemv_q6_k_4: RfGemvArgs, ROW;
        rf_gemv_q6_k_norm: RfGemvArgs, Threads::Fixed(512);
        rf_gemv_iq4_xs_1: RfGemvArgs, ROW; rf_gemv_iq4_xs_4: RfGemvArgs, ROW;
        rf_gemv_iq4_xs_norm: RfGemvArgs, Threads::Fixed(512);
    }
    "gemv_iq" {
        rf_gemv_iq1_s_1: RfGemvArgs, ROW; rf_gemv_iq1_s_4: RfGemvArgs, ROW;
        rf_gemv_iq1_m_1: RfGemvArgs, ROW; rf_gemv_iq1_m_4: RfGemvArgs, ROW;
        rf_gemv_iq2_xxs_1: RfGemvArgs, ROW; rf_gemv_iq2_xxs_4: RfGemvArgs, ROW;
        rf_gemv_iq2_xs_1: RfGemvArgs, ROW; rf_gemv_iq2_xs_4: RfGemvArgs, ROW;
        rf_gemv_iq2_s_1: RfGemvArgs, ROW; rf_gemv_iq2_s_4: RfGemvArgs, ROW;
        rf_gemv_iq3_xxs_1: RfGemvArgs, ROW; rf_gemv_iq3_xxs_4: RfGemvArgs, ROW;
        rf_gemv_iq3_s_1: RfGemvArgs, ROW; rf_gemv_iq3_s_4: RfGemvArgs, ROW;
    }
    "gemv_low" {
        rf_gemv_tq1_0_1: RfGemvArgs, ROW; rf_gemv_tq1_0_4: RfGemvArgs, ROW;
        rf_gemv_tq2_0_1: RfGemvArgs, ROW; rf_gemv_tq2_0_4: RfGemvArgs, ROW;
        rf_gemv_nvfp4_1: RfGemvArgs, ROW; rf_gemv_nvfp4_4: RfGemvArgs, ROW;
        rf_gemv_q1_0_1: RfGemvArgs, ROW; rf_gemv_q1_0_4: RfGemvArgs, ROW;
        rf_gemv_q2_0_1: RfGemvArgs, ROW; rf_gemv_q2_0_4: RfGemvArgs, ROW;
        rf_gemv_q8_k_1: RfGemvArgs, ROW; rf_gemv_q8_k_4: RfGemvArgs, ROW;
    }
    "gemm_iq" {
        rf_gemm_iq1_s_32: RfGemmArgs, ROW; rf_gemm_iq1_s_128: RfGemmArgs, ROW;
        rf_gemm_iq1_m_32: RfGemmArgs, ROW; rf_gemm_iq1_m_128: RfGemmArgs, ROW;
        rf_gemm_iq2_xxs_32: RfGemmArgs, ROW; rf_gemm_iq2_xxs_128: RfGemmArgs, ROW;
        rf_gemm_iq2_xs_32: RfGemmArgs, ROW; rf_gemm_iq2_xs_128: RfGemmArgs, ROW;
        rf_gemm_iq2_s_32: RfGemmArgs, ROW; rf_gemm_iq2_s_128: RfGemmArgs, ROW;
        rf_gemm_iq3_xxs_32: RfGemmArgs, ROW; rf_gemm_iq3_xxs_128: RfGemmArgs, ROW;
        rf_gemm_iq3_s_32: RfGemmArgs, ROW; rf_gemm_iq3_s_128: RfGemmArgs, ROW;
    }
    "gemm_low" {
        rf_gemm_tq1_0_32: RfGemmArgs, ROW; rf_gemm_tq1_0_128: RfGemmArgs, ROW;
        rf_gemm_tq2_0_32: RfGemmArgs, ROW; rf_gemm_tq2_0_128: RfGemmArgs, ROW;
        rf_gemm_nvfp4_32: RfGemmArgs, ROW; rf_gemm_nvfp4_128: RfGemmArgs, ROW;
        rf_gemm_q1_0_32: RfGemmArgs, ROW; rf_gemm_q1_0_128: RfGemmArgs, ROW;
        rf_gemm_q2_0_32: RfGemmArgs, ROW; rf_gemm_q2_0_128: RfGemmArgs, ROW;
        rf_gemm_q8_k_32: RfGemmArgs, ROW; rf_gemm_q8_k_128: RfGemmArgs, ROW;
    }
    "gemm_plain" {
        rf_gemm_f16_32: RfGemmArgs, ROW; rf_gemm_f16_128: RfGemmArgs, ROW;
        rf_gemm_bf16_32: RfGemmArgs, ROW; rf_gemm_bf16_128: RfGemmArgs, ROW;
    }
    "gemm_legacy" {
        rf_gemm_q4_0_32: RfGemmArgs, ROW; rf_gemm_q4_0_128: RfGemmArgs, ROW;
        rf_gemm_q4_1_32: RfGemmArgs, ROW; rf_gemm_q4_1_128: RfGemmArgs, ROW;
        rf_gemm_q5_0_32: RfGemmArgs, ROW; rf_gemm_q5_0_128: RfGemmArgs, ROW;
        rf_gemm_q5_1_32: RfGemmArgs, ROW; rf_gemm_q5_1_128: RfGemmArgs, ROW;
        rf_gemm_q8_0_32: RfGemmArgs, ROW; rf_gemm_q8_0_128: RfGemmArgs, ROW;
        rf_gemm_iq4_nl_32: RfGemmArgs, ROW; rf_gemm_iq4_nl_128: RfGemmArgs, ROW;
        rf_gemm_mxfp4_32: RfGemmArgs, ROW; rf_gemm_mxfp4_128: RfGemmArgs, ROW;
    }
    "gemm_k" {
        rf_gemm_q2_k_32: RfGemmArgs, ROW; rf_gemm_q2_k_128: RfGemmArgs, ROW;
        rf_gemm_q3_k_32: RfGemmArgs, ROW; rf_gemm_q3_k_128: RfGemmArgs, ROW;
        rf_gemm_q4_k_32: RfGemmArgs, ROW; rf_gemm_q4_k_128: RfGemmArgs, ROW;
        rf_gemm_q5_k_32: RfGemmArgs, ROW; rf_gemm_q5_k_128: RfGemmArgs, ROW;
        rf_gemm_q6_k_32: RfGemmArgs, ROW; rf_gemm_q6_k_128: RfGemmArgs, ROW;
        rf_gemm_iq4_xs_32: RfGemmArgs, ROW; rf_gemm_iq4_xs_128: RfGemmArgs, ROW;
    }
}
