// Kernels for the tests of the stand-in, written against nothing but the seam between it and an image.

#include <stdint.h>

struct lane { uint32_t thread, block[3]; };
struct hooks {
    void (*barrier)(void);
    uint32_t (*shuffle)(uint32_t value, uint32_t source);
    void (*wave_sync)(void);
};

static struct hooks hooks;
static _Thread_local const struct lane *current;

void rf_simt_bind(const struct hooks *given) { hooks = *given; }
const struct lane **rf_simt_current(void) { return &current; }
uint32_t rf_simt_wave(void) { return RF_WAVE; }

// to[i] = factor * from[i]
struct scale { uint64_t from, to; float factor; uint32_t count; };
void rf_scale(const void *packed) {
    const struct scale *a = packed;
    uint32_t i = current->block[0] * 256 + current->thread;
    if (i < a->count) ((float *)a->to)[i] = a->factor * ((const float *)a->from)[i];
}

struct to { uint64_t to; uint32_t count, rounds; };

// Where each lane is, 4 words a lane.
void rf_places(const void *packed) {
    const struct to *a = packed;
    const uint32_t *b = current->block;
    uint32_t block = (b[2] * 3 + b[1]) * 2 + b[0];
    uint32_t *to = (uint32_t *)a->to + (block * a->count + current->thread) * 4;
    to[0] = current->thread;
    for (int i = 0; i < 3; i++) to[1 + i] = b[i];
}

// Turns each block's numbers round through memory of the block, `rounds` times.
void rf_turn(const void *packed) {
    static _Thread_local uint32_t shared[1024];
    const struct to *a = packed;
    uint32_t *to = (uint32_t *)a->to + current->block[0] * a->count;
    for (uint32_t i = 0; i < a->rounds; i++) {
        shared[current->thread] = to[current->thread];
        hooks.barrier();
        to[current->thread] = shared[a->count - 1 - current->thread];
        hooks.barrier();
    }
}

// The sum over the wave of each lane's number plus round, added up over the rounds.
void rf_wave_sums(const void *packed) {
    const struct to *a = packed;
    uint32_t total = 0;
    for (uint32_t i = 0; i < a->rounds; i++) {
        uint32_t sum = current->thread + i;
        for (uint32_t step = RF_WAVE / 2; step > 0; step /= 2) {
            sum += hooks.shuffle(sum, (current->thread % RF_WAVE) ^ step);
        }
        total += sum;
    }
    ((uint32_t *)a->to)[current->thread] = total;
}

// Lanes from `count` on return at once; each other lane takes the number of every lane of its wave.
void rf_returned(const void *packed) {
    const struct to *a = packed;
    if (current->thread >= a->count) return;
    uint32_t sum = 0;
    for (uint32_t source = 0; source < RF_WAVE; source++) sum += hooks.shuffle(current->thread + 1, source);
    hooks.wave_sync();
    hooks.barrier();
    ((uint32_t *)a->to)[current->thread] = sum;
}

// Lane i returns after i % rounds shuffles; the last sums are what the remaining lanes give.
void rf_dwindle(const void *packed) {
    const struct to *a = packed;
    uint32_t sum = 0;
    for (uint32_t i = 0; i <= current->thread % a->rounds; i++) {
        sum = 0;
        for (uint32_t source = 0; source < RF_WAVE; source++) sum += hooks.shuffle(1, source);
        if (i % 2 == 1) hooks.barrier();
    }
    ((uint32_t *)a->to)[current->thread] = sum;
}

// The first lane of each wave waits for the block, the others for the wave.
void rf_torn(const void *packed) {
    (void)packed;
    if (current->thread % RF_WAVE == 0) hooks.barrier();
    else hooks.shuffle(0, 0);
}
