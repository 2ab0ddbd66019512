use rocmforge_program::DType;
use rocmforge_quant::{dequantize, quantize};

use crate::error::Error;
use crate::random::Random;

/// A tensor of the file that a case writes for the backend.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Rows in order.
    pub bytes: Vec<u8>,
}

/// `elements` values around 0 with a standard deviation of about `spread`, in the bytes of a type. Types without a
/// quantiser get random blocks whose values are of that size.
pub fn random_bytes(random: &mut Random, dtype: DType, elements: usize, spread: f32) -> Result<Vec<u8>, Error> {
    let layout = dtype.layout();
    let bytes = dtype.row_bytes(elements);
    let mut out = vec![0; bytes.ok_or_else(|| Error::Kit(format!("{elements} elements are no whole {dtype} blocks")))?];
    let values: Vec<f32> = (0..elements).map(|_| spread * random.normal()).collect();
    if quantize(dtype, &values, &mut out).is_ok() {
        return Ok(out);
    }
    match dtype {
        DType::F64 => fill(&mut out, &values, |v| f64::from(v).to_le_bytes()),
        DType::I8 => fill(&mut out, &values, |v| ((v / spread * 20.0) as i8).to_le_bytes()),
        DType::I16 => fill(&mut out, &values, |v| ((v / spread * 20.0) as i16).to_le_bytes()),
        DType::I32 => fill(&mut out, &values, |v| ((v / spread * 20.0) as i32).to_le_bytes()),
        DType::I64 => fill(&mut out, &values, |v| ((v / spread * 20.0) as i64).to_le_bytes()),
        _ => {
            let mut decoded = vec![0.0; layout.block_elements];
            for block in out.chunks_exact_mut(layout.block_bytes) {
                random_block(random, dtype, block, &mut decoded, spread)?;
            }
        }
    }
    Ok(out)
}

fn fill<const N: usize>(out: &mut [u8], values: &[f32], bytes: impl Fn(f32) -> [u8; N]) {
    out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, &v)| *out = bytes(v));
}

/// Random bits hit every code and every place of a scale; the scales are drawn until the values are of a usual size.
fn random_block(
    random: &mut Random,
    dtype: DType,
    block: &mut [u8],
    decoded: &mut [f32],
    spread: f32,
) -> Result<(), Error> {
    for _ in 0..1_000_000 {
        block.iter_mut().for_each(|b| *b = random.bits() as u8);
        dequantize(dtype, block, decoded).map_err(|e| Error::Kit(e.to_string()))?;
        let square: f32 = decoded.iter().map(|v| v * v).sum();
        let size = (square / decoded.len() as f32).sqrt();
        if size.is_finite() && (spread / 4.0..spread * 4.0).contains(&size) {
            return Ok(());
        }
    }
    Err(Error::Kit(format!("no random {dtype} block has values of the size {spread}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_gets_finite_values_of_the_size_asked_for() {
        for &dtype in DType::ALL {
            let elements = 4 * 256;
            let bytes = random_bytes(&mut Random::new(dtype.name()), dtype, elements, 0.5).expect("random blocks");
            let mut values = vec![0.0; elements];
            dequantize(dtype, &bytes, &mut values).expect("values");
            let size = (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / elements as f64).sqrt();
            let integer = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
            let expected = if integer { 10.0..40.0 } else { 0.1..2.0 };
            assert!(expected.contains(&size), "{dtype}: {size}");
        }
    }
}
