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
    const uint64_t row = rf_block_x();
    const RfGate from = {rf_ptr<const float>(args.gate) + row * args.gate_stride,
                         rf_ptr<const float>(args.up) + row * args.up_stride, args.kind};
    const RfRowOut to = {args.out ? rf_ptr<float>(args.out) + row * args.out_stride : nullptr,
                         args.codes ? rf_ptr<int8_t>(args.codes) + row * args.n : nullptr,
                         rf_ptr<RfScale>(args.scales) + row * (args.n / 32),
                         args.half ? rf_ptr<uint16_t>(args.half) + row * args.n : nullptr,
                         rf_ptr<float>(args.powers) + row};
    // The row is computed twice for f16 rather than held: eight kinds of activation, inlined for each held element, are more code
    // than they are worth.
    rf_store_long_row(to, args.n, from, scratch);
}
