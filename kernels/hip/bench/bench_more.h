// Part of bench.cpp: what is not a matrix product.
#pragma once

struct Attention {
    uint32_t heads, kv_heads, dim, block, context, tokens; // tokens: of the one sequence, the last of its context
    uint32_t kind, splits;
    const char *kernel;
    uint32_t rows; // of a tile; 0: the general kernel
};

static void bench_attention(const Attention &a) {
    uint32_t blocks = (a.context + a.block - 1) / a.block, width = a.kind == 0 ? 2 : 4;
    uint64_t side = uint64_t(a.kv_heads) * a.block * a.dim * width, bytes = 2 * side * blocks;
    std::vector<float> values(size_t(a.kv_heads) * blocks * a.block * a.dim * 2);
    std::vector<uint8_t> host(bytes);
    auto element = [&](uint32_t position, uint32_t head, uint32_t c, bool value) {
        uint64_t b = blocks - 1 - position / a.block; // blocks lie the other way round
        return b * 2 * side + (value ? side : 0) + ((uint64_t(head) * a.block + position % a.block) * a.dim + c) * width;
    };
    for (uint64_t i = 0; i < bytes / width; i++) {
        float v = normal();
        if (width == 2) {
            uint16_t h = rf_f32_to_f16(v);
            memcpy(&host[i * 2], &h, 2);
        } else {
            memcpy(&host[i * 4], &v, 4);
        }
    }
    auto read = [&](uint64_t at) {
        if (width == 2) {
            uint16_t h;
            memcpy(&h, &host[at], 2);
            return double(rf_f16_to_f32(h));
        }
        float v;
        memcpy(&v, &host[at], 4);
        return double(v);
    };
    std::vector<float> q(size_t(a.tokens) * a.heads * a.dim);
    for (float &v : q) {
        v = normal();
    }
    std::vector<uint32_t> positions(a.tokens), sequence(a.tokens, 0), table(blocks);
    for (uint32_t t = 0; t < a.tokens; t++) {
        positions[t] = a.context - a.tokens + t;
    }
    for (uint32_t b = 0; b < blocks; b++) {
        table[b] = blocks - 1 - b;
    }
    size_t count = std::max<size_t>(1, std::min<size_t>(12, (size_t(400) << 20) / bytes));
    std::vector<CUdeviceptr> caches;
    for (size_t i = 0; i < count; i++) {
        caches.push_back(upload(host));
    }
    RfAttentionArgs args = {};
    args.q = upload(q), args.positions = upload(positions), args.sequence_of = upload(sequence);
    args.query_start = upload(std::vector<uint32_t>{0, a.tokens}), args.context_lens = upload(std::vector<uint32_t>{a.context});
    args.block_tables = upload(table), args.out = allocate(q.size() * 4);
    args.partial = allocate(size_t(a.tokens) * a.heads * a.splits * (a.dim + 2) * 4);
    args.cache.block_bytes = 2 * side, args.cache.value_offset = uint32_t(side), args.cache.kind = a.kind;
    args.cache.kv_heads = a.kv_heads, args.cache.block_size = a.block, args.cache.key_dim = args.cache.value_dim = a.dim;
    args.codes = allocate(q.size()), args.scales = allocate(q.size() / 4);
    args.arrived = a.rows ? upload(std::vector<uint32_t>((a.tokens + 1) * a.kv_heads, 0)) : 0;
    args.tokens = a.tokens, args.sequences = 1, args.heads = a.heads, args.q_stride = args.out_stride = a.heads * a.dim;
    args.max_blocks = blocks, args.splits = a.splits, args.scale = 1.0f / std::sqrt(float(a.dim));
    CUfunction f = function(a.rows ? "flash" : "attention", a.kernel), reduce = function("attention", "rf_attention_reduce");
    auto go = [&](int i) {
        args.cache.base = caches[i % caches.size()];
        if (a.rows) {
            uint32_t most = a.rows / (a.heads / a.kv_heads);
            launch(f, a.splits, a.kv_heads, (a.tokens + most - 1) / most, 128, args);
        } else {
            launch(f, a.splits, a.heads, a.tokens, 128, args);
        }
        if (a.splits > 1 && !args.arrived) {
            launch(reduce, a.heads, a.tokens, 1, 32, args);
        }
    };
    go(0);
    std::vector<float> out = download<float>(args.out, q.size());
    double wrong = 0, right = 0;
    for (uint32_t sample = 0; sample < 5; sample++) {
        uint32_t t = sample == 0 ? a.tokens - 1 : uint32_t(random_bits() % a.tokens), h = uint32_t(random_bits() % a.heads);
        std::vector<double> weights(positions[t] + 1), result(a.dim, 0.0);
        double most = -1e300, sum = 0;
        for (uint32_t p = 0; p <= positions[t]; p++) {
            double dot = 0;
            for (uint32_t c = 0; c < a.dim; c++) {
                dot += q[(size_t(t) * a.heads + h) * a.dim + c] * read(element(p, h / (a.heads / a.kv_heads), c, false));
            }
            weights[p] = dot * args.scale;
            most = std::max(most, weights[p]);
        }
        for (uint32_t p = 0; p <= positions[t]; p++) {
            double w = std::exp(weights[p] - most);
            sum += w;
            for (uint32_t c = 0; c < a.dim; c++) {
                result[c] += w * read(element(p, h / (a.heads / a.kv_heads), c, true));
            }
        }
        for (uint32_t c = 0; c < a.dim; c++) {
            double expected = result[c] / sum, d = out[(size_t(t) * a.heads + h) * a.dim + c] - expected;
            wrong += d * d;
            right += expected * expected;
        }
    }
    if (a.rows && (a.splits == 1 || args.arrived)) {
        auto codes = download<int8_t>(args.codes, q.size());
        auto scales = download<RfScale>(args.scales, q.size() / 32);
        double off = 0, all = 0;
        for (size_t i = 0; i < q.size(); i++) {
            double d = out[i] - double(codes[i]) * scales[i / 32].d;
            off += d * d, all += double(out[i]) * out[i];
        }
        if (!(std::sqrt(off / all) < 1e-2)) {
            printf("quantised attention WRONG: %.1e\n", std::sqrt(off / all));
        }
    }
    double error = std::sqrt(wrong / right), us = time_us(12, go);
    double flops = 4.0 * a.heads * a.dim * a.tokens * (a.context - a.tokens / 2.0);
    printf("attention %-18s context %6u tokens %4u splits %3u: %9.2f us %6.0f GB/s %6.1f TFLOP/s error %.1e %s\n", a.kernel,
           a.context, a.tokens, a.splits, us, bytes / us / 1e3, flops / us / 1e6, error, error < 2e-3 ? "ok" : "WRONG");
    for (CUdeviceptr p : caches) {
        cuMemFree(p);
    }
    for (uint64_t p : {args.q, args.positions, args.out, args.partial}) {
        cuMemFree(p);
    }
}

// The token that kernels/sample.hip must draw, with weights in double.
static uint32_t expected_token(const std::vector<float> &x, const RfSampleRequest &r) {
    std::vector<uint32_t> ids(x.size());
    float most = *std::max_element(x.begin(), x.end());
    for (uint32_t i = 0; i < x.size(); i++) {
        ids[i] = i;
    }
    auto better = [&](uint32_t a, uint32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
    auto weight = [&](uint32_t i) { return std::exp((double(x[i]) - most) / r.temperature); };
    if (r.temperature == 0) {
        return uint32_t(std::max_element(x.begin(), x.end()) - x.begin());
    }
    if (r.min_p > 0) {
        std::vector<uint32_t> kept;
        for (uint32_t i : ids) {
            if (x[i] >= most + r.temperature * std::log(r.min_p) || x[i] == most) {
                kept.push_back(i);
            }
        }
        ids = kept;
    }
    if (r.top_k || r.top_p < 1) {
        std::sort(ids.begin(), ids.end(), better);
    }
    if (r.top_k && r.top_k < ids.size()) {
        ids.resize(r.top_k);
    }
    double total = 0, sum = 0;
    for (uint32_t i : ids) {
        total += weight(i);
    }
    if (r.top_p < 1) {
        for (size_t n = 0; n < ids.size(); n++) {
            sum += weight(ids[n]);
            if (sum >= total * r.top_p) {
                ids.resize(n + 1);
            }
        }
        total = sum;
    }
    double left = total * (double(r.draw) / 18446744073709551616.0);
    for (uint32_t i : ids) {
        left -= weight(i);
        if (left < 0) {
            return i;
        }
    }
    return ids.back();
}

static void bench_sample(uint32_t n, uint32_t rows) {
    std::vector<std::vector<float>> x(rows, std::vector<float>(n));
    std::vector<float> flat;
    for (auto &row : x) {
        for (float &v : row) {
            v = 3.0f * normal();
        }
        flat.insert(flat.end(), row.begin(), row.end());
    }
    RfSampleArgs args = {};
    args.logits = upload(flat), args.tokens = allocate(rows * 4), args.rows = rows, args.n = n, args.stride = n;
    args.scratch = allocate(size_t(rows) * (3072 + 32768 + 8 * size_t(n)));
    struct {
        const char *name;
        float temperature, top_p, min_p;
        uint32_t top_k;
    } kinds[] = {{"greedy", 0, 1, 0, 0}, {"temperature", 1, 1, 0, 0}, {"top-k 40", 0.8f, 1, 0, 40},
                 {"top-p 0.95", 1, 0.95f, 0, 0}, {"min-p, k, p", 0.7f, 0.9f, 0.02f, 64}, {"top-p hot", 3, 0.99f, 0, 100000}};
    for (auto &kind : kinds) {
        int agree = 0, tries = 0;
        double us = 0;
        for (int turn = 0; turn < 4; turn++) {
            std::vector<RfSampleRequest> requests(rows);
            for (auto &r : requests) {
                r = {kind.temperature, kind.top_p, kind.min_p, kind.top_k, uint64_t(random_bits()) << 32 | random_bits()};
            }
            args.requests = upload(requests);
            auto go = [&](int) {
                launch(function("sample", "rf_sample_max"), 128, rows, 1, 256, args);
                launch(function("sample", "rf_sample_histogram"), 128, rows, 1, 256, args);
                launch(function("sample", "rf_sample_scatter"), 128, rows, 1, 256, args);
                launch(function("sample", "rf_sample_pick"), rows, 1, 1, 256, args);
            };
            go(0);
            auto tokens = download<uint32_t>(args.tokens, rows);
            for (uint32_t row = 0; row < rows && row < 4; row++, tries++) {
                agree += tokens[row] == expected_token(x[row], requests[row]);
            }
            if (turn == 0) {
                us = time_us(16, go);
            }
        }
        printf("sample %-12s n %u rows %2u: %8.2f us, %d of %d as expected\n", kind.name, n, rows, us, agree, tries);
    }
    cuMemFree(args.logits);
    cuMemFree(args.scratch);
}

// Gate and up with the activation quantised, and a matrix with the next norm at its end, against the same in steps.
static void check_fused() {
    const Format &f = FORMATS[0];
    uint32_t n = 4096, wide = 14336;
    Matrix up = matrix(f, 2 * wide, n), down = matrix(f, n, wide);
    CUdeviceptr up_at = upload(up.host), down_at = upload(down.host);
    Activations a = activations(1, n);
    std::vector<float> start(n, 0.5f);
    CUdeviceptr h = allocate(wide * 4), codes = allocate(wide), scales = allocate(wide / 4), squares_at = allocate(n / 8);
    CUdeviceptr stream_out = upload(start), next = allocate(n), next_scales = allocate(n / 4), weight = upload(a.x);
    RfGemvArgs g = {};
    g.weight = planes_at(f, up_at, uint64_t(2) * wide * n / 32), g.x = a.codes, g.scales = a.scales, g.out = h;
    g.rows = 2 * wide, g.columns = n, g.items = 1, g.x_stride = n, g.out_stride = wide, g.slots = 1, g.pair = wide;
    g.next_codes = codes, g.next_scales = scales;
    RfGemvArgs d = {};
    d.weight = planes_at(f, down_at, uint64_t(wide) * n / 32), d.x = codes, d.scales = scales, d.out = d.residual = stream_out;
    d.rows = n, d.columns = wide, d.items = 1, d.x_stride = wide, d.out_stride = n, d.slots = 1;
    d.next_codes = next, d.next_scales = next_scales, d.next_weight = weight, d.squares = squares_at, d.next_norm = 1;
    CUfunction k = function("gemv_legacy", "rf_gemv_q4_0_pair");
    launch(k, wide / 32, 1, 1, 256, g);
    CUfunction after = function("gemv_legacy", "rf_gemv_q4_0_norm");
    launch(after, n / 32, 1, 1, 512, d);
    std::vector<float> out = download<float>(stream_out, n), hidden = download<float>(h, wide);
    auto check_codes = [&](CUdeviceptr c, CUdeviceptr s, const std::vector<float> &expected, const char *what) {
        auto q = download<int8_t>(c, expected.size());
        auto scale = download<RfScale>(s, expected.size() / 32);
        double wrong = 0, right = 0;
        for (size_t i = 0; i < expected.size(); i++) {
            double e = expected[i], y = double(q[i]) * scale[i / 32].d;
            wrong += (e - y) * (e - y), right += e * e;
        }
        double error = std::sqrt(wrong / right);
        printf("fused %s: error %.1e %s\n", what, error, error < 1e-2 ? "ok" : "WRONG");
    };
    check_codes(codes, scales, hidden, "gate/up and quantisation");
    std::vector<float> normed(n); // without the norm's factor, which the next matrix has
    for (uint32_t i = 0; i < n; i++) {
        normed[i] = out[i] * a.x[i];
    }
    check_codes(next, next_scales, normed, "down, residual and norm");
    printf("gate/up + quantise: %.2f us\n", time_us(32, [&](int) { launch(k, wide / 32, 1, 1, 256, g); }));
    printf("down + norm: %.2f us\n", time_us(32, [&](int) { launch(after, n / 32, 1, 1, 512, d); }));
}

static void bench_small() {
    check_fused();
    Activations a = activations(1, 4096), h = activations(1, 14336);
    RfNormArgs norm = {};
    norm.x = a.f32, norm.codes = a.codes, norm.scales = a.scales, norm.rows = 1, norm.n = 4096, norm.x_stride = 4096;
    norm.heads = 1, norm.norm = 1, norm.eps = 1e-5f, norm.scale = 1.0f;
    CUfunction f = function("norm", "rf_norm");
    printf("norm + quantise 1 x 4096: %.2f us\n", time_us(64, [&](int) { launch(f, 1, 1, 1, 512, norm); }));
    norm.x = h.f32, norm.codes = h.codes, norm.scales = h.scales, norm.n = 14336, norm.norm = 0;
    printf("quantise 1 x 14336: %.2f us\n", time_us(64, [&](int) { launch(f, 1, 1, 1, 512, norm); }));
    RfRopeArgs rope = {};
    rope.q = a.f32, rope.k = a.f32, rope.q_out = a.f32, rope.k_out = a.f32;
    rope.positions = upload(std::vector<uint32_t>{5}), rope.frequencies = upload(std::vector<float>(64, 0.5f));
    rope.tokens = 1, rope.q_heads = 32, rope.k_heads = 8, rope.key_dim = rope.rotary_dim = 128, rope.magnitude = 1;
    CUfunction g = function("rope", "rf_rope");
    printf("rope 40 heads: %.2f us\n", time_us(64, [&](int) { launch(g, 10, 1, 1, 128, rope); }));
    printf("nothing: %.2f us\n", time_us(64, [&](int) {
        RfRopeArgs none = rope;
        none.q_heads = 0, none.k_heads = 1, none.k_out = 0;
        launch(g, 1, 1, 1, 128, none);
    }));
}

template <class Wanted>
static void bench_more(const Wanted &wanted) {
    if (wanted("small")) {
        bench_small();
    }
    if (wanted("attention")) {
        for (uint32_t splits : {8u, 16u, 32u, 64u}) {
            bench_attention({32, 8, 128, 32, 8192, 1, 0, splits, "rf_flash_128_few", 16});
        }
        bench_attention({32, 8, 128, 32, 512, 1, 0, 8, "rf_flash_128_few", 16});
        bench_attention({32, 8, 128, 32, 512, 1, 0, 1, "rf_flash_128_few", 16});
        bench_attention({32, 8, 64, 32, 8192, 1, 0, 32, "rf_flash_64_few", 16});
        bench_attention({16, 8, 256, 32, 8192, 1, 0, 32, "rf_flash_256_few", 16});
        bench_attention({32, 8, 128, 32, 8192, 1, 0, 16, "rf_attention", 0});
        bench_attention({32, 8, 128, 32, 2048, 2048, 0, 1, "rf_flash_128_many", 64});
        bench_attention({32, 8, 128, 32, 8192, 2048, 0, 1, "rf_flash_128_many", 64});
        bench_attention({32, 8, 64, 32, 2048, 2048, 0, 1, "rf_flash_64_many", 64});
        bench_attention({16, 8, 256, 32, 2048, 2048, 0, 1, "rf_flash_256_many", 32});
        bench_attention({32, 8, 128, 32, 300, 77, 1, 1, "rf_attention", 0});
        bench_attention({28, 4, 128, 32, 300, 77, 0, 1, "rf_flash_128_many", 64});
    }
    if (wanted("sample")) {
        bench_sample(151936, 1);
        bench_sample(151936, 16);
    }
}
