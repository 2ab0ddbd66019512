// y = W x with f32 activations for every format, a wave per row and item: what the faster kernels are compared with.
#include "device.h"
#include "formats.h"

constexpr uint32_t RF_LINEAR_THREADS = 256;

template <uint32_t format>
RF_FN float rf_exact_dot(const RfPlanes &weight, uint64_t row, uint32_t columns, const float *x) {
    typedef RfFormat<format> F;
    const uint32_t blocks = columns / F::block;
    float sum = 0.0f;
    for (uint32_t u = rf_lane(); u < blocks * F::units; u += RF_WAVE) {
        uint32_t w[F::groups][4];
        float s[F::groups], m[F::groups];
        F::unpack(F::load(weight, row * blocks + u / F::units, u % F::units), u % F::units, w, s, m);
#pragma unroll
        for (uint32_t g = 0; g < F::groups; g++) {
            const float *at = x + u / F::units * F::block + F::offset(u % F::units, g);
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) {
                float value = rf_fma(s[g], float(int8_t(w[g][i / 4] >> 8 * (i % 4))), m[g]);
                sum = rf_fma(value, at[i], sum);
            }
        }
    }
    return sum;
}

RF_KERNEL(rf_linear, RfLinearArgs, RF_LINEAR_THREADS) {
    uint32_t row = rf_block_x() * (RF_LINEAR_THREADS / RF_WAVE) + rf_wave();
    uint32_t item = rf_block_y(), at = rf_min(row, args.rows - 1);
    uint64_t expert = args.experts ? rf_ptr<const uint32_t>(args.experts)[item] : 0, unit = expert * args.rows + at;
    const float *x = rf_ptr<const float>(args.x) + uint64_t(args.shared ? item / args.slots : item) * args.x_stride;
    float sum = 0.0f;
    switch (args.format) {
    case RF_F32:
        for (uint32_t c = rf_lane(); c < args.columns; c += RF_WAVE) {
            sum = rf_fma(*rf_plane<float>(args.weight, 0, unit * args.columns + c), x[c], sum);
        }
        break;
    case RF_F16:
        for (uint32_t c = rf_lane(); c < args.columns; c += RF_WAVE) {
            sum = rf_fma(rf_f16_to_f32(*rf_plane<uint16_t>(args.weight, 0, unit * args.columns + c)), x[c], sum);
        }
        break;
    case RF_BF16:
        for (uint32_t c = rf_lane(); c < args.columns; c += RF_WAVE) {
            sum = rf_fma(rf_bf16_to_f32(*rf_plane<uint16_t>(args.weight, 0, unit * args.columns + c)), x[c], sum);
        }
        break;
#define RF_CASE(format)                                                                                                \
    case format: sum = rf_exact_dot<format>(args.weight, unit, args.columns, x); break;
        RF_EACH_FORMAT(RF_CASE)
    case RF_Q8_1: // the same planes as Q8_0
        sum = rf_exact_dot<RF_Q8_0>(args.weight, unit, args.columns, x);
        break;
    }
    sum = rf_wave_sum(sum);
    if (rf_lane() == 0 && row < args.rows) {
        sum = args.bias ? sum + rf_ptr<const float>(args.bias)[unit] : sum;
        if (args.residual) {
            sum += rf_ptr<const float>(args.residual)[uint64_t(item) * args.residual_stride + row];
        }
        rf_ptr<float>(args.out)[uint64_t(item) * args.out_stride + row] = sum;
    }
}
