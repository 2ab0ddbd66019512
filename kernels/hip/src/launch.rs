//! The geometry of launches: callers give shapes, never tiles.

use rocmforge_quant::DType;

use crate::args::*;
use crate::cache::CacheKind;
use crate::planes::fields;
pub use crate::table::{KERNELS, Kernel, Threads, sources};

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

/// The kernel of this name.
fn kernel(name: &str) -> &'static Kernel {
    find(name).unwrap_or_else(|| panic!("no kernel {name}"))
}

fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
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
    let name = if args.n <= 4096 { "rf_norm_short" } else { "rf_norm" };
    launch(name, wave, [args.rows, 1, 1], args)
}

/// Two operands, element by element.
pub fn binary(args: &RfBinaryArgs, wave: u32) -> Launch {
    launch("rf_binary", wave, [args.n.div_ceil(256), args.rows, 1], args)
}

/// The most rows of x that one pass of [`gemv`] over the weights takes.
pub const GEMV_VECTORS: u32 = 4;

/// The format in the names of kernels.
fn format_name(dtype: DType) -> String {
    match dtype {
        // The planes are the same.
        DType::Q8_1 => DType::Q8_0,
        other => other,
    }
    .name()
    .to_lowercase()
}

/// A matrix and a few vectors: quantised weights take 8-bit activations, others f32.
/// With `args.experts` every item takes its own rows.
pub fn gemv(dtype: DType, args: &RfGemvArgs, wave: u32) -> Launch {
    if args.next_norm != 0 {
        return launch(&norm_name(dtype), wave, [args.rows / 32, 1, 1], args);
    }
    if args.pair != 0 && args.next_codes != 0 {
        // A block takes the results of one scale; formats that few models use have no kernel of their own for that.
        let own = format!("rf_gemv_{}_pair", format_name(dtype));
        let name = if find(&own).is_some() { own } else { format!("rf_gemv_{}_1", format_name(dtype)) };
        return launch(&name, wave, [args.pair.div_ceil(32), 1, 1], args);
    }
    let vectors = if args.experts != 0 || args.items <= 1 { 1 } else { GEMV_VECTORS };
    let waves = 256 / wave;
    let (rows, per_wave) = if args.pair != 0 { (args.pair, 1) } else { (args.rows, 2) };
    let per_block = waves * per_wave;
    let name = format!("rf_gemv_{}_{vectors}", format_name(dtype));
    let (blocks, passes) = (rows.div_ceil(per_block), args.items.div_ceil(vectors));
    // Blocks with the same rows follow each other.
    let grid = if vectors > 1 { [passes, blocks, 1] } else { [blocks, passes, 1] };
    launch(&name, wave, grid, args)
}

/// Whether [`gemv`] can quantise its result for the next matrix (`next_codes`), with `norm` without the factor of the rms norm
/// in between (`next_norm`): one item, quantised weights, whole scales.
pub fn gemv_fuses(dtype: DType, args: &RfGemvArgs, norm: bool) -> bool {
    let plain = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let results = if args.pair != 0 { args.pair } else { args.rows };
    let fits = if norm { args.pair == 0 && find(&norm_name(dtype)).is_some() } else { args.pair != 0 };
    !plain && args.items == 1 && args.experts == 0 && fits && results.is_multiple_of(32)
}

fn norm_name(dtype: DType) -> String {
    format!("rf_gemv_{}_norm", format_name(dtype))
}

/// Whether [`gemm`] takes weights of this type with this many columns; [`gemv`] takes all that the kernels read.
pub fn gemm_takes(dtype: DType, columns: u32) -> bool {
    match dtype {
        DType::F32 => false,
        DType::F16 | DType::BF16 => columns.is_multiple_of(16),
        _ => fields(dtype).is_some(),
    }
}

/// Up to how many items [`gemm`] takes in tiles of 64: blocks with the same rows follow each other, so that only the first finds the
/// weights not in the cache, and twice as many blocks keep the device busy. What takes long to read or to unpack is not
/// worth doing twice where larger tiles keep it busy too.
fn small_tiles_most(dtype: DType) -> u32 {
    use DType::*;
    match dtype {
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K => 512,
        _ => 256,
    }
}

/// Items of one tile of [`gemm`], with experts or without.
pub fn gemm_tile(dtype: DType, items: u32, experts: u32) -> u32 {
    match items / experts.max(1) {
        0..=16 if experts == 0 => 16,
        0..=32 => 32,
        33..=64 => 64,
        n if experts == 0 && n <= small_tiles_most(dtype) => 64,
        _ => 128,
    }
}

/// Rows of a block with tiles of this size, and how many blocks a compute unit should have of a matrix that is divided.
fn gemm_blocks(tile: u32) -> (u32, u32) {
    match tile {
        16 => (64, 2),
        _ => (128, 1),
    }
}

/// Into how many parts to divide the columns so that a device with so many compute units is busy; the last block of a tile
/// sums them, through [`gemm_partial_bytes`] of memory and [`gemm_counters`] counters.
pub fn gemm_splits(args: &RfGemmArgs, tile: u32, units: u32) -> u32 {
    if args.tiles != 0 || tile > 64 {
        return 1;
    }
    // Long rows are worth half as many parts again: the sum is a smaller share.
    let blocks = units * gemm_blocks(tile).1 * if args.columns >= 8192 { 3 } else { 2 } / 2;
    let wanted = blocks / gemm_counters(args, tile).max(1);
    // The sum of a part takes as long as some hundred columns.
    wanted.clamp(1, (args.columns / 1024).max(1))
}

/// Bytes of `partial` for [`gemm`] with so many splits.
pub fn gemm_partial_bytes(args: &RfGemmArgs, tile: u32, splits: u32) -> u64 {
    4 * u64::from(gemm_counters(args, tile)) * u64::from(gemm_blocks(tile).0 * tile) * u64::from(splits)
}

/// Counters at `arrived` for [`gemm`] with splits: its tiles.
pub fn gemm_counters(args: &RfGemmArgs, tile: u32) -> u32 {
    args.rows.div_ceil(gemm_blocks(tile).0) * args.items.div_ceil(tile)
}

/// A matrix and many vectors, in f16 with a power of two per row.
pub fn gemm(dtype: DType, args: &RfGemmArgs, wave: u32) -> Launch {
    let tile = gemm_tile(dtype, args.items, 0);
    gemm_tiles(dtype, args, tile, args.items.div_ceil(tile), wave)
}

/// [`gemm`] over experts: `args.tiles` holds at most `tiles` tiles of `tile` items, from [`gemm_tile`]; unused ones count 0.
pub fn gemm_tiles(dtype: DType, args: &RfGemmArgs, tile: u32, tiles: u32, wave: u32) -> Launch {
    let name = format!("rf_gemm_{}_{tile}", format_name(dtype));
    let args = RfGemmArgs { splits: args.splits.max(1), ..*args };
    let blocks = args.rows.div_ceil(gemm_blocks(tile).0);
    // The smaller tiles' blocks with the same rows follow each other.
    let grid = if tile == 128 { [blocks, tiles, 1] } else { [tiles, blocks, args.splits] };
    launch(&name, wave, grid, &args)
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

/// Attention of each token over the paged cache, then, with more than one split and without `arrived`, the reduction of
/// the parts.
///
/// Through the matrix units where the cache is f16 and heads are at most 256 and multiples of 8; by a slower kernel otherwise.
/// `tokens` and `sequences` are upper bounds: what the step has is read on the device.
pub fn attention(args: &RfAttentionArgs, wave: u32) -> Vec<Launch> {
    let mut launches = vec![match flash(args) {
        Some((name, rows)) => {
            let group = args.heads / args.cache.kv_heads.max(1);
            // A sequence's last tile may be short, so that each has one more than its share.
            let most = rows / group;
            let tiles = args.tokens.min(args.tokens / most + args.sequences).max(1);
            launch(name, wave, [args.splits, args.cache.kv_heads, tiles], args)
        }
        None => launch("rf_attention", wave, [args.splits, args.heads, args.tokens], args),
    }];
    let reduced = args.arrived != 0 && flash(args).is_some();
    if args.splits > 1 && !reduced {
        launches.push(launch("rf_attention_reduce", wave, [args.heads, args.tokens, 1], args));
    }
    launches
}

/// Attention of exactly one token per sequence with the rotation before it in one launch; `None` where [`rope`] and
/// [`attention`] must be launched one after the other. Parts are reduced in place, so that more than one needs `arrived`.
pub fn decode(args: &RfDecodeArgs, wave: u32) -> Option<Launch> {
    let a = &args.attention;
    let in_place = a.splits == 1 || a.arrived != 0;
    let heads = args.rope.k_heads == a.cache.kv_heads && args.rope.v_heads == a.cache.kv_heads;
    let name = match flash(a) {
        Some(("rf_flash_64_few", _)) if in_place && heads => "rf_decode_64",
        Some(("rf_flash_128_few", _)) if in_place && heads => "rf_decode_128",
        _ => return None,
    };
    Some(launch(name, wave, [a.splits, a.cache.kv_heads, a.tokens], args))
}

/// Whether [`attention`] makes its result in the other forms where `codes` and `half` ask for them.
pub fn attention_fuses(args: &RfAttentionArgs) -> bool {
    flash(args).is_some() && args.cache.value_dim.is_multiple_of(32)
}

/// The kernel for these arguments that runs on the matrix units, and the rows (token and head) of its blocks.
fn flash(args: &RfAttentionArgs) -> Option<(&'static str, u32)> {
    let cache = &args.cache;
    let dim = cache.key_dim.max(cache.value_dim);
    let group = args.heads / cache.kv_heads.max(1);
    if cache.kind != CacheKind::F16 as u32 || !cache.key_dim.is_multiple_of(8) || !cache.value_dim.is_multiple_of(8) {
        return None;
    }
    // One token per sequence leaves most of a large tile empty.
    let few = args.tokens <= args.sequences || args.tokens.div_ceil(args.sequences.max(1)) * group <= 16;
    let (names, rows) = match dim {
        0..=64 => (["rf_flash_64_few", "rf_flash_64_many"], 64),
        65..=128 => (["rf_flash_128_few", "rf_flash_128_many"], 64),
        129..=256 => (["rf_flash_256_few", "rf_flash_256_many"], 32),
        _ => return None,
    };
    match (few && group <= 16, group <= rows) {
        (true, _) => Some((names[0], 16)),
        (false, true) => Some((names[1], rows)),
        _ => None,
    }
}

/// Into how many parts to split the context so that a device with so many compute units is busy.
pub fn attention_splits(args: &RfAttentionArgs, units: u32, most_context: u32) -> u32 {
    let blocks = match flash(args) {
        Some((_, rows)) => {
            let most = rows / (args.heads / args.cache.kv_heads.max(1));
            args.cache.kv_heads * args.tokens.min(args.tokens / most + args.sequences).max(1)
        }
        None => args.heads * args.tokens,
    };
    // Two blocks to a unit, and no part under 128 positions.
    (2 * units / blocks.max(1)).clamp(1, most_context.div_ceil(128).max(1))
}

/// Bytes of `partial` for attention with more than one split.
pub fn attention_partial_bytes(tokens: u32, heads: u32, splits: u32, value_dim: u32) -> u64 {
    u64::from(tokens) * u64::from(heads) * u64::from(splits) * (u64::from(value_dim) + 2) * 4
}

/// The most experts that [`router`] and [`expert_sort`] take.
pub const MOST_EXPERTS: u32 = 1024;
/// The most experts that [`router`] chooses for a token.
pub const MOST_CHOSEN: u32 = 64;

/// Chosen experts and their weights.
pub fn router(args: &RfRouterArgs, wave: u32) -> Launch {
    launch("rf_router", wave, [args.tokens, 1, 1], args)
}

/// Items in the order of their experts, in tiles for [`gemm_tiles`].
pub fn expert_sort(args: &RfExpertSortArgs, wave: u32) -> Launch {
    launch("rf_expert_sort", wave, [1, 1, 1], args)
}

/// An upper bound for the tiles of [`expert_sort`].
pub fn expert_tiles(items: u32, experts: u32, tile: u32) -> u32 {
    items.div_ceil(tile) + experts.min(items)
}

/// Weighted sums over the experts of each token.
pub fn expert_combine(args: &RfExpertCombineArgs, wave: u32) -> Launch {
    launch("rf_expert_combine", wave, [args.n.div_ceil(256), args.tokens, 1], args)
}

/// A matrix of any format and f32 activations: exact rather than fast.
pub fn linear(args: &RfLinearArgs, wave: u32) -> Launch {
    launch("rf_linear", wave, [args.rows.div_ceil(256 / wave), args.items, 1], args)
}

/// Blocks that share a row.
const SAMPLE_PARTS: u32 = 128;

/// What [`sample`] writes where a row cannot be drawn from: a logit is NaN or +infinity, or none is finite.
pub const SAMPLE_FAILED: u32 = u32::MAX;

/// A token from each row of logits. The same logits and requests give the same tokens on every run.
pub fn sample(args: &RfSampleArgs, wave: u32) -> Vec<Launch> {
    let parts = ["rf_sample_max", "rf_sample_histogram", "rf_sample_scatter"];
    let mut launches: Vec<Launch> =
        parts.iter().map(|name| launch(name, wave, [SAMPLE_PARTS, args.rows, 1], args)).collect();
    launches.push(launch("rf_sample_pick", wave, [args.rows, 1, 1], args));
    launches
}

/// Bytes of `scratch` for [`sample`].
pub fn sample_scratch_bytes(rows: u32, n: u32) -> u64 {
    let (parts, bins) = (u64::from(SAMPLE_PARTS) * (16 + 8), 2048 * (8 + 4 + 4));
    u64::from(rows) * (parts + bins + 8 * u64::from(n))
}
