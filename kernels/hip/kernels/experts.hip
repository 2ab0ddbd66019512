// Mixture of experts: the choice, the order of the items, and the sum.
#include "device.h"
#include "args.h"

constexpr uint32_t RF_MOST_EXPERTS = 1024;
constexpr uint32_t RF_MOST_CHOSEN = 64;
constexpr uint32_t RF_EXPERT_THREADS = 256;

// The best (score, index) of the wave: the higher score, of equal ones the lower index.
RF_FN void rf_wave_best(float *score, uint32_t *index) {
#pragma unroll
    for (uint32_t mask = RF_WAVE / 2; mask > 0; mask /= 2) {
        float s = rf_shuffle_xor(*score, mask);
        uint32_t i = rf_shuffle_xor(*index, mask);
        bool better = i != 0xffffffffu && (*index == 0xffffffffu || s > *score || (s == *score && i < *index));
        *score = better ? s : *score;
        *index = better ? i : *index;
    }
}

// A wave per token.
RF_KERNEL(rf_router, RfRouterArgs, RF_WAVE) {
    RF_SHARED float scores[RF_MOST_EXPERTS]; // for the weights
    RF_SHARED float keys[RF_MOST_EXPERTS];   // for the choice; NaN once taken
    RF_SHARED float picked[RF_MOST_CHOSEN];
    uint32_t token = rf_block_x(), lane = rf_lane();
    const float *logits = rf_ptr<const float>(args.logits) + uint64_t(token) * args.stride;
    const float *bias = rf_ptr<const float>(args.bias);
    float most = -RF_INF, sum = 0.0f;
    for (uint32_t e = lane; e < args.experts; e += RF_WAVE) {
        most = rf_fmax(most, logits[e]);
    }
    most = rf_wave_max(most);
    for (uint32_t e = lane; e < args.experts; e += RF_WAVE) {
        float s = logits[e];
        s = args.gate == 0 ? rf_exp(s - most) : args.gate == 2 ? rf_sigmoid(s) : s;
        scores[e] = s;
        sum += s;
    }
    sum = args.gate == 0 ? rf_wave_sum(sum) : 1.0f;
    for (uint32_t e = lane; e < args.experts; e += RF_WAVE) {
        float s = args.gate == 0 ? scores[e] / sum : scores[e];
        scores[e] = s;
        float key = bias ? s + bias[e] : s;
        // A score that is no number is chosen last, so that every choice is an expert.
        keys[e] = key == key ? key : -RF_INF;
    }
    rf_wave_sync();
    uint32_t *chosen = rf_ptr<uint32_t>(args.chosen) + uint64_t(token) * args.top_k;
    for (uint32_t k = 0; k < args.top_k; k++) {
        float best = 0.0f;
        uint32_t index = 0xffffffffu;
        for (uint32_t e = lane; e < args.experts; e += RF_WAVE) {
            float key = keys[e];
            if (key == key && (index == 0xffffffffu || key > best)) {
                best = key;
                index = e;
            }
        }
        rf_wave_best(&best, &index);
        if (lane == 0) {
            keys[index] = rf_float(0x7fc00000u);
            picked[k] = scores[index];
            chosen[k] = index;
        }
        rf_wave_sync();
    }
    float highest = -RF_INF, total = 0.0f;
    for (uint32_t k = 0; k < args.top_k; k++) {
        highest = rf_fmax(highest, picked[k]);
    }
    for (uint32_t k = 0; k < args.top_k; k++) {
        total += args.gate == 1 ? rf_exp(picked[k] - highest) : picked[k];
    }
    float divisor = args.gate == 1 || args.renormalize ? total : 1.0f;
    for (uint32_t k = lane; k < args.top_k; k += RF_WAVE) {
        float w = args.gate == 1 ? rf_exp(picked[k] - highest) : picked[k];
        rf_ptr<float>(args.weights)[uint64_t(token) * args.top_k + k] = w / divisor * args.scale;
    }
}

// One block: counts, their sums, the tiles, then each item to its place.
RF_KERNEL(rf_expert_sort, RfExpertSortArgs, RF_EXPERT_THREADS) {
    RF_SHARED uint32_t counts[RF_MOST_EXPERTS];
    RF_SHARED uint32_t next[RF_MOST_EXPERTS];
    const uint32_t *experts = rf_ptr<const uint32_t>(args.experts);
    uint32_t *tiles = rf_ptr<uint32_t>(args.tiles);
    for (uint32_t e = rf_thread(); e < args.count; e += RF_EXPERT_THREADS) {
        counts[e] = 0;
    }
    rf_barrier();
    for (uint32_t i = rf_thread(); i < args.items; i += RF_EXPERT_THREADS) {
        rf_shared_atomic_add(&counts[experts[i]], 1);
    }
    rf_barrier();
    if (rf_thread() == 0) {
        uint32_t sum = 0, tile = 0;
        for (uint32_t e = 0; e < args.count; e++) {
            next[e] = sum;
            for (uint32_t done = 0; done < counts[e] && tile < args.most; done += args.tile, tile++) {
                tiles[3 * tile] = e;
                tiles[3 * tile + 1] = sum + done;
                tiles[3 * tile + 2] = rf_min(args.tile, counts[e] - done);
            }
            sum += counts[e];
        }
        for (; tile < args.most; tile++) {
            tiles[3 * tile] = tiles[3 * tile + 1] = tiles[3 * tile + 2] = 0;
        }
    }
    rf_barrier();
    uint32_t *sorted = rf_ptr<uint32_t>(args.sorted);
    for (uint32_t i = rf_thread(); i < args.items; i += RF_EXPERT_THREADS) {
        sorted[rf_shared_atomic_add(&next[experts[i]], 1)] = i;
    }
}

RF_KERNEL(rf_expert_combine, RfExpertCombineArgs, RF_EXPERT_THREADS) {
    uint64_t token = rf_block_y();
    uint32_t c = rf_block_x() * RF_EXPERT_THREADS + rf_thread();
    if (c >= args.n) {
        return;
    }
    float sum = 0.0f;
    for (uint32_t s = 0; s < args.slots; s++) {
        uint64_t item = token * args.slots + s;
        sum = rf_fma(rf_ptr<const float>(args.x)[item * args.x_stride + c], rf_ptr<const float>(args.weights)[item], sum);
    }
    if (args.residual) {
        sum += rf_ptr<const float>(args.residual)[token * args.residual_stride + c];
    }
    rf_ptr<float>(args.out)[token * args.out_stride + c] = sum;
}
