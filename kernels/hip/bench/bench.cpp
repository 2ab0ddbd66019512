// Checks and times the kernels on a CUDA card: `bench DIR [what..]`, DIR holding <source>.cubin.
// Sizes are those of an 8B model. Each figure is the mean of a graph of launches that rotate over more memory than the cache
// holds; the reference is computed on the host by the same unpacking, in double.
#define RF_TARGET_SIMT
#define RF_WAVE 32
#include "device.h"
#include "formats.h"

#include <cuda.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        CUresult status_ = (call);                                                                                     \
        if (status_ != CUDA_SUCCESS) {                                                                                 \
            const char *text_ = "";                                                                                    \
            cuGetErrorString(status_, &text_);                                                                         \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, text_);                                      \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static std::string folder;
static std::map<std::string, CUmodule> modules;
static CUstream stream;
static double copy_rate = 0;

static CUfunction function(const std::string &source, const std::string &name) {
    if (!modules.count(source)) {
        CHECK(cuModuleLoad(&modules[source], (folder + "/" + source + ".cubin").c_str()));
    }
    CUfunction f;
    CUresult status = cuModuleGetFunction(&f, modules[source], name.c_str());
    if (status != CUDA_SUCCESS) {
        fprintf(stderr, "no kernel %s in %s\n", name.c_str(), source.c_str());
        exit(1);
    }
    return f;
}

// Launches may overlap as they do over the shim, unless the environment says OVERLAP=0.
static bool overlaps(CUfunction f) {
    static std::map<CUfunction, bool> known;
    if (!known.count(f)) {
        CUmodule module;
        CUfunction mark;
        CHECK(cuFuncGetModule(&module, f));
        const char *wanted = getenv("OVERLAP");
        known[f] = !(wanted && wanted[0] == '0') && cuModuleGetFunction(&mark, module, "rf_launches_overlap") == CUDA_SUCCESS;
    }
    return known[f];
}

template <class Args>
static void launch(CUfunction f, uint32_t x, uint32_t y, uint32_t z, uint32_t threads, const Args &args) {
    size_t size = sizeof(Args);
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<Args *>(&args), CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                     CU_LAUNCH_PARAM_END};
    CUlaunchAttribute overlap = {};
    overlap.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    overlap.value.programmaticStreamSerializationAllowed = 1;
    CUlaunchConfig config = {x, y, z, threads, 1, 1, 0, stream, &overlap, overlaps(f) ? 1u : 0u};
    CHECK(cuLaunchKernelEx(&config, f, nullptr, extra));
}

// Microseconds per call of body(i), i = 0 .. count - 1, all in one graph.
static double time_us(int count, const std::function<void(int)> &body) {
    CUgraph graph;
    CUgraphExec exec;
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (int i = 0; i < count; i++) {
        body(i);
    }
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiate(&exec, graph, 0));
    CUevent start, end;
    CHECK(cuEventCreate(&start, 0));
    CHECK(cuEventCreate(&end, 0));
    std::vector<float> times;
    CHECK(cuGraphLaunch(exec, stream));
    for (int i = 0; i < 5; i++) {
        CHECK(cuEventRecord(start, stream));
        CHECK(cuGraphLaunch(exec, stream));
        CHECK(cuEventRecord(end, stream));
        CHECK(cuStreamSynchronize(stream));
        float ms;
        CHECK(cuEventElapsedTime(&ms, start, end));
        times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
    return times[2] * 1000.0 / count;
}

static CUdeviceptr allocate(size_t bytes) {
    CUdeviceptr p;
    CHECK(cuMemAlloc(&p, std::max<size_t>(bytes, 256)));
    CHECK(cuMemsetD8(p, 0xff, std::max<size_t>(bytes, 256)));
    return p;
}

template <class T>
static CUdeviceptr upload(const std::vector<T> &host) {
    CUdeviceptr p = allocate(host.size() * sizeof(T));
    CHECK(cuMemcpyHtoD(p, host.data(), host.size() * sizeof(T)));
    return p;
}

template <class T>
static std::vector<T> download(CUdeviceptr p, size_t count) {
    std::vector<T> host(count);
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(host.data(), p, count * sizeof(T)));
    return host;
}

static std::mt19937 random_bits(1);
static float normal() {
    static std::normal_distribution<float> d(0.0f, 1.0f);
    return d(random_bits);
}

// Fields of a block in the order of the planes; a field of scales is filled with halves of the given size.
struct Format {
    const char *name, *source;
    uint32_t id, block;
    std::vector<uint32_t> lengths;
    int halves; // index of the field that begins with f16 scales, -1: none
    int count;  // of them
};

static const std::vector<Format> FORMATS = {
    {"q4_0", "legacy", RF_Q4_0, 32, {16, 2}, 1, 1},
    {"q4_1", "legacy", RF_Q4_1, 32, {16, 4}, 1, 2},
    {"q5_0", "legacy", RF_Q5_0, 32, {16, 4, 2}, 2, 1},
    {"q5_1", "legacy", RF_Q5_1, 32, {16, 4, 4}, 2, 2},
    {"q8_0", "legacy", RF_Q8_0, 32, {32, 2}, 1, 1},
    {"iq4_nl", "legacy", RF_IQ4_NL, 32, {16, 2}, 1, 1},
    {"mxfp4", "legacy", RF_MXFP4, 32, {16, 1}, -1, 0},
    {"q2_k", "k", RF_Q2_K, 256, {64, 16, 4}, 2, 2},
    {"q3_k", "k", RF_Q3_K, 256, {64, 32, 12, 2}, 3, 1},
    {"q4_k", "k", RF_Q4_K, 256, {128, 16}, 1, 2},
    {"q5_k", "k", RF_Q5_K, 256, {128, 32, 16}, 2, 2},
    {"q6_k", "k", RF_Q6_K, 256, {128, 64, 16, 2}, 3, 1},
    {"iq4_xs", "k", RF_IQ4_XS, 256, {128, 8}, 1, 1},
    {"f16", "plain", RF_F16, 1, {2}, 0, 1},
};

struct Matrix {
    std::vector<uint8_t> host;
    RfPlanes local, device;
    size_t bytes;
};

static RfPlanes planes_at(const Format &f, uint64_t base, uint64_t blocks) {
    RfPlanes p = {};
    for (size_t i = 0; i < f.lengths.size(); i++) {
        p.plane[i] = base;
        base += blocks * f.lengths[i];
    }
    return p;
}

static Matrix matrix(const Format &f, uint64_t rows, uint64_t columns) {
    uint64_t blocks = rows * columns / f.block, bytes = 0;
    for (uint32_t length : f.lengths) {
        bytes += blocks * length;
    }
    Matrix m;
    m.bytes = bytes;
    m.host.resize(bytes);
    uint64_t state = 88172645463325252ull;
    for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memcpy(m.host.data() + i, &state, 8);
    }
    m.local = planes_at(f, uint64_t(m.host.data()), blocks);
    if (f.halves >= 0) {
        uint8_t *at = reinterpret_cast<uint8_t *>(m.local.plane[f.halves]);
        for (uint64_t b = 0; b < blocks; b++) {
            for (int i = 0; i < f.count; i++) {
                uint16_t h = rf_f32_to_f16(f.block == 1 ? normal() * 0.02f : 0.001f + float((b * 7 + i) % 13) * 0.0003f);
                memcpy(at + b * f.lengths[f.halves] + 2 * i, &h, 2);
            }
        }
    } else {
        memset(reinterpret_cast<void *>(m.local.plane[1]), 121, blocks);
    }
    return m;
}

template <uint32_t format>
static void row_of(const RfPlanes &p, uint64_t row, uint32_t columns, std::vector<float> &out) {
    typedef RfFormat<format> F;
    uint32_t blocks = columns / F::block;
    for (uint32_t u = 0; u < blocks * F::units; u++) {
        uint32_t w[F::groups][4];
        float s[F::groups], m[F::groups];
        F::unpack(F::load(p, row * blocks + u / F::units, u % F::units), u % F::units, w, s, m);
        for (uint32_t g = 0; g < F::groups; g++) {
            for (int i = 0; i < 16; i++) {
                out[u / F::units * F::block + F::offset(u % F::units, g) + i] =
                    s[g] * float(int8_t(w[g][i / 4] >> 8 * (i % 4))) + m[g];
            }
        }
    }
}

static std::vector<float> values(const Format &f, const RfPlanes &p, uint64_t row, uint32_t columns) {
    std::vector<float> out(columns);
    switch (f.id) {
#define CASE(id)                                                                                                       \
    case id: row_of<id>(p, row, columns, out); break;
        CASE(RF_Q4_0) CASE(RF_Q4_1) CASE(RF_Q5_0) CASE(RF_Q5_1) CASE(RF_Q8_0) CASE(RF_IQ4_NL) CASE(RF_MXFP4) CASE(RF_Q2_K)
        CASE(RF_Q3_K) CASE(RF_Q4_K) CASE(RF_Q5_K) CASE(RF_Q6_K) CASE(RF_IQ4_XS)
    default:
        for (uint32_t c = 0; c < columns; c++) {
            out[c] = rf_f16_to_f32(reinterpret_cast<const uint16_t *>(p.plane[0])[row * columns + c]);
        }
    }
    return out;
}

struct Activations {
    std::vector<float> x;
    CUdeviceptr f32, codes, scales, half, powers;
};

// Quantised on the device by rf_norm, so that this checks it as well.
static Activations activations(uint32_t rows, uint32_t n) {
    Activations a;
    a.x.resize(size_t(rows) * n);
    for (float &v : a.x) {
        v = normal();
    }
    a.f32 = upload(a.x);
    a.codes = allocate(size_t(rows) * n);
    a.scales = allocate(size_t(rows) * n / 32 * 8);
    a.half = allocate(size_t(rows) * n * 2);
    a.powers = allocate(rows * 4);
    RfNormArgs args = {};
    args.x = a.f32, args.codes = a.codes, args.scales = a.scales, args.half = a.half, args.powers = a.powers;
    args.rows = rows, args.n = n, args.x_stride = n, args.heads = 1, args.scale = 1.0f;
    launch(function("norm", "rf_norm"), rows, 1, 1, 512, args);
    return a;
}

// Error of y [items, rows] at sampled rows, relative to the root mean square of the expected.
static double error_of(const Format &f, const Matrix &m, const Activations &a, const std::vector<float> &y, uint32_t rows,
                       uint32_t columns, uint32_t items) {
    double wrong = 0, right = 0;
    for (uint32_t sample = 0; sample < 12; sample++) {
        uint32_t row = sample < 2 ? rows - 1 - sample : uint32_t(random_bits() % rows);
        std::vector<float> w = values(f, m.local, row, columns);
        for (uint32_t item = 0; item < items; item += std::max(1u, items / 7)) {
            double sum = 0;
            for (uint32_t c = 0; c < columns; c++) {
                sum += double(w[c]) * a.x[size_t(item) * columns + c];
            }
            double d = y[size_t(item) * rows + row] - sum;
            wrong += d * d;
            right += sum * sum;
        }
    }
    return std::sqrt(wrong / right);
}

static std::vector<CUdeviceptr> copies_of(const Matrix &m, size_t most) {
    std::vector<CUdeviceptr> copies;
    size_t count = std::max<size_t>(1, std::min<size_t>(most, (size_t(400) << 20) / m.bytes + 1));
    for (size_t i = 0; i < count; i++) {
        copies.push_back(upload(m.host));
    }
    return copies;
}

#ifndef PAIR_THREADS
#define PAIR_THREADS 256 // as RF_GEMV_THREADS
#endif

// Gate and up that end in codes, and products whose norm follows, for one item: what a decoding step is made of.
static void bench_fused(const Format &f, uint32_t rows, uint32_t columns, bool pair, bool cached = false) {
    Matrix m = matrix(f, rows, columns);
    auto copies = copies_of(m, cached ? 1 : 64);
    Activations a = activations(1, columns);
    const uint32_t results = pair ? rows / 2 : rows;
    CUfunction k = function(std::string("gemv_") + f.source, std::string("rf_gemv_") + f.name + (pair ? "_pair" : "_norm"));
    RfGemvArgs args = {};
    args.x = a.codes, args.scales = a.scales, args.out = allocate(results * 4);
    args.rows = rows, args.columns = columns, args.items = 1, args.x_stride = columns, args.out_stride = results, args.slots = 1;
    args.pair = pair ? results : 0, args.next_codes = allocate(results), args.next_scales = allocate(results / 4);
    args.squares = allocate(results / 8), args.next_norm = !pair;
    auto go = [&](int i) {
        args.weight = planes_at(f, copies[i % copies.size()], uint64_t(rows) * columns / f.block);
        launch(k, results / 32, 1, 1, pair ? PAIR_THREADS : 512, args);
    };
    double us = time_us(int(std::max<size_t>(copies.size(), 16)), go), rate = m.bytes / us / 1e3;
    printf("gemv %-7s %6u x %5u %s: %8.2f us %7.0f GB/s %5.1f %% of copy%s\n", f.name, rows, columns, pair ? "pairs" : "norm", us, rate,
           100 * rate / copy_rate, cached ? ", from the cache" : "");
    for (CUdeviceptr p : copies) {
        cuMemFree(p);
    }
}

static void bench_gemv(const Format &f, uint32_t rows, uint32_t columns, uint32_t items) {
    Matrix m = matrix(f, rows, columns);
    auto copies = copies_of(m, 64);
    Activations a = activations(items, columns);
    CUdeviceptr out = allocate(size_t(rows) * items * 4);
    uint32_t vectors = items >= 2 ? 4 : 1;
    CUfunction k = function(std::string("gemv_") + f.source, std::string("rf_gemv_") + f.name + "_" + std::to_string(vectors));
    RfGemvArgs args = {};
    args.x = f.block == 1 ? a.f32 : a.codes, args.scales = a.scales, args.out = out;
    args.rows = rows, args.columns = columns, args.items = items, args.x_stride = columns, args.out_stride = rows;
    args.slots = 1;
    auto go = [&](int i) {
        args.weight = planes_at(f, copies[i % copies.size()], uint64_t(rows) * columns / f.block);
        uint32_t blocks = (rows + 15) / 16, passes = (items + vectors - 1) / vectors;
        launch(k, vectors > 1 ? passes : blocks, vectors > 1 ? blocks : passes, 1, 256, args);
    };
    go(0);
    double error = error_of(f, m, a, download<float>(out, size_t(rows) * items), rows, columns, items);
    double us = time_us(int(std::max<size_t>(copies.size(), 16)), go);
    double rate = m.bytes / us / 1e3;
    printf("gemv %-7s %6u x %5u items %u: %8.2f us %7.0f GB/s %5.1f %% of copy  error %.1e %s\n", f.name, rows, columns,
           items, us, rate, 100 * rate / copy_rate, error, error < (f.block == 1 ? 1e-5 : 2e-2) ? "ok" : "WRONG");
    for (CUdeviceptr p : copies) {
        cuMemFree(p);
    }
    for (CUdeviceptr p : {out, a.f32, a.codes, a.scales, a.half, a.powers}) {
        cuMemFree(p);
    }
}

// With each number of items, and of parts of k where the kernel can be divided.
static void bench_gemm(const Format &f, uint32_t rows, uint32_t columns, const std::vector<uint32_t> &all_items, uint32_t forced = 0) {
    Matrix m = matrix(f, rows, columns);
    for (uint32_t items : all_items) {
        auto copies = copies_of(m, items <= 128 ? 64 : 8);
        Activations a = activations(items, columns);
        CUdeviceptr out = allocate(size_t(rows) * items * 4);
        const uint32_t tile = forced ? forced : items <= 16 ? 16 : items <= 32 ? 32 : items <= 64 ? 64 : 128;
        const uint32_t block = tile == 16 ? 64 : 128, blocks = (rows + block - 1) / block;
        CUfunction k = function(std::string("gemm_") + f.source, std::string("rf_gemm_") + f.name + "_" + std::to_string(tile));
        std::vector<uint32_t> splits = {1};
        for (uint32_t s : {2u, 3u, 4u, 6u}) {
            if (tile <= 64 && items <= 128 && blocks * s <= 1200 && columns / s >= 512) {
                splits.push_back(s);
            }
        }
        CUdeviceptr partial = allocate(size_t(blocks) * block * ((items + tile - 1) / tile * tile) * 4 * splits.back()), arrived = allocate(blocks * 16);
        CHECK(cuMemsetD8(arrived, 0, blocks * 16));
        for (uint32_t s : splits) {
            RfGemmArgs args = {};
            args.x = a.half, args.powers = a.powers, args.out = out, args.partial = partial, args.arrived = arrived;
            args.rows = rows, args.columns = columns, args.items = items, args.x_stride = columns, args.out_stride = rows;
            args.slots = 1, args.splits = s;
            auto go = [&](int i) {
                args.weight = planes_at(f, copies[i % copies.size()], uint64_t(rows) * columns / f.block);
                const uint32_t tiles = (items + tile - 1) / tile;
                launch(k, tile <= 64 ? tiles : blocks, tile <= 64 ? blocks : tiles, s, tile <= 64 ? 128 : 256, args);
            };
            CHECK(cuMemsetD8(out, 0xff, size_t(rows) * items * 4));
            go(0);
            double error = error_of(f, m, a, download<float>(out, size_t(rows) * items), rows, columns, items);
            double us = time_us(items <= 128 ? int(std::max<size_t>(copies.size(), 16)) : 8, go);
            printf("gemm %-7s %6u x %5u items %4u, splits %u (%4u blocks): %8.1f us %6.1f TFLOP/s %6.0f GB/s %5.1f %%  error %.1e %s\n",
                   f.name, rows, columns, items, s, blocks * s, us, 2.0 * rows * columns * items / us / 1e6, m.bytes / us / 1e3,
                   100 * m.bytes / us / 1e3 / copy_rate, error, error < 2e-3 ? "ok" : "WRONG");
        }
        for (CUdeviceptr p : copies) {
            cuMemFree(p);
        }
        for (CUdeviceptr p : {out, partial, arrived, a.f32, a.codes, a.scales, a.half, a.powers}) {
            cuMemFree(p);
        }
    }
}

// Outside of a graph, where the driver copies faster.
static double measure_copy(CUdeviceptr a, CUdeviceptr b, size_t bytes) {
    CUevent start, end;
    CHECK(cuEventCreate(&start, 0));
    CHECK(cuEventCreate(&end, 0));
    float best = 1e9f;
    for (int i = 0; i < 6; i++) {
        float ms;
        CHECK(cuEventRecord(start, stream));
        CHECK(cuMemcpyDtoDAsync(b, a, bytes, stream));
        CHECK(cuEventRecord(end, stream));
        CHECK(cuStreamSynchronize(stream));
        CHECK(cuEventElapsedTime(&ms, start, end));
        best = std::min(best, ms);
    }
    return 2.0 * bytes / best / 1e6;
}

#include "bench_more.h"

int main(int argc, char **argv) {
    folder = argc > 1 ? argv[1] : ".";
    auto wanted = [&](const char *what) {
        for (int i = 2; i < argc; i++) {
            if (std::string(argv[i]) == what) {
                return true;
            }
        }
        return argc <= 2;
    };
    CUdevice device;
    CUcontext context;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    char name[100];
    CHECK(cuDeviceGetName(name, 100, device));
    size_t bytes = size_t(2) << 30;
    CUdeviceptr a = allocate(bytes), b = allocate(bytes);
    copy_rate = measure_copy(a, b, bytes);
    printf("%s: copy %.0f GB/s\n", name, copy_rate);
    cuMemFree(a);
    cuMemFree(b);
    for (const Format &f : FORMATS) {
        std::string n = f.name;
        const char *only = getenv("FORMATS"); // names, to leave out the others
        if (only && !strstr(only, f.name)) {
            continue;
        }
        bool main = n == "q4_0" || n == "q4_k" || n == "q6_k" || n == "q8_0";
        if (wanted("gemv") || (wanted("gemv-main") && main)) {
            bench_gemv(f, 4096, 4096, 1);
            bench_gemv(f, 4096, 14336, 1);
            if (main) {
                bench_gemv(f, 6144, 4096, 1);
                bench_gemv(f, 28672, 4096, 1);
                bench_gemv(f, 128256, 4096, 1);
                bench_gemv(f, 28672, 4096, 4);
                bench_gemv(f, 28672, 4096, 8);
            }
        }
        if (wanted("fused") && main) {
            bench_fused(f, 28672, 4096, true);
            bench_fused(f, 4096, 4096, false);
            bench_fused(f, 4096, 14336, false);
            bench_fused(f, 4096, 4096, false, true);
            bench_gemv(f, 6144, 4096, 1);
            bench_gemv(f, 128256, 4096, 1);
        }
        if (wanted("gemm") || (wanted("gemm-main") && main)) {
            bench_gemm(f, 4096, 4096, {2048});
            if (main) {
                bench_gemm(f, 28672, 4096, {2048});
                bench_gemm(f, 4096, 14336, {2048});
            }
        }
        if (wanted("tiles") && main) {
            for (auto [rows, columns] : {std::pair{4096u, 4096u}, {28672u, 4096u}, {4096u, 14336u}}) {
                for (uint32_t tile : {64u, 128u}) {
                    bench_gemm(f, rows, columns, {128, 512, 2048}, tile);
                }
            }
        }
        if (wanted("batch") || (wanted("batch-main") && main)) {
            for (auto [rows, columns] : {std::pair{4096u, 4096u}, {6144u, 4096u}, {28672u, 4096u}, {4096u, 14336u}}) {
                bench_gemm(f, rows, columns, {4, 16, 32, 64});
            }
        }
    }
    bench_more(wanted);
    return 0;
}
