use crate::{DType, QuantError, fp4, iq, k_quants, legacy, low_bit, plain};

/// Checks that `bytes` bytes hold exactly `elements` values of type `dtype`.
pub(crate) fn check(dtype: DType, bytes: usize, elements: usize) -> Result<(), QuantError> {
    let Some(expected) = dtype.row_bytes(elements) else {
        let block_elements = dtype.layout().block_elements;
        return Err(QuantError::PartialBlock { dtype, elements, block_elements });
    };
    if bytes != expected {
        return Err(QuantError::Length { dtype, bytes, elements, expected });
    }
    Ok(())
}

#[inline(always)]
fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let (bytes, out) = (bytes.as_chunks().0, out.as_chunks_mut().0);
    bytes.iter().zip(out).for_each(|(bytes, out)| block(bytes, out));
}

/// Converts `bytes`, one or more rows of type `dtype`, to single precision.
///
/// The results equal those of ggml's reference bit for bit.
///
/// # Errors
///
/// If `out` is not whole blocks, or `bytes` is not as long as that many values take.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    check(dtype, bytes.len(), out.len())?;
    match dtype {
        DType::F32 => blocks(bytes, out, plain::f32),
        DType::F16 => blocks(bytes, out, plain::f16),
        DType::BF16 => blocks(bytes, out, plain::bf16),
        DType::F64 => blocks(bytes, out, plain::f64),
        DType::I8 => blocks(bytes, out, plain::i8),
        DType::I16 => blocks(bytes, out, plain::i16),
        DType::I32 => blocks(bytes, out, plain::i32),
        DType::I64 => blocks(bytes, out, plain::i64),
        DType::Q4_0 => blocks(bytes, out, legacy::q4_0),
        DType::Q4_1 => blocks(bytes, out, legacy::q4_1),
        DType::Q5_0 => blocks(bytes, out, legacy::q5_0),
        DType::Q5_1 => blocks(bytes, out, legacy::q5_1),
        DType::Q8_0 => blocks(bytes, out, legacy::q8_0),
        DType::Q8_1 => blocks(bytes, out, legacy::q8_1),
        DType::Q2_K => blocks(bytes, out, k_quants::q2_k),
        DType::Q3_K => blocks(bytes, out, k_quants::q3_k),
        DType::Q4_K => blocks(bytes, out, k_quants::q4_k),
        DType::Q5_K => blocks(bytes, out, k_quants::q5_k),
        DType::Q6_K => blocks(bytes, out, k_quants::q6_k),
        DType::Q8_K => blocks(bytes, out, k_quants::q8_k),
        DType::IQ1_S => blocks(bytes, out, iq::iq1_s),
        DType::IQ1_M => blocks(bytes, out, iq::iq1_m),
        DType::IQ2_XXS => blocks(bytes, out, iq::iq2_xxs),
        DType::IQ2_XS => blocks(bytes, out, iq::iq2_xs),
        DType::IQ2_S => blocks(bytes, out, iq::iq2_s),
        DType::IQ3_XXS => blocks(bytes, out, iq::iq3_xxs),
        DType::IQ3_S => blocks(bytes, out, iq::iq3_s),
        DType::IQ4_NL => blocks(bytes, out, iq::iq4_nl),
        DType::IQ4_XS => blocks(bytes, out, iq::iq4_xs),
        DType::TQ1_0 => blocks(bytes, out, low_bit::tq1_0),
        DType::TQ2_0 => blocks(bytes, out, low_bit::tq2_0),
        DType::Q1_0 => blocks(bytes, out, low_bit::q1_0),
        DType::Q2_0 => blocks(bytes, out, low_bit::q2_0),
        DType::MXFP4 => blocks(bytes, out, fp4::mxfp4),
        DType::NVFP4 => blocks(bytes, out, fp4::nvfp4),
    }
    Ok(())
}
