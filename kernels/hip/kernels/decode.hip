// Attention of one token per sequence over an f16 cache, with the norm and rotation of its heads and the write to the cache.
#include "device.h"
#include "flash.h"

#define RF_DECODE(name, D)                                                                                             \
    RF_KERNEL_EARLY(name, RfDecodeArgs, 4 * RF_WAVE) {                                                                 \
        typedef RfFlash<D, 64, 1, 4, true> Flash;                                                                      \
        RF_SHARED Flash::Shared shared;                                                                                \
        RF_SHARED Flash::Made made;                                                                                    \
        rf_let_next_begin();                                                                                           \
        rf_flash<Flash>(args.attention, shared, &rf_again(args).rope, &made);                                          \
    }

RF_DECODE(rf_decode_64, 64)
RF_DECODE(rf_decode_128, 128)
