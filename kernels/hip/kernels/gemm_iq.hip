// y = W x for super-blocks of grid points: many vectors.
#include "device.h"
#include "batch.h"

RF_GEMM(iq1_s, RF_IQ1_S)
RF_GEMM(iq1_m, RF_IQ1_M)
RF_GEMM(iq2_xxs, RF_IQ2_XXS)
RF_GEMM(iq2_xs, RF_IQ2_XS)
RF_GEMM(iq2_s, RF_IQ2_S)
RF_GEMM(iq3_xxs, RF_IQ3_XXS)
RF_GEMM(iq3_s, RF_IQ3_S)
