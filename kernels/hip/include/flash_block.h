// A block of attention through the matrix units: which tile it has, and what follows the tile. Part of flash.h.
#pragma once

// Block x: part of the context; y: key-value head; z: tile of tokens, counted over all sequences.
template <class Flash>
RF_FN void rf_flash(const RfAttentionArgs &args, typename Flash::Shared &shared, const RfRopeArgs *rope = nullptr, typename Flash::Made *made = nullptr) {
    const uint32_t *start = rf_ptr<const uint32_t>(args.query_start);
    Flash flash = {args, rf_block_y(), args.heads / args.cache.kv_heads, 0, 0, 0, 0, nullptr};
    const uint32_t most = Flash::made_here ? 1 : Flash::rows / flash.group;
    uint32_t tile = Flash::made_here ? 0 : rf_block_z(), s = Flash::made_here ? rf_block_z() : 0;
    for (; !Flash::made_here && s < args.sequences; s++) {
        uint32_t tiles = (start[s + 1] - start[s] + most - 1) / most;
        if (tile < tiles) {
            break;
        }
        tile -= tiles;
    }
    if (s >= args.sequences) {
        return;
    }
    flash.sequence = s;
    flash.first = start[s] + tile * most;
    flash.tokens = rf_min(most, start[s + 1] - flash.first);
    flash.position = rf_ptr<const uint32_t>(args.context_lens)[s] - (start[s + 1] - flash.first);
    flash.table = rf_ptr<const uint32_t>(args.block_tables) + uint64_t(s) * args.max_blocks;
    const bool absent = rf_ptr<const uint32_t>(args.context_lens)[s] == 0;
    if (absent) {
        rf_await_previous();
        const uint32_t dim = args.cache.value_dim, width = flash.group * dim;
        for (uint32_t i = rf_thread(); i < flash.tokens * width && rf_block_x() == 0; i += Flash::threads) {
            uint64_t token = flash.first + i / width;
            rf_ptr<float>(args.out)[token * args.out_stride + flash.kv_head * width + i % width] = 0.0f;
        }
        if (args.splits > 1) {
            for (uint32_t i = rf_thread(); i < flash.tokens * flash.group; i += Flash::threads) {
                uint64_t row = (flash.first + i / flash.group) * uint64_t(args.heads) + flash.kv_head * flash.group + i % flash.group;
                float *part = rf_ptr<float>(args.partial) + (row * args.splits + rf_block_x()) * (dim + 2);
                part[dim] = -RF_INF;
                part[dim + 1] = 0.0f;
            }
        }
    } else if constexpr (!Flash::made_here) {
        flash.run(shared, rf_block_x(), made, [] {});
    } else if constexpr (Flash::ahead) {
        const typename Flash::Angles angles(*rope, flash.first);
        flash.run(shared, rf_block_x(), made, [&] {
            rf_await_previous();
            flash.rotate(*rope, angles, shared, *made, rf_block_x());
        });
    } else {
        flash.rotate(*rope, typename Flash::Angles(*rope, flash.first), shared, *made, rf_block_x());
        Flash rest = {rf_again(args), flash.kv_head, flash.group, flash.sequence, flash.first, flash.tokens, flash.position, flash.table};
        rest.run(shared, rf_block_x(), made, [] {});
    }
    if (args.splits == 1 && (args.codes || args.half || Flash::made_here)) {
        // The results are in shared memory where queries are made here, and in `out` otherwise.
        const bool near = Flash::made_here && !absent;
        rf_fence_block();
        rf_barrier();
        const uint32_t dim = args.cache.value_dim;
        for (uint32_t i = rf_wave(); i < flash.tokens * flash.group; i += Flash::threads / RF_WAVE) {
            uint64_t token = flash.first + flash.token_of(i);
            uint32_t head = flash.kv_head * flash.group + flash.head_of(i);
            const float *from = rf_ptr<const float>(args.out) + token * args.out_stride + head * dim;
            for (uint32_t first = 0; first < dim; first += 4 * RF_WAVE) {
                float y[4] = {};
                uint32_t c = first + 4 * rf_lane();
                if (c < dim && near) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        y[j] = flash.result(shared, i)[c + j];
                    }
                } else if (c < dim) {
                    rf_load4(from, c, dim, false, y);
                }
                if (near) {
                    rf_store_head(args, token, head, c, y);
                } else {
                    rf_store_head_forms(args, token, head, c, y);
                }
            }
        }
    }
    if (args.splits == 1 || !args.arrived) {
        return;
    }
    // The last part of the tile to arrive reduces all of them and leaves the counter as it was.
    rf_fence_device();
    rf_barrier();
    if (rf_thread() == 0) {
        uint32_t *arrived = rf_ptr<uint32_t>(args.arrived) + uint64_t(rf_block_z()) * args.cache.kv_heads + rf_block_y();
        shared.end[0] = rf_atomic_add(arrived, 1) + 1 == args.splits;
        if (shared.end[0]) {
            *arrived = 0;
        }
    }
    rf_barrier();
    if (!shared.end[0]) {
        return;
    }
    rf_fence_device();
    for (uint32_t i = rf_wave(); i < flash.tokens * flash.group; i += Flash::threads / RF_WAVE) {
        uint64_t token = flash.first + i / flash.group;
        rf_reduce_parts(args, token, flash.kv_head * flash.group + i % flash.group, absent);
    }
}
