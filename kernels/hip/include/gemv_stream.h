// The stream of weights that a wave multiplies with one vector. Part of gemv_one.h.
#pragma once

#include "gemv_bites.h"

// On CUDA and in waves of 32 on the processor the first weights are loaded before what the launch in front of this one makes is
// waited for. amdgcn's launches follow each other, and its compiler orders loads itself.
#if defined(__AMDGCN__) || (defined(RF_TARGET_SIMT) && RF_WAVE == 64)
#define RF_GEMV_STARTS_EARLY 0
#else
#define RF_GEMV_STARTS_EARLY 1
#endif
constexpr bool RF_GEMV_EARLY = RF_GEMV_STARTS_EARLY;

// Codes of a vector that a block holds; longer ones are read from where they are.
constexpr uint32_t RF_GEMV_HELD = 16384;

template <uint32_t most>
struct RfHeldVector {
    rf_u32x4 codes[most / 16];
    rf_u32x4 scales[most / 64];
};

// A vector in global memory.
struct RfFarVector {
    const uint8_t *x;
    const RfScale *scales;

    RF_METHOD rf_u32x4 codes16(uint32_t at) const { return *reinterpret_cast<const rf_u32x4 *>(x + at); }
    RF_METHOD rf_u32x2 scale(uint32_t at) const { return *reinterpret_cast<const rf_u32x2 *>(scales + at / 32); }
};

// A vector in shared memory. Lanes read 16 bytes that lie 16, 32 or 64 apart, or in pairs 128 apart: groups of 8 chunks are mixed
// so that eight neighbouring lanes take different banks in each case.
template <class Held>
struct RfNearVector {
    const Held &held;

    RF_MEMBER uint32_t place(uint32_t chunk) { return chunk ^ ((chunk >> 3 ^ chunk >> 2) & 7); }
    RF_METHOD rf_u32x4 codes16(uint32_t at) const { return held.codes[place(at / 16)]; }
    RF_METHOD rf_u32x2 scale(uint32_t at) const { return reinterpret_cast<const rf_u32x2 *>(held.scales)[at / 32]; }

    // Fills it from global memory; a barrier must follow.
    template <uint32_t threads>
    RF_MEMBER void fill(Held &held, const RfFarVector &from, uint32_t columns) {
        for (uint32_t i = rf_thread(); i < columns / 16; i += threads) {
            held.codes[place(i)] = from.codes16(16 * i);
        }
        for (uint32_t i = rf_thread(); i < columns / 32; i += threads) {
            reinterpret_cast<rf_u32x2 *>(held.scales)[i] = from.scale(32 * i);
        }
    }
};

// Products of rows of the matrix with one row of x, `rows` of them a pass: row_of(pass, i) in the matrix. ready() is called once, when
// what earlier launches made may be read and the first weights are on their way; done(pass, sums) with this lane's part of each.
template <uint32_t format, uint32_t rows, uint32_t in_flight>
struct RfGemvStream {
    typedef RfBite<format> Bite;
    typedef typename Bite::Raw Step[in_flight][rows];

    const RfGemvArgs &args;
    uint32_t bites, passes;
    // Where the next load is.
    uint32_t pass, bite;
    RfPlanes planes[rows];

    template <class RowOf>
    RF_METHOD void enter(uint32_t to, const RowOf &row_of) {
        pass = to;
        bite = 0;
#pragma unroll
        for (uint32_t i = 0; i < rows; i++) {
            planes[i] = rf_row_planes<format>(args.weight, row_of(to, i), args.columns / Bite::block);
        }
    }

    RF_METHOD void load(Step &raw) const {
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            // Past the end the last bite is taken again, times zeros: a branch would hold back the next loads.
            const uint32_t at = rf_min(bite + rf_lane() + j * RF_WAVE, bites - 1);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                raw[j][i] = Bite::load(planes[i], at);
            }
        }
    }

    template <class X>
    RF_METHOD void multiply(const X &x, uint32_t first, const Step &raw, float (&sum)[rows]) const {
#pragma unroll
        for (uint32_t j = 0; j < in_flight; j++) {
            const uint32_t wanted = first + rf_lane() + j * RF_WAVE, at = rf_min(wanted, bites - 1);
            const typename Bite::Codes codes = Bite::codes(x, at, wanted < bites);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                sum[i] = Bite::multiply(raw[j][i], at, codes, sum[i]);
            }
        }
    }

    // Multiplies `now`, and loads the step after it, if there is one, to `then`: before, if it is `ahead`. False at the end.
    template <bool ahead, class X, class RowOf, class Done>
    RF_METHOD bool step(const X &x, const RowOf &row_of, const Done &done, const Step &now, Step &then, float (&sum)[rows]) {
        const uint32_t here = bite, this_pass = pass;
        bite += RF_WAVE * in_flight;
        const bool last = bite >= bites, more = !last || pass + 1 < passes;
        if (last && more) {
            enter(pass + 1, row_of);
        }
        if (ahead && more) {
            load(then);
        }
        multiply(x, here, now, sum);
        if (!ahead && more) {
            load(then);
        }
        if (last) {
            done(this_pass, sum);
#pragma unroll
            for (uint32_t i = 0; i < rows; i++) {
                sum[i] = 0.0f;
            }
        }
        return more;
    }

    // All steps; the first one is loaded already.
    template <bool ahead, class X, class RowOf, class Done>
    RF_METHOD void all(const X &x, const RowOf &row_of, const Done &done, Step &first) {
        float sum[rows] = {};
        if constexpr (ahead) {
            Step second;
#pragma unroll 1
            while (step<true>(x, row_of, done, first, second, sum) && step<true>(x, row_of, done, second, first, sum)) {
            }
        } else {
#pragma unroll 1
            while (step<false>(x, row_of, done, first, first, sum)) {
            }
        }
    }

    template <class X, class RowOf, class Done>
    RF_METHOD void in_turn(const X &x, const RowOf &row_of, const Done &done) {
#pragma unroll 1
        for (uint32_t i = 0; i < passes; i++) {
            float sum[rows] = {};
            enter(i, row_of);
            for (; bite < bites; bite += RF_WAVE * in_flight) {
                Step raw;
                load(raw);
                multiply(x, bite, raw, sum);
            }
            done(i, sum);
        }
    }
};

// Products of rows with the vector; see RfGemvStream. What the waves hold of it is in `held`.
template <uint32_t format, uint32_t rows, class How, uint32_t threads, class Held, class RowOf, class Ready, class Done>
RF_FN void rf_gemv_stream(const RfGemvArgs &args, uint32_t x_row, Held &held, uint32_t passes, const RowOf &row_of,
                          const Ready &ready, const Done &done) {
    typedef RfGemvStream<format, rows, How::bites> Stream;
    const uint32_t bites = args.columns / Stream::Bite::block * Stream::Bite::bites;
    Stream stream = {args, bites, passes, 0, 0, {}};
    const RfFarVector far = {rf_global<uint8_t>(args.x) + uint64_t(x_row) * args.x_stride,
                             rf_global<RfScale>(args.scales) + uint64_t(x_row) * (args.x_stride / 32)};
    if constexpr (RF_GEMV_EARLY) {
        typename Stream::Step first;
        stream.enter(0, row_of);
        stream.load(first);
        rf_await_previous();
        if (How::held && args.columns <= RF_GEMV_HELD) {
            RfNearVector<Held>::template fill<threads>(held, far, args.columns);
            ready();
            rf_barrier();
            stream.template all<How::ahead>(RfNearVector<Held>{held}, row_of, done, first);
        } else {
            ready();
            stream.template all<How::ahead>(far, row_of, done, first);
        }
    } else {
        ready();
        stream.in_turn(far, row_of, done);
    }
}
