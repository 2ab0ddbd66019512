// Arguments of the kernels. Each struct is mirrored by a `repr(C)` struct of the same name and fields in `src/args.rs`; a
// test compares sizes and offsets. 64-bit fields are device addresses, 0 where the operand is absent; strides are in elements.
#pragma once

// The formats, numbered as in a GGUF tensor header.
enum RfFormatId : uint32_t {
    RF_F32 = 0,
    RF_F16 = 1,
    RF_Q4_0 = 2,
    RF_Q4_1 = 3,
    RF_Q5_0 = 6,
    RF_Q5_1 = 7,
    RF_Q8_0 = 8,
    RF_Q8_1 = 9,
    RF_Q2_K = 10,
    RF_Q3_K = 11,
    RF_Q4_K = 12,
    RF_Q5_K = 13,
    RF_Q6_K = 14,
    RF_Q8_K = 15,
    RF_IQ2_XXS = 16,
    RF_IQ2_XS = 17,
    RF_IQ3_XXS = 18,
    RF_IQ1_S = 19,
    RF_IQ4_NL = 20,
    RF_IQ3_S = 21,
    RF_IQ2_S = 22,
    RF_IQ4_XS = 23,
    RF_IQ1_M = 29,
    RF_BF16 = 30,
    RF_TQ1_0 = 34,
    RF_TQ2_0 = 35,
    RF_MXFP4 = 39,
    RF_NVFP4 = 40,
    RF_Q1_0 = 41,
    RF_Q2_0 = 42,
};

// A weight in planes: the same bytes as in the file, each field of its blocks in an array of its own (see `src/planes.rs`). For
// formats of grid points plane 3 is their table.
struct RfPlanes {
    uint64_t plane[4];
};

// Blocks of the file's layout from `source`, to planes from block `first` on.
struct RfRepackArgs {
    RfPlanes planes;
    uint64_t source;
    uint64_t first;      // block in the planes
    uint64_t count;      // blocks to move
    uint32_t block_bytes;
    uint32_t fields;     // fields of a block
    uint32_t offset[4];  // of each field within a block
    uint32_t length[4];
};

struct RfEmbedArgs {
    RfPlanes table;
    uint64_t ids;   // u32 [tokens]
    uint64_t out;   // f32 [tokens, columns]
    uint64_t fault; // u32: set to 1 where an id is not below `rows`; such a row is 0
    uint32_t format;
    uint32_t rows;
    uint32_t columns;
    uint32_t tokens;
    float scale;
    uint32_t reserved;
};

// 8-bit activations: `codes` i8 [rows, columns] and `scales` RfScale [rows, columns / 32].
struct alignas(8) RfScale {
    float d;
    int16_t sums[2]; // of the codes of each half of the 32
};

// y = norm(x (+ addend)) in up to three forms. Norm 0: none, 1: rms, 2: layer.
struct RfNormArgs {
    uint64_t x;      // f32 [rows, n], rows `x_stride` apart
    uint64_t addend; // f32 [rows, n] or 0
    uint64_t sum;    // f32 [rows, n]: x + addend, or 0; may be x or addend
    uint64_t weight; // f32 [n] or 0
    uint64_t bias;   // f32 [n] or 0
    uint64_t out;    // f32 [rows, n] or 0
    uint64_t codes;  // i8 [rows, n] or 0
    uint64_t scales; // RfScale [rows, n / 32], with codes
    uint64_t half;   // f16 [rows, n] or 0: y / 2^e with one e per row
    uint64_t powers; // f32 [rows]: 2^e, with half
    uint32_t rows;
    uint32_t n;
    uint32_t x_stride;
    uint32_t addend_stride;
    uint32_t out_stride;
    uint32_t heads;  // rows per stride: row r of x (and of the addend, and of out) is at r / heads * stride + r % heads * n
    uint32_t norm;
    float eps;
    float scale;     // multiplies y last
    uint32_t reserved;
};

// a op b. Op 0: +, 1: -, 2: *. b has the shape of a, or one element per row.
struct RfBinaryArgs {
    uint64_t a, b, out;
    uint32_t rows;
    uint32_t n;
    uint32_t a_stride, b_stride, out_stride;
    uint32_t op;
    uint32_t broadcast; // b is [rows, 1]
    uint32_t reserved;
};

// out[t, r] = sum_c W[r, c] x[t, c] (+ bias[r]) (+ residual[t, r]).
// For one item and without experts, the result can be made the 8-bit activations of the next matrix at once: each block quantises
// its part. With `pair` that is the result itself. With `next_norm` it is the result times `next_weight`, without the factor of the
// rms norm, which nobody knows before all blocks are done: `squares` gets each block's sum of squares, and the matrices that read
// the codes get them as `x_squares`, sum them, and scale their results.
// With `experts`, item i = t * slots + s takes the rows of expert experts[i], and x[t], or x[i] unless shared.
// With `pair`, row r of out is activation(row r) * (row r + pair).
struct RfGemvArgs {
    RfPlanes weight;
    uint64_t x;        // f32 [.., columns] for F32, F16, BF16; codes otherwise
    uint64_t scales;   // RfScale, with codes
    uint64_t out;      // f32
    uint64_t bias;     // f32 [rows] (or [experts, rows]) or 0
    uint64_t residual; // f32 or 0; may be out
    uint64_t experts;  // u32 [items] or 0
    uint32_t rows;     // of one weight matrix
    uint32_t columns;
    uint32_t items;    // rows of out
    uint32_t x_stride;
    uint32_t out_stride;
    uint32_t residual_stride;
    uint32_t slots;
    uint32_t shared;   // x has a row per token, not per item
    uint32_t pair;
    uint32_t activation;
    uint64_t next_codes;  // i8 [rows or pair] or 0
    uint64_t next_scales; // RfScale
    uint64_t next_weight; // f32 [rows] or 0
    uint64_t squares;     // f32 [rows / 32], with next_norm
    uint64_t x_squares;   // f32 [columns / 32] or 0: x is one row and lacks the factor of its rms norm
    float eps;            // of that
    uint32_t next_norm;
};

// out = f(x) element by element; see RfActivation. a and b are the parameters of RF_SOFTCAP and RF_SCALE.
struct RfUnaryArgs {
    uint64_t x, out;
    uint32_t rows;
    uint32_t n;
    uint32_t x_stride, out_stride;
    uint32_t kind;
    float a, b;
    uint32_t reserved;
};

// Rows of 32-bit words: row i of out is row index[i] of x (row i where index is 0). Gathers, splits, slices and joins.
struct RfCopyArgs {
    uint64_t x;
    uint64_t index; // u32 [rows] or 0
    uint64_t out;
    uint32_t rows;
    uint32_t n;
    uint32_t x_stride, out_stride;
};

// out = x * (1 + beta * ln(1 + floor(position / interval))).
struct RfPositionScaleArgs {
    uint64_t x, positions, out;
    uint32_t rows;
    uint32_t n;
    uint32_t x_stride, out_stride;
    float beta;
    uint32_t interval;
};

// y = activation(gate) * up, in the forms of RfNormArgs.
struct RfGatedArgs {
    uint64_t gate, up, out, codes, scales, half, powers;
    uint32_t rows;
    uint32_t n;
    uint32_t gate_stride, up_stride, out_stride;
    uint32_t kind;
};

// Rows of each sequence to one row. Kind 0: mean, 1: last. A sequence without rows gives 0.
struct RfPoolArgs {
    uint64_t x;
    uint64_t query_start; // u32 [sequences + 1]
    uint64_t out;         // f32 [sequences, n]
    uint32_t sequences;
    uint32_t n;
    uint32_t x_stride;
    uint32_t kind;
};

// The paged cache of one layer. Block b begins at base + b * block_bytes and holds keys [kv_heads, block_size, key_dim], then
// at `value_offset` values [kv_heads, block_size, value_dim]. Kind 0: f16, 1: f32, 2: 8-bit codes with an f16 scale per 32
// elements, [kv_heads, block_size, ceil(dim / 32)] at `key_scale_offset` and `value_scale_offset`.
struct RfCache {
    uint64_t base;
    uint64_t block_bytes;
    uint32_t value_offset, key_scale_offset, value_scale_offset;
    uint32_t kind;
    uint32_t kv_heads;
    uint32_t block_size;
    uint32_t key_dim, value_dim;
};

// Rotary embedding of q and k, after an optional rms norm per head, and the write of k and v to the cache. Heads are
// numbered q heads, k heads, v heads; any of the three may be absent (0 heads).
struct RfRopeArgs {
    uint64_t q, k, v;              // f32 [tokens, heads, dim], tokens `.._stride` apart
    uint64_t q_out;                // f32 [tokens, q_heads, key_dim]
    uint64_t k_out;                // likewise, or 0
    uint64_t q_weight, k_weight;   // f32 [key_dim] or 0: rms norm per head
    uint64_t positions;            // u32 [tokens]
    uint64_t frequencies;          // f32 [rotary_dim / 2]
    uint64_t slots;                // u32 [tokens], 0xffffffff: not written; 0: no cache
    RfCache cache;
    uint32_t tokens;
    uint32_t q_heads, k_heads, v_heads;
    uint32_t q_stride, k_stride, v_stride, q_out_stride, k_out_stride;
    uint32_t key_dim, value_dim;
    uint32_t rotary_dim;           // 0: no rotation
    uint32_t interleaved;          // pairs (2i, 2i + 1) rather than (i, i + rotary_dim / 2)
    uint32_t norm;                 // rms norm per head, also without weights
    float magnitude;
    float eps;
};

// Attention of queries over the paged cache. Each query sees the positions up to its own, within the window.
struct RfAttentionArgs {
    uint64_t q;            // f32 [tokens, heads, key_dim]
    uint64_t out;          // f32 [tokens, heads, value_dim]
    uint64_t sinks;        // f32 [heads] or 0
    uint64_t positions;    // u32 [tokens]
    uint64_t sequence_of;  // u32 [tokens]
    uint64_t query_start;  // u32 [sequences + 1]
    uint64_t context_lens; // u32 [sequences]; 0: its rows of out are 0
    uint64_t block_tables; // u32 [sequences, max_blocks]
    uint64_t partial;      // f32 [tokens, heads, splits, value_dim + 2], with more than one split
    RfCache cache;
    uint32_t tokens;
    uint32_t sequences;
    uint32_t heads;
    uint32_t q_stride, out_stride; // of a token
    uint32_t max_blocks;
    uint32_t splits;       // parts of the context that different blocks take
    uint32_t window;       // 0: none
    float scale;
    float softcap;         // 0: none
    uint64_t arrived;      // u32 [(tokens + sequences) * kv_heads], all 0, or 0: the last part of a tile then reduces its parts
    uint64_t codes;        // i8 [tokens, heads, value_dim] or 0: the result quantised as well; value_dim is a multiple of 32
    uint64_t scales;       // RfScale, with codes
    uint64_t half;         // f16 [tokens, heads, value_dim] or 0: the result as it is, for it is a mean of values in f16
    uint64_t powers;       // f32 [tokens], with half: 1
};

// Attention of one token per sequence that makes its queries, keys and values itself: rope.q, rope.k and rope.v are of this step,
// the keys and values go to the cache, and attention.q is not read. Both have the same cache.
struct RfDecodeArgs {
    RfAttentionArgs attention; // first: see rf_again
    RfRopeArgs rope;
};

// out[i, r] = powers[x_i] * sum_c W[r, c] x[x_i, c] (+ bias[r]) (+ residual[i, r]) for many items, x in f16.
// With `tiles`, block row b takes tile b of (expert, first, count): the items sorted[first .. first + count].
struct RfGemmArgs {
    RfPlanes weight;
    uint64_t x;        // f16 [.., columns]; f32 for F32
    uint64_t powers;   // f32 per row of x
    uint64_t out;      // f32
    uint64_t bias;     // f32 [rows] (or [experts, rows]) or 0
    uint64_t residual; // f32 or 0; may be out
    uint64_t tiles;    // u32 [.., 3] or 0
    uint64_t sorted;   // u32 [items], with tiles
    uint64_t partial;  // f32 [splits, tiles, elements of a tile as the lanes hold them], with splits
    uint64_t arrived;  // u32 [tiles], all 0, with splits
    uint32_t rows;
    uint32_t columns;
    uint32_t items;
    uint32_t x_stride;
    uint32_t out_stride;
    uint32_t residual_stride;
    uint32_t slots;
    uint32_t shared;   // x has a row per token, not per item
    uint32_t splits;   // parts of k, a block each: 1 but for kernels of at most 64 items without tiles
    uint32_t reserved;
};

// Choice of experts. Gate 0: softmax over all, 1: softmax over the chosen, 2: sigmoid. At most 1024 experts, 64 chosen.
struct RfRouterArgs {
    uint64_t logits;  // f32 [tokens, experts]
    uint64_t bias;    // f32 [experts] or 0: added for the choice only
    uint64_t chosen;  // u32 [tokens, top_k]
    uint64_t weights; // f32 [tokens, top_k]
    uint32_t tokens;
    uint32_t experts;
    uint32_t top_k;
    uint32_t gate;
    uint32_t renormalize;
    uint32_t stride;  // of a row of logits
    float scale;
    uint32_t reserved;
};

// Items sorted by expert, for matrices over experts: see RfGemmArgs.
struct RfExpertSortArgs {
    uint64_t experts; // u32 [items]
    uint64_t sorted;  // u32 [items]
    uint64_t tiles;   // u32 [most, 3]
    uint32_t items;
    uint32_t count;   // of experts, at most 1024
    uint32_t tile;    // items of a tile
    uint32_t most;    // tiles, all of which are written
};

// out[t] = sum over s of weights[t, s] * x[t, s] (+ residual[t]).
struct RfExpertCombineArgs {
    uint64_t x, weights, out;
    uint64_t residual; // f32 or 0; may be out
    uint32_t tokens;
    uint32_t n;
    uint32_t slots;
    uint32_t x_stride; // of an item
    uint32_t out_stride, residual_stride;
};

// As RfGemvArgs with f32 activations, for every format: exact rather than fast.
struct RfLinearArgs {
    RfPlanes weight;
    uint64_t x;        // f32
    uint64_t out, bias, residual, experts;
    uint32_t format;
    uint32_t rows;
    uint32_t columns;
    uint32_t items;
    uint32_t x_stride;
    uint32_t out_stride;
    uint32_t residual_stride;
    uint32_t slots;
    uint32_t shared;
    uint32_t reserved;
};

// Draws a token from each row of logits, in four launches of the same arguments; see kernels/sample.hip.
struct RfSampleArgs {
    uint64_t logits;   // f32 [rows, n], `stride` apart
    uint64_t requests; // RfSampleRequest [rows]
    uint64_t tokens;   // u32 [rows]: the token, or RF_SAMPLE_FAILED where a logit is NaN or infinite, or none is finite
    uint64_t scratch;  // rf_sample_scratch bytes, see src/sample.rs
    uint32_t rows;
    uint32_t n;
    uint32_t stride;
    uint32_t reserved;
};

struct RfSampleRequest {
    float temperature; // 0: the largest logit, the first of equals
    float top_p;       // 1: all
    float min_p;       // 0: all
    uint32_t top_k;    // 0: all
    uint64_t draw;     // the quantile in units of 2^-64
};
