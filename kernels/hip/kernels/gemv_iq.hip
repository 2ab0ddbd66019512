// y = W x for super-blocks of grid points: one to four vectors.
#include "device.h"
#include "gemv.h"

RF_GEMV(iq1_s, RF_IQ1_S)
RF_GEMV(iq1_m, RF_IQ1_M)
RF_GEMV(iq2_xxs, RF_IQ2_XXS)
RF_GEMV(iq2_xs, RF_IQ2_XS)
RF_GEMV(iq2_s, RF_IQ2_S)
RF_GEMV(iq3_xxs, RF_IQ3_XXS)
RF_GEMV(iq3_s, RF_IQ3_S)
