// Rows of a table in any format: a block per token.
#include "device.h"
#include "formats.h"

constexpr uint32_t RF_EMBED_THREADS = 128;

template <uint32_t format>
RF_FN void rf_embed_row(const RfPlanes &table, uint64_t row, uint32_t columns, float scale, float *out) {
    typedef RfFormat<format> F;
    uint32_t blocks = columns / F::block;
    for (uint32_t u = rf_thread(); u < blocks * F::units; u += RF_EMBED_THREADS) {
        uint32_t w[F::groups][4];
        float s[F::groups], m[F::groups];
        F::unpack(F::load(table, row * blocks + u / F::units, u % F::units), u % F::units, w, s, m);
        for (uint32_t g = 0; g < F::groups; g++) {
            float *at = out + u / F::units * F::block + F::offset(u % F::units, g);
            for (uint32_t i = 0; i < 16; i++) {
                // The product is rounded before the minimum is added, as in the formats' definition.
                float product = s[g] * float(int8_t(w[g][i / 4] >> 8 * (i % 4)));
                at[i] = (product + m[g]) * scale;
            }
        }
    }
}

RF_KERNEL(rf_embed, RfEmbedArgs, RF_EMBED_THREADS) {
    uint32_t token = rf_block_x();
    uint32_t id = rf_ptr<const uint32_t>(args.ids)[token];
    float *out = rf_ptr<float>(args.out) + uint64_t(token) * args.columns;
    if (id >= args.rows) {
        for (uint32_t c = rf_thread(); c < args.columns; c += RF_EMBED_THREADS) {
            out[c] = 0.0f;
        }
        if (rf_thread() == 0) {
            rf_atomic_or(rf_ptr<uint32_t>(args.fault), 1);
        }
        return;
    }
    uint64_t first = uint64_t(id) * args.columns;
    switch (args.format) {
    case RF_F32:
        for (uint32_t c = rf_thread(); c < args.columns; c += RF_EMBED_THREADS) {
            out[c] = *rf_plane<float>(args.table, 0, first + c) * args.scale;
        }
        return;
    case RF_F16:
        for (uint32_t c = rf_thread(); c < args.columns; c += RF_EMBED_THREADS) {
            out[c] = rf_f16_to_f32(*rf_plane<uint16_t>(args.table, 0, first + c)) * args.scale;
        }
        return;
    case RF_BF16:
        for (uint32_t c = rf_thread(); c < args.columns; c += RF_EMBED_THREADS) {
            out[c] = rf_bf16_to_f32(*rf_plane<uint16_t>(args.table, 0, first + c)) * args.scale;
        }
        return;
#define RF_CASE(format)                                                                                                \
    case format: return rf_embed_row<format>(args.table, id, args.columns, args.scale, out);
        RF_EACH_FORMAT(RF_CASE)
    case RF_Q8_1: // the same planes as Q8_0
        return rf_embed_row<RF_Q8_0>(args.table, id, args.columns, args.scale, out);
    }
}
