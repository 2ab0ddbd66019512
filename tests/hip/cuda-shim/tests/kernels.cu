// Kernels for the tests of the shim.

#include <stdint.h>

// With OVERLAP launches may begin early, and each kernel whose order matters waits for the launch in front of it.
#ifdef OVERLAP
extern "C" __global__ void rf_launches_overlap() {}
#define IN_ORDER asm volatile("griddepcontrol.launch_dependents; griddepcontrol.wait;" ::: "memory")
#else
#define IN_ORDER
#endif

struct Scale { uint64_t from, to; float factor; uint32_t count; };
extern "C" __global__ void rf_scale(const Scale a) {
    uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i < a.count) ((float *)a.to)[i] = a.factor * ((const float *)a.from)[i];
}

// Adds one to a number; as many times as it is launched.
struct To { uint64_t to; uint32_t count, rounds; };
extern "C" __global__ void rf_increment(const To a) {
    IN_ORDER;
    for (uint32_t i = 0; i < a.rounds; i++) ((volatile uint32_t *)a.to)[threadIdx.x] += 1;
}

// Turns the block's numbers round through the launch's shared memory, at its far end.
extern "C" __global__ void rf_turn_in_launch_memory(const To a) {
    extern __shared__ uint32_t mem[];
    uint32_t *shared = mem + a.rounds;
    uint32_t *to = (uint32_t *)a.to;
    shared[threadIdx.x] = to[threadIdx.x];
    __syncthreads();
    to[threadIdx.x] = shared[a.count - 1 - threadIdx.x];
}

// The sum over the warp, by shuffles.
extern "C" __global__ void rf_wave_sum(const To a) {
    uint32_t sum = threadIdx.x;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
    ((uint32_t *)a.to)[threadIdx.x] = sum;
}

// Writes where nothing is.
extern "C" __global__ void rf_stray(const To a) { *(volatile uint32_t *)(a.to + 0x10) = 1; }
