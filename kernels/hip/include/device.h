// The portability header: what a kernel may use, the same on every target.
//
//   amdgcn         clang -x hip, no HIP header and no device library
//   CUDA           nvcc -x cu (the kernels run on NVIDIA cards for tests and measurements)
//   RF_TARGET_SIMT a host C++ compiler; every lane of a block is a fibre of the program that loads the image
//
// A kernel is RF_KERNEL(name, Args, threads) { .. args .. }. Its block size is a constant, it asks neither for block nor for
// grid dimensions, and it reaches every barrier and every shuffle with all lanes of its block or wave.
#pragma once

#if defined(RF_TARGET_SIMT)
#include "target_simt.h"
#elif defined(__CUDACC__)
#include "target_cuda.h"
#elif defined(__AMDGCN__)
#include "target_amdgcn.h"
#else
#error "device.h: expected amdgcn, CUDA or RF_TARGET_SIMT"
#endif

#define RF_INF __builtin_inff()

// ---- plain types ----

#if defined(__AMDGCN__) && !defined(RF_TARGET_SIMT)
// Vectors of the compiler's: arrays of them stay in registers, which arrays of structs do not always.
typedef uint32_t rf_u32x2 __attribute__((ext_vector_type(2)));
typedef uint32_t rf_u32x4 __attribute__((ext_vector_type(4)));
typedef float rf_f32x4 __attribute__((ext_vector_type(4)));
#else
struct alignas(8) rf_u32x2 {
    uint32_t x, y;
};
struct alignas(16) rf_u32x4 {
    uint32_t x, y, z, w;
};
struct alignas(16) rf_f32x4 {
    float x, y, z, w;
};
#endif

RF_FN uint32_t rf_bits(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

RF_FN float rf_float(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

RF_FN float rf_bf16_to_f32(uint16_t x) { return rf_float(uint32_t(x) << 16); }

RF_FN uint32_t rf_min(uint32_t a, uint32_t b) { return a < b ? a : b; }
RF_FN uint32_t rf_max(uint32_t a, uint32_t b) { return a > b ? a : b; }
RF_FN float rf_fmin(float a, float b) { return a < b ? a : b; }
RF_FN float rf_fmax(float a, float b) { return a > b ? a : b; }
RF_FN float rf_abs(float x) { return rf_float(rf_bits(x) & 0x7fffffffu); }

// The lane within its wave and the wave within its block.
RF_FN uint32_t rf_lane() { return rf_thread() % RF_WAVE; }
RF_FN uint32_t rf_wave() { return rf_thread() / RF_WAVE; }

// Known to lie in global memory: otherwise CUDA's compiler emits generic loads.
template <class T>
RF_FN const T *rf_global(uint64_t address) {
#if defined(__CUDACC__) && !defined(RF_TARGET_SIMT)
    return static_cast<const T *>(__cvta_global_to_generic(address));
#else
    return rf_ptr<const T>(address);
#endif
}

// ---- waves ----

RF_FN float rf_shuffle(float value, uint32_t lane) { return rf_float(rf_shuffle(rf_bits(value), lane)); }
RF_FN float rf_shuffle_xor(float value, uint32_t mask) { return rf_float(rf_shuffle_xor(rf_bits(value), mask)); }

// Sum over groups of `width` neighbouring lanes (a power of two); every lane of a group gets it.
template <uint32_t width = RF_WAVE>
RF_FN float rf_wave_sum(float x) {
#pragma unroll
    for (uint32_t mask = width / 2; mask > 0; mask /= 2) {
        x += rf_shuffle_xor(x, mask);
    }
    return x;
}

template <uint32_t width = RF_WAVE>
RF_FN uint32_t rf_wave_sum_u32(uint32_t x) {
#pragma unroll
    for (uint32_t mask = width / 2; mask > 0; mask /= 2) {
        x += rf_shuffle_xor(x, mask);
    }
    return x;
}

template <uint32_t width = RF_WAVE>
RF_FN float rf_wave_max(float x) {
#pragma unroll
    for (uint32_t mask = width / 2; mask > 0; mask /= 2) {
        x = rf_fmax(x, rf_shuffle_xor(x, mask));
    }
    return x;
}

// ---- blocks ----

// Sum over the block of `threads` lanes; `scratch` holds a float per wave and is free again after the next barrier.
template <uint32_t threads>
RF_FN float rf_block_sum(float x, float *scratch) {
    constexpr uint32_t waves = threads / RF_WAVE;
    x = rf_wave_sum(x);
    if (waves == 1) {
        return x;
    }
    if (rf_lane() == 0) {
        scratch[rf_wave()] = x;
    }
    rf_barrier();
    float total = 0.0f;
    for (uint32_t i = 0; i < waves; i++) {
        total += scratch[i];
    }
    rf_barrier();
    return total;
}

template <uint32_t threads>
RF_FN float rf_block_max(float x, float *scratch) {
    constexpr uint32_t waves = threads / RF_WAVE;
    x = rf_wave_max(x);
    if (waves == 1) {
        return x;
    }
    if (rf_lane() == 0) {
        scratch[rf_wave()] = x;
    }
    rf_barrier();
    float most = scratch[0];
    for (uint32_t i = 1; i < waves; i++) {
        most = rf_fmax(most, scratch[i]);
    }
    rf_barrier();
    return most;
}

#include "functions.h"
