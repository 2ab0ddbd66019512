// Norm per head, rotary embedding, and the write to the cache: a wave per token and head.
#include "device.h"
#include "rope.h"

constexpr uint32_t RF_ROPE_WAVES = 4;

RF_KERNEL(rf_rope, RfRopeArgs, RF_ROPE_WAVES * RF_WAVE) {
    RF_SHARED float held[RF_ROPE_WAVES][RF_ROPE_MOST];
    const uint32_t heads = args.q_heads + args.k_heads + args.v_heads;
    uint64_t item = uint64_t(rf_block_x()) * RF_ROPE_WAVES + rf_wave();
    bool valid = item < uint64_t(args.tokens) * heads;
    uint32_t token = valid ? uint32_t(item / heads) : 0, head = valid ? uint32_t(item % heads) : 0;
    uint32_t role = head < args.q_heads ? 0 : head < args.q_heads + args.k_heads ? 1 : 2;
    head -= role == 0 ? 0 : role == 1 ? args.q_heads : args.q_heads + args.k_heads;
    const uint32_t dim = role == 2 ? args.value_dim : args.key_dim;
    float *h = held[rf_wave()];
    rf_rope_head(args, token, head, role, h);
    float *out = nullptr;
    if (role == 0) {
        out = rf_ptr<float>(args.q_out) + uint64_t(token) * args.q_out_stride + head * dim;
    } else if (role == 1 && args.k_out) {
        out = rf_ptr<float>(args.k_out) + uint64_t(token) * args.k_out_stride + head * dim;
    }
    if (valid && out) {
        for (uint32_t c = rf_lane(); c < dim; c += RF_WAVE) {
            out[c] = h[c];
        }
    }
    if (role != 0 && args.slots) {
        rf_rope_write(args, token, head, role == 2, valid, h);
    }
}
