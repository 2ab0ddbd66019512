// y = W x for blocks of 32: one to four vectors.
#include "device.h"
#include "gemv.h"

RF_GEMV_NORM(q4_0, RF_Q4_0)
RF_GEMV_NORM(q4_1, RF_Q4_1)
RF_GEMV_NORM(q5_0, RF_Q5_0)
RF_GEMV_NORM(q5_1, RF_Q5_1)
RF_GEMV_NORM(q8_0, RF_Q8_0)
RF_GEMV_NORM(iq4_nl, RF_IQ4_NL)
RF_GEMV_NORM(mxfp4, RF_MXFP4)
