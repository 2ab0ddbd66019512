// What only products with one vector use of the targets. Part of gemv.h.
#pragma once

#include "args.h"

template <class T>
RF_FN const T *rf_weights(const RfPlanes &row, int i, uint64_t index) {
    return rf_global<T>(row.plane[i]) + index;
}

// The upper four bits of the bytes of `a`, as they lie there, times the signed bytes of b: in units of RF_UPPER_UNIT.
#if defined(__AMDGCN__) && !defined(RF_TARGET_SIMT) && !defined(__GFX11__) && !defined(__GFX12__)
// Without a product of unsigned and signed bytes.
#define RF_UPPER_UNIT 1.0f
RF_FN int32_t rf_dot4_upper(uint32_t a, uint32_t b, int32_t c) { return rf_dot4(a >> 4 & 0x0f0f0f0fu, b, c); }
#else
#define RF_UPPER_UNIT 0.0625f
RF_FN int32_t rf_dot4_upper(uint32_t a, uint32_t b, int32_t c) {
#if defined(RF_TARGET_SIMT)
    for (int i = 0; i < 4; i++) {
        c += int32_t(a >> 8 * i & 0xf0) * int32_t(int8_t(b >> 8 * i));
    }
    return c;
#elif defined(__CUDACC__)
    int32_t sum;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a & 0xf0f0f0f0u), "r"(b), "r"(c));
    return sum;
#else
    return __builtin_amdgcn_sudot4(false, int(a & 0xf0f0f0f0u), true, int(b), c, false);
#endif
}
#endif

// Sums of each of x over the wave, in fewer exchanges than one by one: lane l gets that of x[l * n / RF_WAVE]. x is used up.
template <uint32_t n>
RF_FN float rf_wave_sum_each(float (&x)[n]) {
    static_assert((n & (n - 1)) == 0 && n <= RF_WAVE, "halves");
    uint32_t mask = RF_WAVE / 2;
#pragma unroll
    for (uint32_t half = n / 2; half > 0; half /= 2, mask /= 2) {
        const bool upper = rf_lane() & mask;
#pragma unroll
        for (uint32_t i = 0; i < half; i++) {
            const float other = rf_shuffle_xor(upper ? x[i] : x[i + half], mask);
            x[i] = (upper ? x[i + half] : x[i]) + other;
        }
    }
#pragma unroll
    for (; mask > 0; mask /= 2) {
        x[0] += rf_shuffle_xor(x[0], mask);
    }
    return x[0];
}
