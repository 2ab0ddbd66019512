// A row of floats held by a block of 256 lanes, and its quantised forms.
#pragma once

#include "args.h"

constexpr uint32_t RF_ROW_THREADS = 256;

// Writes element c .. of a row as 8-bit codes with a scale per 32. Called by whole waves; lanes beyond n pass valid = false.
// A scale's 32 elements are those of 32 neighbouring lanes.
RF_FN void rf_store_codes(int8_t *codes, RfScale *scales, uint32_t c, bool valid, float y) {
    float most = rf_wave_max<32>(valid ? rf_abs(y) : 0.0f);
    float d = most / 127.0f;
    float q = rf_rint(d > 0.0f ? y / d : 0.0f);
    // Not a number stays one through the scale.
    int32_t code = valid && q == q ? rf_float_to_int(q) : 0;
    float sum = rf_wave_sum<16>(float(code));
    float other = rf_shuffle_xor(sum, 16);
    if (!valid) {
        return;
    }
    codes[c] = int8_t(code);
    if (c % 32 == 0) {
        scales[c / 32] = {d, {int16_t(sum), int16_t(other)}};
    }
}

// The power of two that brings a row whose largest magnitude is `most` below 2: f16 cannot overflow then.
RF_FN float rf_row_power(float most) {
    uint32_t exponent = rf_bits(most) >> 23 & 0xff;
    return exponent == 0 || exponent == 0xff ? 1.0f : rf_float(exponent << 23);
}

// Stores a row whose element c is value(c) in every form asked for. Called by the whole block; `scratch` is shared.
template <class Value>
RF_FN void rf_store_row(Value value, uint32_t n, float *out, int8_t *codes, RfScale *scales, uint16_t *half,
                        float *power, float *scratch) {
    uint32_t whole = (n + RF_ROW_THREADS - 1) / RF_ROW_THREADS * RF_ROW_THREADS;
    float most = 0.0f;
    for (uint32_t c = rf_thread(); c < whole; c += RF_ROW_THREADS) {
        bool valid = c < n;
        float y = valid ? value(c) : 0.0f;
        if (valid && out) {
            out[c] = y;
        }
        if (codes) {
            rf_store_codes(codes, scales, c, valid, y);
        }
        most = rf_fmax(most, rf_abs(y));
    }
    if (half) {
        float p = rf_row_power(rf_block_max<RF_ROW_THREADS>(most, scratch));
        float inverse = 1.0f / p;
        for (uint32_t c = rf_thread(); c < n; c += RF_ROW_THREADS) {
            half[c] = rf_f32_to_f16(value(c) * inverse);
        }
        if (rf_thread() == 0) {
            *power = p;
        }
    }
}
