// Norm per head, rotary embedding, and the write to the cache: a wave per token and head.
#include "device.h"
#include "cache.h"

constexpr uint32_t RF_ROPE_WAVES = 4;
constexpr uint32_t RF_ROPE_MOST = 576;

struct RfHeldHead {
    const float *x;
    RF_METHOD float operator()(uint32_t c) const { return x[c]; }
};

RF_KERNEL(rf_rope, RfRopeArgs, RF_ROPE_WAVES * RF_WAVE) {
    RF_SHARED float held[RF_ROPE_WAVES][RF_ROPE_MOST];
    const uint32_t heads = args.q_heads + args.k_heads + args.v_heads;
    uint64_t item = uint64_t(rf_block_x()) * RF_ROPE_WAVES + rf_wave();
    bool valid = item < uint64_t(args.tokens) * heads;
    uint32_t token = valid ? uint32_t(item / heads) : 0, head = valid ? uint32_t(item % heads) : 0;
    uint32_t role = head < args.q_heads ? 0 : head < args.q_heads + args.k_heads ? 1 : 2;
    head -= role == 0 ? 0 : role == 1 ? args.q_heads : args.q_heads + args.k_heads;
    uint32_t dim = role == 2 ? args.value_dim : args.key_dim;
    uint32_t stride = role == 0 ? args.q_stride : role == 1 ? args.k_stride : args.v_stride;
    const float *x = rf_ptr<const float>(role == 0 ? args.q : role == 1 ? args.k : args.v);
    x += uint64_t(token) * stride + head * dim;
    float *h = held[rf_wave()];

    float squares = 0.0f;
    for (uint32_t c = rf_lane(); c < dim; c += RF_WAVE) {
        h[c] = x[c];
        squares = rf_fma(h[c], h[c], squares);
    }
    squares = rf_wave_sum(squares);
    if (args.norm && role != 2) {
        const float *weight = rf_ptr<const float>(role == 0 ? args.q_weight : args.k_weight);
        float factor = 1.0f / rf_sqrt(squares / float(dim) + args.eps);
        for (uint32_t c = rf_lane(); c < dim; c += RF_WAVE) {
            h[c] = weight ? h[c] * factor * weight[c] : h[c] * factor;
        }
    }
    rf_wave_sync();
    if (args.rotary_dim && role != 2) {
        float position = float(rf_ptr<const uint32_t>(args.positions)[token]);
        const float *frequencies = rf_ptr<const float>(args.frequencies);
        uint32_t half = args.rotary_dim / 2;
        for (uint32_t i = rf_lane(); i < half; i += RF_WAVE) {
            float sine, cosine;
            rf_sincos(position * frequencies[i], &sine, &cosine);
            uint32_t at = args.interleaved ? 2 * i : i, to = args.interleaved ? 2 * i + 1 : i + half;
            float a = h[at], b = h[to];
            h[at] = args.magnitude * (a * cosine - b * sine);
            h[to] = args.magnitude * (b * cosine + a * sine);
        }
    }
    rf_wave_sync();
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
        uint32_t slot = rf_ptr<const uint32_t>(args.slots)[token];
        bool written = valid && slot != 0xffffffffu;
        uint32_t block = written ? slot / args.cache.block_size : 0;
        RfSlot to = rf_cache_slot(args.cache, block, written ? slot % args.cache.block_size : 0, head, role == 2);
        rf_cache_write(args.cache.kind, to, dim, written, RfHeldHead{h});
    }
}
