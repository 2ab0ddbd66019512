//! Constants of the formats with fixed value tables: grids and signs of the IQ formats, and the 4-bit value tables.

#[path = "tables_packed.rs"]
mod packed;

/// The values of the codes of `IQ4_NL` and `IQ4_XS`.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of E2M1 (OCP MX), the codes of `MXFP4` and `NVFP4`. Negative zero is stored as zero.
pub const FP4_VALUES_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// What `IQ1_S` and `IQ1_M` add to, or subtract from, every grid value.
pub const IQ1_DELTA: f32 = 0.125;

/// The values that points of `IQ2_XXS`, `IQ2_XS` and `IQ2_S` have, and one that none has.
pub const IQ2_LEVELS: [i8; 4] = [8, 25, 43, 0];
/// The values that points of `IQ3_XXS` have.
pub const IQ3_XXS_LEVELS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
/// The values that points of `IQ3_S` have.
pub const IQ3_S_LEVELS: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
/// The values that points of `IQ1_S` and `IQ1_M` have, and one more of them.
pub const IQ1_LEVELS: [i8; 4] = [-1, 0, 1, 0];

const fn unpack<const POINTS: usize, const N: usize, const LEVELS: usize>(
    packed: &[u16; POINTS],
    levels: &[i8; LEVELS],
) -> [[i8; N]; POINTS] {
    let bits = 16 / N;
    let mut grid = [[0; N]; POINTS];
    let mut i = 0;
    while i < POINTS {
        let mut j = 0;
        while j < N {
            grid[i][j] = levels[(packed[i] >> (bits * j)) as usize % LEVELS];
            j += 1;
        }
        i += 1;
    }
    grid
}

/// Grid of `IQ2_XXS`, by 8-bit index.
pub static IQ2_XXS_GRID: [[i8; 8]; 256] = unpack(&packed::IQ2_XXS, &IQ2_LEVELS);
/// Grid of `IQ2_XS`, by 9-bit index.
pub static IQ2_XS_GRID: [[i8; 8]; 512] = unpack(&packed::IQ2_XS, &IQ2_LEVELS);
/// Grid of `IQ2_S`, by 10-bit index.
pub static IQ2_S_GRID: [[i8; 8]; 1024] = unpack(&packed::IQ2_S, &IQ2_LEVELS);
/// Grid of `IQ3_XXS`, by 8-bit index.
pub static IQ3_XXS_GRID: [[i8; 4]; 256] = unpack(&packed::IQ3_XXS, &IQ3_XXS_LEVELS);
/// Grid of `IQ3_S`, by 9-bit index.
pub static IQ3_S_GRID: [[i8; 4]; 512] = unpack(&packed::IQ3_S, &IQ3_S_LEVELS);
/// Grid of `IQ1_S` and `IQ1_M`, by 11-bit index.
pub static IQ1_GRID: [[i8; 8]; 2048] = unpack(&packed::IQ1, &IQ1_LEVELS);

/// The signs of eight elements from the 7 bits stored for them: bit j set means that element j is negative. The
/// eighth bit makes the number of negative elements even.
#[inline(always)]
pub const fn even_signs(stored: u8) -> u8 {
    let seven = stored & 127;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// [`even_signs`] of every stored value.
pub static EVEN_SIGNS: [u8; 128] = {
    let mut signs = [0; 128];
    let mut i = 0;
    while i < 128 {
        signs[i] = even_signs(i as u8);
        i += 1;
    }
    signs
};

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
    fn hash<const N: usize>(grid: &[[i8; N]]) -> u64 {
        grid.as_flattened()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |h, &v| (h ^ u64::from(v as u8)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn grids_equal_those_of_ggml() {
        // Hashes of the grids as gguf-py's `quants.py` decodes them, one byte per value.
        assert_eq!(hash(&IQ2_XXS_GRID), 0xbb4e_e025_b5ac_6e8e);
        assert_eq!(hash(&IQ2_XS_GRID), 0xc9b1_ee61_e799_09bd);
        assert_eq!(hash(&IQ2_S_GRID), 0x123e_dd38_a3b6_2b90);
        assert_eq!(hash(&IQ3_XXS_GRID), 0xdfa5_dc83_d6a1_55d5);
        assert_eq!(hash(&IQ3_S_GRID), 0xfa37_020c_25b4_4829);
        assert_eq!(hash(&IQ1_GRID), 0x6703_ed86_3501_ae2e);
    }
}
