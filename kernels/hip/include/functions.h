// Elementary functions on top of the targets' exp2, log2, sqrt and fma, the same formulas everywhere.
#pragma once

RF_FN float rf_exp(float x) {
    // 2^(x log2 e) with the product's rounding error carried along.
    const float log2e = 1.44269504f, rest = 1.92596299e-8f;
    float y = x * log2e;
    float error = rf_fma(x, log2e, -y) + x * rest;
    float whole = rf_exp2(y);
    // Outside of float's range `whole` is 0 or infinite, and the correction would make a NaN of it.
    return whole > 0.0f && whole < RF_INF ? rf_fma(whole, error * 0.693147182f, whole) : whole;
}

RF_FN float rf_log(float x) { return rf_log2(x) * 0.693147182f; }

RF_FN float rf_tanh(float x) {
    float a = rf_abs(x);
    float y;
    if (a < 0.25f) {
        // Taylor series up to x^9.
        float s = x * x;
        float p = rf_fma(s, 62.0f / 2835.0f, -17.0f / 315.0f);
        p = rf_fma(s, p, 2.0f / 15.0f);
        p = rf_fma(s, p, -1.0f / 3.0f);
        return rf_fma(x * s, p, x);
    }
    y = 1.0f - 2.0f / (rf_exp(2.0f * a) + 1.0f);
    return x < 0.0f ? -y : y;
}

RF_FN float rf_sigmoid(float x) { return 1.0f / (1.0f + rf_exp(-x)); }

// erf by Abramowitz and Stegun's 7.1.26 for large, and its Maclaurin series for small arguments.
RF_FN float rf_erf(float x) {
    float a = rf_abs(x);
    if (a < 0.9f) {
        float s = x * x, term = x, sum = x;
#pragma unroll
        for (int n = 1; n < 10; n++) {
            term *= -s / float(n);
            sum += term / float(2 * n + 1);
        }
        return sum * 1.128379167f;
    }
    float t = 1.0f / (1.0f + 0.3275911f * a);
    float p = rf_fma(t, 1.061405429f, -1.453152027f);
    p = rf_fma(t, p, 1.421413741f);
    p = rf_fma(t, p, -0.284496736f);
    p = rf_fma(t, p, 0.254829592f);
    float y = 1.0f - p * t * rf_exp(-a * a);
    return x < 0.0f ? -y : y;
}

// Sine and cosine with the error of float32 for angles up to 2^17: pi/2 is subtracted in three parts, each product exact in
// its fma, before the polynomials are taken on [-pi/4, pi/4].
RF_FN void rf_sincos(float angle, float *sine, float *cosine) {
    float n = rf_rint(angle * 0.636619747f);
    float r = rf_fma(-n, 1.57079637f, angle);
    r = rf_fma(-n, -4.37113883e-8f, r);
    r = rf_fma(-n, -1.71512489e-15f, r);
    float s = r * r;
    float p = rf_fma(s, 2.71811842e-6f, -1.98393348e-4f);
    p = rf_fma(s, p, 8.33329416e-3f);
    p = rf_fma(s, p, -1.66666666e-1f);
    float sin_r = rf_fma(r * s, p, r);
    float q = rf_fma(s, 2.44331571e-5f, -1.38873162e-3f);
    q = rf_fma(s, q, 4.16666456e-2f);
    q = rf_fma(s, q, -0.5f);
    float cos_r = rf_fma(s, q, 1.0f);
    int32_t quadrant = rf_float_to_int(n) & 3;
    float a = quadrant & 1 ? cos_r : sin_r, b = quadrant & 1 ? sin_r : cos_r;
    *sine = quadrant & 2 ? -a : a;
    *cosine = quadrant == 1 || quadrant == 2 ? -b : b;
}

// The pointwise functions of the Program, numbered as RfActivation.
enum RfActivation : uint32_t {
    RF_SILU = 0,
    RF_GELU_TANH = 1,
    RF_GELU_ERF = 2,
    RF_GELU_QUICK = 3,
    RF_RELU = 4,
    RF_RELU_SQUARED = 5,
    RF_SIGMOID = 6,
    RF_TANH = 7,
    RF_SOFTCAP = 8,   // a * tanh(x / a)
    RF_SCALE = 9,     // x * a + b
    RF_IDENTITY = 10,
};

RF_FN float rf_activation(uint32_t kind, float x, float a, float b) {
    switch (kind) {
    case RF_SILU: return x * rf_sigmoid(x);
    case RF_GELU_TANH: return 0.5f * x * (1.0f + rf_tanh(0.797884561f * (x + 0.044715f * x * x * x)));
    case RF_GELU_ERF: return 0.5f * x * (1.0f + rf_erf(x * 0.707106781f));
    case RF_GELU_QUICK: return x * rf_sigmoid(1.702f * x);
    case RF_RELU: return rf_fmax(x, 0.0f);
    case RF_RELU_SQUARED: return rf_fmax(x, 0.0f) * rf_fmax(x, 0.0f);
    case RF_SIGMOID: return rf_sigmoid(x);
    case RF_TANH: return rf_tanh(x);
    case RF_SOFTCAP: return a * rf_tanh(x / a);
    case RF_SCALE: return x * a + b;
    default: return x;
    }
}
