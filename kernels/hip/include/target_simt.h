// CPU-SIMT: a host compiler builds the kernels, and the program that loads the image runs every lane as a fibre.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef RF_WAVE
#error "expected -DRF_WAVE=32 or -DRF_WAVE=64"
#endif

struct RfSimtLane {
    uint32_t thread;
    uint32_t block[3];
};

struct RfSimtHooks {
    void (*barrier)(void);
    uint32_t (*shuffle)(uint32_t value, uint32_t source_lane);
    void (*wave_sync)(void);
};

static RfSimtHooks rf_simt_hooks;
static thread_local const RfSimtLane *rf_simt_lane;

extern "C" __attribute__((visibility("default"))) void rf_simt_bind(const RfSimtHooks *hooks) { rf_simt_hooks = *hooks; }
extern "C" __attribute__((visibility("default"))) const RfSimtLane **rf_simt_current(void) { return &rf_simt_lane; }

#define RF_FN static inline __attribute__((unused))
#define RF_MEMBER static inline
#define RF_METHOD inline
#define RF_SHARED static thread_local
#define RF_CONSTANT static const

#define RF_KERNEL(name, Args, threads)                                                                                 \
    static void name##_lane(const Args &args);                                                                         \
    extern "C" __attribute__((visibility("default"))) void name(const void *packed) {                                  \
        Args args;                                                                                                     \
        memcpy(&args, packed, sizeof(Args));                                                                           \
        name##_lane(args);                                                                                             \
    }                                                                                                                  \
    static void name##_lane(const Args &args)

#define RF_KERNEL_EARLY(name, Args, threads) RF_KERNEL(name, Args, threads)

// As RF_KERNEL, with at least `blocks` blocks on a multiprocessor at once.
#define RF_KERNEL_DENSE(name, Args, threads, blocks) RF_KERNEL(name, Args, threads)
#define RF_KERNEL_STREAM(name, Args, threads, blocks) RF_KERNEL(name, Args, threads)

extern "C" __attribute__((visibility("default"))) uint32_t rf_simt_wave(void) { return RF_WAVE; }

#define RF_KERNEL_FRUGAL(name, Args, threads, registers) RF_KERNEL_STREAM(name, Args, threads, 1)

// Launches follow each other.
RF_FN void rf_await_previous() {}
RF_FN void rf_let_next_begin() {}

RF_FN uint32_t rf_thread() { return rf_simt_lane->thread; }
RF_FN uint32_t rf_block_x() { return rf_simt_lane->block[0]; }
RF_FN uint32_t rf_block_y() { return rf_simt_lane->block[1]; }
RF_FN uint32_t rf_block_z() { return rf_simt_lane->block[2]; }
RF_FN void rf_barrier() { rf_simt_hooks.barrier(); }
RF_FN void rf_in_order() {}
RF_FN uint32_t rf_anew(uint32_t x) { return x; }
RF_FN uint32_t rf_kept(uint32_t x) { return x; }
RF_FN void rf_wave_sync() { rf_simt_hooks.wave_sync(); }
RF_FN uint32_t rf_shuffle(uint32_t value, uint32_t lane) { return rf_simt_hooks.shuffle(value, lane % RF_WAVE); }
RF_FN uint32_t rf_shuffle_xor(uint32_t value, uint32_t mask) {
    return rf_simt_hooks.shuffle(value, (rf_simt_lane->thread % RF_WAVE) ^ mask);
}

template <class Args>
RF_FN const Args &rf_again(const Args &args) {
    return args;
}

template <class T>
RF_FN T *rf_ptr(uint64_t address) {
    return reinterpret_cast<T *>(address);
}

// Weights are read once; targets with a cache hint for that use it here.
template <class T>
RF_FN T rf_stream(const T *p) {
    return *p;
}

RF_FN void rf_fetch(uint64_t, uint32_t) {}

RF_FN float rf_fma(float a, float b, float c) { return fmaf(a, b, c); }
RF_FN float rf_rint(float x) { return rintf(x); }
RF_FN float rf_sqrt(float x) { return sqrtf(x); }
RF_FN float rf_exp2(float x) { return exp2f(x); }
RF_FN float rf_exp2_fast(float x) { return rf_exp2(x); }
RF_FN float rf_reciprocal_fast(float x) { return 1.0f / x; }
RF_FN float rf_log2(float x) { return log2f(x); }
RF_FN int32_t rf_float_to_int(float x) { return int32_t(x); }
RF_FN uint32_t rf_clz(uint32_t x) { return x == 0 ? 32 : uint32_t(__builtin_clz(x)); }

RF_FN float rf_f16_to_f32(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
    uint32_t bits;
    if (magnitude >= 0x7c00) {
        bits = 0x7f800000u | (magnitude & 0x3ff) << 13;
    } else if (magnitude >= 0x400) {
        bits = (magnitude << 13) + ((127 - 15) << 23);
    } else {
        float x = float(magnitude) * (1.0f / 16777216.0f);
        memcpy(&bits, &x, 4);
    }
    bits |= sign;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// Rounds to nearest, ties to even.
RF_FN uint16_t rf_f32_to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000u) {
        return uint16_t(sign | 0x7e00);
    }
    if (magnitude >= 0x477ff000u) {
        return uint16_t(sign | 0x7c00);
    }
    if (magnitude < 0x38800000u) {
        float scaled;
        memcpy(&scaled, &magnitude, 4);
        return uint16_t(sign | uint32_t(rintf(scaled * 16777216.0f)));
    }
    uint32_t rebased = magnitude - ((127 - 15) << 23);
    return uint16_t(sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
}

// The sum of the four products of signed bytes, added to c.
RF_FN int32_t rf_dot4(uint32_t a, uint32_t b, int32_t c) {
    for (int i = 0; i < 4; i++) {
        c += int32_t(int8_t(a >> 8 * i)) * int32_t(int8_t(b >> 8 * i));
    }
    return c;
}

// The four bytes that `selector` picks out of the eight of (high, low); each nibble of `selector` is 0 to 7.
RF_FN uint32_t rf_byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint64_t both = uint64_t(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        result |= uint32_t(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    }
    return result;
}

// Orders this block's writes before those of whoever sees a later atomic of it.
RF_FN void rf_fence_block() {}
RF_FN void rf_fence_device() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
RF_FN uint32_t rf_atomic_add(uint32_t *p, uint32_t value) { return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST); }
RF_FN uint32_t rf_atomic_or(uint32_t *p, uint32_t value) { return __atomic_fetch_or(p, value, __ATOMIC_SEQ_CST); }
RF_FN uint32_t rf_shared_atomic_add(uint32_t *p, uint32_t value) {
    uint32_t old = *p;
    *p = old + value;
    return old;
}
RF_FN void rf_shared_atomic_add(uint64_t *p, uint64_t value) { *p += value; }
RF_FN void rf_atomic_add(uint64_t *p, uint64_t value) { __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST); }
RF_FN uint64_t rf_multiply_high(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a) * b >> 64); }
