// Operations on single elements.
#include "device.h"
#include "args.h"

constexpr uint32_t RF_ELEMENTWISE_THREADS = 256;

RF_KERNEL(rf_binary, RfBinaryArgs, RF_ELEMENTWISE_THREADS) {
    uint64_t row = rf_block_y();
    uint32_t c = rf_block_x() * RF_ELEMENTWISE_THREADS + rf_thread();
    if (c >= args.n) {
        return;
    }
    float a = rf_ptr<const float>(args.a)[row * args.a_stride + c];
    float b = rf_ptr<const float>(args.b)[row * args.b_stride + (args.broadcast ? 0 : c)];
    rf_ptr<float>(args.out)[row * args.out_stride + c] = args.op == 0 ? a + b : args.op == 1 ? a - b : a * b;
}

RF_KERNEL(rf_unary, RfUnaryArgs, RF_ELEMENTWISE_THREADS) {
    uint64_t row = rf_block_y();
    uint32_t c = rf_block_x() * RF_ELEMENTWISE_THREADS + rf_thread();
    if (c < args.n) {
        float x = rf_ptr<const float>(args.x)[row * args.x_stride + c];
        rf_ptr<float>(args.out)[row * args.out_stride + c] = rf_activation(args.kind, x, args.a, args.b);
    }
}

RF_KERNEL(rf_copy, RfCopyArgs, RF_ELEMENTWISE_THREADS) {
    uint64_t row = rf_block_y();
    uint64_t from = args.index ? rf_ptr<const uint32_t>(args.index)[row] : row;
    uint32_t c = rf_block_x() * RF_ELEMENTWISE_THREADS + rf_thread();
    if (c < args.n) {
        rf_ptr<uint32_t>(args.out)[row * args.out_stride + c] = rf_ptr<const uint32_t>(args.x)[from * args.x_stride + c];
    }
}

RF_KERNEL(rf_position_scale, RfPositionScaleArgs, RF_ELEMENTWISE_THREADS) {
    uint64_t row = rf_block_y();
    uint32_t c = rf_block_x() * RF_ELEMENTWISE_THREADS + rf_thread();
    if (c < args.n) {
        uint32_t steps = rf_ptr<const uint32_t>(args.positions)[row] / args.interval;
        float factor = 1.0f + args.beta * rf_log(1.0f + float(steps));
        float x = rf_ptr<const float>(args.x)[row * args.x_stride + c];
        rf_ptr<float>(args.out)[row * args.out_stride + c] = x * factor;
    }
}

RF_KERNEL(rf_pool, RfPoolArgs, RF_ELEMENTWISE_THREADS) {
    uint32_t sequence = rf_block_y();
    uint32_t c = rf_block_x() * RF_ELEMENTWISE_THREADS + rf_thread();
    const uint32_t *start = rf_ptr<const uint32_t>(args.query_start) + sequence;
    uint32_t first = start[0], end = start[1];
    if (c >= args.n) {
        return;
    }
    const float *x = rf_ptr<const float>(args.x) + c;
    float y = 0.0f;
    if (first < end && args.kind == 1) {
        y = x[uint64_t(end - 1) * args.x_stride];
    } else if (first < end) {
        // Compensated, so that long prompts are as exact as short ones.
        float lost = 0.0f;
        for (uint32_t t = first; t < end; t++) {
            float term = x[uint64_t(t) * args.x_stride] - lost;
            float sum = y + term;
            lost = (sum - y) - term;
            y = sum;
        }
        y /= float(end - first);
    }
    rf_ptr<float>(args.out)[uint64_t(sequence) * args.n + c] = y;
}
