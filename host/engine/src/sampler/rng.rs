use std::hash::{BuildHasher, RandomState};

/// Random numbers by counter: the n-th number is a function of seed and n alone, so that neither batching nor
/// preemption changes what a request draws. The function is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    start: u64,
}

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Rng {
        // Mixed once more, so that seeds one apart do not give the same sequence one number apart.
        Rng { start: mix(seed ^ 0x6A09_E667_F3BC_C909) }
    }

    /// A generator of numbers that are independent of this one's.
    pub fn derived(&self) -> Rng {
        Rng { start: mix(self.start ^ 0xBB67_AE85_84CA_A73B) }
    }

    /// A seed that nobody can guess, from the operating system by way of the standard library's hash keys.
    pub fn random_seed() -> u64 {
        RandomState::new().hash_one(0u8)
    }

    /// The n-th number, uniform over [0, 1) in steps of 2^-53.
    pub fn uniform(&self, n: u64) -> f64 {
        self.bits(n) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The same in units of 2^-64.
    pub fn quantile(&self, n: u64) -> u64 {
        self.bits(n) << 11
    }

    /// The 53 bits of the n-th number.
    fn bits(&self, n: u64) -> u64 {
        mix(self.start.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))) >> 11
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
