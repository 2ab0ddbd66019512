// Products of a quantised matrix with 2 to 64 vectors: batches of single tokens.
//
// Weights are the left matrix of the units, 16 rows to a tile, and vectors the right one, so that few vectors waste little. A lane
// loads units of its rows as they lie in memory, makes f16 of them in registers and multiplies: each weight is read and unpacked
// once for up to 64 vectors, and the next units are on their way meanwhile. Only the vectors go through shared memory.
// Blocks are divided by rows and, for small matrices, by k: then the last block of a tile to arrive sums their parts.
#pragma once

#include "chunks.h"
#include "gemm.h"

constexpr uint32_t RF_BATCH_WAVES = 4;

// Waves of TM x 16 rows; TN x 16 vectors; BK elements or more per step.
template <uint32_t format, uint32_t TM, uint32_t TN, uint32_t BK>
struct RfBatch {
    typedef RfFormat<format> F;
    static constexpr uint32_t threads = RF_BATCH_WAVES * RF_WAVE, most = 16 * TN, rows_each = TM * RF_OWN_ROWS;
    static constexpr uint32_t block_rows = RF_BATCH_WAVES * TM * 16;
    static constexpr uint32_t parts = RF_OWN_PARTS, chunks = 2 * F::groups;
    static constexpr uint32_t span = parts * 16 * F::groups; // elements of a row that its lanes take with a unit each
    static constexpr uint32_t spans = BK > span ? BK / span : 1;
    static constexpr uint32_t units = spans * parts; // of a row in a step
    static constexpr uint32_t wide = units * 16 * F::groups;  // elements of a step
    static constexpr uint32_t pieces = wide / 8;              // that a lane moves at once, of a vector
    static constexpr uint32_t together = threads / pieces;    // vectors that the block moves at once
    static constexpr uint32_t moves = most / together;
    static_assert(threads % pieces == 0 && most % together == 0 && 16 % together == 0, "whole vectors");

    // While one is read the next is filled, where there is room for two.
    static constexpr uint32_t buffers = spans * chunks * TN * RF_CHUNK > 8192 ? 1 : 2;

    struct Shared {
        alignas(16) uint16_t x[buffers][spans * chunks * TN * RF_CHUNK];
#if !defined(RF_MATRIX_UNIT)
        alignas(16) uint16_t room[RF_BATCH_WAVES][2 * TM * RF_CHUNK]; // two chunks of each wave's weights
#endif
        uint32_t x_rows[most];
        uint32_t last;
    };

    const RfGemmArgs &args;
    uint64_t first_row;    // in the matrix
    uint32_t n0;           // first row of the block
    const uint32_t *items; // of this block's vectors, or 0: m0 ..
    uint32_t m0, vectors;
    uint32_t total;        // units of a row

    RF_METHOD uint32_t item(uint32_t m) const { return items ? items[m0 + m] : m0 + m; }
    RF_METHOD uint32_t x_row(uint32_t m) const {
        uint32_t i = item(m);
        return args.shared ? i / args.slots : i;
    }

    // ---- weights ----

    struct Weights {
        typename F::Raw raw[spans][rows_each];
    };

    RF_METHOD uint32_t unit(uint32_t step, uint32_t s) const {
        return rf_min(step * units + s * parts + rf_own_part(), total - 1);
    }

    RF_METHOD void load(Weights &held, const uint64_t (&block)[rows_each], uint32_t step, uint32_t s) const {
        const uint32_t u = unit(step, s);
#pragma unroll
        for (uint32_t i = 0; i < rows_each; i++) {
            held.raw[s][i] = F::load(args.weight, block[i] + u / F::units, u % F::units);
        }
    }

    // ---- vectors ----

    // Neighbouring lanes take neighbouring pieces of a vector, in the order of memory: whole lines are asked for. Where a piece goes
    // follows from the format, whose unit it belongs to.
    struct Moves {
        RfMove move[moves];
        uint32_t first; // where the first one goes
        RF_METHOD uint32_t to(uint32_t i) const {
            return (first ^ rf_chunk_at(i * together % 16, 0, 0)) + i * together / 16 * RF_CHUNK;
        }
    };

    RF_METHOD void place(Moves &held) const {
        const uint32_t at = rf_thread() % pieces * 8;
        uint32_t part = 0, chunk = 0;
#pragma unroll
        for (uint32_t u = 0; u < units; u++) {
#pragma unroll
            for (uint32_t g = 0; g < F::groups; g++) {
                if (u / F::units * F::block + F::offset(u % F::units, g) == at / 16 * 16) {
                    part = u % parts;
                    chunk = u / parts * chunks + 2 * g + at / 8 % 2;
                }
            }
        }
        held.first = rf_kept(chunk * TN * RF_CHUNK + rf_chunk_at(rf_thread() / pieces, part, chunk % chunks));
    }

    RF_METHOD void begin(Moves &held, const Shared &shared, uint16_t *to, uint32_t step) const {
        const uint32_t c = step * wide + rf_thread() % pieces * 8;
        const uint16_t *x = rf_ptr<const uint16_t>(args.x) + c;
#pragma unroll
        for (uint32_t i = 0; i < moves; i++) {
            const uint32_t vector = rf_thread() / pieces + i * together;
            // Beyond the last unit the vectors are 0, and the weights are the last unit's, finite if it is.
            const uint64_t from = uint64_t(shared.x_rows[vector]) * args.x_stride;
            rf_move_begin(held.move[i], to + held.to(i), x + from, vector < vectors && c < args.columns);
        }
    }
    RF_METHOD void end(const Moves &held, uint16_t *to) const {
#pragma unroll
        for (uint32_t i = 0; i < moves; i++) {
            rf_move_end(held.move[i], to + held.to(i));
        }
        rf_moves_done();
    }

    // ---- the product ----

    // Four words of each of the lane's rows in a tile: chunk t of the unit.
    RF_METHOD void words_of(const uint32_t (&w)[rows_each][F::groups][8], uint32_t tile, uint32_t t,
                            uint32_t (&words)[RF_OWN_ROWS][4]) const {
#pragma unroll
        for (uint32_t r = 0; r < RF_OWN_ROWS; r++) {
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                words[r][i] = w[tile * RF_OWN_ROWS + r][t / 2][t % 2 * 4 + i];
            }
        }
    }

#if defined(RF_MATRIX_UNIT)
    RF_METHOD void multiply(RfAcc (&acc)[TM][TN], const uint32_t (&w)[rows_each][F::groups][8], const uint16_t *x,
                            uint16_t *) const {
#pragma unroll
        for (uint32_t t = 0; t < chunks; t++) {
            RfChunkA a[TM];
#pragma unroll
            for (uint32_t i = 0; i < TM; i++) {
                rf_in_order();
                uint32_t words[RF_OWN_ROWS][4];
                words_of(w, i, t, words);
                a[i] = rf_chunk_a(words);
            }
#pragma unroll
            for (uint32_t j = 0; j < TN; j++) {
                rf_in_order();
                const RfChunkB b = rf_chunk_b(x + (t * TN + j) * RF_CHUNK, t);
#pragma unroll
                for (uint32_t i = 0; i < TM; i++) {
                    rf_multiply(acc[i][j], a[i], b);
                    rf_pin(acc[i][j]);
                }
            }
        }
    }
#else
    RF_METHOD void multiply(RfAcc (&acc)[TM][TN], const uint32_t (&w)[rows_each][F::groups][8], const uint16_t *x,
                            uint16_t *room) const {
#pragma unroll
        for (uint32_t g = 0; g < F::groups; g++) {
            rf_wave_sync();
#pragma unroll
            for (uint32_t i = 0; i < 2 * TM; i++) {
                uint32_t words[RF_OWN_ROWS][4];
                words_of(w, i / 2, 2 * g + i % 2, words);
                rf_chunk_store(room + i * RF_CHUNK, words);
            }
            rf_wave_sync();
#pragma unroll 1
            for (uint32_t t = 0; t < 2; t++) {
#pragma unroll
                for (uint32_t j = 0; j < TN; j++) {
#pragma unroll
                    for (uint32_t i = 0; i < TM; i++) {
                        rf_in_order();
                        rf_multiply(acc[i][j], room + (2 * i + t) * RF_CHUNK, x + ((2 * g + t) * TN + j) * RF_CHUNK);
                    }
                }
            }
        }
    }
#endif

    RF_METHOD uint32_t tile_row(uint32_t tile) const { return n0 + (rf_wave() * TM + tile) * 16; }

    RF_METHOD void run(Shared &shared) const {
        const uint32_t steps = (total + units - 1) / units, each = (steps + args.splits - 1) / args.splits;
        const uint32_t first = rf_block_z() * each, end_step = rf_min(first + each, steps);
        uint64_t block[rows_each];
#pragma unroll
        for (uint32_t i = 0; i < rows_each; i++) {
            const uint32_t row = rf_min(tile_row(i / RF_OWN_ROWS) + rf_own_row(i % RF_OWN_ROWS), args.rows - 1);
            block[i] = (first_row + row) * (args.columns / F::block);
        }
        if (rf_thread() < most) {
            shared.x_rows[rf_thread()] = rf_thread() < vectors ? x_row(rf_thread()) : 0;
        }
        rf_barrier();
#if defined(RF_MATRIX_UNIT)
        uint16_t *room = nullptr;
#else
        uint16_t *room = shared.room[rf_wave()];
#endif
        RfAcc acc[TM][TN] = {};
        Weights held;
        Moves moving;
        place(moving);
        // Each block begins elsewhere: otherwise all would ask for the same vectors at the same time.
        const uint32_t count = first < end_step ? end_step - first : 0;
        uint32_t step = first + (count > 0 ? rf_block_y() * 7 % count : 0);
        if (count > 0) {
            begin(moving, shared, shared.x[0], step);
#pragma unroll
            for (uint32_t s = 0; s < spans; s++) {
                load(held, block, step, s);
            }
            end(moving, shared.x[0]);
        }
        rf_barrier();
        for (uint32_t turn = 0; turn < count; turn++) {
            const uint32_t next = step + 1 < end_step ? step + 1 : first;
            const bool more = turn + 1 < count;
            const uint16_t *now = shared.x[turn % buffers];
            uint16_t *then = shared.x[(turn + 1) % buffers];
            if (buffers == 2 && more) {
                begin(moving, shared, then, next);
            }
#pragma unroll
            for (uint32_t s = 0; s < spans; s++) {
                uint32_t w[rows_each][F::groups][8];
                const uint32_t u = unit(step, s) % F::units;
#pragma unroll
                for (uint32_t i = 0; i < rows_each; i++) {
                    rf_unit_halves<format>(held.raw[s][i], u, w[i]);
                }
                if (more) {
                    load(held, block, next, s);
                }
                multiply(acc, w, now + s * chunks * TN * RF_CHUNK, room);
            }
            if (buffers == 1) {
                rf_barrier();
                if (more) {
                    begin(moving, shared, then, next);
                }
            }
            if (more) {
                end(moving, then);
            }
            rf_barrier();
            step = next;
        }
        if (args.splits == 1 || sum_parts(acc, shared)) {
            finish(acc);
        }
    }

    // This block's part to memory, as its lanes hold it; true for the last block of the tile to arrive, with the sum of all parts.
    RF_METHOD bool sum_parts(RfAcc (&acc)[TM][TN], Shared &shared) const {
        const uint32_t tile = rf_block_x() * ((args.rows + block_rows - 1) / block_rows) + rf_block_y();
        constexpr uint32_t quads = TM * TN * RF_ACC / 4;
        const uint64_t part = uint64_t(args.items + most - 1) / most * ((args.rows + block_rows - 1) / block_rows) * quads * threads;
        rf_f32x4 *own = rf_ptr<rf_f32x4>(args.partial) + uint64_t(tile) * quads * threads + rf_thread();
#pragma unroll
        for (uint32_t q = 0; q < quads; q++) {
            const float *x = acc[q * 4 / RF_ACC / TN][q * 4 / RF_ACC % TN].x + q * 4 % RF_ACC;
            own[rf_block_z() * part + q * threads] = {x[0], x[1], x[2], x[3]};
        }
        rf_fence_device();
        rf_barrier();
        if (rf_thread() == 0) {
            uint32_t *arrived = rf_ptr<uint32_t>(args.arrived) + tile;
            shared.last = rf_atomic_add(arrived, 1) + 1 == args.splits;
            if (shared.last) {
                *arrived = 0;
            }
        }
        rf_barrier();
        if (!shared.last) {
            return false;
        }
        rf_fence_device();
        for (uint32_t z = 0; z < args.splits; z++) {
#pragma unroll
            for (uint32_t q = 0; q < quads; q++) {
                const rf_f32x4 y = own[z * part + q * threads];
                float *x = acc[q * 4 / RF_ACC / TN][q * 4 / RF_ACC % TN].x + q * 4 % RF_ACC;
                x[0] = z == 0 ? y.x : x[0] + y.x;
                x[1] = z == 0 ? y.y : x[1] + y.y;
                x[2] = z == 0 ? y.z : x[2] + y.z;
                x[3] = z == 0 ? y.w : x[3] + y.w;
            }
        }
        return true;
    }

    // The elements of this lane's tiles that are of the result.
    template <class Body>
    RF_METHOD void for_each(Body body) const {
#pragma unroll
        for (uint32_t i = 0; i < TM; i++) {
#pragma unroll
            for (uint32_t j = 0; j < TN; j++) {
                rf_in_order();
#pragma unroll
                for (uint32_t e = 0; e < RF_ACC; e++) {
                    const uint32_t row = tile_row(i) + rf_acc_row(e), m = rf_anew(16 * j + rf_acc_column(e));
                    if (row < args.rows && m < vectors) {
                        body(i, j, e, m, row);
                    }
                }
            }
        }
    }

    RF_METHOD void finish(const RfAcc (&acc)[TM][TN]) const {
        const float *bias = rf_ptr<const float>(args.bias), *residual = rf_ptr<const float>(args.residual);
        const float *powers = rf_ptr<const float>(args.powers);
        float *out = rf_ptr<float>(args.out);
        for_each([&](uint32_t i, uint32_t j, uint32_t e, uint32_t m, uint32_t row) {
            const uint64_t to = item(m);
            float y = acc[i][j].x[e] * powers[x_row(m)];
            y = bias ? y + bias[first_row + row] : y;
            y = residual ? y + residual[to * args.residual_stride + row] : y;
            out[to * args.out_stride + row] = y;
        });
    }
};

// A batch of these vectors.
template <class Batch>
RF_FN void rf_batch_of(const RfGemmArgs &args, const RfGemmItems &of, typename Batch::Shared &shared) {
    const uint32_t total = args.columns / Batch::F::block * Batch::F::units;
    Batch batch = {args, of.first_row, rf_block_y() * Batch::block_rows, of.items, of.m0, of.vectors, total};
    if (batch.vectors > 0) {
        batch.run(shared);
    }
}

template <class Batch>
RF_FN void rf_batch(const RfGemmArgs &args, typename Batch::Shared &shared) {
    // Blocks with the same rows follow each other, so that they find the weights in the cache.
    rf_batch_of<Batch>(args, rf_gemm_items(args, rf_block_x(), Batch::most), shared);
}

template <uint32_t format>
using RfBatch16 = RfBatch<format, 1, 1, 256>;
template <uint32_t format>
using RfBatch32 = RfBatch<format, 2, 2, 128>;
template <uint32_t format>
using RfBatch64 = RfBatch<format, 2, 4, 128>;

#define RF_BATCH_KERNEL(name, batch, blocks)                                                                           \
    RF_KERNEL_DENSE(name, RfGemmArgs, RF_BATCH_WAVES *RF_WAVE, blocks) {                                                \
        RF_SHARED batch::Shared shared;                                                                                \
        rf_batch<batch>(args, shared);                                                                                 \
    }
#define RF_GEMM(name, format)                                                                                          \
    RF_GEMM_MANY(name, format)                                                                                         \
    RF_BATCH_KERNEL(rf_gemm_##name##_16, RfBatch16<format>, 4)                                                         \
    RF_BATCH_KERNEL(rf_gemm_##name##_32, RfBatch32<format>, RfFormat<format>::groups > 2 ? 2 : 3)                                                         \
    RF_BATCH_KERNEL(rf_gemm_##name##_64, RfBatch64<format>, 2)
