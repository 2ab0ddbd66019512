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
    uint64_t row = rf_block_x();
    RfGate y = {rf_ptr<const float>(args.gate) + row * args.gate_stride, rf_ptr<const float>(args.up) + row * args.up_stride,
                args.kind};
    rf_store_row(y, args.n, args.out ? rf_ptr<float>(args.out) + row * args.out_stride : nullptr,
                 args.codes ? rf_ptr<int8_t>(args.codes) + row * args.n : nullptr,
                 rf_ptr<RfScale>(args.scales) + row * (args.n / 32),
                 args.half ? rf_ptr<uint16_t>(args.half) + row * args.n : nullptr, rf_ptr<float>(args.powers) + row,
                 scratch);
}
