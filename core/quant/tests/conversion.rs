//! Types without golden data, wrong lengths, and values at the edges.

use proptest::prelude::*;
use rocmforge_quant::plain::f16_to_f32;
use rocmforge_quant::{DType, QuantError, dequantize, quantize};

fn check(dtype: DType, bytes: &[u8], expected: &[f32]) {
    let mut out = vec![f32::NAN; expected.len()];
    dequantize(dtype, bytes, &mut out).unwrap();
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&out), bits(expected), "{dtype}: {out:?} instead of {expected:?}");
}

fn bytes<const N: usize, T>(values: &[T], to: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(to).collect()
}

#[test]
fn plain_numbers_convert() {
    check(DType::F32, &bytes(&[1.5f32, -0.0, f32::INFINITY], |x| x.to_le_bytes()), &[1.5, -0.0, f32::INFINITY]);
    check(DType::F64, &bytes(&[0.1f64, -2.0, 1e300], |x| x.to_le_bytes()), &[0.1, -2.0, f32::INFINITY]);
    check(DType::I8, &bytes(&[-128i8, 127], |x| x.to_le_bytes()), &[-128.0, 127.0]);
    check(DType::I16, &bytes(&[-32768i16, 300], |x| x.to_le_bytes()), &[-32768.0, 300.0]);
    check(DType::I32, &bytes(&[i32::MIN, 16_777_217], |x| x.to_le_bytes()), &[-2_147_483_648.0, 16_777_216.0]);
    check(DType::I64, &bytes(&[i64::MAX, -5], |x| x.to_le_bytes()), &[9.223_372e18, -5.0]);
}

#[test]
fn activation_formats_convert() {
    let codes: Vec<i8> = (0..32).map(|i| (i * 8 - 128i32) as i8).collect();
    let mut block = half::f16::from_f32(0.5).to_le_bytes().to_vec();
    block.extend([0xff, 0x7f]);
    block.extend(codes.iter().map(|&q| q as u8));
    check(DType::Q8_1, &block, &codes.iter().map(|&q| f32::from(q) * 0.5).collect::<Vec<_>>());

    let codes: Vec<i8> = (0..=255u8).map(|i| i as i8).collect();
    let mut block = 0.3f32.to_le_bytes().to_vec();
    block.extend(codes.iter().map(|&q| q as u8));
    block.extend([0xaa; 32]);
    check(DType::Q8_K, &block, &codes.iter().map(|&q| f32::from(q) * 0.3).collect::<Vec<_>>());
}

#[test]
fn every_half_converts_as_ieee_754_says() {
    for bits in 0..=u16::MAX {
        let (found, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
        assert_eq!(found.to_bits(), expected.to_bits(), "{bits:#06x}: {found} instead of {expected}");
    }
}

#[test]
fn wrong_lengths_are_refused() {
    use QuantError::{Length, PartialBlock};
    let (q4, q6) = (DType::Q4_0, DType::Q6_K);
    let cases = [
        (q4, 18, 31, PartialBlock { dtype: q4, elements: 31, block_elements: 32 }),
        (q4, 17, 32, Length { dtype: q4, bytes: 17, elements: 32, expected: 18 }),
        (q6, 0, 256, Length { dtype: q6, bytes: 0, elements: 256, expected: 210 }),
        (DType::F32, 5, 1, Length { dtype: DType::F32, bytes: 5, elements: 1, expected: 4 }),
    ];
    for (dtype, packed, elements, expected) in cases {
        assert_eq!(dequantize(dtype, &vec![0; packed], &mut vec![0.0; elements]), Err(expected.clone()));
        assert_eq!(quantize(dtype, &vec![0.0; elements], &mut vec![0; packed]), Err(expected));
    }
    let refused = quantize(DType::Q4_K, &[0.0; 256], &mut [0; 144]).map_err(|e| e.to_string());
    assert!(refused.is_err_and(|e| e.contains("Q4_K: cannot be quantised here")));
}

#[test]
fn every_type_converts_nothing_and_any_bits() {
    for &dtype in DType::ALL {
        assert_eq!(dequantize(dtype, &[], &mut []), Ok(()));
        let layout = dtype.layout();
        for fill in [0x00, 0x55, 0x7f, 0x80, 0xff] {
            let mut out = vec![f32::NAN; 2 * layout.block_elements];
            dequantize(dtype, &vec![fill; 2 * layout.block_bytes], &mut out).unwrap();
            assert!(fill != 0 || out.iter().all(|x| x.abs() < 1e-37), "{dtype}: zero bytes gave {out:?}");
        }
    }
}

/// The largest error a type may make, as a share of the block's largest magnitude.
const STEPS: [(DType, f32); 7] = {
    use DType::*;
    [(F16, 1e-3), (BF16, 5e-3), (Q8_0, 6e-3), (Q5_1, 0.04), (Q5_0, 0.07), (Q4_1, 0.07), (Q4_0, 0.13)]
};

proptest! {
    #[test]
    fn quantized_values_stay_near(values in proptest::collection::vec(-100f32..100.0, 64)) {
        for (dtype, step) in STEPS {
            let mut packed = vec![0; dtype.row_bytes(64).unwrap()];
            quantize(dtype, &values, &mut packed).unwrap();
            let mut out = vec![f32::NAN; 64];
            dequantize(dtype, &packed, &mut out).unwrap();
            for (found, values) in out.chunks(32).zip(values.chunks(32)) {
                let largest = values.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                for (f, v) in found.iter().zip(values) {
                    prop_assert!((f - v).abs() <= step * largest, "{}: {} became {}", dtype, v, f);
                }
            }
        }
    }

    #[test]
    fn quantizers_accept_any_value(values in proptest::collection::vec(any::<f32>(), 32)) {
        for dtype in STEPS.map(|s| s.0).into_iter().chain([DType::F32, DType::MXFP4]) {
            let mut packed = vec![0; dtype.row_bytes(32).unwrap()];
            prop_assert_eq!(quantize(dtype, &values, &mut packed), Ok(()));
        }
    }
}
