// Products with one vector, whose weights are loaded ahead of the arithmetic. Part of gemv.h.
#pragma once

#include "gemv_stream.h"

// Lanes of a block that takes 32 rows of a result whose norm follows.
constexpr uint32_t RF_GEMV_NORM_THREADS = 512;

// How a kernel takes its weights: bites of each row that are loaded at once, whether a step ahead of the arithmetic, and the vector
// from shared memory or not. `room` is how many blocks of 256 lanes a multiprocessor should have at least, and of blocks of 512 with
// a norm to follow how many registers a lane: those that are left over are what the next launch's first blocks begin in.
template <bool ahead_, uint32_t bites_, uint32_t room_, bool held_ = false>
struct RfGemvHow {
    static constexpr bool ahead = ahead_, held = held_;
    static constexpr uint32_t bites = bites_, room = room_;
};

// Alone, as pairs that end in codes, and with a norm to follow.
template <uint32_t format>
struct RfGemvHows {
    static constexpr uint32_t size = sizeof(typename RfBite<format>::Raw);
    // Two of IQ1_M side by side take more scalar registers than gfx90a has, as clang 19 compiles them.
    static constexpr bool one = size > 32 || format == RF_IQ1_M;
    static constexpr uint32_t most = format == RF_Q8_0 ? 4 : one || format == RF_Q4_0 ? 1 : 2;
    static constexpr bool fewer = one || format == RF_IQ3_S || format == RF_TQ2_0;
    static constexpr uint32_t dense = most == 4 || size > 40 || format == RF_Q2_K ? 2 : fewer ? 3 : 4;
    static constexpr uint32_t alone = format == RF_Q6_K && RF_WAVE == 32 ? 2 : most;
    typedef RfGemvHow<false, alone, dense> One;
    typedef One Pair;
    typedef RfGemvHow<false, most, 128> Norm;
};
#if RF_GEMV_STARTS_EARLY
// What was fastest in whole steps of models of 1 and 8 billion weights.
template <>
struct RfGemvHows<RF_Q4_0> {
    typedef RfGemvHow<true, 1, 3> One;
    typedef RfGemvHow<true, 1, 4, true> Pair;
    typedef RfGemvHow<false, 2, 128> Norm;
};
template <>
struct RfGemvHows<RF_Q8_0> {
    typedef RfGemvHow<false, 4, 2, true> One;
    typedef One Pair;
    typedef RfGemvHow<false, 4, 128> Norm;
};
template <>
struct RfGemvHows<RF_Q4_K> {
    typedef RfGemvHow<false, 1, 3, true> One;
    typedef RfGemvHow<false, 1, 4, true> Pair;
    typedef RfGemvHow<true, 1, 128> Norm;
};
template <>
struct RfGemvHows<RF_Q6_K> {
    typedef RfGemvHow<true, 1, 2> One;
    typedef One Pair;
    typedef RfGemvHow<false, 1, 128> Norm;
};
#endif

template <class How>
struct RfGemvShared {
    RfHeldVector<How::held ? RF_GEMV_HELD : 64> x;
    float part[2][32]; // results that share a scale; of pairs gates and ups
};

template <uint32_t format>
struct RfGemvOne {
    static constexpr uint32_t rows = RF_GEMV_ROWS;
    typedef typename RfGemvHows<format>::One One;
    typedef typename RfGemvHows<format>::Norm Norm;
    static constexpr uint32_t waves = RF_GEMV_THREADS / RF_WAVE, norm_waves = RF_GEMV_NORM_THREADS / RF_WAVE;
    static constexpr uint32_t pairs = 1; // gates, and ups, that a wave takes at once

    // Gate and up, quantised for the next matrix: a block takes the 32 results of one scale.
    template <class How>
    RF_MEMBER void run_pairs(const RfGemvArgs &args, RfGemvShared<How> &shared) {
        const bool finishes = rf_wave() == 0;
        float squares = 0.0f;
        const auto within = [](uint32_t pass) { return (pass * waves + rf_wave()) * pairs; };
        const auto row_of = [&](uint32_t pass, uint32_t i) {
            const uint32_t gate = rf_min(rf_block_x() * 32 + within(pass) + i % pairs, args.pair - 1);
            return uint64_t(i < pairs ? gate : gate + args.pair);
        };
        const auto ready = [&] { squares = finishes ? rf_gemv_squares(args) : 0.0f; };
        const auto done = [&](uint32_t pass, float (&sum)[2 * pairs]) {
            const float y = rf_wave_sum_each(sum);
            constexpr uint32_t each = RF_WAVE / (2 * pairs);
            if (rf_lane() % each == 0) {
                shared.part[rf_lane() / (RF_WAVE / 2)][within(pass) + rf_lane() / each % pairs] = y;
            }
        };
        rf_gemv_stream<format, 2 * pairs, How, RF_GEMV_THREADS>(args, 0, shared.x, 32 / (waves * pairs), row_of,
                                                                                  ready, done);
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
        const rf_f32x4 ones = {1.0f, 1.0f, 1.0f, 1.0f};
        store_part(args, shared, args.pair, false, ones);
    }

    // The 32 results in shared memory as codes, by the first wave; with `norm` times their weights w, and their squares' sum.
    template <class Shared>
    RF_MEMBER void store_part(const RfGemvArgs &args, const Shared &shared, uint32_t results, bool norm, const rf_f32x4 &w) {
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
            y[0] *= w.x, y[1] *= w.y, y[2] *= w.z, y[3] *= w.w;
        }
        rf_store_codes(to, c, inside, y);
    }

    // 32 rows, and the codes of the norm of the whole result but for its factor.
    RF_MEMBER void run_norm(const RfGemvArgs &args, RfGemvShared<Norm> &shared) {
        constexpr uint32_t passes = 32 / (norm_waves * rows);
        static_assert(norm_waves * rows * passes == 32, "a block takes the rows of a scale");
        const bool finishes = rf_wave() == 0;
        const uint32_t row = rf_block_x() * 32 + rf_lane() % 32;
        float squares = 0.0f, bias = 0.0f, residual = 0.0f;
        rf_f32x4 next = {1.0f, 1.0f, 1.0f, 1.0f};
        const auto within = [](uint32_t pass) { return (pass * norm_waves + rf_wave()) * rows; };
        const auto row_of = [&](uint32_t pass, uint32_t i) { return uint64_t(rf_block_x() * 32 + within(pass) + i); };
        // What the end needs is on its way meanwhile.
        const auto ready = [&] {
            squares = finishes ? rf_gemv_squares(args) : 0.0f;
            bias = finishes && args.bias ? rf_ptr<const float>(args.bias)[row] : 0.0f;
            residual = finishes && args.residual ? rf_ptr<const float>(args.residual)[row] : 0.0f;
            if (finishes && args.next_weight) {
                next = *reinterpret_cast<const rf_f32x4 *>(rf_ptr<const float>(args.next_weight) + rf_block_x() * 32 + rf_lane() % 8 * 4);
            }
        };
        const auto done = [&](uint32_t pass, float (&sum)[rows]) {
            const float y = rf_wave_sum_each(sum);
            if (rf_lane() % (RF_WAVE / rows) == 0) {
                shared.part[0][within(pass) + rf_lane() / (RF_WAVE / rows)] = y;
            }
        };
        rf_gemv_stream<format, rows, Norm, RF_GEMV_NORM_THREADS>(args, 0, shared.x, passes, row_of, ready, done);
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
        store_part(args, shared, args.rows, true, next);
    }

    // With `paired` also pairs that end in codes.
    template <bool paired>
    RF_MEMBER void run(const RfGemvArgs &args, RfGemvShared<One> &shared) {
        if (paired && args.pair && args.next_codes) {
            run_pairs(args, shared);
            return;
        }
        if (args.experts) {
            rf_await_previous(); // chosen by an earlier launch
        }
        const RfGemvRows<rows> r = rf_gemv_rows<rows, 1>(args);
        float squares = 0.0f, sum[rows] = {};
        const auto row_of = [&](uint32_t, uint32_t i) { return r.weight[i]; };
        const auto ready = [&] { squares = rf_gemv_squares(args); };
        const auto done = [&](uint32_t, float (&all)[rows]) {
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                sum[i] = all[i];
            }
        };
        rf_gemv_stream<format, rows, One, RF_GEMV_THREADS>(args, rf_gemv_x_row(args, r.item), shared.x, 1, row_of,
                                                                             ready, done);
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
