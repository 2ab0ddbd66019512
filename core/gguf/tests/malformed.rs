//! Files that break the format: each is refused with an error that names the place.

use rocmforge_gguf::{ArrayValue, GgufFile, GgufWriter, Value};
use rocmforge_quant::DType;

/// Builds files byte by byte, so that they can be wrong.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, tensors: u64, entries: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(entries)
    }
    fn u8(mut self, v: u8) -> Raw {
        self.0.push(v);
        self
    }
    fn u32(mut self, v: u32) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn bytes(mut self, v: &[u8]) -> Raw {
        self.0.extend(v);
        self
    }
    fn string(self, v: &[u8]) -> Raw {
        self.u64(v.len() as u64).bytes(v)
    }
    fn tensor(self, name: &[u8], dims: &[u64], dtype: u32, offset: u64) -> Raw {
        let raw = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &d| raw.u64(d)).u32(dtype).u64(offset)
    }
    /// Pads the header and appends `len` bytes of tensor data.
    fn data(mut self, len: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }
}

fn check(file: Raw, expected: &str) {
    let message = match GgufFile::from_bytes("bad.gguf".as_ref(), &file.0) {
        Ok(_) => panic!("opened, expected an error with {expected:?}"),
        Err(e) => e.to_string(),
    };
    assert!(message.starts_with("bad.gguf: "), "{message:?} does not name the file");
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
}

#[test]
fn broken_header_is_refused() {
    check(Raw(b"GGML\x03\0\0\0".to_vec()), "expected it to begin with \"GGUF\", found \"GGML\"");
    check(Raw(b"GG".to_vec()), "file header at byte 0: expected 4 more bytes, found 2");
    check(Raw::new(1, 0, 0), "GGUF version 1; versions 2 and 3 are supported");
    check(Raw::new(4, 0, 0), "GGUF version 4");
    check(Raw::new(3u32.swap_bytes(), 0, 0), "big-endian");
    check(Raw::new(3, 0, u64::MAX), "file header at byte 24: expected 18446744073709551615 more bytes");
    check(Raw::new(3, 1 << 62, 0), "1048576");
    check(Raw::new(3, 1000, 0), "file header at byte 24: expected 32000 more bytes, found 0");
    check(Raw::new(3, 0, 100_000).bytes(&[0; 1_300_000]), "100000 entries, expected at most 65536");
}

#[test]
fn broken_metadata_is_refused() {
    let entry = |key: &[u8], value_type: u32| Raw::new(3, 0, 1).string(key).u32(value_type);
    check(entry(b"a\xff", 4).u32(0), "entry 0: string is not UTF-8 (byte 1 of it): \"a\\xff\"");
    check(entry(b"k", 13).u32(0), "key \"k\": unknown value type 13, expected 0 to 12");
    check(entry(b"k", 7).u8(2), "key \"k\": truth value stored as 2, expected 0 or 1");
    check(entry(b"k", 8).string(b"\xc3\x28"), "key \"k\": string is not UTF-8");
    check(entry(b"k", 8).u64(u64::MAX), "key \"k\" at byte 45: expected 18446744073709551615 more bytes, found 0");
    check(entry(b"k", 9).u32(8).u64(u64::MAX), "key \"k\" at byte 49: expected 18446744073709551615 more bytes");
    check(entry(b"k", 9).u32(4).u64(2).u32(0), "key \"k\" at byte 49: expected 8 more bytes, found 4");
    check(entry(b"k", 9).u32(77).u64(0), "key \"k\": unknown value type 77");
    check(entry(&[b'k'; 65_536], 4).u32(0), "entry 0: name is 65536 bytes long, expected at most 65535");
    let nested = (0..5).fold(entry(b"k", 9), |raw, _| raw.u32(9).u64(1));
    check(nested.u32(4).u64(0), "key \"k\": arrays nested more than 4 deep");
    check(Raw::new(3, 0, 2).string(b"k").u32(4).u32(0).string(b"k").u32(4).u32(0), "key \"k\": key occurs twice");
    for alignment in [0, 3, 48] {
        check(
            entry(b"general.alignment", 4).u32(alignment),
            &format!("key \"general.alignment\": value {alignment}, expected a power of two"),
        );
    }
    let long = [b'x'; 100];
    check(entry(b"general.alignment", 8).string(&long), &format!("value \"{}…\", expected", "x".repeat(60)));
    check(entry(b"general.alignment", 9).u32(4).u64(2).u64(0), "value array of 2 U32, expected a power of two");
    check(entry(b"general.alignment", 8).string(b"32"), "value \"32\", expected a power of two");
}

#[test]
fn broken_tensor_is_refused() {
    let f32s = |name: &[u8], dims: &[u64], offset| Raw::new(3, 1, 0).tensor(name, dims, 0, offset).data(64);
    check(f32s(b"\xff", &[4], 0), "tensor 0: string is not UTF-8");
    check(f32s(&[b'n'; 65], &[4], 0), "tensor 0: name is 65 bytes long, expected at most 64");
    check(f32s(b"t", &[], 0), "tensor \"t\": 0 dimensions, expected 1 to 4");
    check(f32s(b"t", &[1; 5], 0), "tensor \"t\": 5 dimensions, expected 1 to 4");
    check(f32s(b"t", &[4, 0], 0), "tensor \"t\": dimensions [4, 0], expected none to be 0");
    check(f32s(b"t", &[1 << 40, 1 << 40], 0), "tensor \"t\": dimensions [1099511627776, 1099511627776]: the size");
    check(f32s(b"t", &[u64::MAX], 0), "tensor \"t\": dimensions [18446744073709551615]: the size");
    check(f32s(b"t", &[17], 0), "tensor \"t\": data of 68 bytes at offset 0 after byte 64 reaches past the end");
    check(f32s(b"t", &[4], 64), "tensor \"t\": data of 16 bytes at offset 64 after byte 64 reaches past the end");
    check(f32s(b"t", &[4], u64::MAX - 31), "tensor \"t\": data of 16 bytes at offset 18446744073709551584");
    check(f32s(b"t", &[4], 8), "tensor \"t\": data offset 8, expected a multiple of 32");
    check(
        Raw::new(3, 1, 0).tensor(b"t", &[32], 4, 0).data(64),
        "tensor \"t\": unknown tensor type 4: this build reads F32",
    );
    check(
        Raw::new(3, 1, 0).tensor(b"t", &[33], 8, 0).data(128),
        "tensor \"t\": rows of 33 elements, expected a multiple of 32 for Q8_0",
    );
    let two =
        |second: &[u8], offset| Raw::new(3, 2, 0).tensor(b"a", &[9], 0, 0).tensor(second, &[4], 0, offset).data(96);
    check(two(b"a", 64), "tensor \"a\": name occurs twice");
    check(two(b"b", 32), "overlaps that of tensor \"a\"");
    check(two(b"b", 0), "overlaps that of tensor");
    assert!(GgufFile::from_bytes("good".as_ref(), &two(b"b", 64).0).is_ok());
}

fn sample() -> Vec<u8> {
    let mut w = GgufWriter::new();
    w.metadata("general.architecture", Value::String("llama".into())).unwrap();
    w.metadata("flag", Value::Bool(true)).unwrap();
    w.metadata("general.alignment", Value::U32(16)).unwrap();
    let nested = ArrayValue::Array(vec![ArrayValue::U16(vec![1, 2]), ArrayValue::String(vec!["x"].into())]);
    w.metadata("nested", Value::Array(nested)).unwrap();
    w.tensor("a", DType::F32, &[3, 2], vec![1; 24]).unwrap();
    w.tensor("b", DType::Q8_0, &[32], vec![2; 34]).unwrap();
    w.to_bytes()
}

#[test]
fn file_cut_at_any_byte_is_refused() {
    let bytes = sample();
    assert_eq!(bytes.len() % 16, 0);
    // Only the padding after the last tensor may be missing.
    let data_end = bytes.len() - (48 - 34);
    for len in 0..bytes.len() {
        let result = GgufFile::from_bytes("cut".as_ref(), &bytes[..len]);
        assert_eq!(result.is_ok(), len >= data_end, "cut to {len} of {} bytes", bytes.len());
    }
}

#[test]
fn version_2_reads_as_version_3_does() {
    let mut bytes = sample();
    let three = GgufFile::from_bytes("three".as_ref(), &bytes).unwrap();
    bytes[4] = 2;
    let two = GgufFile::from_bytes("two".as_ref(), &bytes).unwrap();
    assert_eq!((two.version(), three.version()), (2, 3));
    assert_eq!(two.tensors(), three.tensors());
    assert!(two.metadata().iter().eq(three.metadata().iter()));
}

#[test]
fn writer_refuses_what_the_reader_would() {
    let mut w = GgufWriter::new();
    w.tensor("a", DType::F32, &[1], vec![0; 4]).unwrap();
    w.metadata("k", Value::U8(0)).unwrap();
    let deep = (0..4).fold(ArrayValue::U8(vec![]), |inner, _| ArrayValue::Array(vec![inner]));
    let cases = [
        (w.metadata("k", Value::U8(0)).err(), "metadata key \"k\" given twice"),
        (w.metadata("d", Value::Array(deep)).err(), "nested more than 4 deep"),
        (w.metadata("general.alignment", Value::U32(5)).err(), "value 5, expected"),
        (w.tensor("a", DType::F32, &[1], vec![0; 4]).err(), "tensor \"a\": name given twice"),
        (w.tensor("b", DType::F32, &[2], vec![0; 4]).err(), "4 bytes of data, expected 8 for F32 [2]"),
        (w.tensor("b", DType::F32, &[], vec![]).err(), "0 dimensions"),
        (w.tensor("b", DType::Q8_0, &[8], vec![0; 34]).err(), "rows of 8 elements"),
        (w.tensor(&"n".repeat(65), DType::F32, &[1], vec![0; 4]).err(), "name of 65 bytes"),
    ];
    for (error, expected) in cases {
        let message = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    }
    assert_eq!(GgufFile::from_bytes("rest".as_ref(), &w.to_bytes()).unwrap().tensors().len(), 1);
}
