// amdgcn through clang's builtins alone: no HIP header, no device library, no hidden kernel arguments.
#pragma once

typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef short int16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long uint64_t;
typedef long int64_t;

#if defined(__GFX9__)
#define RF_WAVE 64
#else
#define RF_WAVE 32
#endif

#define RF_FN static __attribute__((device)) __attribute__((always_inline)) inline
#define RF_MEMBER static __attribute__((device)) __attribute__((always_inline)) inline
#define RF_METHOD __attribute__((device)) __attribute__((always_inline)) inline
#define RF_SHARED static __attribute__((shared))
#define RF_CONSTANT static __attribute__((constant)) const

#define RF_KERNEL(name, Args, threads)                                                                                 \
    extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(threads, threads))) void name(       \
        const Args args)

#define RF_KERNEL_EARLY(name, Args, threads) RF_KERNEL(name, Args, threads)

// As RF_KERNEL; the compiler chooses the occupancy here.
#define RF_KERNEL_DENSE(name, Args, threads, blocks) RF_KERNEL(name, Args, threads)

// As RF_KERNEL_DENSE, for kernels that wait for memory: two waves to a SIMD at least, each with half of the registers.
#define RF_KERNEL_STREAM(name, Args, threads, blocks)                                                                  \
    extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(threads, threads)))                  \
    __attribute__((amdgpu_waves_per_eu(2))) void name(const Args args)

#define RF_KERNEL_FRUGAL(name, Args, threads, registers) RF_KERNEL_STREAM(name, Args, threads, 1)

// Launches follow each other.
RF_FN void rf_await_previous() {}
RF_FN void rf_let_next_begin() {}

RF_FN uint32_t rf_thread() { return __builtin_amdgcn_workitem_id_x(); }
RF_FN uint32_t rf_block_x() { return __builtin_amdgcn_workgroup_id_x(); }
RF_FN uint32_t rf_block_y() { return __builtin_amdgcn_workgroup_id_y(); }
RF_FN uint32_t rf_block_z() { return __builtin_amdgcn_workgroup_id_z(); }

RF_FN void rf_barrier() {
#if __clang_major__ >= 20
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup", "local");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup", "local");
#else
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
#endif
}

// What is before is not mixed with what comes after: a condition for every element at once takes too many scalar registers.
RF_FN void rf_in_order() { __builtin_amdgcn_sched_barrier(0); }
// The same number, unknown to the compiler: conditions on it are computed where they are needed, and not kept from before.
RF_FN uint32_t rf_anew(uint32_t x) {
    asm volatile("" : "+v"(x));
    return x;
}
// A number that is kept in a register rather than computed again in a loop, where the compiler prefers that.
RF_FN uint32_t rf_kept(uint32_t x) { return x; }
RF_FN void rf_wave_sync() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

RF_FN uint32_t rf_shuffle(uint32_t value, uint32_t lane) {
    return uint32_t(__builtin_amdgcn_ds_bpermute(int(lane << 2), int(value)));
}

RF_FN uint32_t rf_shuffle_xor(uint32_t value, uint32_t mask) {
    // Within 32 lanes the pattern is part of the instruction: no address to compute.
    switch (mask) {
    case 1: return uint32_t(__builtin_amdgcn_ds_swizzle(int(value), 0x1f | 1 << 10));
    case 2: return uint32_t(__builtin_amdgcn_ds_swizzle(int(value), 0x1f | 2 << 10));
    case 4: return uint32_t(__builtin_amdgcn_ds_swizzle(int(value), 0x1f | 4 << 10));
    case 8: return uint32_t(__builtin_amdgcn_ds_swizzle(int(value), 0x1f | 8 << 10));
    case 16: return uint32_t(__builtin_amdgcn_ds_swizzle(int(value), 0x1f | 16 << 10));
    default: return rf_shuffle(value, (rf_thread() % RF_WAVE) ^ mask);
    }
}

// The detour over the global address space lets the compiler emit global instead of flat instructions.
template <class T>
RF_FN T *rf_ptr(uint64_t address) {
    return (T *)(__attribute__((address_space(1))) T *)address;
}

// The kernel's arguments, read again: those that only its end needs do not take scalar registers all along.
template <class Args>
RF_FN const Args &rf_again(const Args &) {
    auto *p = (const __attribute__((address_space(4))) Args *)__builtin_amdgcn_kernarg_segment_ptr();
    asm volatile("" : "+s"(p));
    return *(const Args *)p;
}

template <class T>
RF_FN T rf_stream(const T *p) {
    return *p;
}

RF_FN void rf_fetch(uint64_t, uint32_t) {}

RF_FN float rf_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RF_FN float rf_rint(float x) { return __builtin_rintf(x); }
RF_FN float rf_sqrt(float x) { return __builtin_sqrtf(x); }
RF_FN float rf_exp2(float x) { return __builtin_exp2f(x); }
// Results below the smallest normal number may be 0.
RF_FN float rf_exp2_fast(float x) { return __builtin_amdgcn_exp2f(x); }
RF_FN float rf_reciprocal_fast(float x) { return __builtin_amdgcn_rcpf(x); }
RF_FN float rf_log2(float x) { return __builtin_log2f(x); }
RF_FN int32_t rf_float_to_int(float x) { return int32_t(x); }
RF_FN uint32_t rf_clz(uint32_t x) { return x == 0 ? 32 : uint32_t(__builtin_clz(x)); }

RF_FN float rf_f16_to_f32(uint16_t h) {
    _Float16 x;
    __builtin_memcpy(&x, &h, 2);
    return float(x);
}
RF_FN uint16_t rf_f32_to_f16(float x) {
    _Float16 y = _Float16(x);
    uint16_t h;
    __builtin_memcpy(&h, &y, 2);
    return h;
}

RF_FN int32_t rf_dot4(uint32_t a, uint32_t b, int32_t c) {
#if defined(__GFX11__) || defined(__GFX12__)
    return __builtin_amdgcn_sudot4(true, int(a), true, int(b), c, false);
#else
    return __builtin_amdgcn_sdot4(int(a), int(b), c, false);
#endif
}

RF_FN uint32_t rf_byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
    // v_perm_b32 takes one byte per selected byte.
    uint32_t spread = (selector & 7) | (selector & 0x70) << 4 | (selector & 0x700) << 8 | (selector & 0x7000) << 12;
    return __builtin_amdgcn_perm(high, low, spread);
}

RF_FN void rf_fence_device() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }
RF_FN void rf_fence_block() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "workgroup"); }
RF_FN uint32_t rf_atomic_add(uint32_t *p, uint32_t value) {
    return __hip_atomic_fetch_add(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
RF_FN uint32_t rf_atomic_or(uint32_t *p, uint32_t value) {
    return __hip_atomic_fetch_or(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
RF_FN uint32_t rf_shared_atomic_add(uint32_t *p, uint32_t value) {
    return __hip_atomic_fetch_add(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
}
RF_FN void rf_shared_atomic_add(uint64_t *p, uint64_t value) {
    __hip_atomic_fetch_add(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
}
RF_FN void rf_atomic_add(uint64_t *p, uint64_t value) {
    __hip_atomic_fetch_add(p, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
RF_FN uint64_t rf_multiply_high(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a) * b >> 64); }
