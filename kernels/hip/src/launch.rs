//! Kernels by name, and the geometry of their launches: callers give shapes, never tiles.

use rocmforge_quant::DType;

use crate::args::*;

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

/// What a kernel is launched with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Lanes of a block.
    pub threads: u32,
    /// The packed arguments.
    pub args: Vec<u8>,
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
    "gated" { rf_gated: RfGatedArgs, ROW; }
    "rope" { rf_rope: RfRopeArgs, Threads::Waves(4); }
    "attention" {
        rf_attention: RfAttentionArgs, Threads::Fixed(128);
        rf_attention_reduce: RfAttentionArgs, Threads::Fixed(128);
    }
    "embed" { rf_embed: RfEmbedArgs, Threads::Fixed(128); }
    "norm" { rf_norm: RfNormArgs, ROW; }
    "repack" { rf_repack: RfRepackArgs, ROW; }
    "gemv_plain" {
        rf_gemv_f32_1: RfGemvArgs, ROW; rf_gemv_f32_2: RfGemvArgs, ROW; rf_gemv_f32_4: RfGemvArgs, ROW;
        rf_gemv_f16_1: RfGemvArgs, ROW; rf_gemv_f16_2: RfGemvArgs, ROW; rf_gemv_f16_4: RfGemvArgs, ROW;
        rf_gemv_bf16_1: RfGemvArgs, ROW; rf_gemv_bf16_2: RfGemvArgs, ROW; rf_gemv_bf16_4: RfGemvArgs, ROW;
    }
    "gemv_legacy" {
        rf_gemv_q4_0_1: RfGemvArgs, ROW; rf_gemv_q4_0_2: RfGemvArgs, ROW; rf_gemv_q4_0_4: RfGemvArgs, ROW;
        rf_gemv_q4_1_1: RfGemvArgs, ROW; rf_gemv_q4_1_2: RfGemvArgs, ROW; rf_gemv_q4_1_4: RfGemvArgs, ROW;
        rf_gemv_q5_0_1: RfGemvArgs, ROW; rf_gemv_q5_0_2: RfGemvArgs, ROW; rf_gemv_q5_0_4: RfGemvArgs, ROW;
        rf_gemv_q5_1_1: RfGemvArgs, ROW; rf_gemv_q5_1_2: RfGemvArgs, ROW; rf_gemv_q5_1_4: RfGemvArgs, ROW;
        rf_gemv_q8_0_1: RfGemvArgs, ROW; rf_gemv_q8_0_2: RfGemvArgs, ROW; rf_gemv_q8_0_4: RfGemvArgs, ROW;
        rf_gemv_iq4_nl_1: RfGemvArgs, ROW; rf_gemv_iq4_nl_2: RfGemvArgs, ROW; rf_gemv_iq4_nl_4: RfGemvArgs, ROW;
        rf_gemv_mxfp4_1: RfGemvArgs, ROW; rf_gemv_mxfp4_2: RfGemvArgs, ROW; rf_gemv_mxfp4_4: RfGemvArgs, ROW;
    }
    "gemv_k" {
        rf_gemv_q2_k_1: RfGemvArgs, ROW; rf_gemv_q2_k_2: RfGemvArgs, ROW; rf_gemv_q2_k_4: RfGemvArgs, ROW;
        rf_gemv_q3_k_1: RfGemvArgs, ROW; rf_gemv_q3_k_2: RfGemvArgs, ROW; rf_gemv_q3_k_4: RfGemvArgs, ROW;
        rf_gemv_q4_k_1: RfGemvArgs, ROW; rf_gemv_q4_k_2: RfGemvArgs, ROW; rf_gemv_q4_k_4: RfGemvArgs, ROW;
        rf_gemv_q5_k_1: RfGemvArgs, ROW; rf_gemv_q5_k_2: RfGemvArgs, ROW; rf_gemv_q5_k_4: RfGemvArgs, ROW;
        rf_gemv_q6_k_1: RfGemvArgs, ROW; rf_gemv_q6_k_2: RfGemvArgs, ROW; rf_gemv_q6_k_4: RfGemvArgs, ROW;
        rf_gemv_iq4_xs_1: RfGemvArgs, ROW; rf_gemv_iq4_xs_2: RfGemvArgs, ROW; rf_gemv_iq4_xs_4: RfGemvArgs, ROW;
    }
}

/// The kernel of this name.
fn kernel(name: &str) -> &'static Kernel {
    KERNELS.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
}

fn launch<A: KernelArgs>(name: &str, wave: u32, grid: [u32; 3], args: &A) -> Launch {
    let kernel = kernel(name);
    debug_assert_eq!(kernel.args, A::NAME, "{name}");
    let mut packed = Vec::with_capacity(size_of::<A>());
    args.pack(&mut packed);
    Launch { kernel, grid, threads: kernel.threads.on(wave), args: packed }
}

/// From the file's blocks to planes; see [`crate::Planes::repack`].
pub fn repack(args: &RfRepackArgs, wave: u32) -> Launch {
    // Blocks stride over the work by 4096, whatever its size.
    launch("rf_repack", wave, [4096, 1, 1], args)
}

/// A row of the table per token.
pub fn embed(args: &RfEmbedArgs, wave: u32) -> Launch {
    launch("rf_embed", wave, [args.tokens, 1, 1], args)
}

/// A norm (or none) of each row, with an addition before and quantisation after.
pub fn norm(args: &RfNormArgs, wave: u32) -> Launch {
    launch("rf_norm", wave, [args.rows, 1, 1], args)
}

/// Two operands, element by element.
pub fn binary(args: &RfBinaryArgs, wave: u32) -> Launch {
    launch("rf_binary", wave, [args.n.div_ceil(256), args.rows, 1], args)
}

/// The most rows of x that one pass over the weights takes.
pub const GEMV_VECTORS: u32 = 4;

fn format_name(dtype: DType) -> String {
    dtype.name().to_lowercase()
}

/// A matrix and a few vectors: quantised weights take 8-bit activations, others f32.
/// With `args.experts` every item takes its own rows.
pub fn gemv(dtype: DType, args: &RfGemvArgs, wave: u32) -> Launch {
    let vectors = match args.items {
        _ if args.experts != 0 => 1,
        0 | 1 => 1,
        2 => 2,
        _ => GEMV_VECTORS,
    };
    let waves = 256 / wave;
    let per_wave = if args.pair != 0 { 1 } else { 2 };
    let rows = if args.pair != 0 { args.pair } else { args.rows };
    let name = format!("rf_gemv_{}_{vectors}", format_name(dtype));
    launch(&name, wave, [rows.div_ceil(waves * per_wave), args.items.div_ceil(vectors), 1], args)
}

/// A function of each element.
pub fn unary(args: &RfUnaryArgs, wave: u32) -> Launch {
    launch("rf_unary", wave, [args.n.div_ceil(256), args.rows, 1], args)
}

/// Rows of 32-bit words, gathered, split or joined.
pub fn copy(args: &RfCopyArgs, wave: u32) -> Launch {
    launch("rf_copy", wave, [args.n.div_ceil(256), args.rows, 1], args)
}

/// A scale that grows with the logarithm of the position.
pub fn position_scale(args: &RfPositionScaleArgs, wave: u32) -> Launch {
    launch("rf_position_scale", wave, [args.n.div_ceil(256), args.rows, 1], args)
}

/// Mean or last row of each sequence.
pub fn pool(args: &RfPoolArgs, wave: u32) -> Launch {
    launch("rf_pool", wave, [args.n.div_ceil(256), args.sequences, 1], args)
}

/// A gated activation of each row, with quantisation after.
pub fn gated(args: &RfGatedArgs, wave: u32) -> Launch {
    launch("rf_gated", wave, [args.rows, 1, 1], args)
}

/// The largest head that [`rope`] and [`attention`] take.
pub const MOST_HEAD_DIM: u32 = 576;

/// Norm per head, rotary embedding and the write to the cache, each of them optional.
pub fn rope(args: &RfRopeArgs, wave: u32) -> Launch {
    let items = args.tokens * (args.q_heads + args.k_heads + args.v_heads);
    launch("rf_rope", wave, [items.div_ceil(4), 1, 1], args)
}

/// Attention of each token over the paged cache, then, with more than one split, the reduction of the parts.
pub fn attention(args: &RfAttentionArgs, wave: u32) -> Vec<Launch> {
    let mut launches = vec![launch("rf_attention", wave, [args.splits, args.heads, args.tokens], args)];
    if args.splits > 1 {
        launches.push(launch("rf_attention_reduce", wave, [args.heads, args.tokens, 1], args));
    }
    launches
}

/// Bytes of `partial` for attention with more than one split.
pub fn attention_partial_bytes(tokens: u32, heads: u32, splits: u32, value_dim: u32) -> u64 {
    u64::from(tokens) * u64::from(heads) * u64::from(splits) * (u64::from(value_dim) + 2) * 4
}
