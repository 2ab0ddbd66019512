// Attention whose context was split: the parts of a row to its result.
#pragma once

#include "rows.h"

// A head's result, quantised as well where asked for; called by a wave with elements 4 * lane .., of one round.
RF_FN void rf_store_head(const RfAttentionArgs &args, uint64_t token, uint32_t head, uint32_t c, const float (&y)[4]) {
    const uint32_t dim = args.cache.value_dim;
    const bool inside = c < dim;
    float *out = rf_ptr<float>(args.out) + token * args.out_stride + head * dim;
    if (inside && args.out) {
        rf_store4(out, c, dim, false, y);
    }
    if (args.codes) {
        uint64_t row = (token * args.heads + head) * dim;
        const RfRowOut to = {nullptr, rf_ptr<int8_t>(args.codes) + row, rf_ptr<RfScale>(args.scales) + row / 32, nullptr, nullptr};
        rf_store_codes(to, c, inside, y);
    }
}

// The parts of a row to its result, by a wave.
RF_FN void rf_reduce_parts(const RfAttentionArgs &args, uint64_t token, uint32_t head, bool absent) {
    const uint32_t dim = args.cache.value_dim;
    const float *parts = rf_ptr<const float>(args.partial) + (token * args.heads + head) * args.splits * (dim + 2);
    float most = -RF_INF, sum = 0.0f;
    for (uint32_t s = 0; s < args.splits; s++) {
        most = rf_fmax(most, parts[s * (dim + 2) + dim]);
    }
    if (args.sinks && !absent) {
        float sink = rf_ptr<const float>(args.sinks)[head];
        most = rf_fmax(most, sink);
        sum = rf_exp(sink - most);
    }
    for (uint32_t s = 0; s < args.splits; s++) {
        float m = parts[s * (dim + 2) + dim];
        sum += m > -RF_INF ? parts[s * (dim + 2) + dim + 1] * rf_exp(m - most) : 0.0f;
    }
    float inverse = sum > 0.0f ? 1.0f / sum : sum;
    for (uint32_t first = 0; first < dim; first += 4 * RF_WAVE) {
        uint32_t c = first + 4 * rf_lane();
        float y[4] = {};
#pragma unroll 4
        for (uint32_t s = 0; s < args.splits; s++) {
            float m = parts[s * (dim + 2) + dim];
            // A part that saw nothing has written no values.
            float factor = m > -RF_INF ? rf_exp(m - most) * inverse : 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                y[i] = factor > 0.0f && c + i < dim ? rf_fma(parts[s * (dim + 2) + c + i], factor, y[i]) : y[i];
            }
        }
        rf_store_head(args, token, head, c, y);
    }
}
