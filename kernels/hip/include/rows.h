// Rows of floats, a block per row: norms and activations, and their results in up to three forms.
#pragma once

#include "args.h"

constexpr uint32_t RF_ROW_THREADS = 512;
constexpr uint32_t RF_ROW_HELD = 8;       // groups of 4 elements that a lane holds: rows of up to 16384 stay in registers
constexpr uint32_t RF_ROW_HELD_SHORT = 2; // for rows of up to 4096: more blocks to a compute unit

// Where a row's results go; absent ones are null.
struct RfRowOut {
    float *out;
    int8_t *codes;
    RfScale *scales;
    uint16_t *half;
    float *power;
};

// Four neighbouring elements as 8-bit codes. A scale's 32 elements are those of 8 neighbouring lanes, all of which come here;
// those beyond the row pass valid = false.
RF_FN void rf_store_codes(const RfRowOut &to, uint32_t c, bool valid, const float (&y)[4]) {
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        most = rf_fmax(most, valid ? rf_abs(y[i]) : 0.0f);
    }
    float d = rf_wave_max<8>(most) / 127.0f;
    float inverse = d > 0.0f ? 1.0f / d : 0.0f;
    uint32_t word = 0;
    int32_t sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float q = rf_rint(y[i] * inverse);
        // The reciprocal of a tiny scale may be infinite; not a number stays one through the scale.
        q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
        int32_t code = valid && q == q ? rf_float_to_int(q) : 0;
        word |= (uint32_t(code) & 0xff) << 8 * i;
        sum += code;
    }
    sum = int32_t(rf_wave_sum_u32<4>(uint32_t(sum)));
    int32_t other = int32_t(rf_shuffle_xor(uint32_t(sum), 4));
    if (valid) {
        *reinterpret_cast<uint32_t *>(to.codes + c) = word;
        if (c % 32 == 0) {
            to.scales[c / 32] = {d, {int16_t(sum), int16_t(other)}};
        }
    }
}

// The power of two that brings a row whose largest magnitude is `most` below 2: f16 cannot overflow then.
RF_FN float rf_row_power(float most) {
    uint32_t exponent = rf_bits(most) >> 23 & 0xff;
    return exponent == 0 || exponent == 0xff ? 1.0f : rf_float(exponent << 23);
}

// Four elements of `p` from c on, where c + i < n.
RF_FN void rf_load4(const float *p, uint32_t c, uint32_t n, bool whole, float (&y)[4]) {
    if (whole) {
        rf_f32x4 v = *reinterpret_cast<const rf_f32x4 *>(p + c);
        y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        y[i] = c + i < n ? p[c + i] : 0.0f;
    }
}

RF_FN void rf_store4(float *p, uint32_t c, uint32_t n, bool whole, const float (&y)[4]) {
    if (whole) {
        *reinterpret_cast<rf_f32x4 *>(p + c) = {y[0], y[1], y[2], y[3]};
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if (c + i < n) {
            p[c + i] = y[i];
        }
    }
}

RF_FN bool rf_is_aligned(const void *p) { return reinterpret_cast<uint64_t>(p) % 16 == 0; }

RF_FN void rf_store_halves(uint16_t *p, uint32_t c, uint32_t n, const float (&y)[4], float inverse) {
    if (n % 4 == 0) {
        uint16_t h[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            h[i] = rf_f32_to_f16(y[i] * inverse);
        }
        *reinterpret_cast<rf_u32x2 *>(p + c) = {h[0] | uint32_t(h[1]) << 16, h[2] | uint32_t(h[3]) << 16};
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if (c + i < n) {
            p[c + i] = rf_f32_to_f16(y[i] * inverse);
        }
    }
}

// Stores a row that a block holds: lane t has elements 4 (t + j threads) .. of it in y[j], for j < groups.
template <uint32_t held, uint32_t threads = RF_ROW_THREADS>
RF_FN void rf_store_row(const RfRowOut &to, uint32_t n, uint32_t groups, float (&y)[held][4], float *scratch) {
    const bool whole = n % 4 == 0 && rf_is_aligned(to.out);
    float most = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < held; j++) {
        if (j < groups) {
            uint32_t c = rf_anew(4 * (j * threads + rf_thread()));
            if (to.out && c < n) {
                rf_store4(to.out, c, n, whole, y[j]);
            }
            if (to.codes) {
                rf_store_codes(to, c, c < n, y[j]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                most = rf_fmax(most, c + i < n ? rf_abs(y[j][i]) : 0.0f);
            }
        }
    }
    if (to.half) {
        float p = rf_row_power(rf_block_max<threads>(most, scratch)), inverse = 1.0f / p;
#pragma unroll
        for (uint32_t j = 0; j < held; j++) {
            uint32_t c = rf_anew(4 * (j * threads + rf_thread()));
            if (j < groups && c < n) {
                rf_store_halves(to.half, c, n, y[j], inverse);
            }
        }
        if (rf_thread() == 0) {
            *to.power = p;
        }
    }
}

// As rf_store_row for rows of any length, whose element c is value(c) whenever it is asked for.
template <class Value>
RF_FN void rf_store_long_row(const RfRowOut &to, uint32_t n, Value value, float *scratch) {
    float most = 0.0f;
    const uint32_t step = 4 * RF_ROW_THREADS;
    for (uint32_t c = 4 * rf_thread(); c < (n + step - 1) / step * step; c += step) {
        float y[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            y[i] = c + i < n ? value(c + i) : 0.0f;
            most = rf_fmax(most, rf_abs(y[i]));
        }
        if (to.out && c < n) {
            rf_store4(to.out, c, n, false, y);
        }
        if (to.codes) {
            rf_store_codes(to, c, c < n, y);
        }
    }
    if (to.half) {
        float p = rf_row_power(rf_block_max<RF_ROW_THREADS>(most, scratch)), inverse = 1.0f / p;
        for (uint32_t c = rf_thread(); c < n; c += RF_ROW_THREADS) {
            to.half[c] = rf_f32_to_f16(value(c) * inverse);
        }
        if (rf_thread() == 0) {
            *to.power = p;
        }
    }
}
