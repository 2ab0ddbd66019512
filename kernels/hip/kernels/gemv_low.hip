// y = W x for one and two bits, ternary, NVFP4 and Q8_K: one to four vectors.
#include "device.h"
#include "gemv.h"

RF_GEMV(tq1_0, RF_TQ1_0)
RF_GEMV(tq2_0, RF_TQ2_0)
RF_GEMV(nvfp4, RF_NVFP4)
RF_GEMV(q1_0, RF_Q1_0)
RF_GEMV(q2_0, RF_Q2_0)
RF_GEMV(q8_k, RF_Q8_K)
