// Bites: what a lane takes of a row at a time in products with one vector. Part of gemv.h.
//
// A bite is a unit of the format, or, where units share scales or bits, as many as do: these are unpacked once, and a scale is
// applied once to the integer sum of all that it belongs to. The vector's part of a bite is loaded once for all rows.
#pragma once

#include "formats.h"
#include "gemv_target.h"

// Codes of the vector, 16 to a group, with the scale of each group and that times the sum of its codes.
template <uint32_t groups>
struct RfBiteCodes {
    rf_u32x4 q[groups];
    float d[groups], t[groups];
};

RF_FN int32_t rf_dot16(const uint32_t (&w)[4], const rf_u32x4 &q, int32_t dot) {
    dot = rf_dot4(w[0], q.x, dot);
    dot = rf_dot4(w[1], q.y, dot);
    dot = rf_dot4(w[2], q.z, dot);
    return rf_dot4(w[3], q.w, dot);
}

// Sums of the codes that an RfScale belongs to: of half 0 or 1, or of both.
RF_FN int32_t rf_half_sum(uint32_t sums, uint32_t half) { return int32_t(sums << (16 - 16 * half)) >> 16; }
RF_FN int32_t rf_whole_sum(uint32_t sums) { return rf_half_sum(sums, 0) + rf_half_sum(sums, 1); }

template <uint32_t format>
struct RfBite {
    typedef RfFormat<format> F;
    typedef typename F::Raw Raw;
    typedef RfBiteCodes<F::groups> Codes;
    static constexpr uint32_t block = F::block, bites = F::units;

    RF_MEMBER Raw load(const RfPlanes &row, uint32_t bite) { return F::load(row, bite / F::units, bite % F::units); }

    // A vector's codes; as zeros where this is beyond the row.
    template <class X>
    RF_MEMBER Codes codes(const X &x, uint32_t bite, bool inside) {
        Codes c;
#pragma unroll
        for (uint32_t g = 0; g < F::groups; g++) {
            const uint32_t at = bite / F::units * F::block + F::offset(bite % F::units, g);
            c.q[g] = x.codes16(at);
            const rf_u32x2 s = x.scale(at);
            c.d[g] = inside ? rf_float(s.x) : 0.0f;
            c.t[g] = c.d[g] * float(rf_half_sum(s.y, at / 16 % 2));
        }
        return c;
    }

    RF_MEMBER float multiply(const Raw &raw, uint32_t bite, const Codes &c, float sum) {
        uint32_t w[F::groups][4];
        float scale[F::groups], minimum[F::groups];
        F::unpack(raw, bite % F::units, w, scale, minimum);
#pragma unroll
        for (uint32_t g = 0; g < F::groups; g++) {
            sum = rf_fma(scale[g] * float(rf_dot16(w[g], c.q[g], 0)), c.d[g], sum);
            sum = rf_fma(minimum[g], c.t[g], sum);
        }
        return sum;
    }
};

// The 6-bit scales and minima of sub-blocks 2 * pair and 2 * pair + 1, a byte each: scale, scale, minimum, minimum.
RF_FN uint32_t rf_packed_k4(const rf_u32x4 &head, uint32_t pair) {
    // The last four sub-blocks have their high bits with the first four's.
    const uint32_t select = pair % 2 ? 0x7632 : 0x5410;
    const uint32_t first = rf_byte_permute(head.y, head.z, select), rest = rf_byte_permute(head.w, head.w, select);
    const uint32_t low = (rest & 0x00000f0fu) | (rest >> 4 & 0x0f0f0000u);
    return pair >= 2 ? low | (first >> 2 & 0x30303030u) : first & 0x3f3f3f3fu;
}

// Two neighbouring units of Q4_K and Q5_K: 64 elements with two scales and two minima.
struct RfPairBite {
    static constexpr uint32_t block = 256, bites = 4;
    struct Codes {
        rf_u32x4 q[4];
        float d[2], t[2]; // of 32 elements
    };

    template <class X>
    RF_MEMBER Codes codes(const X &x, uint32_t bite, bool inside) {
        Codes c;
#pragma unroll
        for (uint32_t g = 0; g < 4; g++) {
            c.q[g] = x.codes16(64 * bite + 16 * g);
        }
#pragma unroll
        for (uint32_t g = 0; g < 2; g++) {
            const rf_u32x2 s = x.scale(64 * bite + 32 * g);
            c.d[g] = inside ? rf_float(s.x) : 0.0f;
            c.t[g] = c.d[g] * float(rf_whole_sum(s.y));
        }
        return c;
    }

    // With the sums of the two halves' products.
    RF_MEMBER float finish(const rf_u32x4 &head, uint32_t bite, const Codes &c, int32_t low, int32_t high, float high_unit, float sum) {
        const uint32_t packed = rf_packed_k4(head, bite % 4);
        float y = c.d[0] * float(low * int32_t(packed & 0xff));
        y = rf_fma(c.d[1] * high_unit, float(high * int32_t(packed >> 8 & 0xff)), y);
        float m = c.t[0] * float(packed >> 16 & 0xff);
        m = rf_fma(c.t[1], float(packed >> 24), m);
        sum = rf_fma(rf_low_half(head.x), y, sum);
        return rf_fma(-rf_high_half(head.x), m, sum);
    }
};

RF_FN void rf_words(const rf_u32x4 &q, uint32_t *w) { w[0] = q.x, w[1] = q.y, w[2] = q.z, w[3] = q.w; }

template <>
struct RfBite<RF_Q4_K> : RfPairBite {
    struct Raw {
        rf_u32x4 q[2], head;
    };

    RF_MEMBER Raw load(const RfPlanes &row, uint32_t bite) {
        const rf_u32x4 *q = rf_weights<rf_u32x4>(row, 0, 2 * bite);
        return {{q[0], q[1]}, *rf_weights<rf_u32x4>(row, 1, bite / 4)};
    }

    RF_MEMBER float multiply(const Raw &raw, uint32_t bite, const Codes &c, float sum) {
        int32_t low = 0, high = 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t w[4], x[2][4];
            rf_words(raw.q[half], w), rf_words(c.q[half], x[0]), rf_words(c.q[2 + half], x[1]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                low = rf_dot4(w[i] & 0x0f0f0f0fu, x[0][i], low);
                high = rf_dot4_upper(w[i], x[1][i], high);
            }
        }
        return finish(raw.head, bite, c, low, high, RF_UPPER_UNIT, sum);
    }
};

template <>
struct RfBite<RF_Q5_K> : RfPairBite {
    struct Raw {
        rf_u32x4 q[2], high[2], head;
    };

    RF_MEMBER Raw load(const RfPlanes &row, uint32_t bite) {
        const rf_u32x4 *q = rf_weights<rf_u32x4>(row, 0, 2 * bite), *high = rf_weights<rf_u32x4>(row, 1, bite / 4 * 2);
        return {{q[0], q[1]}, {high[0], high[1]}, *rf_weights<rf_u32x4>(row, 2, bite / 4)};
    }

    RF_MEMBER float multiply(const Raw &raw, uint32_t bite, const Codes &c, float sum) {
        int32_t low = 0, high = 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t w[4], fifth[4], x[2][4];
            rf_words(raw.q[half], w), rf_words(raw.high[half], fifth), rf_words(c.q[half], x[0]), rf_words(c.q[2 + half], x[1]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t bits = fifth[i] >> bite % 4 * 2;
                low = rf_dot4((w[i] & 0x0f0f0f0fu) | (bits << 4 & 0x10101010u), x[0][i], low);
                high = rf_dot4((w[i] >> 4 & 0x0f0f0f0fu) | (bits << 3 & 0x10101010u), x[1][i], high);
            }
        }
        return finish(raw.head, bite, c, low, high, 1.0f, sum);
    }
};

// The two units that share their upper bits: four groups of 16, which lie 32 apart.
template <>
struct RfBite<RF_Q6_K> {
    static constexpr uint32_t block = 256, bites = 4;
    struct Raw {
        rf_u32x4 q[2], high;
        rf_u32x2 scales;
        uint32_t d;
    };
    struct Codes {
        rf_u32x4 q[4];
        float d[4];
        int32_t begin[4]; // codes are 32 too large
    };

    RF_MEMBER Raw load(const RfPlanes &row, uint32_t bite) {
        const uint32_t b = bite / 4, half = bite / 2 % 2, odd = bite % 2;
        const rf_u32x4 *q = rf_weights<rf_u32x4>(row, 0, 8 * b + 4 * half + odd);
        return {{rf_stream(q), rf_stream(q + 2)}, rf_stream(rf_weights<rf_u32x4>(row, 1, bite)), *rf_weights<rf_u32x2>(row, 2, bite / 2),
                *rf_weights<uint16_t>(row, 3, b)};
    }

    template <class X>
    RF_MEMBER Codes codes(const X &x, uint32_t bite, bool inside) {
        Codes c;
        const uint32_t first = 128 * (bite / 2) + 16 * (bite % 2);
#pragma unroll
        for (uint32_t g = 0; g < 4; g++) {
            c.q[g] = x.codes16(first + 32 * g);
            const rf_u32x2 s = x.scale(first + 32 * g);
            c.d[g] = inside ? rf_float(s.x) : 0.0f;
            c.begin[g] = -32 * rf_half_sum(s.y, bite % 2);
        }
        return c;
    }

    RF_MEMBER float multiply(const Raw &raw, uint32_t bite, const Codes &c, float sum) {
        const uint32_t low[2][4] = {{raw.q[0].x, raw.q[0].y, raw.q[0].z, raw.q[0].w}, {raw.q[1].x, raw.q[1].y, raw.q[1].z, raw.q[1].w}};
        const uint32_t high[4] = {raw.high.x, raw.high.y, raw.high.z, raw.high.w};
        // Bytes `odd` and `odd` + 2 of each word.
        const uint32_t s[2] = {raw.scales.x >> 8 * (bite % 2), raw.scales.y >> 8 * (bite % 2)};
        float y = 0.0f;
#pragma unroll
        for (uint32_t g = 0; g < 4; g++) {
            uint32_t w[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t nibble = g < 2 ? low[g][i] : low[g - 2][i] >> 4;
                const uint32_t bits = g == 0 ? high[i] << 4 : g == 1 ? high[i] << 2 : g == 2 ? high[i] : high[i] >> 2;
                w[i] = (nibble & 0x0f0f0f0fu) | (bits & 0x30303030u);
            }
            const int32_t scale = int8_t(s[g / 2] >> 16 * (g % 2));
            y = rf_fma(c.d[g], float(rf_dot16(w, c.q[g], c.begin[g]) * scale), y);
        }
        return rf_fma(rf_low_half(raw.d), y, sum);
    }
};

template <>
struct RfBite<RF_Q4_0> {
    static constexpr uint32_t block = 32, bites = 1;
    struct Raw {
        rf_u32x4 q;
        uint32_t d;
    };
    struct Codes {
        rf_u32x4 q[2];
        float d;
        int32_t begin; // codes are 8 too large
    };

    RF_MEMBER Raw load(const RfPlanes &row, uint32_t bite) {
        return {rf_stream(rf_weights<rf_u32x4>(row, 0, bite)), *rf_weights<uint16_t>(row, 1, bite)};
    }

    template <class X>
    RF_MEMBER Codes codes(const X &x, uint32_t bite, bool inside) {
        const rf_u32x2 s = x.scale(32 * bite);
        return {{x.codes16(32 * bite), x.codes16(32 * bite + 16)}, inside ? rf_float(s.x) * RF_UPPER_UNIT : 0.0f,
                -8 * rf_whole_sum(s.y)};
    }

    RF_MEMBER float multiply(const Raw &raw, uint32_t, const Codes &c, float sum) {
        const uint32_t word[4] = {raw.q.x, raw.q.y, raw.q.z, raw.q.w};
        const uint32_t codes[8] = {c.q[0].x, c.q[0].y, c.q[0].z, c.q[0].w, c.q[1].x, c.q[1].y, c.q[1].z, c.q[1].w};
        int32_t dot = c.begin;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot = rf_dot4(word[i] & 0x0f0f0f0fu, codes[i], dot);
        }
        dot *= int32_t(1.0f / RF_UPPER_UNIT);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot = rf_dot4_upper(word[i], codes[4 + i], dot);
        }
        return rf_fma(rf_low_half(raw.d) * c.d, float(dot), sum);
    }
};
