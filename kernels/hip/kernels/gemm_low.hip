// y = W x for one and two bits, ternary, NVFP4 and Q8_K: many vectors.
#include "device.h"
#include "batch.h"

RF_GEMM_MANY(tq1_0, RF_TQ1_0)
RF_BATCH_KERNEL(rf_gemm_tq1_0_16, RfBatch16<RF_TQ1_0>, 4)
RF_BATCH_KERNEL(rf_gemm_tq1_0_32, RfBatch32<RF_TQ1_0>, 2)
#if defined(RF_MATRIX_UNIT)
RF_BATCH_KERNEL(rf_gemm_tq1_0_64, RfBatch64<RF_TQ1_0>, 2)
#else
// Without a matrix unit 64 vectors need more registers than there are: the first part of k takes all of it, for 32 and 32.
RF_KERNEL_DENSE(rf_gemm_tq1_0_64, RfGemmArgs, RF_BATCH_WAVES *RF_WAVE, 2) {
    typedef RfBatch32<RF_TQ1_0> Batch;
    RF_SHARED Batch::Shared shared;
    if (rf_block_z() > 0) {
        return;
    }
    RfGemmArgs whole = args;
    whole.splits = 1;
    const RfGemmItems all = rf_gemm_items(args, rf_block_x(), 64);
#pragma unroll 1
    for (uint32_t first = 0; first < all.vectors; first += 32) {
        const RfGemmItems half = {all.first_row, all.items, all.m0 + first, rf_min(all.vectors - first, 32)};
        rf_batch_of<Batch>(whole, half, shared);
    }
}
#endif
RF_GEMM(tq2_0, RF_TQ2_0)
RF_GEMM(nvfp4, RF_NVFP4)
RF_GEMM(q1_0, RF_Q1_0)
RF_GEMM(q2_0, RF_Q2_0)
RF_GEMM(q8_k, RF_Q8_K)
