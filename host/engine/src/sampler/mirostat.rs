//! Mirostat (arXiv:2007.14966).

use super::params::{Mirostat, MirostatVersion};
use super::select::{Candidate, keep_top};

/// From so many of the likeliest tokens the first version estimates the exponent of Zipf's law, as in the paper.
const ESTIMATED: usize = 100;

/// How much a token may surprise, in bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    params: Mirostat,
    most: f64,
}

impl Bound {
    pub(super) fn new(params: Mirostat) -> Bound {
        Bound { params, most: 2.0 * f64::from(params.tau) }
    }

    /// Leaves out the candidates, weighted, that surprise too much. At least one stays.
    pub(super) fn cut(&self, candidates: &mut Vec<Candidate>) {
        match self.params.version {
            MirostatVersion::One => {
                let k = self.zipf_rank(candidates);
                keep_top(candidates, k);
            }
            MirostatVersion::Two => {
                let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
                let largest = candidates.iter().map(|c| c.1).fold(0.0, f32::max);
                let least = total * (-self.most).exp2();
                candidates.retain(|c| f64::from(c.1) >= least || c.1 == largest);
            }
        }
    }

    /// The rank at which the surprise reaches the bound.
    fn zipf_rank(&self, candidates: &[Candidate]) -> usize {
        let count = candidates.len();
        let mut top = candidates.to_vec();
        keep_top(&mut top, ESTIMATED.min(count));
        let (mut products, mut squares) = (0.0, 0.0);
        for (i, pair) in top.windows(2).enumerate() {
            let rank = ((i + 2) as f64 / (i + 1) as f64).ln();
            let share = (f64::from(pair[0].1) / f64::from(pair[1].1).max(f64::MIN_POSITIVE)).ln();
            products += rank * share;
            squares += rank * rank;
        }
        let exponent = if squares > 0.0 { products / squares } else { 1.0 };
        let epsilon = exponent - 1.0;
        let most = self.most.exp2();
        // The quotient has a limit where the exponent is 1.
        let scale = match epsilon.abs() < 1e-6 {
            true => most / (count as f64).ln().max(f64::MIN_POSITIVE),
            false => epsilon * most / (1.0 - (count as f64).powf(-epsilon)),
        };
        let rank = scale.powf(1.0 / exponent).round();
        // A bound that is no number, as for equal weights, leaves all of them.
        if rank.is_finite() { (rank.max(1.0) as usize).min(count) } else { count }
    }

    /// Moves the bound after `token` was drawn from the candidates.
    pub(super) fn observe(&mut self, candidates: &[Candidate], token: u32) {
        let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
        let weight = candidates.iter().find(|c| c.0 == token).map_or(total, |c| f64::from(c.1));
        let surprise = -(weight / total).log2();
        if surprise.is_finite() {
            self.most -= f64::from(self.params.eta) * (surprise - f64::from(self.params.tau));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(shares: &[f32]) -> Vec<Candidate> {
        (0u32..).zip(shares.iter().copied()).collect()
    }

    #[test]
    fn the_second_version_leaves_out_what_surprises_more_than_the_bound() {
        let check = |tau: f32, expected: &[u32]| {
            // Surprises of 1, 2, 3 and 3 bits.
            let mut candidates = weights(&[0.5, 0.25, 0.125, 0.125]);
            Bound::new(Mirostat { version: MirostatVersion::Two, tau, eta: 0.1 }).cut(&mut candidates);
            assert_eq!(candidates.iter().map(|c| c.0).collect::<Vec<_>>(), expected, "{tau}");
        };
        check(0.0, &[0]);
        check(0.4, &[0]);
        check(0.5, &[0]);
        check(1.0, &[0, 1]);
        check(1.5, &[0, 1, 2, 3]);
    }

    #[test]
    fn the_first_version_finds_the_rank_of_the_bound_in_a_zipf_distribution() {
        let count = 1000u32;
        for exponent in [1.2f64, 1.5, 2.0] {
            let mut candidates: Vec<Candidate> =
                (0..count).map(|i| (i, (f64::from(i) + 1.0).powf(-exponent) as f32)).collect();
            Bound::new(Mirostat { version: MirostatVersion::One, tau: 3.0, eta: 0.1 }).cut(&mut candidates);
            // With the integral of x^-s over the ranks in place of their sum, as in the paper, rank r has the share
            // r^-s / integral; 2 tau are 6 bits, so it is the last whose share is above 1/64.
            let integral = (1.0 - f64::from(count).powf(1.0 - exponent)) / (exponent - 1.0);
            let share = |rank: usize| (rank as f64).powf(-exponent) / integral;
            let last = (1..=count as usize).take_while(|&r| share(r) >= 1.0 / 64.0).count();
            assert!(candidates.len().abs_diff(last) <= 1, "{exponent}: {} instead of {last}", candidates.len());
        }
        let mut equal = weights(&[1.0; 8]);
        Bound::new(Mirostat { version: MirostatVersion::One, tau: 3.0, eta: 0.1 }).cut(&mut equal);
        assert!(!equal.is_empty());
    }

    #[test]
    fn the_bound_follows_the_surprise() {
        let mut bound = Bound::new(Mirostat { version: MirostatVersion::Two, tau: 2.0, eta: 0.5 });
        let candidates = weights(&[0.5, 0.5]);
        // Each draw surprises by 1 bit, 1 less than wanted, so the bound rises by half a bit.
        bound.observe(&candidates, 0);
        assert!((bound.most - 4.5).abs() < 1e-9);
        bound.observe(&candidates, 1);
        assert!((bound.most - 5.0).abs() < 1e-9);
    }
}
