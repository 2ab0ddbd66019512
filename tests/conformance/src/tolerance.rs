use std::fmt;

use rocmforge_program::DType;

/// How far results may lie from the interpreter's, both relative to the root mean square of the expected values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Root mean square of the differences.
    pub rms: f64,
    /// The largest difference.
    pub max: f64,
}

const fn within(rms: f64, max: f64) -> Tolerance {
    Tolerance { rms, max }
}

/// The groups of operations that share a tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Values are moved, added or multiplied, and tables are looked up.
    Exact,
    /// Functions of one or two values, sums over a few.
    Pointwise,
    /// Norms.
    Norm,
    /// Rotary embedding, whose angles grow with the position.
    Rope,
    /// Attention; the KV cache may hold f16.
    Attention,
    /// Choice and weights of experts.
    Router,
    /// Matrices of this type; activations may be rounded to what multiplies best with it, which is 8-bit blocks for
    /// quantised types.
    Matrix(DType),
    /// A small model of such matrices, in which errors add up.
    Model(DType),
}

impl Family {
    /// The table of tolerances.
    pub fn tolerance(self) -> Tolerance {
        match self {
            Family::Exact => within(1e-6, 1e-5),
            Family::Pointwise | Family::Norm => within(1e-5, 1e-4),
            Family::Rope => within(1e-4, 1e-3),
            Family::Attention => within(2e-3, 2e-2),
            Family::Router => within(1e-4, 1e-3),
            Family::Matrix(dtype) => match dtype {
                DType::F32 | DType::F64 => within(1e-5, 1e-4),
                DType::F16 => within(1e-3, 1e-2),
                DType::BF16 => within(5e-3, 5e-2),
                _ => within(2e-2, 1.5e-1),
            },
            Family::Model(DType::F32) => within(2e-3, 2e-2),
            Family::Model(_) => within(5e-2, 3e-1),
        }
    }
}

/// The precision in which a backend keeps activations between operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Activations {
    /// Single precision.
    #[default]
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Activations {
    /// The tolerance of an operation with such activations.
    pub fn widen(self, t: Tolerance) -> Tolerance {
        let floor = match self {
            Activations::F32 => return t,
            Activations::F16 => within(2e-3, 2e-2),
            Activations::Bf16 => within(1e-2, 1e-1),
        };
        within(t.rms.max(floor.rms), t.max.max(floor.max))
    }
}

/// The first reason why `found` is not `expected`.
pub fn compare(expected: &[f32], found: &[f32], tolerance: Tolerance) -> Result<(), Difference> {
    let (mut squares, mut error_squares) = (0.0, 0.0);
    let mut worst = (0, 0.0);
    for (i, (&e, &f)) in expected.iter().zip(found).enumerate() {
        let difference = f64::from(e) - f64::from(f);
        if !f.is_finite() {
            return Err(Difference { index: i, expected: e, found: f, rms: f64::NAN, max: f64::NAN, tolerance });
        }
        squares += f64::from(e) * f64::from(e);
        error_squares += difference * difference;
        if difference.abs() > worst.1 {
            worst = (i, difference.abs());
        }
    }
    let size = (squares / expected.len().max(1) as f64).sqrt().max(f64::from(f32::MIN_POSITIVE));
    let (rms, max) = ((error_squares / expected.len().max(1) as f64).sqrt() / size, worst.1 / size);
    if expected.len() == found.len() && rms <= tolerance.rms && max <= tolerance.max {
        return Ok(());
    }
    let at = |values: &[f32]| values.get(worst.0).copied().unwrap_or(f32::NAN);
    Err(Difference { index: worst.0, expected: at(expected), found: at(found), rms, max, tolerance })
}

/// Where and how much results differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    index: usize,
    expected: f32,
    found: f32,
    rms: f64,
    max: f64,
    tolerance: Tolerance,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { index, expected, found, rms, max, tolerance } = self;
        write!(f, "element {index}: expected {expected:e}, found {found:e}; ")?;
        write!(f, "error rms {rms:.1e} (at most {:.0e}), largest {max:.1e} ", tolerance.rms)?;
        write!(f, "(at most {:.0e}) of the values' rms", tolerance.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_seen_and_rounding_is_not() {
        let check = |expected: &[f32], found: &[f32], passes: bool| {
            assert_eq!(compare(expected, found, within(1e-3, 1e-2)).is_ok(), passes, "{expected:?} {found:?}");
        };
        check(&[], &[], true);
        check(&[0.0, 0.0], &[0.0, 0.0], true);
        check(&[0.0, 0.0], &[0.0, 1e-20], false);
        check(&[1.0, -2.0], &[1.0005, -2.0], true);
        check(&[1.0, -2.0], &[1.1, -2.0], false);
        check(&[1.0, -2.0], &[1.0, f32::NAN], false);
        check(&[1.0, -2.0], &[1.0, f32::INFINITY], false);
        check(&[1.0, -2.0], &[1.0], false);
        // One bad value among many good ones.
        let expected = vec![1.0; 100_000];
        let mut found = expected.clone();
        found[99_999] = 1.02;
        check(&expected, &found, false);
    }
}
