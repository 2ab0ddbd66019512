// Products of a quantised matrix with many vectors through the matrix units.
//
// A block computes BM vectors by BN rows. In each step it takes BK elements of every row: the weights' units are loaded a step
// ahead into registers, dequantised to f16 into shared memory, and multiplied there with the f16 activations. The order of k within
// a step is that of the format's units, the same for weights and activations, so that no format needs its elements in order.
#pragma once

#include "formats.h"
#include "matrix.h"

constexpr uint32_t RF_GEMM_THREADS = 256;

// Groups of 16 plain elements.
template <uint32_t format>
struct RfPlainFormat {
    static constexpr uint32_t block = 16, units = 1, groups = 1;
    struct Raw {
        rf_u32x4 q[2];
    };
    RF_MEMBER uint32_t offset(uint32_t, uint32_t) { return 0; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        const rf_u32x4 *q = rf_plane<rf_u32x4>(p, 0, 2 * b);
        return {{rf_stream(q), rf_stream(q + 1)}};
    }
};
template <>
struct RfFormat<RF_F16> : RfPlainFormat<RF_F16> {};
template <>
struct RfFormat<RF_BF16> : RfPlainFormat<RF_BF16> {};

RF_FN void rf_store_words(uint16_t *to, const uint32_t (&w)[8]) {
    rf_u32x4 *out = reinterpret_cast<rf_u32x4 *>(to);
    out[0] = {w[0], w[1], w[2], w[3]};
    out[1] = {w[4], w[5], w[6], w[7]};
}

// Codes that are never negative.
template <uint32_t format>
struct RfUnsigned {
    static constexpr bool legacy = format == RF_Q4_0 || format == RF_Q4_1 || format == RF_Q5_0 || format == RF_Q5_1;
    static constexpr bool codes = legacy || (format >= RF_Q2_K && format <= RF_Q6_K);
};

// A unit's values as pairs of f16, group by group.
template <uint32_t format>
RF_FN void rf_unit_halves(const typename RfFormat<format>::Raw &raw, uint32_t unit, uint32_t (&w)[RfFormat<format>::groups][8]) {
    typedef RfFormat<format> F;
    if constexpr (format == RF_F16 || format == RF_BF16) {
        const uint32_t q[8] = {raw.q[0].x, raw.q[0].y, raw.q[0].z, raw.q[0].w, raw.q[1].x, raw.q[1].y, raw.q[1].z, raw.q[1].w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            w[0][i] = format == RF_F16 ? q[i] : rf_pack_halves(rf_float(q[i] << 16), rf_float(q[i] & 0xffff0000u));
        }
    } else {
        uint32_t codes[F::groups][4];
        float scale[F::groups], minimum[F::groups];
        F::unpack(raw, unit, codes, scale, minimum);
#pragma unroll
        for (uint32_t g = 0; g < F::groups; g++) {
            uint32_t s = rf_pack_halves(scale[g], scale[g]), m = rf_pack_halves(minimum[g], minimum[g]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                // Byte b, shifted to be unsigned, under the exponent of 1024 is 1024 + 128 + b; the sum takes that off exactly.
                const uint32_t q = RfUnsigned<format>::codes ? codes[g][i] : codes[g][i] ^ 0x80808080u;
                const uint32_t off = RfUnsigned<format>::codes ? 0xe400e400u : 0xe480e480u;
                uint32_t low = rf_byte_permute(q, 0x64646464u, 0x4140), high = rf_byte_permute(q, 0x64646464u, 0x4342);
                w[g][2 * i] = rf_fma_halves(rf_add_halves(low, off), s, m);
                w[g][2 * i + 1] = rf_fma_halves(rf_add_halves(high, off), s, m);
            }
        }
    }
}

// The same to shared memory, group g to `to + 16 * g`.
template <uint32_t format>
RF_FN void rf_store_unit(uint16_t *to, const typename RfFormat<format>::Raw &raw, uint32_t unit) {
    uint32_t w[RfFormat<format>::groups][8];
    rf_unit_halves<format>(raw, unit, w);
#pragma unroll
    for (uint32_t g = 0; g < RfFormat<format>::groups; g++) {
        rf_store_words(to + 16 * g, w[g]);
    }
}

// BM x BN per block, BK elements per step; the waves split BM in two, and BN.
template <uint32_t format, uint32_t BM, uint32_t BN, uint32_t BK>
struct RfGemm {
    typedef RfFormat<format> F;
    static constexpr uint32_t waves = RF_GEMM_THREADS / RF_WAVE;
    static constexpr uint32_t wm = 2, wn = waves / wm;
    static constexpr uint32_t tm = BM / wm / 16, tn = BN / wn / 16; // tiles of a wave
    static constexpr uint32_t stride = BK + 8;                     // of shared rows, against bank conflicts
    static constexpr uint32_t units = BK / 16 / F::groups;          // of a row in a step
    static constexpr uint32_t weights = (BN * units + RF_GEMM_THREADS - 1) / RF_GEMM_THREADS;
    static constexpr uint32_t chunks = BM * BK / 8 / RF_GEMM_THREADS; // of 8 activations
    static_assert(BM * BK % (8 * RF_GEMM_THREADS) == 0 && tm > 0 && tn > 0, "tiles");

    struct Shared {
        alignas(16) uint16_t x[BM * stride];
        alignas(16) uint16_t w[BN * stride];
    };

    // What of a step a lane holds until the shared tiles are free.
    struct Weights {
        typename F::Raw raw[weights];
    };
    struct Activations {
        rf_u32x4 x[chunks];
    };

    const RfGemmArgs &args;
    uint64_t first_row;     // in the matrix
    uint32_t rows, columns; // of the matrix
    uint32_t n0;
    const uint32_t *items;  // of this block's vectors, or 0: m0 ..
    uint32_t m0, vectors;   // the first vector, and how many of them there are

    RF_METHOD uint32_t item(uint32_t m) const { return items ? items[m0 + m] : m0 + m; }
    RF_METHOD uint32_t x_row(uint32_t m) const {
        uint32_t i = item(m);
        return args.shared ? i / args.slots : i;
    }

    RF_METHOD void load(Weights &held, uint32_t step) const {
        const uint32_t total = columns / F::block * F::units;
#pragma unroll
        for (uint32_t i = 0; i < weights; i++) {
            uint32_t at = i * RF_GEMM_THREADS + rf_thread();
            uint32_t row = rf_min(n0 + at / units, rows - 1), unit = rf_min(step * units + at % units, total - 1);
            if (BN * units % RF_GEMM_THREADS == 0 || at < BN * units) {
                uint64_t block = (first_row + row) * (columns / F::block) + unit / F::units;
                held.raw[i] = F::load(args.weight, block, unit % F::units);
            }
        }
    }

    RF_METHOD void load(Activations &held, uint32_t step) const {
        const uint32_t total = columns / F::block * F::units;
#pragma unroll
        for (uint32_t i = 0; i < chunks; i++) {
            uint32_t at = i * RF_GEMM_THREADS + rf_thread();
            uint32_t m = at / (BK / 8), within = at % (BK / 8), group = within / 2;
            uint32_t unit = step * units + group / F::groups;
            held.x[i] = {0, 0, 0, 0};
            if (m < vectors && unit < total) {
                uint32_t c = unit / F::units * F::block + F::offset(unit % F::units, group % F::groups) + within % 2 * 8;
                const uint16_t *x = rf_ptr<const uint16_t>(args.x) + uint64_t(x_row(m)) * args.x_stride + c;
                held.x[i] = *reinterpret_cast<const rf_u32x4 *>(x);
            }
        }
    }

    RF_METHOD void store(const Weights &held, const Activations &x, Shared &shared, uint32_t step) const {
        const uint32_t total = columns / F::block * F::units;
#pragma unroll
        for (uint32_t i = 0; i < weights; i++) {
            uint32_t at = i * RF_GEMM_THREADS + rf_thread();
            // Beyond the last unit the activations are 0, and the weights are the last unit's, finite if it is.
            uint32_t unit = rf_min(step * units + at % units, total - 1);
            if (BN * units % RF_GEMM_THREADS == 0 || at < BN * units) {
                uint16_t *to = shared.w + at / units * stride + at % units * 16 * F::groups;
                rf_store_unit<format>(to, held.raw[i], unit % F::units);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < chunks; i++) {
            uint32_t at = i * RF_GEMM_THREADS + rf_thread();
            uint16_t *to = shared.x + at / (BK / 8) * stride + at % (BK / 8) * 8;
            *reinterpret_cast<rf_u32x4 *>(to) = x.x[i];
        }
    }

    RF_METHOD void run(Shared &shared) const {
        const uint32_t n_at = rf_wave() % wn * tn * 16, m_at = rf_wave() / wn * tm * 16;
        const uint32_t steps = (columns + BK - 1) / BK;
        RfAcc acc[tm][tn] = {};
        Weights held;
        Activations x;
        load(held, 0);
        load(x, 0);
        for (uint32_t step = 0; step < steps; step++) {
            store(held, x, shared, step);
            rf_barrier();
            load(held, rf_min(step + 1, steps - 1));
            load(x, rf_min(step + 1, steps - 1));
            multiply(acc, shared, n_at, m_at);
            rf_barrier();
        }
        finish(acc, n_at, m_at);
    }

    RF_METHOD void multiply(RfAcc (&acc)[tm][tn], const Shared &shared, uint32_t n_at, uint32_t m_at) const {
        RF_UNROLL_K
        for (uint32_t k = 0; k < BK; k += 16) {
            RfTileB b[tn];
#pragma unroll
            for (uint32_t j = 0; j < tn; j++) {
                b[j] = rf_load_b(shared.w + (n_at + 16 * j) * stride + k, stride);
            }
#pragma unroll
            for (uint32_t i = 0; i < tm; i++) {
                RfTileA a = rf_load_a(shared.x + (m_at + 16 * i) * stride + k, stride);
#pragma unroll
                for (uint32_t j = 0; j < tn; j++) {
                    rf_multiply(acc[i][j], a, b[j]);
                }
            }
        }
    }

    RF_METHOD void finish(const RfAcc (&acc)[tm][tn], uint32_t n_at, uint32_t m_at) const {
        const float *bias = rf_ptr<const float>(args.bias), *residual = rf_ptr<const float>(args.residual);
        const float *powers = rf_ptr<const float>(args.powers);
        float *out = rf_ptr<float>(args.out);
#pragma unroll
        for (uint32_t i = 0; i < tm; i++) {
#pragma unroll
            for (uint32_t e = 0; e < RF_ACC; e++) {
                uint32_t m = m_at + 16 * i + rf_acc_row(e);
                if (m >= vectors) {
                    continue;
                }
                uint64_t to = item(m);
                float power = powers[x_row(m)];
#pragma unroll
                for (uint32_t j = 0; j < tn; j++) {
                    uint32_t n = n0 + n_at + 16 * j + rf_acc_column(e);
                    if (n < rows) {
                        float y = acc[i][j].x[e] * power;
                        y = bias ? y + bias[first_row + n] : y;
                        y = residual ? y + residual[to * args.residual_stride + n] : y;
                        out[to * args.out_stride + n] = y;
                    }
                }
            }
        }
    }
};

// The vectors that a block takes.
struct RfGemmItems {
    uint64_t first_row; // of the weights of their expert
    const uint32_t *items;
    uint32_t m0, vectors;
};

// Those of tile `tile`, of at most `most` vectors each.
RF_FN RfGemmItems rf_gemm_items(const RfGemmArgs &args, uint32_t tile, uint32_t most) {
    if (args.tiles) {
        // Expert, first of its items in `sorted`, how many.
        const uint32_t *t = rf_ptr<const uint32_t>(args.tiles) + 3 * tile;
        return {uint64_t(t[0]) * args.rows, rf_ptr<const uint32_t>(args.sorted), t[1], t[2]};
    }
    const uint32_t m0 = tile * most;
    return {0, nullptr, m0, m0 < args.items ? rf_min(args.items - m0, most) : 0};
}

template <class Gemm>
RF_FN void rf_gemm(const RfGemmArgs &args, uint32_t bm, uint32_t bn, typename Gemm::Shared &shared) {
    const RfGemmItems of = rf_gemm_items(args, rf_block_y(), bm);
    Gemm gemm = {args, of.first_row, args.rows, args.columns, rf_block_x() * bn, of.items, of.m0, of.vectors};
    if (gemm.vectors > 0) {
        gemm.run(shared);
    }
}

template <uint32_t format>
using RfGemmLarge = RfGemm<format, 128, 128, 64>;

#define RF_GEMM_MANY(name, format)                                                                                     \
    RF_KERNEL_DENSE(rf_gemm_##name##_128, RfGemmArgs, RF_GEMM_THREADS, 2) {                                            \
        RF_SHARED RfGemmLarge<format>::Shared shared;                                                                  \
        rf_gemm<RfGemmLarge<format>>(args, 128, 128, shared);                                                          \
    }
