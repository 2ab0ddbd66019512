// y = W x for blocks of 32 and many vectors.
#include "device.h"
#include "batch.h"

RF_GEMM(q4_0, RF_Q4_0)
RF_GEMM(q4_1, RF_Q4_1)
RF_GEMM(q5_0, RF_Q5_0)
RF_GEMM(q5_1, RF_Q5_1)
RF_GEMM(q8_0, RF_Q8_0)
RF_GEMM(iq4_nl, RF_IQ4_NL)
RF_GEMM(mxfp4, RF_MXFP4)
