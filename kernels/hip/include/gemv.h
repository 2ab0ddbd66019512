// Products of a matrix with one to four vectors: each wave takes two rows and reads the weights once, whatever the number of
// vectors. Lanes take units 0, 1, .. of a row in turn, so that a wave's loads are neighbours.
#pragma once

#include "formats.h"

constexpr uint32_t RF_GEMV_THREADS = 256;
constexpr uint32_t RF_GEMV_ROWS = 2;

struct RfGemvRows {
    uint32_t row[RF_GEMV_ROWS];  // in the result
    uint64_t weight[RF_GEMV_ROWS]; // in the matrix, clamped to it
    uint32_t item;
};

RF_FN RfGemvRows rf_gemv_rows(const RfGemvArgs &args, uint32_t vectors) {
    uint32_t wave = rf_block_x() * (RF_GEMV_THREADS / RF_WAVE) + rf_wave();
    RfGemvRows r;
    r.item = rf_block_y() * vectors;
    uint64_t first = args.experts ? uint64_t(rf_ptr<const uint32_t>(args.experts)[r.item]) * args.rows : 0;
#pragma unroll
    for (uint32_t i = 0; i < RF_GEMV_ROWS; i++) {
        r.row[i] = args.pair ? wave : wave * RF_GEMV_ROWS + i;
        uint32_t row = args.pair ? rf_min(wave, args.pair - 1) + i * args.pair : rf_min(r.row[i], args.rows - 1);
        r.weight[i] = first + row;
    }
    return r;
}

RF_FN uint32_t rf_gemv_x_row(const RfGemvArgs &args, uint32_t item) { return args.shared ? item / args.slots : item; }

RF_FN void rf_gemv_store(const RfGemvArgs &args, uint32_t item, uint32_t row, uint64_t bias_row, float y) {
    if (args.bias) {
        y += rf_ptr<const float>(args.bias)[bias_row];
    }
    if (args.residual) {
        y += rf_ptr<const float>(args.residual)[uint64_t(item) * args.residual_stride + row];
    }
    rf_ptr<float>(args.out)[uint64_t(item) * args.out_stride + row] = y;
}

template <uint32_t vectors>
RF_FN void rf_gemv_finish(const RfGemvArgs &args, const RfGemvRows &r, float (&sum)[RF_GEMV_ROWS][vectors]) {
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
#pragma unroll
        for (uint32_t i = 0; i < RF_GEMV_ROWS; i++) {
            sum[i][v] = rf_wave_sum(sum[i][v]);
        }
    }
    if (rf_lane() != 0) {
        return;
    }
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
        uint32_t item = r.item + v;
        if (item >= args.items) {
            break;
        }
        if (args.pair) {
            if (r.row[0] < args.pair) {
                float gate = sum[0][v], up = sum[1][v];
                if (args.bias) {
                    gate += rf_ptr<const float>(args.bias)[r.weight[0]];
                    up += rf_ptr<const float>(args.bias)[r.weight[1]];
                }
                float y = rf_activation(args.activation, gate, 0.0f, 0.0f) * up;
                rf_ptr<float>(args.out)[uint64_t(item) * args.out_stride + r.row[0]] = y;
            }
            continue;
        }
#pragma unroll
        for (uint32_t i = 0; i < RF_GEMV_ROWS; i++) {
            if (r.row[i] < args.rows) {
                rf_gemv_store(args, item, r.row[i], r.weight[i], sum[i][v]);
            }
        }
    }
}

// Quantised weights, 8-bit activations.
template <uint32_t format, uint32_t vectors>
RF_FN void rf_gemv(const RfGemvArgs &args) {
    typedef RfFormat<format> F;
    constexpr uint32_t in_flight = vectors >= 4 ? 1 : F::groups == 4 ? 2 : 4;
    RfGemvRows r = rf_gemv_rows(args, vectors);
    const uint32_t blocks = args.columns / F::block, units = blocks * F::units;
    const uint8_t *x[vectors];
    const RfScale *scales[vectors];
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
        uint64_t row = rf_gemv_x_row(args, rf_min(r.item + v, args.items - 1));
        x[v] = rf_ptr<const uint8_t>(args.x) + row * args.x_stride;
        scales[v] = rf_ptr<const RfScale>(args.scales) + row * (args.x_stride / 32);
    }
    float sum[RF_GEMV_ROWS][vectors] = {};
    for (uint32_t start = rf_lane(); start < units; start += RF_WAVE * in_flight) {
        typename F::Raw raw[in_flight][RF_GEMV_ROWS];
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            uint32_t unit = rf_min(start + j * RF_WAVE, units - 1);
#pragma unroll
            for (uint32_t i = 0; i < RF_GEMV_ROWS; i++) {
                raw[j][i] = F::load(args.weight, r.weight[i] * blocks + unit / F::units, unit % F::units);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            uint32_t unit = start + j * RF_WAVE;
            if (unit >= units) {
                break;
            }
            uint32_t w[RF_GEMV_ROWS][F::groups][4];
            float scale[RF_GEMV_ROWS][F::groups], minimum[RF_GEMV_ROWS][F::groups];
#pragma unroll
            for (uint32_t i = 0; i < RF_GEMV_ROWS; i++) {
                F::unpack(raw[j][i], unit % F::units, w[i], scale[i], minimum[i]);
            }
            uint32_t first = unit / F::units * F::block;
#pragma unroll
            for (uint32_t g = 0; g < F::groups; g++) {
                uint32_t at = first + F::offset(unit % F::units, g);
#pragma unroll
                for (uint32_t v = 0; v < vectors; v++) {
                    rf_u32x4 q = *reinterpret_cast<const rf_u32x4 *>(x[v] + at);
                    RfScale s = scales[v][at / 32];
                    float total = float(at / 16 % 2 ? s.sums[1] : s.sums[0]);
#pragma unroll
                    for (uint32_t i = 0; i < RF_GEMV_ROWS; i++) {
                        int32_t dot = rf_dot4(w[i][g][0], q.x, 0);
                        dot = rf_dot4(w[i][g][1], q.y, dot);
                        dot = rf_dot4(w[i][g][2], q.z, dot);
                        dot = rf_dot4(w[i][g][3], q.w, dot);
                        float y = rf_fma(scale[i][g], float(dot), minimum[i][g] * total);
                        sum[i][v] = rf_fma(s.d, y, sum[i][v]);
                    }
                }
            }
        }
    }
    rf_gemv_finish<vectors>(args, r, sum);
}

#define RF_GEMV(name, format)                                                                                          \
    RF_KERNEL(rf_gemv_##name##_1, RfGemvArgs, RF_GEMV_THREADS) { rf_gemv<format, 1>(args); }                           \
    RF_KERNEL(rf_gemv_##name##_2, RfGemvArgs, RF_GEMV_THREADS) { rf_gemv<format, 2>(args); }                           \
    RF_KERNEL(rf_gemv_##name##_4, RfGemvArgs, RF_GEMV_THREADS) { rf_gemv<format, 4>(args); }
