// y = W x for F32, F16 and BF16 weights and float activations: one to four vectors.
#include "device.h"
#include "gemv.h"

template <uint32_t format>
RF_FN float rf_plain(const uint8_t *p) {
    if (format == RF_F32) {
        return *reinterpret_cast<const float *>(p);
    }
    uint16_t h = *reinterpret_cast<const uint16_t *>(p);
    return format == RF_F16 ? rf_f16_to_f32(h) : rf_bf16_to_f32(h);
}

// The elements of 16 bytes, or zeros.
template <uint32_t format, uint32_t count>
RF_FN void rf_plain_unit(const rf_u32x4 &q, bool inside, float (&w)[count]) {
    const uint32_t word[4] = {inside ? q.x : 0, inside ? q.y : 0, inside ? q.z : 0, inside ? q.w : 0};
#pragma unroll
    for (uint32_t i = 0; i < count; i++) {
        if (format == RF_F32) {
            w[i] = rf_float(word[i]);
        } else {
            uint16_t h = uint16_t(word[i / 2] >> 16 * (i % 2));
            w[i] = format == RF_F16 ? rf_f16_to_f32(h) : rf_bf16_to_f32(h);
        }
    }
}

template <uint32_t format, uint32_t vectors>
RF_FN void rf_gemv_plain(const RfGemvArgs &args) {
    constexpr uint32_t bytes = format == RF_F32 ? 4 : 2, count = 16 / bytes, in_flight = vectors >= 4 ? 2 : 4;
    constexpr uint32_t rows = RF_GEMV_ROWS;
    RfGemvRows<rows> r = rf_gemv_rows<rows, vectors>(args);
    const uint8_t *w[rows];
#pragma unroll
    for (uint32_t i = 0; i < rows; i++) {
        w[i] = rf_plane<uint8_t>(args.weight, 0, r.weight[i] * args.columns * bytes);
    }
    const float *x[vectors];
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
        uint64_t row = rf_gemv_x_row(args, rf_min(r.item + v, args.items - 1));
        x[v] = rf_ptr<const float>(args.x) + row * args.x_stride;
    }
    float sum[rows][vectors] = {};
    // Rows of whole units, so that every row and every x begins on a multiple of 16 bytes.
    const bool aligned = args.columns % count == 0 && args.x_stride % 4 == 0;
    const uint32_t units = aligned ? args.columns / count : 0;
    for (uint32_t start = rf_lane(); start < units; start += RF_WAVE * in_flight) {
        rf_u32x4 raw[in_flight][rows];
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            uint32_t unit = rf_min(start + j * RF_WAVE, units - 1);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                raw[j][i] = rf_stream(reinterpret_cast<const rf_u32x4 *>(w[i]) + unit);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            const bool inside = start + j * RF_WAVE < units;
            const uint32_t unit = rf_min(start + j * RF_WAVE, units - 1);
            float a[rows][count];
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                rf_plain_unit<format>(raw[j][i], inside, a[i]);
            }
#pragma unroll
            for (uint32_t v = 0; v < vectors; v++) {
#pragma unroll
                for (uint32_t c = 0; c < count; c += 4) {
                    rf_f32x4 b = *reinterpret_cast<const rf_f32x4 *>(x[v] + unit * count + c);
#pragma unroll
                    for (uint32_t i = 0; i < rows; i++) {
                        float s = sum[i][v];
                        s = rf_fma(a[i][c], b.x, s);
                        s = rf_fma(a[i][c + 1], b.y, s);
                        s = rf_fma(a[i][c + 2], b.z, s);
                        sum[i][v] = rf_fma(a[i][c + 3], b.w, s);
                    }
                }
            }
        }
    }
    for (uint32_t c = units * count + rf_lane(); c < args.columns; c += RF_WAVE) {
#pragma unroll
        for (uint32_t i = 0; i < rows; i++) {
            float a = rf_plain<format>(w[i] + c * bytes);
#pragma unroll
            for (uint32_t v = 0; v < vectors; v++) {
                sum[i][v] = rf_fma(a, x[v][c], sum[i][v]);
            }
        }
    }
    rf_gemv_finish<rows, vectors>(args, r, sum, 1.0f);
}

#define RF_GEMV_PLAIN(name, format)                                                                                    \
    RF_KERNEL(rf_gemv_##name##_1, RfGemvArgs, RF_GEMV_THREADS) { rf_gemv_plain<format, 1>(args); }                     \
    RF_KERNEL(rf_gemv_##name##_4, RfGemvArgs, RF_GEMV_THREADS) { rf_gemv_plain<format, 4>(args); }

RF_GEMV_PLAIN(f32, RF_F32)
RF_GEMV_PLAIN(f16, RF_F16)
RF_GEMV_PLAIN(bf16, RF_BF16)
