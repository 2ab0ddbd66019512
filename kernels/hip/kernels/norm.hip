// Norms, with an addition before and quantisation after: a block per row.
#include "device.h"
#include "rows.h"

struct RfNormed {
    const float *x, *addend, *weight, *bias;
    float mean, factor, scale;

    RF_METHOD float input(uint32_t c) const { return addend ? x[c] + addend[c] : x[c]; }
    RF_METHOD float operator()(uint32_t c) const {
        float y = (input(c) - mean) * factor;
        y = weight ? y * weight[c] : y;
        return (bias ? y + bias[c] : y) * scale;
    }
};

RF_KERNEL(rf_norm, RfNormArgs, RF_ROW_THREADS) {
    RF_SHARED float scratch[RF_ROW_THREADS / 32];
    uint64_t row = rf_block_x();
    uint64_t token = row / args.heads, within = row % args.heads * args.n;
    RfNormed y;
    y.x = rf_ptr<const float>(args.x) + token * args.x_stride + within;
    y.addend = args.addend ? rf_ptr<const float>(args.addend) + token * args.addend_stride + within : nullptr;
    y.weight = rf_ptr<const float>(args.weight);
    y.bias = rf_ptr<const float>(args.bias);
    y.mean = 0.0f;
    y.factor = 1.0f;
    y.scale = args.scale;
    if (args.norm == 2) {
        float sum = 0.0f;
        for (uint32_t c = rf_thread(); c < args.n; c += RF_ROW_THREADS) {
            sum += y.input(c);
        }
        y.mean = rf_block_sum<RF_ROW_THREADS>(sum, scratch) / float(args.n);
    }
    if (args.norm != 0) {
        float squares = 0.0f;
        for (uint32_t c = rf_thread(); c < args.n; c += RF_ROW_THREADS) {
            float centred = y.input(c) - y.mean;
            squares = rf_fma(centred, centred, squares);
        }
        squares = rf_block_sum<RF_ROW_THREADS>(squares, scratch) / float(args.n);
        y.factor = 1.0f / rf_sqrt(squares + args.eps);
    }
    if (args.sum) {
        // The sum may replace x or the addend, so from here on each lane reads what it wrote.
        float *sum = rf_ptr<float>(args.sum) + row * args.n;
        for (uint32_t c = rf_thread(); c < args.n; c += RF_ROW_THREADS) {
            sum[c] = y.input(c);
        }
        y.x = sum;
        y.addend = nullptr;
    }
    rf_store_row(y, args.n, args.out ? rf_ptr<float>(args.out) + token * args.out_stride + within : nullptr,
                 args.codes ? rf_ptr<int8_t>(args.codes) + row * args.n : nullptr,
                 rf_ptr<RfScale>(args.scales) + row * (args.n / 32),
                 args.half ? rf_ptr<uint16_t>(args.half) + row * args.n : nullptr,
                 rf_ptr<float>(args.powers) + row, scratch);
}
