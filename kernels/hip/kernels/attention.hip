// Attention for any head size and cache: a block per token, query head and part of the context.
#include "device.h"
#include "cache.h"
#include "parts.h"

constexpr uint32_t RF_ATTENTION_THREADS = 128;
constexpr uint32_t RF_ATTENTION_MOST = 576;
constexpr uint32_t RF_ATTENTION_VALUES = (RF_ATTENTION_MOST + RF_ATTENTION_THREADS - 1) / RF_ATTENTION_THREADS;

// The part `split` of the positions that a query sees.
RF_FN void rf_visible(uint32_t position, uint32_t window, uint32_t splits, uint32_t split, uint32_t *first, uint32_t *end) {
    uint32_t oldest = window && position + 1 > window ? position + 1 - window : 0;
    uint32_t count = position + 1 - oldest;
    // Whole tiles, so that no part is a crumb.
    uint32_t tiles = (count + RF_ATTENTION_THREADS - 1) / RF_ATTENTION_THREADS;
    uint32_t per = (tiles + splits - 1) / splits * RF_ATTENTION_THREADS;
    *first = rf_min(oldest + split * per, position + 1);
    *end = rf_min(*first + per, position + 1);
}

RF_KERNEL(rf_attention, RfAttentionArgs, RF_ATTENTION_THREADS) {
    RF_SHARED float q[RF_ATTENTION_MOST];
    RF_SHARED float weights[RF_ATTENTION_THREADS];
    RF_SHARED uint64_t rows[RF_ATTENTION_THREADS];
    RF_SHARED float scratch[RF_ATTENTION_THREADS / 32];
    const RfCache &cache = args.cache;
    const uint32_t split = rf_block_x(), head = rf_block_y(), token = rf_block_z();
    const uint32_t kv_head = head / (args.heads / cache.kv_heads);
    const uint32_t sequence = rf_ptr<const uint32_t>(args.sequence_of)[token];
    const uint32_t position = rf_ptr<const uint32_t>(args.positions)[token];
    const bool absent = rf_ptr<const uint32_t>(args.context_lens)[sequence] == 0;
    uint32_t first = 0, end = 0;
    if (!absent) {
        rf_visible(position, args.window, args.splits, split, &first, &end);
    }
    const float *from = rf_ptr<const float>(args.q) + uint64_t(token) * args.q_stride + head * cache.key_dim;
    for (uint32_t c = rf_thread(); c < cache.key_dim; c += RF_ATTENTION_THREADS) {
        q[c] = from[c];
    }
    rf_barrier();
    const uint32_t *table = rf_ptr<const uint32_t>(args.block_tables) + uint64_t(sequence) * args.max_blocks;
    float most = -RF_INF, sum = 0.0f, acc[RF_ATTENTION_VALUES] = {};
    for (uint32_t tile = first; tile < end; tile += RF_ATTENTION_THREADS) {
        uint32_t at = tile + rf_thread();
        float score = -RF_INF;
        uint32_t block = at < end ? table[at / cache.block_size] : 0;
        if (at < end) {
            RfSlot key = rf_cache_slot(cache, block, at % cache.block_size, kv_head, false);
            float dot = 0.0f;
            for (uint32_t c = 0; c < cache.key_dim; c++) {
                dot = rf_fma(q[c], rf_cache_read(cache.kind, key, c), dot);
            }
            score = dot * args.scale;
            score = args.softcap > 0.0f ? args.softcap * rf_tanh(score / args.softcap) : score;
        }
        float highest = rf_fmax(most, rf_block_max<RF_ATTENTION_THREADS>(score, scratch));
        float shrink = rf_exp(most - highest);
        float weight = at < end ? rf_exp(score - highest) : 0.0f;
        weights[rf_thread()] = weight;
        rows[rf_thread()] = uint64_t(block) * cache.block_size + at % cache.block_size;
        sum = sum * shrink + rf_block_sum<RF_ATTENTION_THREADS>(weight, scratch);
        most = highest;
        uint32_t count = rf_min(end - tile, RF_ATTENTION_THREADS);
#pragma unroll
        for (uint32_t i = 0; i < RF_ATTENTION_VALUES; i++) {
            uint32_t c = i * RF_ATTENTION_THREADS + rf_thread();
            if (c < cache.value_dim) {
                float y = acc[i] * shrink;
                for (uint32_t j = 0; j < count; j++) {
                    RfSlot value = rf_cache_slot(cache, rows[j] / cache.block_size, uint32_t(rows[j] % cache.block_size),
                                                 kv_head, true);
                    y = rf_fma(weights[j], rf_cache_read(cache.kind, value, c), y);
                }
                acc[i] = y;
            }
        }
        rf_barrier();
    }
    if (args.splits == 1 && args.sinks && !absent) {
        float sink = rf_ptr<const float>(args.sinks)[head];
        float highest = rf_fmax(most, sink);
        float shrink = rf_exp(most - highest);
        sum = sum * shrink + rf_exp(sink - highest);
#pragma unroll
        for (uint32_t i = 0; i < RF_ATTENTION_VALUES; i++) {
            acc[i] *= shrink;
        }
    }
    float *out = rf_ptr<float>(args.out) + uint64_t(token) * args.out_stride + head * cache.value_dim;
    float inverse = sum > 0.0f ? 1.0f / sum : sum;
    if (args.splits > 1) {
        out = rf_ptr<float>(args.partial);
        out += ((uint64_t(token) * args.heads + head) * args.splits + split) * (cache.value_dim + 2);
        inverse = 1.0f;
        if (rf_thread() == 0) {
            out[cache.value_dim] = most;
            out[cache.value_dim + 1] = sum;
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < RF_ATTENTION_VALUES; i++) {
        uint32_t c = i * RF_ATTENTION_THREADS + rf_thread();
        if (c < cache.value_dim) {
            out[c] = acc[i] * inverse;
        }
    }
}

// The parts of the context to one result: a wave per token and head.
RF_KERNEL(rf_attention_reduce, RfAttentionArgs, RF_WAVE) {
    const uint32_t head = rf_block_x(), token = rf_block_y();
    const uint32_t sequence = rf_ptr<const uint32_t>(args.sequence_of)[token];
    rf_reduce_parts(args, token, head, rf_ptr<const uint32_t>(args.context_lens)[sequence] == 0);
}
