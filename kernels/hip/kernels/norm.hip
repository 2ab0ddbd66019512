// Norms, with an addition before and quantisation after: a block per row.
#include "device.h"
#include "rows.h"

// Elements of a row that is too long to be held.
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

RF_FN void rf_norm_long(const RfNormArgs &args, RfNormed y, float *sum, const RfRowOut &to, float *scratch) {
    const uint32_t n = args.n;
    if (args.norm == 2) {
        float total = 0.0f;
        for (uint32_t c = rf_thread(); c < n; c += RF_ROW_THREADS) {
            total += y.input(c);
        }
        y.mean = rf_block_sum<RF_ROW_THREADS>(total, scratch) / float(n);
    }
    if (args.norm != 0) {
        float squares = 0.0f;
        for (uint32_t c = rf_thread(); c < n; c += RF_ROW_THREADS) {
            float centred = y.input(c) - y.mean;
            squares = rf_fma(centred, centred, squares);
        }
        y.factor = 1.0f / rf_sqrt(rf_block_sum<RF_ROW_THREADS>(squares, scratch) / float(n) + args.eps);
    }
    if (sum) {
        // The sum may replace x or the addend: from here on only the sum is read.
        for (uint32_t c = rf_thread(); c < n; c += RF_ROW_THREADS) {
            sum[c] = y.input(c);
        }
        rf_fence_device();
        rf_barrier();
        y.x = sum;
        y.addend = nullptr;
    }
    rf_store_long_row(to, n, y, scratch);
}

// Rows of which a lane holds up to `held` groups of 4 elements.
template <uint32_t held>
RF_FN void rf_norm_rows(const RfNormArgs &args, float *scratch) {
    const uint32_t n = args.n;
    const uint64_t row = rf_block_x(), token = row / args.heads, within = row % args.heads * n;
    const float *x = rf_ptr<const float>(args.x) + token * args.x_stride + within;
    const float *addend = args.addend ? rf_ptr<const float>(args.addend) + token * args.addend_stride + within : nullptr;
    const float *weight = rf_ptr<const float>(args.weight), *bias = rf_ptr<const float>(args.bias);
    float *sum = args.sum ? rf_ptr<float>(args.sum) + row * n : nullptr;
    const RfRowOut to = {args.out ? rf_ptr<float>(args.out) + token * args.out_stride + within : nullptr,
                         args.codes ? rf_ptr<int8_t>(args.codes) + row * n : nullptr,
                         rf_ptr<RfScale>(args.scales) + row * (n / 32),
                         args.half ? rf_ptr<uint16_t>(args.half) + row * n : nullptr, rf_ptr<float>(args.powers) + row};
    const uint32_t groups = (n + 4 * RF_ROW_THREADS - 1) / (4 * RF_ROW_THREADS);
    if (held == RF_ROW_HELD && groups > held) {
        rf_norm_long(args, {x, addend, weight, bias, 0.0f, 1.0f, args.scale}, sum, to, scratch);
        return;
    }
    const bool whole = n % 4 == 0 && rf_is_aligned(x) && rf_is_aligned(addend) && rf_is_aligned(weight) && rf_is_aligned(bias);
    float y[held][4], w[held][4];
#pragma unroll
    for (uint32_t j = 0; j < held; j++) {
        uint32_t c = 4 * (j * RF_ROW_THREADS + rf_thread());
#pragma unroll
        for (int i = 0; i < 4; i++) {
            y[j][i] = 0.0f;
            w[j][i] = 1.0f;
        }
        if (j < groups && c < n) {
            rf_load4(x, c, n, whole, y[j]);
            if (weight) {
                rf_load4(weight, c, n, whole, w[j]);
            }
        }
    }
    if (addend) {
#pragma unroll
        for (uint32_t j = 0; j < held; j++) {
            uint32_t c = rf_anew(4 * (j * RF_ROW_THREADS + rf_thread()));
            if (j < groups && c < n) {
                float a[4];
                rf_load4(addend, c, n, whole, a);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    y[j][i] += a[i];
                }
            }
        }
    }
    if (sum) {
        const bool whole_sum = n % 4 == 0 && rf_is_aligned(sum);
#pragma unroll
        for (uint32_t j = 0; j < held; j++) {
            uint32_t c = rf_anew(4 * (j * RF_ROW_THREADS + rf_thread()));
            if (j < groups && c < n) {
                rf_store4(sum, c, n, whole_sum, y[j]);
            }
        }
    }
    float mean = 0.0f, factor = 1.0f;
    if (args.norm == 2) {
        float total = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < held; j++) {
            total += (y[j][0] + y[j][1]) + (y[j][2] + y[j][3]);
        }
        mean = rf_block_sum<RF_ROW_THREADS>(total, scratch) / float(n);
    }
    if (args.norm != 0) {
        float squares = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < held; j++) {
            uint32_t c = rf_anew(4 * (j * RF_ROW_THREADS + rf_thread()));
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                float centred = c + i < n ? y[j][i] - mean : 0.0f;
                squares = rf_fma(centred, centred, squares);
            }
        }
        factor = 1.0f / rf_sqrt(rf_block_sum<RF_ROW_THREADS>(squares, scratch) / float(n) + args.eps);
    }
#pragma unroll
    for (uint32_t j = 0; j < held; j++) {
        uint32_t c = rf_anew(4 * (j * RF_ROW_THREADS + rf_thread()));
        float b[4] = {};
        if (bias && j < groups && c < n) {
            rf_load4(bias, c, n, whole, b);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            y[j][i] = ((y[j][i] - mean) * factor * w[j][i] + b[i]) * args.scale;
        }
    }
    rf_store_row<held>(to, n, groups, y, scratch);
}

RF_KERNEL(rf_norm, RfNormArgs, RF_ROW_THREADS) {
    RF_SHARED float scratch[RF_ROW_THREADS / 32];
    rf_norm_rows<RF_ROW_HELD>(args, scratch);
}

// For rows of up to 4096.
RF_KERNEL_DENSE(rf_norm_short, RfNormArgs, RF_ROW_THREADS, 2) {
    RF_SHARED float scratch[RF_ROW_THREADS / 32];
    rf_norm_rows<RF_ROW_HELD_SHORT>(args, scratch);
}
