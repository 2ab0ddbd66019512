// CUDA, compute capability 8.0 and later (what is measured is 9.0).
#pragma once

#include <stdint.h>

#define RF_WAVE 32
#define RF_FN static __device__ __forceinline__
#define RF_MEMBER static __device__ __forceinline__
#define RF_METHOD __device__ __forceinline__
#define RF_SHARED __shared__
#define RF_CONSTANT static __constant__ const

// Launches may begin while the one before is still running, where the program that launches them allows it (it looks for the
// kernel of this name). Each waits, once, before it touches what an earlier one reads or writes; what never changes it may read before.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define RF_OVERLAP 1
extern "C" __global__ void rf_launches_overlap() {}
#endif

RF_FN void rf_await_previous() {
#if defined(RF_OVERLAP)
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From here on the next launch's blocks may take what this one leaves free.
RF_FN void rf_let_next_begin() {
#if defined(RF_OVERLAP)
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits at its beginning. It does not let the next one begin early: prompts took a tenth longer where products of many rows did.
#define RF_KERNEL_BODY(name, Args, ...)                                                                                \
    RF_FN void name##_body(const Args &args);                                                                          \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Args args) {                \
        rf_await_previous();                                                                                           \
        name##_body(args);                                                                                             \
    }                                                                                                                  \
    RF_FN void name##_body(const Args &args)

#define RF_KERNEL(name, Args, threads) RF_KERNEL_BODY(name, Args, threads)

// As RF_KERNEL, with at least `blocks` blocks on a multiprocessor at once.
#define RF_KERNEL_DENSE(name, Args, threads, blocks) RF_KERNEL_BODY(name, Args, threads, blocks)

// As RF_KERNEL, for kernels that call rf_let_next_begin and rf_await_previous themselves.
#define RF_KERNEL_EARLY(name, Args, threads)                                                                           \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args args)

// As RF_KERNEL_EARLY, with at least `blocks` blocks on a multiprocessor at once.
#define RF_KERNEL_STREAM(name, Args, threads, blocks)                                                                  \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args args)

// As RF_KERNEL_EARLY, with at most so many registers a lane.
#define RF_KERNEL_FRUGAL(name, Args, threads, registers)                                                               \
    extern "C" __global__ void __maxnreg__(registers) name(const __grid_constant__ Args args)

RF_FN uint32_t rf_thread() { return threadIdx.x; }
RF_FN uint32_t rf_block_x() { return blockIdx.x; }
RF_FN uint32_t rf_block_y() { return blockIdx.y; }
RF_FN uint32_t rf_block_z() { return blockIdx.z; }
RF_FN void rf_barrier() { __syncthreads(); }
RF_FN void rf_in_order() {}
RF_FN uint32_t rf_anew(uint32_t x) { return x; }
RF_FN uint32_t rf_kept(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}
RF_FN void rf_wave_sync() { __syncwarp(); }
RF_FN uint32_t rf_shuffle(uint32_t value, uint32_t lane) { return __shfl_sync(0xffffffffu, value, lane); }
RF_FN uint32_t rf_shuffle_xor(uint32_t value, uint32_t mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

template <class Args>
RF_FN const Args &rf_again(const Args &args) {
    return args;
}

template <class T>
RF_FN T *rf_ptr(uint64_t address) {
    return reinterpret_cast<T *>(address);
}

// Weights are read once and need not stay in the first-level cache.
template <class T>
RF_FN T rf_stream(const T *p) {
    T value;
    if constexpr (sizeof(T) == 16) {
        uint32_t x, y, z, w;
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
                     : "l"(__cvta_generic_to_global(p)));
        uint32_t words[4] = {x, y, z, w};
        memcpy(&value, words, 16);
    } else {
        value = *p;
    }
    return value;
}

// Asks for memory that will be read: whole pieces of 16 bytes from here on, to the second-level cache.
RF_FN void rf_fetch(uint64_t address, uint32_t bytes) {
#if defined(RF_OVERLAP)
    const uint64_t first = (address + 15) & ~uint64_t(15), end = (address + bytes) & ~uint64_t(15);
    if (end > first) {
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(reinterpret_cast<const void *>(first))),
                     "r"(uint32_t(end - first))
                     : "memory");
    }
#endif
}

RF_FN float rf_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
RF_FN float rf_rint(float x) { return rintf(x); }
RF_FN float rf_sqrt(float x) { return sqrtf(x); }
RF_FN float rf_exp2(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
RF_FN float rf_exp2_fast(float x) { return rf_exp2(x); }
RF_FN float rf_reciprocal_fast(float x) { return __frcp_rn(x); }
RF_FN float rf_log2(float x) { return log2f(x); }
RF_FN int32_t rf_float_to_int(float x) { return __float2int_rz(x); }
RF_FN uint32_t rf_clz(uint32_t x) { return uint32_t(__clz(int(x))); }

RF_FN float rf_f16_to_f32(uint16_t h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}
RF_FN uint16_t rf_f32_to_f16(float x) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

RF_FN int32_t rf_dot4(uint32_t a, uint32_t b, int32_t c) { return __dp4a(int32_t(a), int32_t(b), c); }
RF_FN uint32_t rf_byte_permute(uint32_t low, uint32_t high, uint32_t selector) { return __byte_perm(low, high, selector); }

RF_FN void rf_fence_device() { __threadfence(); }
RF_FN void rf_fence_block() { __threadfence_block(); }
RF_FN uint32_t rf_atomic_add(uint32_t *p, uint32_t value) { return atomicAdd(p, value); }
RF_FN uint32_t rf_atomic_or(uint32_t *p, uint32_t value) { return atomicOr(p, value); }
RF_FN uint32_t rf_shared_atomic_add(uint32_t *p, uint32_t value) { return atomicAdd(p, value); }
RF_FN void rf_shared_atomic_add(uint64_t *p, uint64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long *>(p), static_cast<unsigned long long>(value));
}
RF_FN void rf_atomic_add(uint64_t *p, uint64_t value) { rf_shared_atomic_add(p, value); }
RF_FN uint64_t rf_multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
