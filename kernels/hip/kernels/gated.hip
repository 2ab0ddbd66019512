// Gated activations with quantisation after: a block per row.
#include "device.h"
#include "rows.h"

struct RfGate {
    const float *gate, *up;
    uint32_t kind;

    RF_METHOD float operator()(uint32_t c) const { return rf_activation(kind, gate[c], 0.0f, 0.0f) * up[c]; }
};

RF_KERNEL(rf_gated, RfGatedArgs, RF_ROW_THREADS) {
    RF_SHARED float scratch[RF_ROW_THREADS / 32];
    const uint32_t n = args.n, groups = (n + 4 * RF_ROW_THREADS - 1) / (4 * RF_ROW_THREADS);
    const uint64_t row = rf_block_x();
    const RfGate from = {rf_ptr<const float>(args.gate) + row * args.gate_stride,
                         rf_ptr<const float>(args.up) + row * args.up_stride, args.kind};
    const RfRowOut to = {args.out ? rf_ptr<float>(args.out) + row * args.out_stride : nullptr,
                         args.codes ? rf_ptr<int8_t>(args.codes) + row * n : nullptr,
                         rf_ptr<RfScale>(args.scales) + row * (n / 32),
                         args.half ? rf_ptr<uint16_t>(args.half) + row * n : nullptr, rf_ptr<float>(args.powers) + row};
    if (groups > RF_ROW_HELD) {
        rf_store_long_row(to, n, from, scratch);
        return;
    }
    const bool whole = n % 4 == 0 && rf_is_aligned(from.gate) && rf_is_aligned(from.up);
    float y[RF_ROW_HELD][4];
#pragma unroll
    for (uint32_t j = 0; j < RF_ROW_HELD; j++) {
        uint32_t c = 4 * (j * RF_ROW_THREADS + rf_thread());
#pragma unroll
        for (int i = 0; i < 4; i++) {
            y[j][i] = 0.0f;
        }
        if (j < groups && c < n) {
            float up[4];
            rf_load4(from.gate, c, n, whole, y[j]);
            rf_load4(from.up, c, n, whole, up);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                y[j][i] = rf_activation(args.kind, y[j][i], 0.0f, 0.0f) * up[i];
            }
        }
    }
    rf_store_row(to, n, groups, y, scratch);
}
