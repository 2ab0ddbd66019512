// Products of a matrix with one to four vectors: each wave takes two or four rows and reads the weights once, whatever the number of
// vectors. Lanes take units 0, 1, .. of a row in turn, so that a wave's loads are neighbours.
#pragma once

#include "formats.h"
#include "rows.h"

constexpr uint32_t RF_GEMV_THREADS = 256;

// Rows that a wave takes at once: more share the loads of x, fewer leave more waves for a small matrix.
constexpr uint32_t RF_GEMV_ROWS = 2;

template <uint32_t rows>
struct RfGemvRows {
    uint32_t row[rows];    // in the result
    uint64_t weight[rows]; // in the matrix, clamped to it
    uint32_t item;
};

// With `pair`, the second half of the rows are the partners of the first. Blocks that take the same rows for other vectors
// follow each other, so that they find the weights in the cache.
template <uint32_t rows, uint32_t vectors>
RF_FN RfGemvRows<rows> rf_gemv_rows(const RfGemvArgs &args) {
    const uint32_t part = vectors > 1 ? rf_block_y() : rf_block_x();
    uint32_t wave = part * (RF_GEMV_THREADS / RF_WAVE) + rf_wave();
    RfGemvRows<rows> r;
    r.item = (vectors > 1 ? rf_block_x() : rf_block_y()) * vectors;
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

// The factor of x's rms norm, in two parts: what this lane reads of the sums of squares, early, and the rest, late.
RF_FN float rf_gemv_squares(const RfGemvArgs &args) {
    float sum = 0.0f;
    if (args.x_squares) {
        const float *squares = rf_ptr<const float>(args.x_squares);
        for (uint32_t i = rf_lane(); i < args.columns / 32; i += RF_WAVE) {
            sum += squares[i];
        }
    }
    return sum;
}
RF_FN float rf_gemv_factor(const RfGemvArgs &args, float squares) {
    return args.x_squares ? 1.0f / rf_sqrt(rf_wave_sum(squares) / float(args.columns) + args.eps) : 1.0f;
}

template <uint32_t rows, uint32_t vectors>
RF_FN void rf_gemv_finish(const RfGemvArgs &args, const RfGemvRows<rows> &r, float (&sum)[rows][vectors], float factor) {
    const float *bias = rf_ptr<const float>(args.bias), *residual = rf_ptr<const float>(args.residual);
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
#pragma unroll
        for (uint32_t i = 0; i < rows; i++) {
            sum[i][v] = rf_wave_sum(sum[i][v]) * factor;
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

// One group of 16 of each row with one vector's.
template <uint32_t rows, uint32_t groups>
RF_FN void rf_gemv_group(const uint32_t (&w)[rows][groups][4], const float (&scale)[rows][groups],
                         const float (&minimum)[rows][groups], uint32_t g, const rf_u32x4 &q, float d, float total,
                         float *sum, uint32_t stride) {
#pragma unroll
    for (uint32_t i = 0; i < rows; i++) {
        int32_t dot = rf_dot4(w[i][g][0], q.x, 0);
        dot = rf_dot4(w[i][g][1], q.y, dot);
        dot = rf_dot4(w[i][g][2], q.z, dot);
        dot = rf_dot4(w[i][g][3], q.w, dot);
        float y = rf_fma(scale[i][g], float(dot), minimum[i][g] * total);
        sum[i * stride] = rf_fma(d, y, sum[i * stride]);
    }
}

// The products of each row with each vector, from this lane's units: `in_flight` units of each row are loaded before any
// is computed.
template <uint32_t format, uint32_t rows, uint32_t vectors, uint32_t in_flight>
RF_FN void rf_gemv_multiply(const RfGemvArgs &args, const RfGemvRows<rows> &r, float (&sum)[rows][vectors]) {
    typedef RfFormat<format> F;
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
#pragma unroll
        for (uint32_t i = 0; i < rows; i++) {
            sum[i][v] = 0.0f;
        }
    }
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
#pragma unroll
            for (uint32_t g = 0; g < F::groups; g++) {
                uint32_t at = unit / F::units * F::block + F::offset(unit % F::units, g);
#pragma unroll
                for (uint32_t v = 0; v < vectors; v++) {
                    rf_u32x4 q = *reinterpret_cast<const rf_u32x4 *>(x[v] + at);
                    rf_u32x2 s = *reinterpret_cast<const rf_u32x2 *>(scales[v] + at / 32);
                    float total = float(int32_t(s.y << (16 - (at & 16))) >> 16);
                    rf_gemv_group(w, scale, minimum, g, q, inside ? rf_float(s.x) : 0.0f, total, &sum[0][v], vectors);
                }
            }
        }
    }
}

// Units of each row that are loaded ahead for several vectors.
template <uint32_t format>
struct RfGemvFew {
    // Two of IQ1_M side by side take more scalar registers than gfx90a has, as clang 19 compiles them.
    static constexpr uint32_t units = sizeof(typename RfFormat<format>::Raw) > 32 || format == RF_IQ1_M ? 1 : 2;
};

// A few vectors of 8-bit activations: half of the registers hold their sums.
template <uint32_t format, uint32_t vectors>
RF_FN void rf_gemv(const RfGemvArgs &args) {
    constexpr uint32_t rows = RF_GEMV_ROWS, in_flight = RfGemvFew<format>::units;
    const RfGemvRows<rows> r = rf_gemv_rows<rows, vectors>(args);
    const float squares = rf_gemv_squares(args);
    float sum[rows][vectors];
    rf_gemv_multiply<format, rows, vectors, in_flight>(args, r, sum);
    rf_gemv_finish<rows, vectors>(args, r, sum, rf_gemv_factor(args, squares));
}

#include "gemv_one.h"

#define RF_GEMV_ONE(name, format, pairs)                                                                                \
    RF_KERNEL_STREAM(rf_gemv_##name##_1, RfGemvArgs, RF_GEMV_THREADS, RfGemvHows<format>::One::room) {                  \
        RF_SHARED RfGemvShared<RfGemvHows<format>::One> shared;                                                        \
        rf_let_next_begin();                                                                                           \
        RfGemvOne<format>::run<pairs>(args, shared);                                                                   \
    }                                                                                                                  \
    RF_KERNEL_STREAM(rf_gemv_##name##_4, RfGemvArgs, RF_GEMV_THREADS, 2) {                                              \
        rf_let_next_begin();                                                                                           \
        rf_await_previous();                                                                                           \
        rf_gemv<format, 4>(args);                                                                                      \
    }
#define RF_GEMV(name, format) RF_GEMV_ONE(name, format, true)

// With kernels of their own for pairs that end in codes, and for results whose norm follows.
#define RF_GEMV_NORM(name, format)                                                                                     \
    RF_GEMV_ONE(name, format, false)                                                                                   \
    RF_KERNEL_STREAM(rf_gemv_##name##_pair, RfGemvArgs, RF_GEMV_THREADS, RfGemvHows<format>::Pair::room) {              \
        RF_SHARED RfGemvShared<RfGemvHows<format>::Pair> shared;                                                       \
        rf_let_next_begin();                                                                                           \
        RfGemvOne<format>::run_pairs<RfGemvHows<format>::Pair>(args, shared);                                          \
    }                                                                                                                  \
    RF_KERNEL_FRUGAL(rf_gemv_##name##_norm, RfGemvArgs, RF_GEMV_NORM_THREADS, RfGemvHows<format>::Norm::room) {         \
        RF_SHARED RfGemvShared<RfGemvHows<format>::Norm> shared;                                                       \
        rf_let_next_begin();                                                                                           \
        RfGemvOne<format>::run_norm(args, shared);                                                                     \
    }
