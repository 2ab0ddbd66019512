// y = W x for super-blocks of 256: one to four vectors.
#include "device.h"
#include "gemv.h"

RF_GEMV(q2_k, RF_Q2_K)
RF_GEMV(q3_k, RF_Q3_K)
RF_GEMV(q4_k, RF_Q4_K)
RF_GEMV(q5_k, RF_Q5_K)
RF_GEMV(q6_k, RF_Q6_K)
RF_GEMV(iq4_xs, RF_IQ4_XS)
