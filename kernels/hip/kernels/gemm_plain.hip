// y = W x for F16 and BF16 weights and many vectors.
#include "device.h"
#include "batch.h"

RF_GEMM(f16, RF_F16)
RF_GEMM(bf16, RF_BF16)
