// y = W x for one and two bits, ternary, NVFP4 and Q8_K: many vectors.
#include "device.h"
#include "batch.h"

RF_GEMM(tq1_0, RF_TQ1_0)
RF_GEMM(tq2_0, RF_TQ2_0)
RF_GEMM(nvfp4, RF_NVFP4)
RF_GEMM(q1_0, RF_Q1_0)
RF_GEMM(q2_0, RF_Q2_0)
RF_GEMM(q8_k, RF_Q8_K)
