// A head's norm and rotation, and its write to the cache, by a wave.
#pragma once

#include "cache.h"

constexpr uint32_t RF_ROPE_MOST = 576;

struct RfHeldHead {
    const float *x;
    RF_METHOD float operator()(uint32_t c) const { return x[c]; }
};

// Role 0: a query, 1: a key, 2: a value. Fills `h`, which is the wave's own and holds a head.
RF_FN void rf_rope_head(const RfRopeArgs &args, uint32_t token, uint32_t head, uint32_t role, float *h) {
    const uint32_t dim = role == 2 ? args.value_dim : args.key_dim;
    const uint32_t stride = role == 0 ? args.q_stride : role == 1 ? args.k_stride : args.v_stride;
    const float *x = rf_ptr<const float>(role == 0 ? args.q : role == 1 ? args.k : args.v);
    x += uint64_t(token) * stride + head * dim;
    float squares = 0.0f;
    for (uint32_t c = rf_lane(); c < dim; c += RF_WAVE) {
        h[c] = x[c];
        squares = rf_fma(h[c], h[c], squares);
    }
    squares = rf_wave_sum(squares);
    if (args.norm && role != 2) {
        const float *weight = rf_ptr<const float>(role == 0 ? args.q_weight : args.k_weight);
        float factor = 1.0f / rf_sqrt(squares / float(dim) + args.eps);
        for (uint32_t c = rf_lane(); c < dim; c += RF_WAVE) {
            h[c] = weight ? h[c] * factor * weight[c] : h[c] * factor;
        }
    }
    rf_wave_sync();
    if (args.rotary_dim && role != 2) {
        float position = float(rf_ptr<const uint32_t>(args.positions)[token]);
        const float *frequencies = rf_ptr<const float>(args.frequencies);
        uint32_t half = args.rotary_dim / 2;
        for (uint32_t i = rf_lane(); i < half; i += RF_WAVE) {
            float sine, cosine;
            rf_sincos(position * frequencies[i], &sine, &cosine);
            uint32_t at = args.interleaved ? 2 * i : i, to = args.interleaved ? 2 * i + 1 : i + half;
            float a = h[at], b = h[to];
            h[at] = args.magnitude * (a * cosine - b * sine);
            h[to] = args.magnitude * (b * cosine + a * sine);
        }
    }
    rf_wave_sync();
}

// A key's or a value's head to the slot of its token; every lane of the wave comes here.
RF_FN void rf_rope_write(const RfRopeArgs &args, uint32_t token, uint32_t head, bool value, bool valid, const float *h) {
    uint32_t slot = rf_ptr<const uint32_t>(args.slots)[token];
    bool written = valid && slot != 0xffffffffu;
    uint32_t block = written ? slot / args.cache.block_size : 0;
    RfSlot to = rf_cache_slot(args.cache, block, written ? slot % args.cache.block_size : 0, head, value);
    rf_cache_write(args.cache.kind, to, value ? args.value_dim : args.key_dim, written, RfHeldHead{h});
}
