// Matrix units: 16x16 tiles of f16 products summed in f32, from shared memory.
//
//   acc[m][n] += sum over 16 k of a[m][k] * b[n][k]
//
// A wave holds the tiles: RfTileA and RfTileB as its unit wants them, RfAcc as RF_ACC floats per lane. Which element of the
// tile float i of a lane is, rf_acc_row and rf_acc_column say. Rows in shared memory begin on multiples of 16 bytes.
#pragma once

#include "device.h"

constexpr uint32_t RF_ACC = 256 / RF_WAVE;

// How far loops over k are unrolled. On amdgcn the compiler would load the tiles of all k first, more than there are registers.
#if defined(__AMDGCN__) && !defined(RF_TARGET_SIMT)
#define RF_UNROLL_K _Pragma("unroll 1")
#else
#define RF_UNROLL_K _Pragma("unroll")
#endif

struct RfAcc {
    float x[RF_ACC];
};

#if defined(__CUDACC__) && !defined(RF_TARGET_SIMT)

struct RfTileA {
    uint32_t r[4];
};
struct RfTileB {
    uint32_t r[4]; // n 0..7: r[0], r[1]; n 8..15: r[2], r[3]
};

RF_FN void rf_ldmatrix(uint32_t (&r)[4], const uint16_t *p) {
    uint32_t address = uint32_t(__cvta_generic_to_shared(p));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

RF_FN RfTileA rf_load_a(const uint16_t *p, uint32_t stride) {
    RfTileA a;
    rf_ldmatrix(a.r, p + rf_lane() % 16 * stride + rf_lane() / 16 * 8);
    return a;
}

RF_FN RfTileB rf_load_b(const uint16_t *p, uint32_t stride) {
    RfTileB b;
    uint32_t lane = rf_lane();
    rf_ldmatrix(b.r, p + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
    return b;
}

// b[n][k] from rows of k.
RF_FN RfTileB rf_load_b_transposed(const uint16_t *p, uint32_t stride) {
    RfTileB b;
    uint32_t lane = rf_lane();
    uint32_t address = uint32_t(__cvta_generic_to_shared(p + lane % 16 * stride + lane / 16 * 8));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b.r[0]), "=r"(b.r[1]), "=r"(b.r[2]), "=r"(b.r[3])
                 : "r"(address));
    return b;
}

RF_FN void rf_multiply(RfAcc &c, const RfTileA &a, const RfTileB &b) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *x = c.x + 4 * h;
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
                     : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[2 * h]), "r"(b.r[2 * h + 1]));
    }
}

RF_FN uint32_t rf_acc_row(uint32_t i) { return rf_lane() / 4 + i / 2 % 2 * 8; }
RF_FN uint32_t rf_acc_column(uint32_t i) { return rf_lane() % 4 * 2 + i % 2 + i / 4 * 8; }

// The largest of each row of the tile, to every element of the row.
RF_FN void rf_acc_row_max(RfAcc &c) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = rf_fmax(rf_fmax(c.x[2 * h], c.x[2 * h + 1]), rf_fmax(c.x[4 + 2 * h], c.x[5 + 2 * h]));
        m = rf_wave_max<4>(m);
        c.x[2 * h] = c.x[2 * h + 1] = c.x[4 + 2 * h] = c.x[5 + 2 * h] = m;
    }
}
RF_FN void rf_acc_row_sum(RfAcc &c) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float s = rf_wave_sum<4>(c.x[2 * h] + c.x[2 * h + 1] + (c.x[4 + 2 * h] + c.x[5 + 2 * h]));
        c.x[2 * h] = c.x[2 * h + 1] = c.x[4 + 2 * h] = c.x[5 + 2 * h] = s;
    }
}

#else

#if defined(__AMDGCN__) && !defined(RF_TARGET_SIMT)
typedef _Float16 rf_half4 __attribute__((ext_vector_type(4)));
typedef _Float16 rf_half8 __attribute__((ext_vector_type(8)));
typedef _Float16 rf_half16 __attribute__((ext_vector_type(16)));
typedef _Float16 rf_half2 __attribute__((ext_vector_type(2)));
typedef float rf_float4 __attribute__((ext_vector_type(4)));
typedef float rf_float8 __attribute__((ext_vector_type(8)));
#endif

#if defined(__GFX11__)
#define RF_TILE_K 16
#define RF_TILE_FIRST_K 0
typedef rf_half16 RfTileHalves;
#elif defined(__GFX12__)
#define RF_TILE_K 8
#define RF_TILE_FIRST_K (rf_lane() / 16 * 8)
typedef rf_half8 RfTileHalves;
#elif defined(__GFX9__)
#define RF_TILE_K 4
#define RF_TILE_FIRST_K (rf_lane() / 16 * 4)
typedef rf_half4 RfTileHalves;
#endif

#if defined(RF_TILE_K)

// A lane holds RF_TILE_K neighbouring k of row (or, of b, column) lane % 16.
struct RfTileA {
    RfTileHalves h;
};
typedef RfTileA RfTileB;

RF_FN RfTileA rf_load_a(const uint16_t *p, uint32_t stride) {
    RfTileA a;
    __builtin_memcpy(&a.h, __builtin_assume_aligned(p + rf_lane() % 16 * stride + RF_TILE_FIRST_K, RF_TILE_K >= 8 ? 16 : 8),
                     2 * RF_TILE_K);
    return a;
}
RF_FN RfTileB rf_load_b(const uint16_t *p, uint32_t stride) { return rf_load_a(p, stride); }

RF_FN RfTileB rf_load_b_transposed(const uint16_t *p, uint32_t stride) {
    RfTileB b;
#pragma unroll
    for (uint32_t k = 0; k < RF_TILE_K; k++) {
        _Float16 x;
        __builtin_memcpy(&x, p + (RF_TILE_FIRST_K + k) * stride + rf_lane() % 16, 2);
        b.h[k] = x;
    }
    return b;
}

RF_FN void rf_multiply(RfAcc &c, const RfTileA &a, const RfTileB &b) {
#if defined(__GFX9__)
    rf_float4 x;
    __builtin_memcpy(&x, c.x, 16);
    x = __builtin_amdgcn_mfma_f32_16x16x16f16(a.h, b.h, x, 0, 0, 0);
    __builtin_memcpy(c.x, &x, 16);
#else
    rf_float8 x;
    __builtin_memcpy(&x, c.x, 32);
#if defined(__GFX11__)
    x = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a.h, b.h, x);
#else
    x = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(a.h, b.h, x);
#endif
    __builtin_memcpy(c.x, &x, 32);
#endif
}

#else

// No matrix unit: a lane computes its elements from shared memory, which must stay as it is until the product is taken.
struct RfTileA {
    const uint16_t *p;
    uint32_t stride, step;
};
typedef RfTileA RfTileB;

RF_FN RfTileA rf_load_a(const uint16_t *p, uint32_t stride) { return {p, stride, 1}; }
RF_FN RfTileB rf_load_b(const uint16_t *p, uint32_t stride) { return {p, stride, 1}; }
RF_FN RfTileB rf_load_b_transposed(const uint16_t *p, uint32_t stride) { return {p, 1, stride}; }

RF_FN uint32_t rf_acc_row(uint32_t i);

RF_FN void rf_multiply(RfAcc &c, const RfTileA &a, const RfTileB &b) {
    const uint16_t *column = b.p + rf_lane() % 16 * b.stride;
#if defined(__AMDGCN__)
    rf_half2 right[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        _Float16 pair[2];
        __builtin_memcpy(&pair[0], column + 2 * k * b.step, 2);
        __builtin_memcpy(&pair[1], column + (2 * k + 1) * b.step, 2);
        right[k] = rf_half2{pair[0], pair[1]};
    }
#pragma unroll
    for (uint32_t i = 0; i < RF_ACC; i++) {
        rf_half2 left[8];
        __builtin_memcpy(left, __builtin_assume_aligned(a.p + rf_acc_row(i) * a.stride, 16), 32);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            c.x[i] = __builtin_amdgcn_fdot2(left[k], right[k], c.x[i], false);
        }
    }
#else
    for (uint32_t i = 0; i < RF_ACC; i++) {
        for (int k = 0; k < 16; k++) {
            c.x[i] += rf_f16_to_f32(a.p[rf_acc_row(i) * a.stride + k]) * rf_f16_to_f32(column[k * b.step]);
        }
    }
#endif
}

#endif

#if defined(__GFX11__)
RF_FN uint32_t rf_acc_row(uint32_t i) { return 2 * i + rf_lane() / 16; }
#else
RF_FN uint32_t rf_acc_row(uint32_t i) { return rf_lane() / 16 * RF_ACC + i; }
#endif
RF_FN uint32_t rf_acc_column(uint32_t) { return rf_lane() % 16; }

RF_FN void rf_acc_row_max(RfAcc &c) {
#pragma unroll
    for (uint32_t i = 0; i < RF_ACC; i++) {
        c.x[i] = rf_wave_max<16>(c.x[i]);
    }
}
RF_FN void rf_acc_row_sum(RfAcc &c) {
#pragma unroll
    for (uint32_t i = 0; i < RF_ACC; i++) {
        c.x[i] = rf_wave_sum<16>(c.x[i]);
    }
}

#endif

// ---- pairs of f16 in a word ----

#if defined(RF_TARGET_SIMT)
RF_FN uint32_t rf_pack_halves(float a, float b) { return rf_f32_to_f16(a) | uint32_t(rf_f32_to_f16(b)) << 16; }
RF_FN uint32_t rf_add_halves(uint32_t a, uint32_t b) {
    return rf_pack_halves(rf_f16_to_f32(uint16_t(a)) + rf_f16_to_f32(uint16_t(b)),
                          rf_f16_to_f32(uint16_t(a >> 16)) + rf_f16_to_f32(uint16_t(b >> 16)));
}
RF_FN uint32_t rf_fma_halves(uint32_t a, uint32_t b, uint32_t c) {
    return rf_pack_halves(
        rf_f16_to_f32(uint16_t(a)) * rf_f16_to_f32(uint16_t(b)) + rf_f16_to_f32(uint16_t(c)),
        rf_f16_to_f32(uint16_t(a >> 16)) * rf_f16_to_f32(uint16_t(b >> 16)) + rf_f16_to_f32(uint16_t(c >> 16)));
}
#elif defined(__CUDACC__)
RF_FN uint32_t rf_pack_halves(float a, float b) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}
RF_FN uint32_t rf_add_halves(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}
RF_FN uint32_t rf_fma_halves(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t y;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
#else
RF_FN rf_half2 rf_as_halves(uint32_t a) {
    rf_half2 h;
    __builtin_memcpy(&h, &a, 4);
    return h;
}
RF_FN uint32_t rf_of_halves(rf_half2 h) {
    uint32_t a;
    __builtin_memcpy(&a, &h, 4);
    return a;
}
RF_FN uint32_t rf_pack_halves(float a, float b) { return rf_of_halves(rf_half2{_Float16(a), _Float16(b)}); }
RF_FN uint32_t rf_add_halves(uint32_t a, uint32_t b) { return rf_of_halves(rf_as_halves(a) + rf_as_halves(b)); }
RF_FN uint32_t rf_fma_halves(uint32_t a, uint32_t b, uint32_t c) {
    return rf_of_halves(__builtin_elementwise_fma(rf_as_halves(a), rf_as_halves(b), rf_as_halves(c)));
}
#endif
