// Products of a matrix with one to four vectors: each wave takes two or four rows and reads the weights once, whatever the number of
// vectors. Lanes take units 0, 1, .. of a row in turn, so that a wave's loads are neighbours.
#pragma once

#include "formats.h"

constexpr uint32_t RF_GEMV_THREADS = 256;

// Rows that a wave takes at once: more share the loads of x, fewer leave more waves for a small matrix.
template <uint32_t vectors>
struct RfGemvTile {
    static constexpr uint32_t rows = vectors >= 4 ? 4 : 2;
};

template <uint32_t rows>
struct RfGemvRows {
    uint32_t row[rows];    // in the result
    uint64_t weight[rows]; // in the matrix, clamped to it
    uint32_t item;
};

// With `pair`, the second half of the rows are the partners of the first.
template <uint32_t rows>
RF_FN RfGemvRows<rows> rf_gemv_rows(const RfGemvArgs &args, uint32_t vectors) {
    uint32_t wave = rf_block_x() * (RF_GEMV_THREADS / RF_WAVE) + rf_wave();
    RfGemvRows<rows> r;
    r.item = rf_block_y() * vectors;
    uint64_t first = args.experts ? uint64_t(rf_ptr<const uint32_t>(args.experts)[r.item]) * args.rows : 0;
#pragma unroll
    for (uint32_t i = 0; i < rows; i++) {
        r.row[i] = args.pair ? wave * (rows / 2) + i % (rows / 2) : wave * rows + i;
        uint32_t row = rf_min(r.row[i], (args.pair ? args.pair : args.rows) - 1);
        r.weight[i] = first + row + (args.pair && i >= rows / 2 ? args.pair : 0);
    }
    return r;
}

RF_FN uint32_t rf_gemv_x_row(const RfGemvArgs &args, uint32_t item) { return args.shared ? item / args.slots : item; }

template <uint32_t rows, uint32_t vectors>
RF_FN void rf_gemv_finish(const RfGemvArgs &args, const RfGemvRows<rows> &r, float (&sum)[rows][vectors]) {
    const float *bias = rf_ptr<const float>(args.bias), *residual = rf_ptr<const float>(args.residual);
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
#pragma unroll
        for (uint32_t i = 0; i < rows; i++) {
            sum[i][v] = rf_wave_sum(sum[i][v]);
        }
    }
    if (rf_lane() != 0) {
        return;
    }
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
        uint64_t item = r.item + v;
        if (item >= args.items) {
            break;
        }
        float *out = rf_ptr<float>(args.out) + item * args.out_stride;
#pragma unroll
        for (uint32_t i = 0; i < rows; i++) {
            float y = bias ? sum[i][v] + bias[r.weight[i]] : sum[i][v];
            if (args.pair) {
                if (i < rows / 2 && r.row[i] < args.pair) {
                    uint32_t partner = (i + rows / 2) % rows;
                    float up = bias ? sum[partner][v] + bias[r.weight[partner]] : sum[partner][v];
                    out[r.row[i]] = rf_activation(args.activation, y, 0.0f, 0.0f) * up;
                }
            } else if (r.row[i] < args.rows) {
                out[r.row[i]] = residual ? y + residual[item * args.residual_stride + r.row[i]] : y;
            }
        }
    }
}

// A row's planes.
template <uint32_t format>
RF_FN RfPlanes rf_row_planes(const RfPlanes &planes, uint64_t row, uint32_t blocks) {
    RfPlanes p;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        p.plane[i] = planes.plane[i] + row * blocks * RfFormat<format>::length(i);
    }
    return p;
}

// Quantised weights, 8-bit activations.
template <uint32_t format, uint32_t vectors>
RF_FN void rf_gemv(const RfGemvArgs &args) {
    typedef RfFormat<format> F;
    constexpr uint32_t rows = RfGemvTile<vectors>::rows, in_flight = vectors >= 4 || F::groups == 4 ? 1 : 2;
    RfGemvRows<rows> r = rf_gemv_rows<rows>(args, vectors);
    const uint32_t blocks = args.columns / F::block, units = blocks * F::units;
    RfPlanes planes[rows];
#pragma unroll
    for (uint32_t i = 0; i < rows; i++) {
        planes[i] = rf_row_planes<format>(args.weight, r.weight[i], blocks);
    }
    const uint8_t *x[vectors];
    const RfScale *scales[vectors];
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
        uint64_t row = rf_gemv_x_row(args, rf_min(r.item + v, args.items - 1));
        x[v] = rf_ptr<const uint8_t>(args.x) + row * args.x_stride;
        scales[v] = rf_ptr<const RfScale>(args.scales) + row * (args.x_stride / 32);
    }
    float sum[rows][vectors] = {};
    for (uint32_t start = rf_lane(); start < units; start += RF_WAVE * in_flight) {
        typename F::Raw raw[in_flight][rows];
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            uint32_t unit = rf_min(start + j * RF_WAVE, units - 1);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                raw[j][i] = F::load(planes[i], unit / F::units, unit % F::units);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            // Past the end the last unit is taken again, with a factor of 0: a branch would hold back the next loads.
            const bool inside = start + j * RF_WAVE < units;
            const uint32_t unit = rf_min(start + j * RF_WAVE, units - 1);
            uint32_t w[rows][F::groups][4];
            float scale[rows][F::groups], minimum[rows][F::groups];
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                F::unpack(raw[j][i], unit % F::units, w[i], scale[i], minimum[i]);
            }
            uint32_t first = unit / F::units * F::block;
#pragma unroll
            for (uint32_t g = 0; g < F::groups; g++) {
                uint32_t at = first + F::offset(unit % F::units, g);
#pragma unroll
                for (uint32_t v = 0; v < vectors; v++) {
                    rf_u32x4 q = *reinterpret_cast<const rf_u32x4 *>(x[v] + at);
                    rf_u32x2 s = *reinterpret_cast<const rf_u32x2 *>(scales[v] + at / 32);
                    float d = inside ? rf_float(s.x) : 0.0f;
                    float total = float(int16_t(s.y >> (at & 16)));
#pragma unroll
                    for (uint32_t i = 0; i < rows; i++) {
                        int32_t dot = rf_dot4(w[i][g][0], q.x, 0);
                        dot = rf_dot4(w[i][g][1], q.y, dot);
                        dot = rf_dot4(w[i][g][2], q.z, dot);
                        dot = rf_dot4(w[i][g][3], q.w, dot);
                        float y = rf_fma(scale[i][g], float(dot), minimum[i][g] * total);
                        sum[i][v] = rf_fma(d, y, sum[i][v]);
                    }
                }
            }
        }
    }
    rf_gemv_finish<rows, vectors>(args, r, sum);
}

#define RF_GEMV(name, format)                                                                                          \
    RF_KERNEL_DENSE(rf_gemv_##name##_1, RfGemvArgs, RF_GEMV_THREADS, 3) { rf_gemv<format, 1>(args); }                  \
    RF_KERNEL(rf_gemv_##name##_4, RfGemvArgs, RF_GEMV_THREADS) { rf_gemv<format, 4>(args); }
