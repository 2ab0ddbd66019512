//! Bit-exact comparison with what gguf-py and ggml made of the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use rocmforge_quant::{DType, dequantize, quantize};

/// All types that the golden data covers.
const TYPES: [DType; 27] = {
    use DType::*;
    [
        F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S,
        IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0,
    ]
};
const QUANTIZED: [DType; 8] = {
    use DType::*;
    [F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4]
};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The data of a NumPy file, without its header.
fn npy(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}", path.display());
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes.drain(..header);
    bytes
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn check_dequantize(what: &str, dtype: DType, bytes: &[u8], expected: &[f32]) {
    let mut out = vec![f32::NAN; expected.len()];
    dequantize(dtype, bytes, &mut out).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (i, (found, expected)) in out.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}: element {i}: {found} instead of {expected}");
    }
}

fn check_quantize(what: &str, dtype: DType, values: &[f32], expected: &[u8]) {
    let mut out = vec![0xaa; expected.len()];
    quantize(dtype, values, &mut out).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (i, (found, expected)) in out.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "{what}: byte {i}, in a block of {}", dtype.layout().block_bytes);
    }
}

#[test]
fn dequantized_values_equal_the_reference() {
    for dtype in TYPES {
        let (bytes, expected) = (fixture(&format!("{dtype}.bytes")), f32s(&fixture(&format!("{dtype}.f32"))));
        assert_eq!(expected.len(), 2 * 512);
        check_dequantize(dtype.name(), dtype, &bytes, &expected);
    }
}

#[test]
fn quantized_bytes_equal_the_reference() {
    let input = f32s(&fixture("input.f32"));
    assert_eq!(input.len(), 8 * 512);
    for dtype in QUANTIZED {
        check_quantize(dtype.name(), dtype, &input, &fixture(&format!("{dtype}.quantized")));
    }
}

#[test]
fn whole_reference_pack_agrees() {
    let pack: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/golden_quants");
    if !pack.is_dir() {
        println!("skipped: {} is not there", pack.display());
        return;
    }
    let input = f32s(&npy(&pack.join("input.npy")));
    let mut seen = Vec::new();
    for dtype in TYPES {
        for source in ["random", "ggml_c", "gguf_py"] {
            let packed = pack.join(format!("{dtype}.{source}.bytes.npy"));
            if !packed.is_file() {
                continue;
            }
            let what = format!("{dtype}.{source}");
            let bytes = npy(&packed);
            check_dequantize(&what, dtype, &bytes, &f32s(&npy(&pack.join(format!("{what}.deq.npy")))));
            if source != "random" && QUANTIZED.contains(&dtype) {
                check_quantize(&what, dtype, &input, &bytes);
            }
            seen.push(dtype);
        }
    }
    assert!(TYPES.iter().all(|t| seen.contains(t)), "the pack lacks types: it holds {seen:?}");
}
