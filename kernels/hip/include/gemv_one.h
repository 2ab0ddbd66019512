// Products with one vector, whose weights are loaded ahead of the arithmetic. Part of gemv.h.
#pragma once

#include "gemv_bites.h"

// Lanes of a block that takes 32 rows of a result whose norm follows.
constexpr uint32_t RF_GEMV_NORM_THREADS = 512;

struct RfGemvShared {
    float part[2][32]; // results that share a scale; of pairs gates and ups
};

// Bites of each row that are loaded ahead, with and without a norm to follow, and blocks of 256 lanes that a multiprocessor should
// have: gate and up of 28672 rows are 448 blocks, which four to each of 132 take at once.
template <uint32_t format>
struct RfGemvAhead {
    static constexpr uint32_t size = sizeof(typename RfBite<format>::Raw);
    // Two of IQ1_M side by side take more scalar registers than gfx90a has, as clang 19 compiles them.
    static constexpr bool one = size > 32 || format == RF_IQ1_M;
    static constexpr uint32_t norm = format == RF_Q8_0 ? 4 : one || format == RF_Q4_0 ? 1 : 2;
    static constexpr uint32_t bites = format == RF_Q6_K && RF_WAVE == 32 ? 2 : norm;
    static constexpr bool fewer = one || format == RF_IQ3_S || format == RF_TQ2_0;
    static constexpr uint32_t dense = format == RF_Q4_K ? 4 : bites == 4 || size > 40 || format == RF_Q2_K ? 2 : fewer ? 3 : 4;
};

// This lane's part of the products of rows of the matrix with one row of x.
template <uint32_t format, uint32_t rows, uint32_t in_flight>
RF_FN void rf_gemv_bites(const RfGemvArgs &args, uint32_t x_row, const uint64_t (&weight)[rows], float (&sum)[rows]) {
    typedef RfBite<format> Bite;
    const uint32_t blocks = args.columns / Bite::block, bites = blocks * Bite::bites;
    RfPlanes planes[rows];
#pragma unroll
    for (uint32_t i = 0; i < rows; i++) {
        planes[i] = rf_row_planes<format>(args.weight, weight[i], blocks);
        sum[i] = 0.0f;
    }
    const uint8_t *x = rf_global<uint8_t>(args.x) + uint64_t(x_row) * args.x_stride;
    const RfScale *scales = rf_global<RfScale>(args.scales) + uint64_t(x_row) * (args.x_stride / 32);
    for (uint32_t start = rf_lane(); start < bites; start += RF_WAVE * in_flight) {
        typename Bite::Raw raw[in_flight][rows];
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            // Past the end the last bite is taken again, times zeros: a branch would hold back the next loads.
            const uint32_t bite = rf_min(start + j * RF_WAVE, bites - 1);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                raw[j][i] = Bite::load(planes[i], bite);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            const uint32_t bite = rf_min(start + j * RF_WAVE, bites - 1);
            const typename Bite::Codes codes = Bite::codes(x, scales, bite, start + j * RF_WAVE < bites);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                sum[i] = Bite::multiply(raw[j][i], bite, codes, sum[i]);
            }
        }
    }
}

template <uint32_t format>
struct RfGemvOne {
    static constexpr uint32_t rows = RF_GEMV_ROWS, in_flight = RfGemvAhead<format>::bites, norm_flight = RfGemvAhead<format>::norm, dense = RfGemvAhead<format>::dense;
    static constexpr uint32_t waves = RF_GEMV_THREADS / RF_WAVE, norm_waves = RF_GEMV_NORM_THREADS / RF_WAVE;
    static constexpr uint32_t pairs = 1; // gates, and ups, that a wave takes at once

    // Gate and up, quantised for the next matrix: a block takes the 32 results of one scale.
    RF_MEMBER void run_pairs(const RfGemvArgs &args, RfGemvShared &shared) {
        const bool finishes = rf_wave() == 0;
        const float squares = finishes ? rf_gemv_squares(args) : 0.0f;
#pragma unroll 1
        for (uint32_t pass = 0; pass < 32 / (waves * pairs); pass++) {
            const uint32_t within = (pass * waves + rf_wave()) * pairs;
            uint64_t weight[2 * pairs];
#pragma unroll
            for (uint32_t i = 0; i < pairs; i++) {
                weight[i] = rf_min(rf_block_x() * 32 + within + i, args.pair - 1);
                weight[pairs + i] = weight[i] + args.pair;
            }
            float sum[2 * pairs];
            rf_gemv_bites<format, 2 * pairs, in_flight>(args, 0, weight, sum);
            const float y = rf_wave_sum_each(sum);
            constexpr uint32_t each = RF_WAVE / (2 * pairs);
            if (rf_lane() % each == 0) {
                shared.part[rf_lane() / (RF_WAVE / 2)][within + rf_lane() / each % pairs] = y;
            }
        }
        rf_barrier();
        if (!finishes) {
            return;
        }
        const float factor = rf_gemv_factor(args, squares);
        const uint32_t row = rf_block_x() * 32 + rf_lane();
        if (rf_lane() < 32) {
            float gate = shared.part[0][rf_lane()] * factor, up = shared.part[1][rf_lane()] * factor;
            if (args.bias) {
                const float *bias = rf_ptr<const float>(args.bias) + rf_min(row, args.pair - 1);
                gate += bias[0];
                up += bias[args.pair];
            }
            const float y = rf_activation(args.activation, gate, 0.0f, 0.0f) * up;
            shared.part[0][rf_lane()] = y;
            if (args.out && row < args.pair) {
                rf_ptr<float>(args.out)[row] = y;
            }
        }
        rf_wave_sync();
        store_part(args, shared, args.pair, false);
    }

    // The 32 results in shared memory as codes, by the first wave; with `norm` times their weights, and their squares' sum.
    RF_MEMBER void store_part(const RfGemvArgs &args, const RfGemvShared &shared, uint32_t results, bool norm) {
        const RfRowOut to = {nullptr, rf_ptr<int8_t>(args.next_codes), rf_ptr<RfScale>(args.next_scales), nullptr, nullptr};
        const uint32_t c = rf_block_x() * 32 + 4 * rf_lane();
        const bool inside = rf_lane() < 8 && c < results;
        float y[4] = {}, squares = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            y[i] = rf_lane() < 8 ? shared.part[0][4 * rf_lane() + i] : 0.0f;
            squares = rf_fma(y[i], y[i], squares);
        }
        if (norm) {
            squares = rf_wave_sum<8>(squares);
            if (rf_lane() == 0) {
                rf_ptr<float>(args.squares)[rf_block_x()] = squares;
            }
            if (args.next_weight && inside) {
                const rf_f32x4 w = *reinterpret_cast<const rf_f32x4 *>(rf_ptr<const float>(args.next_weight) + c);
                y[0] *= w.x, y[1] *= w.y, y[2] *= w.z, y[3] *= w.w;
            }
        }
        rf_store_codes(to, c, inside, y);
    }

    // 32 rows, and the codes of the norm of the whole result but for its factor.
    RF_MEMBER void run_norm(const RfGemvArgs &args, RfGemvShared &shared) {
        constexpr uint32_t passes = 32 / (norm_waves * rows);
        static_assert(norm_waves * rows * passes == 32, "a block takes the rows of a scale");
        const bool finishes = rf_wave() == 0;
        const uint32_t row = rf_block_x() * 32 + rf_lane() % 32;
        // What the end needs is on its way meanwhile.
        const float squares = finishes ? rf_gemv_squares(args) : 0.0f;
        const float bias = finishes && args.bias ? rf_ptr<const float>(args.bias)[row] : 0.0f;
        const float residual = finishes && args.residual ? rf_ptr<const float>(args.residual)[row] : 0.0f;
#pragma unroll 1
        for (uint32_t pass = 0; pass < passes; pass++) {
            const uint32_t within = (pass * norm_waves + rf_wave()) * rows;
            uint64_t weight[rows];
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                weight[i] = rf_block_x() * 32 + within + i;
            }
            float sum[rows];
            rf_gemv_bites<format, rows, norm_flight>(args, 0, weight, sum);
            const float y = rf_wave_sum_each(sum);
            if (rf_lane() % (RF_WAVE / rows) == 0) {
                shared.part[0][within + rf_lane() / (RF_WAVE / rows)] = y;
            }
        }
        rf_barrier();
        if (!finishes) {
            return;
        }
        const float factor = rf_gemv_factor(args, squares);
        if (rf_lane() < 32) {
            const float y = (shared.part[0][rf_lane()] * factor + bias) + residual;
            shared.part[0][rf_lane()] = y;
            rf_ptr<float>(args.out)[row] = y;
        }
        rf_wave_sync();
        store_part(args, shared, args.rows, true);
    }

    RF_MEMBER void run(const RfGemvArgs &args, RfGemvShared &shared) {
        if (args.pair && args.next_codes) {
            run_pairs(args, shared);
            return;
        }
        const RfGemvRows<rows> r = rf_gemv_rows<rows, 1>(args);
        const float squares = rf_gemv_squares(args);
        float sum[rows];
        rf_gemv_bites<format, rows, in_flight>(args, rf_gemv_x_row(args, r.item), r.weight, sum);
        float y = rf_wave_sum_each(sum) * rf_gemv_factor(args, squares);
        constexpr uint32_t each = RF_WAVE / rows;
        const uint32_t i = rf_lane() / each;
        if (args.bias) {
            y += rf_ptr<const float>(args.bias)[i == 0 ? r.weight[0] : r.weight[1]];
        }
        const float up = rf_shuffle(y, each);
        float *out = rf_ptr<float>(args.out) + uint64_t(r.item) * args.out_stride;
        if (args.pair) {
            if (rf_lane() == 0 && r.row[0] < args.pair) {
                out[r.row[0]] = rf_activation(args.activation, y, 0.0f, 0.0f) * up;
            }
        } else if (rf_lane() % each == 0 && r.row[0] + i < args.rows) {
            const float *residual = rf_ptr<const float>(args.residual);
            const uint32_t row = r.row[0] + i;
            out[row] = residual ? y + residual[uint64_t(r.item) * args.residual_stride + row] : y;
        }
    }
};
