// Tiles of the matrix units from registers: what the lanes of a wave unpacked is multiplied without a way through shared memory.
//
// A lane has RF_OWN_ROWS rows of the left matrix, rf_own_row(i), and of each of them the elements of part rf_own_part() of
// RF_OWN_PARTS. A chunk is 8 elements of every part: as the order of k is free, it is whatever 8 elements the lanes take next, and
// the right matrix's chunk holds the same ones of its 16 vectors, in shared memory at rf_chunk_at.
#pragma once

#include "matrix.h"

#if defined(__CUDACC__) && !defined(RF_TARGET_SIMT)
#define RF_OWN_ROWS 2
#define RF_OWN_PARTS 4
#else
#define RF_OWN_ROWS 1
#define RF_OWN_PARTS (RF_WAVE / 16)
#endif

#if defined(RF_TILE_K) || (defined(__CUDACC__) && !defined(RF_TARGET_SIMT))
#define RF_MATRIX_UNIT 1
#endif

// Elements of a chunk of 16 rows or vectors.
constexpr uint32_t RF_CHUNK = 16 * 8 * RF_OWN_PARTS;

#if defined(__CUDACC__) && !defined(RF_TARGET_SIMT)

RF_FN uint32_t rf_own_row(uint32_t i) { return rf_lane() / 4 + 8 * i; }
RF_FN uint32_t rf_own_part() { return rf_lane() % 4; }

// Where the 8 elements of a vector's part are in chunk `chunk`: neighbours are mixed so that the lanes which store neighbouring
// chunks of a vector take different banks.
RF_FN uint32_t rf_chunk_at(uint32_t vector, uint32_t part, uint32_t chunk) {
    return ((vector * 4 + part) ^ chunk % 4 * 2) * 8;
}

struct RfChunkA {
    uint32_t w[2][4];
};
struct RfChunkB {
    rf_u32x4 half[2]; // vectors 0..7, 8..15
};

RF_FN RfChunkA rf_chunk_a(const uint32_t (&w)[2][4]) {
    RfChunkA a;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a.w[0][i] = w[0][i], a.w[1][i] = w[1][i];
    }
    return a;
}

RF_FN RfChunkB rf_chunk_b(const uint16_t *p, uint32_t chunk) {
    const rf_u32x4 *at = reinterpret_cast<const rf_u32x4 *>(p + rf_chunk_at(rf_lane() / 4, rf_lane() % 4, chunk));
    return {{at[0], at[32]}};
}

RF_FN void rf_mma(float *x, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

RF_FN void rf_multiply(RfAcc &c, const RfChunkA &a, const RfChunkB &b) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        rf_mma(c.x + 4 * h, a.w[0][0], a.w[1][0], a.w[0][1], a.w[1][1], b.half[h].x, b.half[h].y);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        rf_mma(c.x + 4 * h, a.w[0][2], a.w[1][2], a.w[0][3], a.w[1][3], b.half[h].z, b.half[h].w);
    }
}

#else

RF_FN uint32_t rf_own_row(uint32_t) { return rf_lane() % 16; }
RF_FN uint32_t rf_own_part() { return rf_lane() / 16; }

#if defined(RF_MATRIX_UNIT)

RF_FN uint32_t rf_chunk_at(uint32_t vector, uint32_t part, uint32_t chunk) {
    return ((part * 16 + vector) ^ (chunk % 4 | part % 2 * 4)) * 8;
}

#if defined(__GFX11__)

// This unit wants all 16 elements of a row in both halves of the wave.
typedef RfTileA RfChunkA;
typedef RfTileB RfChunkB;

RF_FN RfChunkA rf_chunk_a(const uint32_t (&w)[1][4]) {
    uint32_t all[8];
    const bool low = rf_lane() < 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t other = uint32_t(__builtin_amdgcn_permlanex16(int(w[0][i]), int(w[0][i]), 0x76543210, 0xfedcba98, false, false));
        all[i] = low ? w[0][i] : other;
        all[4 + i] = low ? other : w[0][i];
    }
    RfChunkA a;
    __builtin_memcpy(&a.h, all, 32);
    return a;
}
RF_FN RfChunkB rf_chunk_b(const uint16_t *p, uint32_t chunk) {
    rf_u32x4 all[2];
    all[0] = *reinterpret_cast<const rf_u32x4 *>(p + rf_chunk_at(rf_lane() % 16, 0, chunk));
    all[1] = *reinterpret_cast<const rf_u32x4 *>(p + rf_chunk_at(rf_lane() % 16, 1, chunk));
    RfChunkB b;
    __builtin_memcpy(&b.h, all, 32);
    return b;
}

#else

// Two products of 4 elements per lane, or one of 8.
struct RfChunkA {
    RfTileA tile[8 / RF_TILE_K];
};
typedef RfChunkA RfChunkB;

RF_FN RfChunkA rf_chunk_a(const uint32_t (&w)[1][4]) {
    RfChunkA a;
    __builtin_memcpy(&a, w[0], 16);
    return a;
}
RF_FN RfChunkB rf_chunk_b(const uint16_t *p, uint32_t chunk) {
    rf_u32x4 w = *reinterpret_cast<const rf_u32x4 *>(p + rf_chunk_at(rf_lane() % 16, rf_lane() / 16, chunk));
    RfChunkB b;
    __builtin_memcpy(&b, &w, 16);
    return b;
}

RF_FN void rf_multiply(RfAcc &c, const RfChunkA &a, const RfChunkB &b) {
#pragma unroll
    for (int i = 0; i < 8 / RF_TILE_K; i++) {
        rf_multiply(c, a.tile[i], b.tile[i]);
    }
}

#endif

#else

// Without a matrix unit the lanes read each other's elements from shared memory, where chunks of both matrices lie row by row.
RF_FN uint32_t rf_chunk_at(uint32_t vector, uint32_t part, uint32_t) { return (vector * RF_OWN_PARTS + part) * 8; }

RF_FN void rf_chunk_store(uint16_t *chunk, const uint32_t (&w)[1][4]) {
    *reinterpret_cast<rf_u32x4 *>(chunk + rf_chunk_at(rf_own_row(0), rf_own_part(), 0)) = {w[0][0], w[0][1], w[0][2], w[0][3]};
}

RF_FN void rf_multiply(RfAcc &c, const uint16_t *a, const uint16_t *b) {
    constexpr uint32_t stride = 8 * RF_OWN_PARTS;
#pragma unroll
    for (uint32_t k = 0; k < stride; k += 16) {
        rf_multiply(c, rf_load_a(a + k, stride), rf_load_b(b + k, stride));
    }
}

#endif
#endif

// The products up to here are taken before anything behind it: otherwise the compiler holds back all of an unrolled loop, and
// has no registers for what they multiply.
RF_FN void rf_pin(RfAcc &acc) {
#if defined(__GFX9__)
    rf_float4 x;
#elif defined(__AMDGCN__) && !defined(RF_TARGET_SIMT)
    rf_float8 x;
#endif
#if defined(__AMDGCN__) && !defined(RF_TARGET_SIMT)
    __builtin_memcpy(&x, acc.x, sizeof(x));
    asm volatile("" : "+v"(x));
    __builtin_memcpy(acc.x, &x, sizeof(x));
#endif
}

// ---- 16 bytes to shared memory, on their way while the block computes ----

struct RfMove {
    rf_u32x4 held;
};

#if defined(__CUDACC__) && !defined(RF_TARGET_SIMT)
RF_FN void rf_move_begin(RfMove &, uint16_t *to, const uint16_t *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(uint32_t(__cvta_generic_to_shared(to))), "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
                 : "memory");
}
RF_FN void rf_move_end(const RfMove &, uint16_t *) {}
// Before the barrier behind which the bytes are read.
RF_FN void rf_moves_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
RF_FN void rf_move_begin(RfMove &move, uint16_t *, const uint16_t *from, bool inside) {
    move.held = {0, 0, 0, 0};
    if (inside) {
        move.held = *reinterpret_cast<const rf_u32x4 *>(from);
    }
}
RF_FN void rf_move_end(const RfMove &move, uint16_t *to) { *reinterpret_cast<rf_u32x4 *>(to) = move.held; }
RF_FN void rf_moves_done() {}
#endif
