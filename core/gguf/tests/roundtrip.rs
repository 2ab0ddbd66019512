//! What the writer writes, the reader reads back.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rocmforge_gguf::{ArrayValue, GgufFile, GgufWriter, Value};
use rocmforge_quant::DType;

fn flat_array() -> impl Strategy<Value = ArrayValue> {
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(ArrayValue::U8),
        vec(any::<i8>(), 0..9).prop_map(ArrayValue::I8),
        vec(any::<u16>(), 0..9).prop_map(ArrayValue::U16),
        vec(any::<i16>(), 0..9).prop_map(ArrayValue::I16),
        vec(any::<u32>(), 0..9).prop_map(ArrayValue::U32),
        vec(any::<i32>(), 0..9).prop_map(ArrayValue::I32),
        vec(any::<f32>(), 0..9).prop_map(ArrayValue::F32),
        vec(any::<bool>(), 0..9).prop_map(ArrayValue::Bool),
        vec(".{0,6}", 0..9).prop_map(|texts| ArrayValue::String(texts.into())),
        vec(any::<u64>(), 0..9).prop_map(ArrayValue::U64),
        vec(any::<i64>(), 0..9).prop_map(ArrayValue::I64),
        vec(any::<f64>(), 0..9).prop_map(ArrayValue::F64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let array = flat_array().prop_recursive(3, 16, 3, |inner| vec(inner, 0..4).prop_map(ArrayValue::Array));
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        array.prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

/// A type, its dimensions, and data of the right length.
fn tensor() -> impl Strategy<Value = (DType, Vec<u64>, Vec<u8>)> {
    (proptest::sample::select(DType::ALL), 1u64..3, vec(1u64..4, 0..4), any::<u8>()).prop_map(
        |(dtype, blocks, rest, fill)| {
            let layout = dtype.layout();
            let len = blocks * layout.block_bytes as u64 * rest.iter().product::<u64>();
            let dims = [vec![blocks * layout.block_elements as u64], rest].concat();
            (dtype, dims, (0..len).map(|i| fill.wrapping_add(i as u8)).collect())
        },
    )
}

proptest! {
    #[test]
    fn written_file_reads_back(
        metadata in btree_map("[a-z.]{1,12}", value(), 0..6),
        tensors in btree_map("[a-z.0-9]{1,64}", tensor(), 0..6),
        alignment in proptest::option::of(0u32..9),
    ) {
        let mut metadata: BTreeMap<String, Value> = metadata;
        if let Some(log2) = alignment {
            metadata.insert("general.alignment".into(), Value::U32(1 << log2));
        }
        let mut w = GgufWriter::new();
        for (key, value) in &metadata {
            w.metadata(key, value.clone()).unwrap();
        }
        for (name, (dtype, dims, data)) in &tensors {
            w.tensor(name, *dtype, dims, &data[..]).unwrap();
        }
        let file = GgufFile::from_bytes("m".as_ref(), &w.to_bytes()).unwrap();
        prop_assert!(file.metadata().iter().eq(metadata.iter().map(|(k, v)| (k.as_str(), v))));
        prop_assert_eq!(file.tensors().len(), tensors.len());
        let step = alignment.map_or(32, |log2| 1 << log2);
        for (view, (name, (dtype, dims, data))) in file.views().zip(&tensors) {
            prop_assert_eq!((&view.info.name, view.info.dtype, &view.info.dims), (name, *dtype, dims));
            prop_assert_eq!(view.bytes(), &data[..]);
            let owned = file.tensor(name).unwrap().data();
            prop_assert_eq!(&*owned, &data[..]);
            prop_assert_eq!(view.info.offset % step, 0);
            prop_assert_eq!(view.bytes().as_ptr().addr() % step, 0);
        }
    }
}
