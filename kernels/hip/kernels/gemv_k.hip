// y = W x for super-blocks of 256: one to four vectors.
#include "device.h"
#include "gemv.h"

RF_GEMV_NORM(q2_k, RF_Q2_K)
RF_GEMV_NORM(q3_k, RF_Q3_K)
RF_GEMV_NORM(q4_k, RF_Q4_K)
RF_GEMV_NORM(q5_k, RF_Q5_K)
RF_GEMV_NORM(q6_k, RF_Q6_K)
RF_GEMV_NORM(iq4_xs, RF_IQ4_XS)
