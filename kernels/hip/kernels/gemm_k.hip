// y = W x for super-blocks of 256 and many vectors.
#include "device.h"
#include "batch.h"

RF_GEMM(q2_k, RF_Q2_K)
RF_GEMM(q3_k, RF_Q3_K)
RF_GEMM(q4_k, RF_Q4_K)
RF_GEMM(q5_k, RF_Q5_K)
RF_GEMM(q6_k, RF_Q6_K)
RF_GEMM(iq4_xs, RF_IQ4_XS)
