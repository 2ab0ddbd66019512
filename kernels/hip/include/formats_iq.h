// Super-blocks of grid points: IQ1_S to IQ3_S. Part of formats.h.
//
// A grid point is the magnitudes (in IQ1 the values) of 8 or 4 neighbouring elements as bytes. The grid is an array on the device
// whose address is plane 3; the rest of a block is in up to three planes. A unit is 32 elements, which share what scales them.
#pragma once

// The bytes of a word, those negative whose bit of `four` is set. No byte is 0.
RF_FN uint32_t rf_negate_bytes(uint32_t word, uint32_t four) {
    uint32_t ones = rf_spread_bits(four);
    return (word ^ ones * 0xff) + ones;
}

// Eight signs from the seven that are stored: an even number of them is set.
RF_FN uint32_t rf_even_signs(uint32_t seven) {
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

struct RfGridBlock {
    static constexpr uint32_t block = 256, units = 8, groups = 2;
    RF_MEMBER uint32_t offset(uint32_t unit, uint32_t group) { return 32 * unit + 16 * group; }
    RF_MEMBER void point(const rf_u32x2 *grid, uint32_t index, uint32_t signs, uint32_t *w) {
        rf_u32x2 magnitudes = grid[index];
        w[0] = rf_negate_bytes(magnitudes.x, signs & 15);
        w[1] = rf_negate_bytes(magnitudes.y, signs >> 4 & 15);
    }
    // Two 4-bit scales of 16 elements, of which a quarter of a half counts once more.
    RF_MEMBER void quarter_scales(float d, uint32_t scales, float (&scale)[2], float (&minimum)[2]) {
        scale[0] = d * (0.5f + float(scales & 15)) * 0.25f;
        scale[1] = d * (0.5f + float(scales >> 4 & 15)) * 0.25f;
        minimum[0] = minimum[1] = 0.0f;
    }
};

template <>
struct RfFormat<RF_IQ2_XXS> : RfGridBlock {
    RF_LENGTHS(64, 2, 0, 0)
    struct Raw {
        const rf_u32x2 *grid;
        rf_u32x2 q; // four indices; four times 7 bits of signs, and the scale
        uint32_t d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_plane<rf_u32x2>(p, 3, 0), *rf_plane<rf_u32x2>(p, 0, 8 * b + unit), *rf_plane<uint16_t>(p, 1, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int l = 0; l < 4; l++) {
            point(raw.grid, raw.q.x >> 8 * l & 255, rf_even_signs(raw.q.y >> 7 * l & 127), &w[l / 2][l % 2 * 2]);
        }
        uint32_t both = raw.q.y >> 28;
        quarter_scales(rf_low_half(raw.d), both | both << 4, scale, minimum);
    }
};

template <>
struct RfFormat<RF_IQ2_XS> : RfGridBlock {
    RF_LENGTHS(64, 8, 2, 0)
    struct Raw {
        const rf_u32x2 *grid;
        rf_u32x2 q; // four times 9 bits of index and 7 of signs
        uint32_t scales, d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_plane<rf_u32x2>(p, 3, 0), *rf_plane<rf_u32x2>(p, 0, 8 * b + unit), *rf_plane<uint8_t>(p, 1, 8 * b + unit),
                *rf_plane<uint16_t>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int l = 0; l < 4; l++) {
            uint32_t code = (l < 2 ? raw.q.x : raw.q.y) >> 16 * (l % 2) & 0xffff;
            point(raw.grid, code & 511, rf_even_signs(code >> 9), &w[l / 2][l % 2 * 2]);
        }
        quarter_scales(rf_low_half(raw.d), raw.scales, scale, minimum);
    }
};

template <>
struct RfFormat<RF_IQ2_S> : RfGridBlock {
    RF_LENGTHS(64, 16, 2, 0)
    struct Raw {
        const rf_u32x2 *grid;
        uint32_t low, signs, high, scales, d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        const uint32_t *q = rf_plane<uint32_t>(p, 0, 16 * b + unit);
        const uint8_t *more = rf_plane<uint8_t>(p, 1, 16 * b + unit);
        return {rf_plane<rf_u32x2>(p, 3, 0), q[0], q[8], more[0], more[8], *rf_plane<uint16_t>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int l = 0; l < 4; l++) {
            uint32_t index = (raw.low >> 8 * l & 255) | (raw.high >> 2 * l & 3) << 8;
            point(raw.grid, index, raw.signs >> 8 * l & 255, &w[l / 2][l % 2 * 2]);
        }
        quarter_scales(rf_low_half(raw.d), raw.scales, scale, minimum);
    }
};

template <>
struct RfFormat<RF_IQ3_XXS> : RfGridBlock {
    RF_LENGTHS(64, 32, 2, 0)
    struct Raw {
        const uint32_t *grid;
        rf_u32x2 q; // eight indices
        uint32_t signs, d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_plane<uint32_t>(p, 3, 0), *rf_plane<rf_u32x2>(p, 0, 8 * b + unit), *rf_plane<uint32_t>(p, 1, 8 * b + unit),
                *rf_plane<uint16_t>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int l = 0; l < 4; l++) {
            uint32_t two = (l < 2 ? raw.q.x : raw.q.y) >> 16 * (l % 2), signs = rf_even_signs(raw.signs >> 7 * l & 127);
            w[l / 2][l % 2 * 2] = rf_negate_bytes(raw.grid[two & 255], signs & 15);
            w[l / 2][l % 2 * 2 + 1] = rf_negate_bytes(raw.grid[two >> 8 & 255], signs >> 4);
        }
        rf_same(scale, minimum, rf_low_half(raw.d) * (0.5f + float(raw.signs >> 28)) * 0.5f, 0.0f);
    }
};

template <>
struct RfFormat<RF_IQ3_S> : RfGridBlock {
    RF_LENGTHS(64, 44, 2, 0) // in the second: 8 ninth bits of indices, 32 signs, 4 pairs of scales
    struct Raw {
        const uint32_t *grid;
        rf_u32x2 q;
        uint32_t high, signs, scales, d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        const uint8_t *more = rf_plane<uint8_t>(p, 1, 44 * b);
        return {rf_plane<uint32_t>(p, 3, 0), *rf_plane<rf_u32x2>(p, 0, 8 * b + unit), more[unit],
                *reinterpret_cast<const uint32_t *>(more + 8 + 4 * unit), more[40 + unit / 2], *rf_plane<uint16_t>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t index = ((i < 4 ? raw.q.x : raw.q.y) >> 8 * (i % 4) & 255) | (raw.high >> i & 1) << 8;
            w[i / 4][i % 4] = rf_negate_bytes(raw.grid[index], raw.signs >> 4 * i & 15);
        }
        rf_same(scale, minimum, rf_low_half(raw.d) * float(1 + 2 * (raw.scales >> 4 * (unit % 2) & 15)), 0.0f);
    }
};

// A point's values are -1, 0 and 1; all of them are moved by an eighth up or down.
RF_FN void rf_point_iq1(const rf_u32x2 *grid, uint32_t index, uint32_t *w) {
    rf_u32x2 values = grid[index];
    w[0] = values.x;
    w[1] = values.y;
}

template <>
struct RfFormat<RF_IQ1_S> : RfGridBlock {
    RF_LENGTHS(32, 16, 2, 0)
    struct Raw {
        const rf_u32x2 *grid;
        uint32_t low, high, d;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_plane<rf_u32x2>(p, 3, 0), *rf_plane<uint32_t>(p, 0, 8 * b + unit), *rf_plane<uint16_t>(p, 1, 8 * b + unit),
                *rf_plane<uint16_t>(p, 2, b)};
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int l = 0; l < 4; l++) {
            rf_point_iq1(raw.grid, (raw.low >> 8 * l & 255) | (raw.high >> 3 * l & 7) << 8, &w[l / 2][l % 2 * 2]);
        }
        float s = rf_low_half(raw.d) * float(2 * (raw.high >> 12 & 7) + 1);
        rf_same(scale, minimum, s, raw.high & 0x8000 ? -0.125f * s : 0.125f * s);
    }
};

// As IQ1_S, and the move is each point's own: two groups of 8 in a group of 16 would need two minima, so that it goes into the
// codes, which are eighths here.
template <>
struct RfFormat<RF_IQ1_M> : RfGridBlock {
    RF_LENGTHS(32, 16, 8, 0)
    struct Raw {
        const rf_u32x2 *grid;
        uint32_t low, high;
        rf_u32x2 scales;
    };
    RF_MEMBER Raw load(const RfPlanes &p, uint64_t b, uint32_t unit) {
        return {rf_plane<rf_u32x2>(p, 3, 0), *rf_plane<uint32_t>(p, 0, 8 * b + unit), *rf_plane<uint16_t>(p, 1, 8 * b + unit),
                *rf_plane<rf_u32x2>(p, 2, b)};
    }
    // 8 v + 1, or 8 v - 1: the latter is -(8 (-v) + 1).
    RF_MEMBER uint32_t eighths(uint32_t values, uint32_t negative) {
        uint32_t up = (values << 3 & 0xf8f8f8f8u) | 0x01010101u;
        // Subtracts 2 from each byte, with the sign bits kept out of it so that no byte borrows from its neighbour.
        uint32_t down = ((up | 0x80808080u) - 0x02020202u) ^ (~up & 0x80808080u);
        return negative ? down : up;
    }
    RF_MEMBER void unpack(const Raw &raw, uint32_t unit, uint32_t (&w)[2][4], float (&scale)[2], float (&minimum)[2]) {
#pragma unroll
        for (int l = 0; l < 4; l++) {
            uint32_t nibble = raw.high >> 4 * l & 15;
            rf_u32x2 values = raw.grid[(raw.low >> 8 * l & 255) | (nibble & 7) << 8];
            w[l / 2][l % 2 * 2] = eighths(values.x, nibble & 8);
            w[l / 2][l % 2 * 2 + 1] = eighths(values.y, nibble & 8);
        }
        // The four bits on top of each of the four words of scales are d.
        uint32_t bits = (raw.scales.x >> 12 & 15) | (raw.scales.x >> 28) << 4 | (raw.scales.y >> 12 & 15) << 8 | (raw.scales.y >> 28) << 12;
        uint32_t three = (unit < 4 ? raw.scales.x : raw.scales.y) >> (16 * (unit / 2 % 2) + 6 * (unit % 2));
        float d = rf_low_half(bits) * 0.125f;
        scale[0] = d * float(2 * (three & 7) + 1);
        scale[1] = d * float(2 * (three >> 3 & 7) + 1);
        minimum[0] = minimum[1] = 0.0f;
    }
};
