// Attention through the matrix units over an f16 cache: heads of up to 64, 128 and 256, many tokens and few.
#include "device.h"
#include "flash.h"

#define RF_FLASH(name, D, POS, WM, WD)                                                                                 \
    RF_KERNEL(name, RfAttentionArgs, WM *WD *RF_WAVE) {                                                                \
        typedef RfFlash<D, POS, WM, WD> Flash;                                                                         \
        RF_SHARED Flash::Shared shared;                                                                                \
        rf_flash<Flash>(args, shared);                                                                                 \
    }

// Without matrix units a product holds more of its operands in registers, so that a tile of 64 positions would not fit.
#if defined(__AMDGCN__) && !defined(RF_TILE_K)
constexpr uint32_t RF_POSITIONS_128 = 32;
#else
constexpr uint32_t RF_POSITIONS_128 = 64;
#endif

RF_FLASH(rf_flash_64_many, 64, 64, 4, 1)
RF_FLASH(rf_flash_128_many, 128, RF_POSITIONS_128, 4, 1)
RF_FLASH(rf_flash_256_many, 256, 32, 2, 2)
RF_FLASH(rf_flash_64_few, 64, 64, 1, 4)
RF_FLASH(rf_flash_128_few, 128, 64, 1, 4)
RF_FLASH(rf_flash_256_few, 256, 64, 1, 4)
