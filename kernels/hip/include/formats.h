// Quantised blocks in planes, read in units: what one lane takes at a time, 16 bytes of codes.
//
// A unit is `groups` groups of 16 neighbouring elements. `unpack` gives each group's codes as 8-bit integers and the scale
// and minimum that make them values: scale * code + minimum.
#pragma once

#include "args.h"

#define RF_LENGTHS(a, b, c, d)                                                                                         \
    RF_MEMBER constexpr uint32_t length(int i) { return i == 0 ? a : i == 1 ? b : i == 2 ? c : d; }

struct RfUnit4 { // 4-bit codes, 32 elements
    rf_u32x4 q;
    uint32_t high, head;
};

template <class T>
RF_FN const T *rf_plane(const RfPlanes &planes, int i, uint64_t index) {
    return rf_ptr<const T>(planes.plane[i]) + index;
}

RF_FN float rf_low_half(uint32_t word) { return rf_f16_to_f32(uint16_t(word)); }
RF_FN float rf_high_half(uint32_t word) { return rf_f16_to_f32(uint16_t(word >> 16)); }

// Half of 2^(e - 127): tables of 4-bit floats hold doubled values.
RF_FN float rf_e8m0_half(uint32_t e) { return rf_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

// Sixteen signed bytes as four words.
struct RfTable {
    uint32_t word[4];
};
RF_FN RfTable rf_iq4_values() { return {{0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u}}; }
RF_FN RfTable rf_fp4_values() { return {{0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu}}; }

// The values of eight 4-bit codes: of the low nibbles to `low`, of the high ones to `high`.
RF_FN void rf_lookup(const RfTable &t, uint32_t codes, uint32_t *low, uint32_t *high) {
#if defined(__AMDGCN__)
    for (int i = 0; i < 2; i++) {
        uint32_t c = i == 0 ? codes & 0x0f0f0f0fu : codes >> 4 & 0x0f0f0f0fu;
        uint32_t below = __builtin_amdgcn_perm(t.word[1], t.word[0], c & 0x07070707u);
        uint32_t above = __builtin_amdgcn_perm(t.word[3], t.word[2], c & 0x07070707u);
        uint32_t value = __builtin_amdgcn_perm(above, below, 0x03020100u | (c & 0x08080808u) >> 1);
        *(i == 0 ? low : high) = value;
    }
#else
    uint32_t part[2];
    for (int i = 0; i < 2; i++) {
        uint32_t c = codes >> 16 * i;
        uint32_t below = rf_byte_permute(t.word[0], t.word[1], c & 0x7777u);
        uint32_t above = rf_byte_permute(t.word[2], t.word[3], c & 0x7777u);
        part[i] = rf_byte_permute(below, above, 0x3210u | (c & 0x8888u) >> 1);
    }
    *low = rf_byte_permute(part[0], part[1], 0x6420u);
    *high = rf_byte_permute(part[0], part[1], 0x7531u);
#endif
}

RF_FN void rf_nibbles(const rf_u32x4 &q, uint32_t (&w)[2][4]) {
    const uint32_t word[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[0][i] = word[i] & 0x0f0f0f0fu;
        w[1][i] = word[i] >> 4 & 0x0f0f0f0fu;
    }
}

RF_FN void rf_looked_up(const RfTable &table, const rf_u32x4 &q, uint32_t (&w)[2][4]) {
    const uint32_t word[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        rf_lookup(table, word[i], &w[0][i], &w[1][i]);
    }
}

// Four bits, least significant first, to the lowest bit of four bytes.
RF_FN uint32_t rf_spread_bits(uint32_t four) { return (four * 0x00204081u) & 0x01010101u; }

template <uint32_t format>
struct RfFormat;

// Blocks of 32 with 16 bytes of nibbles; the low nibbles are the first half.
struct RfNibbleBlock {
    static constexpr uint32_t block = 32, units = 1, groups = 2;
    typedef RfUnit4 Raw;
    RF_MEMBER uint32_t offset(uint32_t, uint32_t group) { return 16 * group; }
    RF_MEMBER Raw codes(const RfPlanes &p, uint64_t b) { return {rf_stream(rf_plane<rf_u32x4>(p, 0, b)), 0, 0}; }
};

template <uint32_t groups>
RF_FN void rf_same(float (&scale)[groups], float (&minimum)[groups], float s, float m) {
#pragma unroll
    for (uint32_t g = 0; g < groups; g++) {
        scale[g] = s;
        minimum[g] = m;
    }
}

template <>
struct RfFormat<RF_Q4_0> : RfNibbleBlock {
    RF_LENGTHS(16, 2, 0, 0)
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        Raw raw = codes(p, b);
        raw.head = *rf_plane<uint16_t>(p, 1, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        float d = rf_low_half(raw.head);
        rf_same(scale, minimum, d, -8.0f * d);
    }
};

template <>
struct RfFormat<RF_Q4_1> : RfNibbleBlock {
    RF_LENGTHS(16, 4, 0, 0)
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        Raw raw = codes(p, b);
        raw.head = *rf_plane<uint32_t>(p, 1, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        rf_same(scale, minimum, rf_low_half(raw.head), rf_high_half(raw.head));
    }
};

RF_FN void rf_fifth_bits(uint32_t high, uint32_t (&w)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[0][i] |= rf_spread_bits(high >> 4 * i & 15) << 4;
        w[1][i] |= rf_spread_bits(high >> (16 + 4 * i) & 15) << 4;
    }
}

template <>
struct RfFormat<RF_Q5_0> : RfNibbleBlock {
    RF_LENGTHS(16, 4, 2, 0)
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        Raw raw = codes(p, b);
        raw.high = *rf_plane<uint32_t>(p, 1, b);
        raw.head = *rf_plane<uint16_t>(p, 2, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        rf_fifth_bits(raw.high, w);
        float d = rf_low_half(raw.head);
        rf_same(scale, minimum, d, -16.0f * d);
    }
};

template <>
struct RfFormat<RF_Q5_1> : RfNibbleBlock {
    RF_LENGTHS(16, 4, 4, 0)
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        Raw raw = codes(p, b);
        raw.high = *rf_plane<uint32_t>(p, 1, b);
        raw.head = *rf_plane<uint32_t>(p, 2, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        rf_fifth_bits(raw.high, w);
        rf_same(scale, minimum, rf_low_half(raw.head), rf_high_half(raw.head));
    }
};

template <>
struct RfFormat<RF_IQ4_NL> : RfNibbleBlock {
    RF_LENGTHS(16, 2, 0, 0)
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        Raw raw = codes(p, b);
        raw.head = *rf_plane<uint16_t>(p, 1, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_looked_up(rf_iq4_values(), raw.q, w);
        rf_same(scale, minimum, rf_low_half(raw.head), 0.0f);
    }
};

template <>
struct RfFormat<RF_MXFP4> : RfNibbleBlock {
    RF_LENGTHS(16, 1, 0, 0)
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t) {
        Raw raw = codes(p, b);
        raw.head = *rf_plane<uint8_t>(p, 1, b);
        return raw;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_looked_up(rf_fp4_values(), raw.q, w);
        rf_same(scale, minimum, rf_e8m0_half(raw.head), 0.0f);
    }
};

template <>
struct RfFormat<RF_Q8_0> {
    static constexpr uint32_t block = 32, units = 2, groups = 1;
    RF_LENGTHS(32, 2, 0, 0)
    struct Raw {
        rf_u32x4 q;
        uint32_t head;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t) { return 16 * unit; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 2 * b + unit)), *rf_plane<uint16_t>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[1][4], float (&scale)[1], float (&minimum)[1]) {
        w[0][0] = raw.q.x, w[0][1] = raw.q.y, w[0][2] = raw.q.z, w[0][3] = raw.q.w;
        scale[0] = rf_low_half(raw.head);
        minimum[0] = 0.0f;
    }
};

#include "formats_k.h"

#include "formats_iq.h"
#include "formats_low.h"

// Every format with units: RF_EACH_FORMAT(X) is X(format) for each.
#define RF_EACH_FORMAT(X)                                                                                              \
    X(RF_Q4_0) X(RF_Q4_1) X(RF_Q5_0) X(RF_Q5_1) X(RF_Q8_0) X(RF_IQ4_NL) X(RF_MXFP4) X(RF_Q2_K) X(RF_Q3_K) X(RF_Q4_K)      \
    X(RF_Q5_K) X(RF_Q6_K) X(RF_Q8_K) X(RF_IQ4_XS) X(RF_IQ1_S) X(RF_IQ1_M) X(RF_IQ2_XXS) X(RF_IQ2_XS) X(RF_IQ2_S)          \
    X(RF_IQ3_XXS) X(RF_IQ3_S) X(RF_TQ1_0) X(RF_TQ2_0) X(RF_NVFP4) X(RF_Q1_0) X(RF_Q2_0)
