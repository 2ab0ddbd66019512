// Sampling on the device: greedy, min-p, top-k, top-p and temperature, as host/engine defines them and in that order.
//
// Weights exp((x - max) / temperature) are integers in units of 2^-40, so that sums do not depend on their order and the result
// is the same on every run; tokens whose weight is 0 in that unit are never drawn. Four launches of the same arguments:
//
//   rf_sample_max       the maximum of each part of a row; clears the histogram
//   rf_sample_histogram counts and weights of (max - x) / temperature in 2048 bins; sums of weights by part
//   rf_sample_scatter   the tokens ordered by bin
//   rf_sample_pick      walks the bins, and the tokens of at most three of them by rank (logit down, id up), to the token
//
// Without top-k and top-p the draw goes through the tokens in the order of their ids, with them in the order of rank.
#include "device.h"
#include "args.h"

constexpr uint32_t RF_SAMPLE_THREADS = 256;
constexpr uint32_t RF_SAMPLE_PARTS = 128;
constexpr uint32_t RF_SAMPLE_BINS = 2048;
constexpr uint32_t RF_SAMPLE_RANKED = 1024; // the most tokens of a bin that are ranked by comparing all with all
constexpr uint32_t RF_SAMPLE_FAILED = 0xffffffffu;
constexpr float RF_SAMPLE_REACH = 28.0f;    // exp(-28) is less than 2^-40

struct RfSamplePart {
    float most;
    uint32_t index;
    uint32_t bad;
    uint32_t reserved;
};

struct RfCandidate {
    float x;
    uint32_t id;
};

// A row's scratch.
struct RfSampleScratch {
    RfSamplePart part[RF_SAMPLE_PARTS];
    uint64_t part_weight[RF_SAMPLE_PARTS];
    uint64_t weight[RF_SAMPLE_BINS];
    uint32_t count[RF_SAMPLE_BINS];
    uint32_t cursor[RF_SAMPLE_BINS];
};

struct RfSampleRow {
    const float *x;
    RfSampleScratch *scratch;
    RfCandidate *candidates; // [n]
    RfSampleRequest request;
    uint32_t n, first, end;  // and this block's part
    float most, least, inverse;

    RF_METHOD bool ranked() const { return request.top_k != 0 || request.top_p < 1.0f; }
    RF_METHOD float depth(float value) const { return (most - value) * inverse; }
    RF_METHOD bool kept(float value) const { return (value >= least || value == most) && depth(value) < RF_SAMPLE_REACH; }
    RF_METHOD uint32_t bin(float value) const {
        return rf_min(uint32_t(depth(value) * (RF_SAMPLE_BINS / RF_SAMPLE_REACH)), RF_SAMPLE_BINS - 1);
    }
    RF_METHOD uint64_t weight(float value) const {
        return kept(value) ? uint64_t(rf_exp(-depth(value)) * 1099511627776.0f) : 0;
    }
};

RF_FN RfSampleRow rf_sample_row(const RfSampleArgs &args, uint32_t row, uint32_t part) {
    RfSampleRow r;
    r.x = rf_ptr<const float>(args.logits) + uint64_t(row) * args.stride;
    uint64_t bytes = sizeof(RfSampleScratch) + uint64_t(args.n) * sizeof(RfCandidate);
    uint8_t *scratch = rf_ptr<uint8_t>(args.scratch) + row * bytes;
    r.scratch = reinterpret_cast<RfSampleScratch *>(scratch);
    r.candidates = reinterpret_cast<RfCandidate *>(scratch + sizeof(RfSampleScratch));
    r.request = rf_ptr<const RfSampleRequest>(args.requests)[row];
    r.n = args.n;
    uint32_t per = (args.n + RF_SAMPLE_PARTS - 1) / RF_SAMPLE_PARTS;
    r.first = rf_min(part * per, args.n);
    r.end = rf_min(r.first + per, args.n);
    return r;
}

// The maximum from the parts, by each wave for itself; returns whether the row can be drawn from at all.
RF_FN bool rf_sample_limits(RfSampleRow &r, uint32_t *index) {
    uint32_t bad = 0, first = 0xffffffffu;
    float most = -RF_INF;
#pragma unroll
    for (uint32_t p = 0; p < RF_SAMPLE_PARTS; p += RF_WAVE) {
        RfSamplePart part = r.scratch->part[p + rf_lane()];
        bad |= part.bad;
        // Parts come in the order of ids, so of equal maxima the first seen is the one with the smallest id.
        if (part.most > most) {
            most = part.most;
            first = part.index;
        }
    }
#pragma unroll
    for (uint32_t mask = RF_WAVE / 2; mask > 0; mask /= 2) {
        float m = rf_shuffle_xor(most, mask);
        uint32_t i = rf_shuffle_xor(first, mask);
        bad |= rf_shuffle_xor(bad, mask);
        bool better = m > most || (m == most && i < first);
        most = better ? m : most;
        first = better ? i : first;
    }
    r.most = most;
    *index = first;
    float t = r.request.temperature;
    r.inverse = t > 0.0f ? 1.0f / t : 0.0f;
    r.least = r.request.min_p > 0.0f ? most + t * rf_log(r.request.min_p) : -RF_INF;
    return bad == 0 && most > -RF_INF && most < RF_INF;
}

RF_KERNEL(rf_sample_max, RfSampleArgs, RF_SAMPLE_THREADS) {
    RF_SHARED float most_of[RF_SAMPLE_THREADS];
    RF_SHARED uint32_t index_of[RF_SAMPLE_THREADS];
    RF_SHARED uint32_t bad_of[RF_SAMPLE_THREADS];
    RfSampleRow r = rf_sample_row(args, rf_block_y(), rf_block_x());
    float most = -RF_INF;
    uint32_t index = 0xffffffffu, bad = 0;
    for (uint32_t i = r.first + rf_thread(); i < r.end; i += RF_SAMPLE_THREADS) {
        float x = r.x[i];
        bad |= x != x || x == RF_INF;
        if (x > most) {
            most = x;
            index = i;
        }
    }
    most_of[rf_thread()] = most;
    index_of[rf_thread()] = index;
    bad_of[rf_thread()] = bad;
    for (uint32_t half = RF_SAMPLE_THREADS / 2; half > 0; half /= 2) {
        rf_barrier();
        if (rf_thread() < half) {
            uint32_t o = rf_thread() + half, i = rf_thread();
            bad_of[i] |= bad_of[o];
            if (most_of[o] > most_of[i] || (most_of[o] == most_of[i] && index_of[o] < index_of[i])) {
                most_of[i] = most_of[o];
                index_of[i] = index_of[o];
            }
        }
    }
    if (rf_thread() == 0) {
        r.scratch->part[rf_block_x()] = {most_of[0], index_of[0], bad_of[0], 0};
    }
    constexpr uint32_t bins = RF_SAMPLE_BINS / RF_SAMPLE_PARTS;
    for (uint32_t b = rf_block_x() * bins + rf_thread(); b < (rf_block_x() + 1) * bins; b += RF_SAMPLE_THREADS) {
        r.scratch->weight[b] = 0;
        r.scratch->count[b] = 0;
        r.scratch->cursor[b] = 0;
    }
}

RF_KERNEL(rf_sample_histogram, RfSampleArgs, RF_SAMPLE_THREADS) {
    RF_SHARED uint64_t weights[RF_SAMPLE_BINS];
    RF_SHARED uint32_t counts[RF_SAMPLE_BINS];
    RF_SHARED uint64_t total;
    RfSampleRow r = rf_sample_row(args, rf_block_y(), rf_block_x());
    uint32_t index;
    if (!rf_sample_limits(r, &index) || r.request.temperature == 0.0f) {
        return;
    }
    for (uint32_t b = rf_thread(); b < RF_SAMPLE_BINS; b += RF_SAMPLE_THREADS) {
        weights[b] = 0;
        counts[b] = 0;
    }
    if (rf_thread() == 0) {
        total = 0;
    }
    rf_barrier();
    uint64_t sum = 0;
    bool ranked = r.ranked();
    for (uint32_t i = r.first + rf_thread(); i < r.end; i += RF_SAMPLE_THREADS) {
        float x = r.x[i];
        if (r.kept(x)) {
            uint64_t w = r.weight(x);
            sum += w;
            if (ranked) {
                rf_shared_atomic_add(&weights[r.bin(x)], w);
                rf_shared_atomic_add(&counts[r.bin(x)], 1);
            }
        }
    }
    rf_shared_atomic_add(&total, sum);
    rf_barrier();
    if (rf_thread() == 0) {
        r.scratch->part_weight[rf_block_x()] = total;
    }
    for (uint32_t b = rf_thread(); b < RF_SAMPLE_BINS; b += RF_SAMPLE_THREADS) {
        if (counts[b]) {
            rf_atomic_add(&r.scratch->weight[b], weights[b]);
            rf_atomic_add(&r.scratch->count[b], counts[b]);
        }
    }
}

// Sums up to and including each thread's value.
RF_FN uint64_t rf_sample_scan(uint64_t *sums, uint64_t value) {
    sums[rf_thread()] = value;
    rf_barrier();
    for (uint32_t distance = 1; distance < RF_SAMPLE_THREADS; distance *= 2) {
        uint64_t other = rf_thread() >= distance ? sums[rf_thread() - distance] : 0;
        rf_barrier();
        sums[rf_thread()] += other;
        rf_barrier();
    }
    return sums[rf_thread()];
}

constexpr uint32_t RF_SAMPLE_PER = RF_SAMPLE_BINS / RF_SAMPLE_THREADS;

RF_KERNEL(rf_sample_scatter, RfSampleArgs, RF_SAMPLE_THREADS) {
    RF_SHARED uint64_t sums[RF_SAMPLE_THREADS];
    RF_SHARED uint32_t starts[RF_SAMPLE_BINS];
    RfSampleRow r = rf_sample_row(args, rf_block_y(), rf_block_x());
    uint32_t index;
    if (!rf_sample_limits(r, &index) || r.request.temperature == 0.0f || !r.ranked()) {
        return;
    }
    uint32_t own = 0;
    for (uint32_t i = 0; i < RF_SAMPLE_PER; i++) {
        own += r.scratch->count[rf_thread() * RF_SAMPLE_PER + i];
    }
    uint32_t at = uint32_t(rf_sample_scan(sums, own)) - own;
    for (uint32_t i = 0; i < RF_SAMPLE_PER; i++) {
        starts[rf_thread() * RF_SAMPLE_PER + i] = at;
        at += r.scratch->count[rf_thread() * RF_SAMPLE_PER + i];
    }
    rf_barrier();
    for (uint32_t i = r.first + rf_thread(); i < r.end; i += RF_SAMPLE_THREADS) {
        float x = r.x[i];
        if (r.kept(x)) {
            uint32_t bin = r.bin(x);
            r.candidates[starts[bin] + rf_atomic_add(&r.scratch->cursor[bin], 1)] = {x, i};
        }
    }
}

struct RfSampleShared {
    uint64_t sums[RF_SAMPLE_THREADS];
    uint64_t key[RF_SAMPLE_RANKED], weight[RF_SAMPLE_RANKED];
    uint64_t digit_weight[256];
    uint32_t digit_count[256];
    // Results of a search.
    uint32_t found, before, id;
    uint64_t weight_before, own;
};

// The place that a search looks for, over tokens in the order of rank: the first whose number, counted from 0, is `count`,
// or at which the sum of weights up to and including its own exceeds `weight`.
struct RfSampleGoal {
    bool by_count;
    uint32_t count;
    uint64_t weight;
};

// Smaller keys rank higher: larger logits, then smaller ids.
RF_FN uint64_t rf_sample_key(const RfCandidate &c) {
    uint32_t bits = rf_bits(c.x + 0.0f);
    uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(~rising) << 32 | c.id;
}

// Searches one bin, whose tokens are preceded by `before` tokens of weight `weight_before`, for the goal; it is there.
// Afterwards every lane reads from `shared` the token, the weight before it, and its own.
RF_FN void rf_sample_search(const RfSampleRow &r, RfSampleShared &shared, uint32_t start, uint32_t count, RfSampleGoal goal,
                            uint32_t before, uint64_t weight_before) {
    const RfCandidate *c = r.candidates + start;
    if (count <= RF_SAMPLE_RANKED) {
        for (uint32_t i = rf_thread(); i < count; i += RF_SAMPLE_THREADS) {
            shared.key[i] = rf_sample_key(c[i]);
            shared.weight[i] = r.weight(c[i].x);
        }
        rf_barrier();
        for (uint32_t i = rf_thread(); i < count; i += RF_SAMPLE_THREADS) {
            uint64_t key = shared.key[i], own = shared.weight[i], sum = weight_before;
            uint32_t rank = before;
            for (uint32_t j = 0; j < count; j++) {
                bool better = shared.key[j] < key;
                rank += better;
                sum += better ? shared.weight[j] : 0;
            }
            if (goal.by_count ? rank == goal.count : sum <= goal.weight && sum + own > goal.weight) {
                shared.before = rank;
                shared.id = uint32_t(key);
                shared.weight_before = sum;
                shared.own = own;
            }
        }
        rf_barrier();
        return;
    }
    // Eight bits of the key at a time: which of 256 digits holds the goal, among the tokens with the digits found so far.
    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (uint32_t d = rf_thread(); d < 256; d += RF_SAMPLE_THREADS) {
            shared.digit_weight[d] = 0;
            shared.digit_count[d] = 0;
        }
        rf_barrier();
        for (uint32_t i = rf_thread(); i < count; i += RF_SAMPLE_THREADS) {
            uint64_t key = rf_sample_key(c[i]);
            if (shift == 56 || key >> (shift + 8) == prefix) {
                rf_shared_atomic_add(&shared.digit_weight[key >> shift & 0xff], r.weight(c[i].x));
                rf_shared_atomic_add(&shared.digit_count[key >> shift & 0xff], 1);
            }
        }
        rf_barrier();
        if (rf_thread() == 0) {
            uint32_t d = 0;
            for (; d < 255; d++) {
                uint32_t n = before + shared.digit_count[d];
                uint64_t w = weight_before + shared.digit_weight[d];
                if (goal.by_count ? n > goal.count : w > goal.weight) {
                    break;
                }
                before = n;
                weight_before = w;
            }
            shared.found = d;
            shared.before = before;
            shared.weight_before = weight_before;
            shared.own = shared.digit_weight[d];
        }
        rf_barrier();
        before = shared.before;
        weight_before = shared.weight_before;
        prefix = prefix << 8 | shared.found;
    }
    if (rf_thread() == 0) {
        shared.id = uint32_t(prefix);
    }
    rf_barrier();
}

// Finds the bin that holds the goal, then searches it.
RF_FN void rf_sample_find(const RfSampleRow &r, RfSampleShared &shared, RfSampleGoal goal) {
    uint64_t own = 0;
    uint32_t own_count = 0, bin0 = rf_thread() * RF_SAMPLE_PER;
    for (uint32_t i = 0; i < RF_SAMPLE_PER; i++) {
        own += r.scratch->weight[bin0 + i];
        own_count += r.scratch->count[bin0 + i];
    }
    uint64_t weight = rf_sample_scan(shared.sums, own) - own;
    rf_barrier();
    uint32_t count = uint32_t(rf_sample_scan(shared.sums, own_count)) - own_count;
    rf_barrier();
    for (uint32_t i = 0; i < RF_SAMPLE_PER; i++) {
        uint32_t n = r.scratch->count[bin0 + i];
        uint64_t w = r.scratch->weight[bin0 + i];
        bool here = goal.by_count ? count <= goal.count && goal.count < count + n : weight <= goal.weight && goal.weight < weight + w;
        if (here) {
            shared.found = bin0 + i;
            shared.before = count;
            shared.weight_before = weight;
        }
        count += n;
        weight += w;
    }
    rf_barrier();
    uint32_t bin = shared.found, before = shared.before;
    uint64_t weight_before = shared.weight_before;
    rf_barrier();
    rf_sample_search(r, shared, before, r.scratch->count[bin], goal, before, weight_before);
}

// Sums of weights over the parts up to and including each, in shared.sums; returns the total.
RF_FN uint64_t rf_sample_total(const RfSampleRow &r, RfSampleShared &shared) {
    static_assert(RF_SAMPLE_PARTS <= RF_SAMPLE_THREADS, "a lane per part");
    rf_sample_scan(shared.sums, rf_thread() < RF_SAMPLE_PARTS ? r.scratch->part_weight[rf_thread()] : 0);
    uint64_t total = shared.sums[RF_SAMPLE_THREADS - 1];
    return total;
}

// The token at `goal` in the order of ids, with shared.sums as rf_sample_total left it.
RF_FN uint32_t rf_sample_by_id(RfSampleRow &r, RfSampleShared &shared, uint64_t goal) {
    if (rf_thread() < RF_SAMPLE_PARTS) {
        uint64_t before = rf_thread() ? shared.sums[rf_thread() - 1] : 0;
        if (before <= goal && goal < shared.sums[rf_thread()]) {
            shared.found = rf_thread();
            shared.weight_before = before;
        }
    }
    rf_barrier();
    uint64_t before = shared.weight_before;
    uint32_t per = (r.n + RF_SAMPLE_PARTS - 1) / RF_SAMPLE_PARTS, first = rf_min(shared.found * per, r.n);
    uint32_t end = rf_min(first + per, r.n), each = (end - first + RF_SAMPLE_THREADS - 1) / RF_SAMPLE_THREADS;
    uint32_t from = rf_min(first + rf_thread() * each, end), to = rf_min(from + each, end);
    uint64_t own = 0;
    for (uint32_t i = from; i < to; i++) {
        own += r.weight(r.x[i]);
    }
    uint64_t sum = before + rf_sample_scan(shared.sums, own) - own;
    if (sum <= goal && goal < sum + own) {
        for (uint32_t i = from; i < to; i++) {
            uint64_t w = r.weight(r.x[i]);
            if (goal < sum + w) {
                shared.id = i;
                break;
            }
            sum += w;
        }
    }
    rf_barrier();
    return shared.id;
}

RF_KERNEL(rf_sample_pick, RfSampleArgs, RF_SAMPLE_THREADS) {
    RF_SHARED RfSampleShared shared;
    uint32_t row = rf_block_x(), token;
    RfSampleRow r = rf_sample_row(args, row, 0);
    bool possible = rf_sample_limits(r, &token);
    if (!possible) {
        token = RF_SAMPLE_FAILED;
    } else if (r.request.temperature != 0.0f) {
        uint64_t total = rf_sample_total(r, shared);
        if (r.ranked()) {
            rf_barrier();
            uint32_t kept = 0;
            if (r.request.top_k != 0) {
                uint32_t own = 0;
                for (uint32_t i = 0; i < RF_SAMPLE_PER; i++) {
                    own += r.scratch->count[rf_thread() * RF_SAMPLE_PER + i];
                }
                rf_sample_scan(shared.sums, own);
                kept = uint32_t(shared.sums[RF_SAMPLE_THREADS - 1]);
                rf_barrier();
            }
            if (r.request.top_k < kept) {
                rf_sample_find(r, shared, {true, r.request.top_k, 0});
                total = shared.weight_before;
                rf_barrier();
            }
            if (r.request.top_p < 1.0f) {
                uint64_t p = uint64_t(r.request.top_p * 4294967296.0f);
                uint64_t goal = (total >> 32) * p + ((total & 0xffffffffu) * p >> 32);
                rf_sample_find(r, shared, {false, 0, goal > 0 ? goal - 1 : 0});
                total = shared.weight_before + shared.own;
                rf_barrier();
            }
            rf_sample_find(r, shared, {false, 0, rf_multiply_high(total, r.request.draw)});
            token = shared.id;
        } else {
            token = rf_sample_by_id(r, shared, rf_multiply_high(total, r.request.draw));
        }
    }
    if (rf_thread() == 0) {
        rf_ptr<uint32_t>(args.tokens)[row] = token;
    }
}
