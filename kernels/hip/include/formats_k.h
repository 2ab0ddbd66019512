// Super-blocks of 256. Part of formats.h.
#pragma once

template <>
struct RfFormat<RF_IQ4_XS> {
    RF_LENGTHS(128, 8, 0, 0)
    static constexpr uint32_t block = 256, units = 8, groups = 2;
    struct Raw {
        rf_u32x4 q;
        rf_u32x2 head;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 32 * unit + 16 * group; }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 8 * b + unit)), *rf_plane<rf_u32x2>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_looked_up(rf_iq4_values(), raw.q, w);
        uint32_t s = (raw.head.y >> 4 * unit & 15) | (raw.head.x >> (16 + 2 * unit) & 3) << 4;
        rf_same(scale, minimum, rf_low_half(raw.head.x) * float(int32_t(s) - 32), 0.0f);
    }
};

// The 6-bit scales and minima of sub-blocks 2 * pair and 2 * pair + 1 of Q4_K and Q5_K.
RF_FN void rf_scales_k4(const rf_u32x4 &head, uint32_t pair, float (&scale)[2], float (&minimum)[2]) {
    // Bytes: scale, scale, minimum, minimum. The last four sub-blocks have their high bits with the first four's.
    const uint32_t select = pair % 2 ? 0x7632 : 0x5410;
    const uint32_t first = rf_byte_permute(head.y, head.z, select), rest = rf_byte_permute(head.w, head.w, select);
    const uint32_t low = (rest & 0x00000f0fu) | (rest >> 4 & 0x0f0f0000u);
    const uint32_t packed = pair >= 2 ? low | (first >> 2 & 0x30303030u) : first & 0x3f3f3f3fu;
    float d = rf_low_half(head.x), negative = -rf_high_half(head.x);
    scale[0] = d * float(packed & 0xff);
    scale[1] = d * float(packed >> 8 & 0xff);
    minimum[0] = negative * float(packed >> 16 & 0xff);
    minimum[1] = negative * float(packed >> 24);
}

template <>
struct RfFormat<RF_Q4_K> {
    RF_LENGTHS(128, 16, 0, 0)
    static constexpr uint32_t block = 256, units = 8, groups = 2;
    struct Raw {
        rf_u32x4 q, head;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 64 * (unit / 2) + 32 * group + 16 * (unit % 2); }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 8 * b + unit)), *rf_plane<rf_u32x4>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        rf_scales_k4(raw.head, unit / 2, scale, minimum);
    }
};

template <>
struct RfFormat<RF_Q5_K> {
    RF_LENGTHS(128, 32, 16, 0)
    static constexpr uint32_t block = 256, units = 8, groups = 2;
    struct Raw {
        rf_u32x4 q, high, head;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 64 * (unit / 2) + 32 * group + 16 * (unit % 2); }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 8 * b + unit)), *rf_plane<rf_u32x4>(p, 1, 2 * b + unit % 2),
                *rf_plane<rf_u32x4>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        const uint32_t high[4] = {raw.high.x, raw.high.y, raw.high.z, raw.high.w};
        uint32_t shift = unit / 2 * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[0][i] |= (high[i] >> shift & 0x01010101u) << 4;
            w[1][i] |= (high[i] >> (shift + 1) & 0x01010101u) << 4;
        }
        rf_scales_k4(raw.head, unit / 2, scale, minimum);
    }
};

template <>
struct RfFormat<RF_Q6_K> {
    RF_LENGTHS(128, 64, 16, 2)
    static constexpr uint32_t block = 256, units = 8, groups = 2;
    struct Raw {
        rf_u32x4 q, high;
        uint32_t d, scales;
    };
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) {
        return 128 * (unit / 4) + 64 * group + 32 * (unit / 2 % 2) + 16 * (unit % 2);
    }
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        const uint8_t *scales = rf_plane<uint8_t>(p, 2, 16 * b + 8 * (unit / 4) + unit % 4);
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 8 * b + unit)),
                *rf_plane<rf_u32x4>(p, 1, 4 * b + 2 * (unit / 4) + unit % 2), *rf_plane<uint16_t>(p, 3, b),
                uint32_t(scales[0]) | uint32_t(scales[4]) << 8};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
        rf_nibbles(raw.q, w);
        const uint32_t high[4] = {raw.high.x, raw.high.y, raw.high.z, raw.high.w};
        uint32_t shift = 2 * (unit / 2 % 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[0][i] |= (high[i] >> shift & 0x03030303u) << 4;
            w[1][i] |= (high[i] >> (shift + 4) & 0x03030303u) << 4;
        }
        float d = rf_low_half(raw.d);
        scale[0] = d * float(int8_t(raw.scales));
        scale[1] = d * float(int8_t(raw.scales >> 8));
        minimum[0] = -32.0f * scale[0];
        minimum[1] = -32.0f * scale[1];
    }
};

// 16 bytes of four 2-bit codes each: 64 elements, in groups that lie 32 apart.
struct RfQuarterBlock {
    static constexpr uint32_t block = 256, units = 4, groups = 4;
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 128 * (unit / 2) + 32 * group + 16 * (unit % 2); }
    RF_MEMBER void quarters(const rf_u32x4 &q, uint32_t (&w)[4][4]) {
        const uint32_t word[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int group = 0; group < 4; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w[group][i] = word[i] >> 2 * group & 0x03030303u;
            }
        }
    }
};

template <>
struct RfFormat<RF_Q2_K> : RfQuarterBlock {
    RF_LENGTHS(64, 16, 4, 0)
    struct Raw {
        rf_u32x4 q;
        rf_u32x2 scales;
        uint32_t head;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 4 * b + unit)), *rf_plane<rf_u32x2>(p, 1, 2 * b + unit / 2),
                *rf_plane<uint32_t>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[4][4], float (&scale)[4], float (&minimum)[4]) {
        quarters(raw.q, w);
        float d = rf_low_half(raw.head), negative = -rf_high_half(raw.head);
#pragma unroll
        for (uint32_t group = 0; group < 4; group++) {
            uint32_t s = (group < 2 ? raw.scales.x : raw.scales.y) >> (16 * (group % 2) + 8 * (unit % 2));
            scale[group] = d * float(s & 15);
            minimum[group] = negative * float(s >> 4 & 15);
        }
    }
};

template <>
struct RfFormat<RF_Q3_K> : RfQuarterBlock {
    RF_LENGTHS(64, 32, 12, 2)
    struct Raw {
        rf_u32x4 q, high;
        uint32_t scales[3], d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        const uint32_t *scales = rf_plane<uint32_t>(p, 2, 3 * b);
        return {rf_stream(rf_plane<rf_u32x4>(p, 0, 4 * b + unit)), *rf_plane<rf_u32x4>(p, 1, 2 * b + unit % 2),
                {scales[0], scales[1], scales[2]}, *rf_plane<uint16_t>(p, 3, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[4][4], float (&scale)[4], float (&minimum)[4]) {
        quarters(raw.q, w);
        const uint32_t high[4] = {raw.high.x, raw.high.y, raw.high.z, raw.high.w};
        float d = rf_low_half(raw.d);
        uint32_t half = unit / 2;
#pragma unroll
        for (uint32_t group = 0; group < 4; group++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w[group][i] |= (high[i] >> (4 * half + group) & 0x01010101u) << 2;
            }
            // Scale j = 8 * half + at: four low bits in byte at, two high bits in byte 8 + j % 4.
            uint32_t at = 2 * group + unit % 2;
            uint32_t low = (group < 2 ? raw.scales[0] : raw.scales[1]) >> (8 * (at % 4) + 4 * half) & 15;
            uint32_t top = raw.scales[2] >> (8 * (at % 4) + 2 * (2 * half + group / 2)) & 3;
            scale[group] = d * float(int32_t(low | top << 4) - 32);
            minimum[group] = -4.0f * scale[group];
        }
    }
};
