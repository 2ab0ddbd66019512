// Gated activations with quantisation after: a block per row.
#include "device.h"
#include "rows.h"

struct RfGate {
    const float *gate, *up;
    uint32_t kind;

    RF_METHOD float operator()(uint32_t c) const { return rf_activation(kind, gate[c], 0.0f, 0.0f) * up[c]; }
};

// The usual activation of a row that the block holds, `held` groups of 4 elements to a lane.
template <uint32_t held>
RF_FN void rf_gated_held(const RfGate &from, const RfRowOut &to, uint32_t n, float *scratch) {
    float y[held][4];
#pragma unroll
    for (uint32_t j = 0; j < held; j++) {
        const uint32_t c = rf_anew(4 * (j * RF_ROW_THREADS + rf_thread()));
        rf_f32x4 gate = {0.0f, 0.0f, 0.0f, 0.0f}, up = gate;
        if (c < n) {
            gate = *reinterpret_cast<const rf_f32x4 *>(from.gate + c);
            up = *reinterpret_cast<const rf_f32x4 *>(from.up + c);
        }
        y[j][0] = rf_activation(RF_SILU, gate.x, 0.0f, 0.0f) * up.x;
        y[j][1] = rf_activation(RF_SILU, gate.y, 0.0f, 0.0f) * up.y;
        y[j][2] = rf_activation(RF_SILU, gate.z, 0.0f, 0.0f) * up.z;
        y[j][3] = rf_activation(RF_SILU, gate.w, 0.0f, 0.0f) * up.w;
    }
    rf_store_row<held>(to, n, (n + 4 * RF_ROW_THREADS - 1) / (4 * RF_ROW_THREADS), y, scratch);
}

RF_KERNEL_DENSE(rf_gated, RfGatedArgs, RF_ROW_THREADS, 2) {
    RF_SHARED float scratch[RF_ROW_THREADS / 32];
    const uint64_t row = rf_block_x();
    const RfGate from = {rf_ptr<const float>(args.gate) + row * args.gate_stride,
                         rf_ptr<const float>(args.up) + row * args.up_stride, args.kind};
    const RfRowOut to = {args.out ? rf_ptr<float>(args.out) + row * args.out_stride : nullptr,
                         args.codes ? rf_ptr<int8_t>(args.codes) + row * args.n : nullptr,
                         rf_ptr<RfScale>(args.scales) + row * (args.n / 32),
                         args.half ? rf_ptr<uint16_t>(args.half) + row * args.n : nullptr,
                         rf_ptr<float>(args.powers) + row};
    const bool whole = args.n % 4 == 0 && rf_is_aligned(from.gate) && rf_is_aligned(from.up);
    if (args.kind == RF_SILU && whole && args.n <= 4 * RF_ROW_HELD * RF_ROW_THREADS) {
        if (args.n <= 2 * RF_ROW_HELD * RF_ROW_THREADS) {
            rf_gated_held<RF_ROW_HELD / 2>(from, to, args.n, scratch);
        } else {
            rf_gated_held<RF_ROW_HELD>(from, to, args.n, scratch);
        }
        return;
    }
    // The row is computed twice for f16 rather than held: eight kinds of activation, inlined for each held element, are more code
    // than they are worth.
    rf_store_long_row(to, args.n, from, scratch);
}
