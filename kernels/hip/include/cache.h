// Reading and writing the paged KV cache.
#pragma once

#include "args.h"

enum RfCacheKind : uint32_t { RF_CACHE_F16 = 0, RF_CACHE_F32 = 1, RF_CACHE_Q8 = 2 };

// One head's key or value at one position.
struct RfSlot {
    uint8_t *data;
    uint16_t *scales; // of 32 elements each
};

// `in_block` is the block's address, `at` the offset within the block.
RF_FN RfSlot rf_cache_slot(const RfCache &cache, uint64_t block, uint32_t at, uint32_t head, bool value) {
    uint8_t *base = rf_ptr<uint8_t>(cache.base) + block * cache.block_bytes;
    uint32_t dim = value ? cache.value_dim : cache.key_dim;
    uint64_t row = uint64_t(head) * cache.block_size + at;
    uint32_t bytes = cache.kind == RF_CACHE_F16 ? 2 : cache.kind == RF_CACHE_F32 ? 4 : 1;
    uint8_t *data = base + (value ? cache.value_offset : 0) + row * dim * bytes;
    uint8_t *scales = base + (value ? cache.value_scale_offset : cache.key_scale_offset) + row * ((dim + 31) / 32) * 2;
    return {data, reinterpret_cast<uint16_t *>(scales)};
}

RF_FN float rf_cache_read(uint32_t kind, const RfSlot &slot, uint32_t c) {
    if (kind == RF_CACHE_F16) {
        return rf_f16_to_f32(reinterpret_cast<const uint16_t *>(slot.data)[c]);
    }
    if (kind == RF_CACHE_F32) {
        return reinterpret_cast<const float *>(slot.data)[c];
    }
    return float(int8_t(slot.data[c])) * rf_f16_to_f32(slot.scales[c / 32]);
}

// As f16. Keys and values beyond its range stay at its ends rather than become infinite.
RF_FN uint16_t rf_cached_half(float y) { return rf_f32_to_f16(y > 65504.0f ? 65504.0f : y < -65504.0f ? -65504.0f : y); }

// Writes a head's `dim` elements, value(c) for each; called by a whole wave.
template <class Value>
RF_FN void rf_cache_write(uint32_t kind, const RfSlot &slot, uint32_t dim, bool valid, Value value) {
    for (uint32_t c = rf_lane(); c < (dim + RF_WAVE - 1) / RF_WAVE * RF_WAVE; c += RF_WAVE) {
        bool inside = valid && c < dim;
        float y = inside ? value(c) : 0.0f;
        float most = kind == RF_CACHE_Q8 ? rf_wave_max<32>(rf_abs(y)) : 0.0f;
        if (!inside) {
            continue;
        }
        if (kind == RF_CACHE_F16) {
            reinterpret_cast<uint16_t *>(slot.data)[c] = rf_cached_half(y);
        } else if (kind == RF_CACHE_F32) {
            reinterpret_cast<float *>(slot.data)[c] = y;
        } else {
            // The scale as it will be read, so that the codes fit it.
            uint16_t d = rf_f32_to_f16(most / 127.0f);
            float scale = rf_f16_to_f32(d);
            float q = rf_rint(scale > 0.0f ? y / scale : 0.0f);
            q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
            slot.data[c] = uint8_t(int8_t(q == q ? rf_float_to_int(q) : 0));
            if (c % 32 == 0) {
                slot.scales[c / 32] = d;
            }
        }
    }
}
