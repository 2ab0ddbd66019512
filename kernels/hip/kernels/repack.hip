// From the file's blocks to planes: each field of a block goes to an array of its own, no bit changes.
#include "device.h"
#include "args.h"

constexpr uint32_t RF_REPACK_THREADS = 256;

// The largest word that a field's offset in the block, the block size and the field's length allow.
template <class Word>
RF_FN void rf_repack_field(const RfRepackArgs &args, uint32_t f) {
    uint32_t words = args.length[f] / sizeof(Word);
    uint64_t total = args.count * words;
    const uint8_t *source = rf_ptr<const uint8_t>(args.source) + args.offset[f];
    Word *out = rf_ptr<Word>(args.planes.plane[f]) + args.first * words;
    for (uint64_t i = uint64_t(rf_block_x()) * RF_REPACK_THREADS + rf_thread(); i < total; i += 4096 * RF_REPACK_THREADS) {
        out[i] = *reinterpret_cast<const Word *>(source + i / words * args.block_bytes + i % words * sizeof(Word));
    }
}

RF_KERNEL(rf_repack, RfRepackArgs, RF_REPACK_THREADS) {
#pragma unroll
    for (uint32_t f = 0; f < 4; f++) {
        if (f < args.fields) {
            uint32_t odd = args.offset[f] | args.block_bytes | args.length[f];
            if (odd % 4 == 0) {
                rf_repack_field<uint32_t>(args, f);
            } else if (odd % 2 == 0) {
                rf_repack_field<uint16_t>(args, f);
            } else {
                rf_repack_field<uint8_t>(args, f);
            }
        }
    }
}
