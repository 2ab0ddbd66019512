// A head's norm and rotation, and its write to the cache, by a wave.
#pragma once

#include "cache.h"

constexpr uint32_t RF_ROPE_MOST = 576;

struct RfHeldHead {
    const float *x;
    RF_METHOD float operator()(uint32_t c) const { return x[c]; }
};

// Where a role's head begins, and its elements.
RF_FN const float *rf_rope_source(const RfRopeArgs &args, uint32_t token, uint32_t head, uint32_t role, uint32_t *dim) {
    *dim = role == 2 ? args.value_dim : args.key_dim;
    const uint32_t stride = role == 0 ? args.q_stride : role == 1 ? args.k_stride : args.v_stride;
    return rf_ptr<const float>(role == 0 ? args.q : role == 1 ? args.k : args.v) + uint64_t(token) * stride + head * *dim;
}

// Role 0: a query, 1: a key, 2: a value. Fills `h`, which is the wave's own and holds a head.
RF_FN void rf_rope_head(const RfRopeArgs &args, uint32_t token, uint32_t head, uint32_t role, float *h) {
    uint32_t dim;
    const float *x = rf_rope_source(args, token, head, role, &dim);
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

// Sines and cosines of a token's position: of pairs lane, lane + WAVE.
struct RfAnglesHeld {
    float sine[2], cosine[2];

    RF_METHOD RfAnglesHeld(const RfRopeArgs &args, uint32_t token) : sine{}, cosine{} {
        if (args.rotary_dim == 0) {
            return;
        }
        const float position = float(rf_ptr<const uint32_t>(args.positions)[token]);
        const float *frequencies = rf_ptr<const float>(args.frequencies);
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            const uint32_t i = rf_lane() + j * RF_WAVE;
            rf_sincos(i < args.rotary_dim / 2 ? position * frequencies[i] : 0.0f, &sine[j], &cosine[j]);
        }
    }
    RF_METHOD void at(uint32_t i, float *s, float *c) const {
        *s = i < RF_WAVE ? sine[0] : sine[1];
        *c = i < RF_WAVE ? cosine[0] : cosine[1];
    }
};

// The same, computed when they are asked for: for targets that have no registers to spare.
struct RfAnglesAsked {
    const RfRopeArgs &args;
    uint32_t token;

    RF_METHOD RfAnglesAsked(const RfRopeArgs &args, uint32_t token) : args(args), token(token) {}
    RF_METHOD void at(uint32_t i, float *s, float *c) const {
        rf_sincos(float(rf_ptr<const uint32_t>(args.positions)[token]) * rf_ptr<const float>(args.frequencies)[i], s, c);
    }
};

// A head of at most D elements that this wave will norm and rotate.
template <uint32_t D>
RF_FN void rf_rope_load(const RfRopeArgs &args, uint32_t token, uint32_t head, uint32_t role, float (&x)[D / RF_WAVE]) {
    uint32_t dim;
    const float *from = rf_rope_source(args, token, head, role, &dim);
#pragma unroll
    for (uint32_t j = 0; j < D / RF_WAVE; j++) {
        const uint32_t c = rf_lane() + j * RF_WAVE;
        x[j] = c < dim ? from[c] : 0.0f;
    }
}

// Norms and rotates it, to `h`; beyond the head there are zeros.
template <uint32_t D, class Angles>
RF_FN void rf_rope_held(const RfRopeArgs &args, uint32_t role, const Angles &angles, const float (&x)[D / RF_WAVE], float *h) {
    float factor = 1.0f;
    const float *weight = nullptr;
    if (args.norm && role != 2) {
        float squares = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < D / RF_WAVE; j++) {
            squares = rf_fma(x[j], x[j], squares);
        }
        factor = 1.0f / rf_sqrt(rf_wave_sum(squares) / float(args.key_dim) + args.eps);
        weight = rf_ptr<const float>(role == 0 ? args.q_weight : args.k_weight);
    }
#pragma unroll
    for (uint32_t j = 0; j < D / RF_WAVE; j++) {
        const uint32_t c = rf_lane() + j * RF_WAVE;
        h[c] = weight && c < args.key_dim ? x[j] * factor * weight[c] : x[j] * factor;
    }
    rf_wave_sync();
    if (args.rotary_dim && role != 2) {
        const uint32_t half = args.rotary_dim / 2;
        for (uint32_t i = rf_lane(); i < half; i += RF_WAVE) {
            float sine, cosine;
            angles.at(i, &sine, &cosine);
            const uint32_t at = args.interleaved ? 2 * i : i, to = args.interleaved ? 2 * i + 1 : i + half;
            const float a = h[at], b = h[to];
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
