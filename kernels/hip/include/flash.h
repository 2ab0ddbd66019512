// Attention through the matrix units, for prefill and decode alike. Rows of a block are pairs of a token and a query head of
// one key-value head, so that keys and values are read once for all heads that share them.
//
// Per tile of positions: scores by rows x keys, softmax carried on from tile to tile (arXiv:2205.14135), rows x values. WM groups
// of 16 rows, each by WD waves: in the first product these share the positions of the tile, in the second the values' columns.
#pragma once

#include "cache.h"
#include "matrix.h"
#include "parts.h"
#include "rope.h"

// With `rotates` the queries, and the key and value of the newest position, are made here.
template <uint32_t D, uint32_t POS, uint32_t WM, uint32_t WD, bool rotates = false>
struct RfFlash {
    static constexpr uint32_t threads = WM * WD * RF_WAVE;
    static constexpr uint32_t rows = 16 * WM;
    static constexpr bool made_here = rotates;
    static constexpr uint32_t stride = D + 8, p_stride = POS + 8;
    static constexpr uint32_t ts = POS / 16 / WD, to = D / 16 / WD; // tiles of a wave: scores, values
    static constexpr uint32_t chunks = POS * D / 8 / threads;
    // Keys and values a whole tile ahead, where there are registers for it: amdgcn, and on the processor waves of 64, go without.
#if defined(__AMDGCN__) || (defined(RF_TARGET_SIMT) && RF_WAVE == 64)
    static constexpr bool ahead = false;
    typedef RfAnglesAsked Angles;
#else
    static constexpr bool ahead = true;
    typedef RfAnglesHeld Angles;
#endif

    struct Shared {
        alignas(16) uint16_t q[rows * stride];
        alignas(16) uint16_t kv[POS * stride];
        alignas(16) uint16_t p[rows * p_stride];
        float exchange[WD][rows];
        uint32_t oldest[rows], end[rows]; // of the positions that a row sees
        uint64_t block[2][POS];           // addresses of the blocks of two tiles, 0: no such position
        uint32_t at[2][POS];              // and the rows in them
    };
    // What is made here: the newest key and value as they go to the cache.
    struct Made {
        alignas(16) uint16_t fresh[2][D];
    };
    struct Held {
        rf_u32x4 x[chunks];
    };

    const RfAttentionArgs &args;
    uint32_t kv_head, group;     // query heads of the key-value head
    uint32_t sequence, first;    // the first token of this tile
    uint32_t tokens;             // how many
    uint32_t position;           // of the first
    const uint32_t *table;

    // The block of this lane's position of a tile; beyond the end that of the last position, whose scores are hidden anyway, so
    // that loads need no condition.
    RF_METHOD uint64_t look_up(uint32_t tile, uint32_t end) const {
        const RfCache &cache = args.cache;
        uint32_t at = rf_min(tile + rf_thread() % POS, end - 1);
        return cache.base + table[at / cache.block_size] * cache.block_bytes;
    }

    // Where the tile's keys and values are.
    RF_METHOD void place(Shared &shared, uint32_t turn, uint32_t tile, uint32_t end, uint64_t block) const {
        static_assert(POS <= threads, "a lane per position");
        if (rf_thread() < POS) {
            uint32_t at = rf_min(tile + rf_thread(), end - 1) % args.cache.block_size;
            shared.block[turn][rf_thread()] = block;
            shared.at[turn][rf_thread()] = kv_head * args.cache.block_size + at;
        }
    }

    RF_METHOD void load(Held &held, const Shared &shared, uint32_t turn, bool value) const {
        const uint32_t dim = value ? args.cache.value_dim : args.cache.key_dim, offset = value ? args.cache.value_offset : 0;
#pragma unroll
        for (uint32_t i = 0; i < chunks; i++) {
            uint32_t at = i * threads + rf_thread(), row = at / (D / 8), c = at % (D / 8) * 8;
            // Columns beyond the head meet queries that are 0, or are not stored.
            uint64_t from = shared.block[turn][row] + offset + 2 * (shared.at[turn][row] * dim + (c < dim ? c : 0));
            held.x[i] = *rf_global<rf_u32x4>(from);
        }
    }

    // A tile's keys or values to shared memory; those of row `newest` were made here.
    RF_METHOD void store(const Held &held, Shared &shared, uint32_t newest, const uint16_t *fresh) const {
#pragma unroll
        for (uint32_t i = 0; i < chunks; i++) {
            const uint32_t at = i * threads + rf_thread(), row = at / (D / 8), c = at % (D / 8) * 8;
            rf_u32x4 x = held.x[i];
            if (rotates && row == newest) {
                x = *reinterpret_cast<const rf_u32x4 *>(fresh + c);
            }
            *reinterpret_cast<rf_u32x4 *>(shared.kv + row * stride + c) = x;
        }
    }

    // Of a row: the token within this tile, of which there is one where queries are made here, and the head within the group.
    RF_METHOD uint32_t token_of(uint32_t row) const { return rotates ? 0 : row / group; }
    RF_METHOD uint32_t head_of(uint32_t row) const { return rotates ? row : row % group; }
    RF_METHOD bool valid(uint32_t row) const { return rotates ? row < group : row / group < tokens; }

    // Tiles of the part of the context that each block takes.
    RF_METHOD uint32_t share_of(uint32_t tiles) const { return args.splits == 1 ? tiles : (tiles + args.splits - 1) / args.splits; }

    // The queries of this key-value head to shared memory; by the part that has the newest position, its key and value to the cache.
    RF_METHOD void rotate(const RfRopeArgs &rope, const Angles &angles, Shared &shared, Made &made, uint32_t split) const {
        const uint32_t oldest = args.window && position + 1 > args.window ? position + 1 - args.window : 0;
        const uint32_t tiles = (position + 1 - oldest + POS - 1) / POS, per = share_of(tiles);
        const bool newest = per * split < tiles && tiles <= per * (split + 1);
        const uint32_t items = group + (newest ? 2 : 0);
        // Each wave's head, where keys will be.
        static_assert(WM * WD * D * 4 <= sizeof(shared.kv) || !rotates, "in the place of keys and values");
        float *h = reinterpret_cast<float *>(shared.kv) + rf_wave() * D;
        float x[D / RF_WAVE] = {}, next[D / RF_WAVE] = {};
        const auto role_of = [&](uint32_t i) { return i < group ? 0 : i - group + 1; };
        const auto read = [&](uint32_t i, float (&to)[D / RF_WAVE]) {
            rf_rope_load<D>(rope, first, i < group ? kv_head * group + i : kv_head, role_of(i), to);
        };
        if (rf_wave() < items) {
            read(rf_wave(), x);
        }
        for (uint32_t i = rf_wave(); i < items; i += threads / RF_WAVE) {
            if (i + threads / RF_WAVE < items) {
                read(i + threads / RF_WAVE, next);
            }
            const uint32_t role = role_of(i);
            rf_rope_held<D>(rope, role, angles, x, h);
            if (role == 0) {
                for (uint32_t c = 2 * rf_lane(); c < D; c += 2 * RF_WAVE) {
                    const bool inside = c < args.cache.key_dim;
                    float a = inside ? h[c] * args.scale : 0.0f, b = inside ? h[c + 1] * args.scale : 0.0f;
                    *reinterpret_cast<uint32_t *>(shared.q + i * stride + c) = rf_pack_halves(a, b);
                }
            } else {
                rf_rope_write(rope, first, kv_head, role == 2, true, h);
                for (uint32_t c = rf_lane(); c < D; c += RF_WAVE) {
                    made.fresh[role - 1][c] = rf_cached_half(h[c]);
                }
            }
            rf_wave_sync();
#pragma unroll
            for (uint32_t j = 0; j < D / RF_WAVE; j++) {
                x[j] = next[j];
            }
        }
        rf_barrier();
    }

    // Queries to shared memory, and what each row sees.
    RF_METHOD void prepare(Shared &shared) const {
        const uint32_t dim = args.cache.key_dim;
        const float *q = rf_ptr<const float>(args.q);
        // Those that are made here are there already.
        for (uint32_t at = rf_thread() + (rotates ? group * (D / 2) : 0); at < rows * D / 2; at += threads) {
            uint32_t row = at / (D / 2), c = at % (D / 2) * 2;
            float a = 0.0f, b = 0.0f;
            if (valid(row) && c < dim) {
                const float *from = q + uint64_t(first + token_of(row)) * args.q_stride + (kv_head * group + head_of(row)) * dim + c;
                a = from[0] * args.scale;
                b = from[1] * args.scale;
            }
            *reinterpret_cast<uint32_t *>(shared.q + row * stride + c) = rf_pack_halves(a, b);
        }
        for (uint32_t row = rf_thread(); row < rows; row += threads) {
            uint32_t next = valid(row) ? position + token_of(row) + 1 : 0;
            shared.end[row] = next;
            shared.oldest[row] = args.window && next > args.window ? next - args.window : 0;
        }
    }

    // Asks for the keys and values of the tiles behind the first.
    RF_METHOD void fetch(uint32_t from, uint32_t end) const {
        const uint32_t at = from + rf_thread();
        if (at < end) {
            const RfCache &cache = args.cache;
            const uint64_t block = cache.base + table[at / cache.block_size] * cache.block_bytes;
            const uint32_t row = kv_head * cache.block_size + at % cache.block_size;
            rf_fetch(block + 2 * row * cache.key_dim, 2 * cache.key_dim);
            rf_fetch(block + cache.value_offset + 2 * row * cache.value_dim, 2 * cache.value_dim);
        }
    }

    // begin() is called when the first loads are on their way. What is made here is in `made`.
    template <class Begin>
    RF_METHOD void run(Shared &shared, uint32_t split, const Made *made, const Begin &begin) const {
        const uint32_t wave = rf_wave(), row0 = wave / WD * 16, part = wave % WD;
        const uint32_t oldest = args.window && position + 1 > args.window ? position + 1 - args.window : 0, end = position + tokens;
        const uint32_t tiles = (end - oldest + POS - 1) / POS, per = share_of(tiles);
        uint32_t tile = oldest + split * per * POS;
        const uint32_t last = rf_min(end, oldest + (split + 1) * per * POS);
        const bool any = tile < last;
        uint64_t block = any ? look_up(tile, last) : 0;
        prepare(shared);
        RfAcc out[to] = {}, most, sum = {};
#pragma unroll
        for (uint32_t e = 0; e < RF_ACC; e++) {
            most.x[e] = -RF_INF;
        }
        Held keys, values;
        if (any) {
            place(shared, 0, tile, last, block);
            block = look_up(tile + POS, last);
        }
        rf_barrier();
        if (any) {
            if (ahead) {
                load(keys, shared, 0, false);
                load(values, shared, 0, true);
            }
            if (rotates) {
                fetch(tile + POS, last);
            }
        }
        begin();
        const uint16_t *fresh[2] = {rotates ? made->fresh[0] : nullptr, rotates ? made->fresh[1] : nullptr};
        for (uint32_t turn = 1; tile < last; tile += POS, turn ^= 1) {
            if (!ahead) {
                load(keys, shared, turn ^ 1, false);
            }
            store(keys, shared, position - tile, fresh[0]);
            place(shared, turn, tile + POS, last, block);
            block = look_up(tile + 2 * POS, last);
            rf_barrier();
            if (ahead) {
                load(keys, shared, turn, false);
            } else {
                load(values, shared, turn ^ 1, true);
            }
            RfAcc score[ts] = {};
            RF_UNROLL_K
            for (uint32_t k = 0; k < D / 16; k++) {
                RfTileA a = rf_load_a(shared.q + row0 * stride + 16 * k, stride);
#pragma unroll
                for (uint32_t j = 0; j < ts; j++) {
                    rf_multiply(score[j], a, rf_load_b(shared.kv + (part * ts + j) * 16 * stride + 16 * k, stride));
                }
            }
            mask(shared, score, row0, tile + part * ts * 16);
            RfAcc highest = most;
#pragma unroll
            for (uint32_t j = 0; j < ts; j++) {
#pragma unroll
                for (uint32_t e = 0; e < RF_ACC; e++) {
                    highest.x[e] = rf_fmax(highest.x[e], score[j].x[e]);
                }
            }
            rf_acc_row_max(highest);
            share(shared, highest, row0, part, true);
            RfAcc shrink;
#pragma unroll
            for (uint32_t e = 0; e < RF_ACC; e++) {
                // A row that sees nothing yet has -inf here, and takes 0 instead: every exponential below is then that of -inf, 0.
                float base = highest.x[e] > -RF_INF ? highest.x[e] : 0.0f;
                shrink.x[e] = rf_exp_fast(most.x[e] - base);
                most.x[e] = highest.x[e];
                highest.x[e] = base;
                sum.x[e] *= shrink.x[e];
            }
#pragma unroll
            for (uint32_t j = 0; j < ts; j++) {
#pragma unroll
                for (uint32_t e = 0; e < RF_ACC; e++) {
                    float p = rf_exp_fast(score[j].x[e] - highest.x[e]);
                    sum.x[e] += p;
                    uint32_t row = row0 + rf_acc_row(e), column = (part * ts + j) * 16 + rf_acc_column(e);
                    shared.p[row * p_stride + column] = rf_f32_to_f16(p);
                }
            }
            rf_barrier();
            store(values, shared, position - tile, fresh[1]);
            rf_barrier();
            if (ahead) {
                load(values, shared, turn, true);
            }
#pragma unroll
            for (uint32_t j = 0; j < to; j++) {
#pragma unroll
                for (uint32_t e = 0; e < RF_ACC; e++) {
                    out[j].x[e] *= shrink.x[e];
                }
            }
            RF_UNROLL_K
            for (uint32_t k = 0; k < POS / 16; k++) {
                RfTileA a = rf_load_a(shared.p + row0 * p_stride + 16 * k, p_stride);
#pragma unroll
                for (uint32_t j = 0; j < to; j++) {
                    const uint16_t *v = shared.kv + 16 * k * stride + (part * to + j) * 16;
                    rf_multiply(out[j], a, rf_load_b_transposed(v, stride));
                }
            }
            rf_barrier();
        }
        rf_acc_row_sum(sum);
        share(shared, sum, row0, part, false);
        finish(shared, out, most, sum, row0, part, split);
    }

    // Caps the scores and hides the positions that a row does not see.
    RF_METHOD void mask(const Shared &shared, RfAcc (&score)[ts], uint32_t row0, uint32_t tile) const {
        if (args.softcap > 0.0f) {
            // cap * tanh(x / cap) by its exponential: what this loses for small x is far below what f16 keys lose.
            const float cap = args.softcap, rate = 2.88539008f / cap;
#pragma unroll
            for (uint32_t j = 0; j < ts; j++) {
#pragma unroll
                for (uint32_t e = 0; e < RF_ACC; e++) {
                    score[j].x[e] = cap - 2.0f * cap * rf_reciprocal_fast(1.0f + rf_exp2_fast(score[j].x[e] * rate));
                }
            }
        }
#pragma unroll
        for (uint32_t e = 0; e < RF_ACC; e++) {
            uint32_t row = row0 + rf_acc_row(e), oldest = shared.oldest[row], end = shared.end[row];
#pragma unroll
            for (uint32_t j = 0; j < ts; j++) {
                uint32_t position = tile + 16 * j + rf_acc_column(e);
                score[j].x[e] = position >= oldest && position < end ? score[j].x[e] : -RF_INF;
            }
            rf_in_order();
        }
    }

    // The largest, or the sum, over the waves that share rows.
    RF_METHOD void share(Shared &shared, RfAcc &x, uint32_t row0, uint32_t part, bool largest) const {
        if constexpr (WD == 1) {
            return;
        }
#pragma unroll
        for (uint32_t e = 0; e < RF_ACC; e++) {
            shared.exchange[part][row0 + rf_acc_row(e)] = x.x[e];
        }
        rf_barrier();
#pragma unroll
        for (uint32_t e = 0; e < RF_ACC; e++) {
            float y = shared.exchange[0][row0 + rf_acc_row(e)];
#pragma unroll
            for (uint32_t w = 1; w < WD; w++) {
                float other = shared.exchange[w][row0 + rf_acc_row(e)];
                y = largest ? rf_fmax(y, other) : y + other;
            }
            x.x[e] = y;
        }
    }

    // Where a row's result lies in shared memory until it is stored.
    RF_METHOD float *result(Shared &shared, uint32_t row) const {
        static_assert(rows * D * 4 <= sizeof(shared.kv) || !rotates, "in the place of keys and values");
        return reinterpret_cast<float *>(shared.kv) + row * D;
    }

    RF_METHOD void finish(Shared &shared, const RfAcc (&out)[to], const RfAcc &most, const RfAcc &sum, uint32_t row0, uint32_t part, uint32_t split) const {
        const RfAttentionArgs &args = rf_again(this->args);
        const uint32_t dim = args.cache.value_dim;
#pragma unroll
        for (uint32_t e = 0; e < RF_ACC; e++) {
            uint32_t row = row0 + rf_acc_row(e);
            if (!valid(row)) {
                continue;
            }
            uint32_t head = kv_head * group + head_of(row);
            uint64_t token = first + token_of(row);
            float total = sum.x[e], factor = 1.0f;
            if (args.splits == 1 && args.sinks) {
                float sink = rf_ptr<const float>(args.sinks)[head], highest = rf_fmax(most.x[e], sink);
                factor = rf_exp(most.x[e] - highest);
                total = total * factor + rf_exp(sink - highest);
            }
            float *to_row = rf_ptr<float>(args.out) + token * args.out_stride + head * dim;
            if (args.splits > 1) {
                to_row = rf_ptr<float>(args.partial) + ((token * args.heads + head) * args.splits + split) * (dim + 2);
                if (part == 0 && rf_acc_column(e) == 0) {
                    to_row[dim] = most.x[e];
                    to_row[dim + 1] = total;
                }
            } else {
                factor = total > 0.0f ? factor / total : total;
            }
#pragma unroll
            for (uint32_t j = 0; j < to; j++) {
                uint32_t c = (part * to + j) * 16 + rf_acc_column(e);
                if (rotates && args.splits == 1) {
                    result(shared, row)[c] = out[j].x[e] * factor;
                } else if (c < dim) {
                    to_row[c] = out[j].x[e] * factor;
                }
            }
        }
    }
};

#include "flash_block.h"
