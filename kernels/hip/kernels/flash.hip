// Attention through the matrix units over an f16 cache: heads of up to 64, 128 and 256, many tokens and few.
#include "device.h"
#include "flash.h"

#define RF_FLASH(name, D, POS, WM, WD)                                                                                 \
    RF_KERNEL(name, RfAttentionArgs, WM *WD *RF_WAVE) {                                                                \
        typedef RfFlash<D, POS, WM, WD> Flash;                                                                         \
        RF_SHARED Flash::Shared shared;                                                                                \
        rf_flash<Flash>(args, shared);                                                                                 \
    }

RF_FLASH(rf_flash_64_many, 64, 64, 4, 1)
RF_FLASH(rf_flash_128_many, 128, 64, 4, 1)
RF_FLASH(rf_flash_256_many, 256, 32, 2, 2)
RF_FLASH(rf_flash_64_few, 64, 64, 1, 4)
RF_FLASH(rf_flash_128_few, 128, 64, 1, 4)
RF_FLASH(rf_flash_256_few, 256, 64, 1, 4)
