// Attention whose context was split: the parts of a row to its result.
#pragma once

#include "rows.h"

RF_FN float rf_exp_fast(float x) { return rf_exp2_fast(x * 1.44269504f); }

// A head's result in its other forms; called by a wave with elements 4 * lane .., of one round.
RF_FN void rf_store_head_forms(const RfAttentionArgs &args, uint64_t token, uint32_t head, uint32_t c, const float (&y)[4]) {
    const uint32_t dim = args.cache.value_dim;
    const bool inside = c < dim;
    if (args.half) {
        if (inside) {
            rf_store_halves(rf_ptr<uint16_t>(args.half) + (token * args.heads + head) * dim, c, dim, y, 1.0f);
        }
        if (head == 0 && c == 0) {
            rf_ptr<float>(args.powers)[token] = 1.0f;
        }
    }
    if (args.codes) {
        uint64_t row = (token * args.heads + head) * dim;
        const RfRowOut to = {nullptr, rf_ptr<int8_t>(args.codes) + row, rf_ptr<RfScale>(args.scales) + row / 32, nullptr, nullptr};
        rf_store_codes(to, c, inside, y);
    }
}

// The same with the floats.
RF_FN void rf_store_head(const RfAttentionArgs &args, uint64_t token, uint32_t head, uint32_t c, const float (&y)[4]) {
    const uint32_t dim = args.cache.value_dim;
    if (c < dim && args.out) {
        rf_store4(rf_ptr<float>(args.out) + token * args.out_stride + head * dim, c, dim, false, y);
    }
    rf_store_head_forms(args, token, head, c, y);
}

// The parts of a row to its result, by a wave.
RF_FN void rf_reduce_parts(const RfAttentionArgs &args, uint64_t token, uint32_t head, bool absent) {
    const uint32_t dim = args.cache.value_dim;
    const float *parts = rf_ptr<const float>(args.partial) + (token * args.heads + head) * args.splits * (dim + 2);
    // A lane per part for the maxima and sums.
    float most = -RF_INF, sum = 0.0f;
    for (uint32_t s = rf_lane(); s < args.splits; s += RF_WAVE) {
        most = rf_fmax(most, parts[s * (dim + 2) + dim]);
    }
    most = rf_wave_max(most);
    const bool sink = args.sinks && !absent;
    const float sink_score = sink ? rf_ptr<const float>(args.sinks)[head] : -RF_INF;
    most = rf_fmax(most, sink_score);
    for (uint32_t s = rf_lane(); s < args.splits; s += RF_WAVE) {
        float m = parts[s * (dim + 2) + dim];
        sum += m > -RF_INF ? parts[s * (dim + 2) + dim + 1] * rf_exp(m - most) : 0.0f;
    }
    sum = rf_wave_sum(sum) + (sink ? rf_exp(sink_score - most) : 0.0f);
    const float inverse = sum > 0.0f ? 1.0f / sum : sum;
    for (uint32_t first = 0; first < dim; first += 4 * RF_WAVE) {
        uint32_t c = first + 4 * rf_lane();
        float y[4] = {};
#pragma unroll 8
        for (uint32_t s = 0; s < args.splits; s++) {
            const float *part = parts + s * (dim + 2);
            float m = part[dim], factor = m > -RF_INF ? rf_exp_fast(m - most) * inverse : 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                float x = part[c + i < dim ? c + i : 0];
                // A part that saw nothing has written no values.
                y[i] = factor > 0.0f ? rf_fma(x, factor, y[i]) : y[i];
            }
        }
        rf_store_head(args, token, head, c, y);
    }
}
