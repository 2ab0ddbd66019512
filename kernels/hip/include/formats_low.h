// One and two bits, ternary, 4-bit floats with a scale per 16, and 8-bit codes with a float scale. Part of formats.h.
#pragma once

template <>
struct RfFormat<RF_TQ2_0> : RfQuarterBlock {
    RF_LENGTHS(64, 2, 0, 0)
    struct Raw {
        rf_u32x4 q;
        uint32_t d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 4 * b + unit)), *rf_plane<uint16_t>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[4][4], float (&scale)[4], float (&minimum)[4]) {
        quarters(raw.q, w);
        rf_same(scale, minimum, rf_low_half(raw.d), -rf_low_half(raw.d));
    }
};

// Ternary digit n of each byte, which is a fraction of 243, as 0 to 2.
RF_FN uint32_t rf_trits(uint32_t word, uint32_t n) {
    const uint32_t power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
    uint32_t even = (word & 0x00ff00ffu) * power & 0x00ff00ffu, odd = (word >> 8 & 0x00ff00ffu) * power & 0x00ff00ffu;
    return (even * 3 >> 8 & 0x00ff00ffu) | (odd * 3 & 0xff00ff00u);
}

// Sixteen groups in the order of elements: two times 16 bytes of five digits, 16 more bytes of five digits, 4 bytes of four.
template <>
struct RfFormat<RF_TQ1_0> {
    RF_LENGTHS(52, 2, 0, 0)
    static constexpr uint32_t block = 256, units = 4, groups = 4;
    struct Raw {
        uint32_t q[13];
        uint32_t d;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 64 * unit + 16 * group; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        const uint32_t *q = rf_plane<uint32_t>(p, 0, 13 * b);
        Raw raw;
#pragma unroll
        for (int i = 0; i < 13; i++) {
            raw.q[i] = q[i];
        }
        raw.d = *rf_plane<uint16_t>(p, 1, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[4][4], float (&scale)[4], float (&minimum)[4]) {
#pragma unroll
        for (uint32_t g = 0; g < 4; g++) {
            const uint32_t at = 4 * unit + g, part = at >= 10 ? 2 : at % 2, digit = at >= 10 ? at - 10 : at / 2;
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t word = part == 0 ? raw.q[i] : part == 1 ? raw.q[4 + i] : raw.q[8 + i];
                w[g][i] = at == 15 ? rf_trits(raw.q[12], i) : rf_trits(word, digit);
            }
        }
        rf_same(scale, minimum, rf_low_half(raw.d), -rf_low_half(raw.d));
    }
};

// Half of an unsigned E4M3 number: tables of 4-bit floats hold doubled values. Its NaN is 0, as in ggml.
RF_FN float rf_ue4m3_half(uint32_t x) {
    const uint32_t exponent = x >> 3 & 15;
    const float mantissa = float(x & 7);
    float y = exponent == 0 ? mantissa * (1.0f / 1024.0f) : (1.0f + mantissa / 8.0f) * rf_float((exponent + 127 - 8) << 23);
    return x == 0x7f ? 0.0f : y;
}

template <>
struct RfFormat<RF_NVFP4> {
    RF_LENGTHS(32, 4, 0, 0)
    static constexpr uint32_t block = 64, units = 2, groups = 2;
    struct Raw {
        rf_u32x4 q;
        uint32_t scales;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 32 * unit + 16 * group; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 2 * b + unit)), *rf_plane<uint16_t>(p, 1, 2 * b + unit)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        // The low nibbles of 8 bytes are the first half of a group.
        const RfTable table = rf_fp4_values();
        rf_lookup(table, raw.q.x, &w[0][0], &w[0][2]);
        rf_lookup(table, raw.q.y, &w[0][1], &w[0][3]);
        rf_lookup(table, raw.q.z, &w[1][0], &w[1][2]);
        rf_lookup(table, raw.q.w, &w[1][1], &w[1][3]);
        scale[0] = rf_ue4m3_half(raw.scales & 255);
        scale[1] = rf_ue4m3_half(raw.scales >> 8 & 255);
        minimum[0] = minimum[1] = 0.0f;
    }
};

template <>
struct RfFormat<RF_Q1_0> {
    RF_LENGTHS(16, 2, 0, 0)
    static constexpr uint32_t block = 128, units = 2, groups = 4;
    struct Raw {
        rf_u32x2 q;
        uint32_t d;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 64 * unit + 16 * group; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {*rf_plane<rf_u32x2>(p, 0, 2 * b + unit), *rf_plane<uint16_t>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[4][4], float (&scale)[4], float (&minimum)[4]) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            w[i / 4][i % 4] = rf_spread_bits((i < 8 ? raw.q.x : raw.q.y) >> 4 * (i % 8) & 15);
        }
        float d = rf_low_half(raw.d);
        rf_same(scale, minimum, 2.0f * d, -d);
    }
};

template <>
struct RfFormat<RF_Q2_0> {
    RF_LENGTHS(16, 2, 0, 0)
    static constexpr uint32_t block = 64, units = 1, groups = 4;
    struct Raw {
        rf_u32x4 q;
        uint32_t d;
    };
    RF_MEMBER uint32_t offset(uint32_t, uint32_t group) { return 16 * group; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, b)), *rf_plane<uint16_t>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[4][4], float (&scale)[4], float (&minimum)[4]) {
        const uint32_t word[4] = {raw.q.x, raw.q.y, raw.q.z, raw.q.w};
#pragma unroll
        for (int i = 0; i < 16; i++) {
            // Four codes of a byte to a byte each.
            uint32_t q = word[i / 4] >> 8 * (i % 4) & 255;
            q = (q | q << 12) & 0x000f000fu;
            w[i / 4][i % 4] = (q | q << 6) & 0x03030303u;
        }
        rf_same(scale, minimum, rf_low_half(raw.d), -rf_low_half(raw.d));
    }
};

template <>
struct RfFormat<RF_Q8_K> {
    RF_LENGTHS(256, 4, 0, 0)
    static constexpr uint32_t block = 256, units = 16, groups = 1;
    struct Raw {
        rf_u32x4 q;
        uint32_t d;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t) { return 16 * unit; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 16 * b + unit)), *rf_plane<uint32_t>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[1][4], float (&scale)[1], float (&minimum)[1]) {
        w[0][0] = raw.q.x, w[0][1] = raw.q.y, w[0][2] = raw.q.z, w[0][3] = raw.q.w;
        scale[0] = rf_float(raw.d);
        minimum[0] = 0.0f;
    }
};
