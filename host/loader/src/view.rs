//! A GGUF file as the callback table that architectures read.

use std::sync::OnceLock;

use rocmforge_abi::abi_stable::prefix_type::PrefixTypeTrait;
use rocmforge_abi::{Handle, MetaValue, ModelView, ModelViewTable, ModelViewTableRef, RSlice, RStr, TensorMeta, meta};
use rocmforge_gguf::{ArrayValue, GgufFile, Value};

/// What the callbacks read: the file and, per tensor, its dimensions outermost first.
pub(crate) struct View<'a> {
    file: &'a GgufFile,
    dims: Vec<Vec<u64>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(file: &'a GgufFile) -> View<'a> {
        let dims = file.tensors().iter().map(|t| t.dims.iter().rev().copied().collect()).collect();
        View { file, dims }
    }

    /// The view for one call; it must not be used once `self` is gone.
    pub(crate) fn raw(&self) -> ModelView {
        static TABLE: OnceLock<ModelViewTableRef> = OnceLock::new();
        let table = *TABLE.get_or_init(|| {
            ModelViewTable { metadata, metadata_element, tensor_count, tensor_at, tensor }.leak_into_prefix()
        });
        ModelView { ctx: Handle(std::ptr::from_ref(self).cast_mut().cast()), table }
    }

    fn tensor_meta(&self, index: usize) -> TensorMeta<'_> {
        match (self.file.tensors().get(index), self.dims.get(index)) {
            (Some(t), Some(dims)) => {
                TensorMeta { name: RStr::from_str(&t.name), dtype: t.dtype as u32, dims: RSlice::from_slice(dims) }
            }
            _ => TensorMeta { name: RStr::empty(), dtype: 0, dims: RSlice::EMPTY },
        }
    }
}

/// # Safety
/// `ctx` came from [`View::raw`] during the call in which it is used; the result is not used beyond that call.
unsafe fn view(ctx: Handle) -> &'static View<'static> {
    // SAFETY: the caller's contract.
    unsafe { &*ctx.0.cast::<View<'static>>() }
}

const NONE: MetaValue<'static> = MetaValue { kind: meta::NONE, bits: 0, text: RStr::empty() };

fn scalar(kind: rocmforge_abi::Code, bits: u64) -> MetaValue<'static> {
    MetaValue { kind, bits, text: RStr::empty() }
}

fn text(s: &str) -> MetaValue<'_> {
    MetaValue { kind: meta::STRING, bits: s.len() as u64, text: RStr::from_str(s) }
}

fn convert(value: &Value) -> MetaValue<'_> {
    match value {
        Value::U8(v) => scalar(meta::UNSIGNED, (*v).into()),
        Value::U16(v) => scalar(meta::UNSIGNED, (*v).into()),
        Value::U32(v) => scalar(meta::UNSIGNED, (*v).into()),
        Value::U64(v) => scalar(meta::UNSIGNED, *v),
        Value::I8(v) => scalar(meta::SIGNED, i64::from(*v) as u64),
        Value::I16(v) => scalar(meta::SIGNED, i64::from(*v) as u64),
        Value::I32(v) => scalar(meta::SIGNED, i64::from(*v) as u64),
        Value::I64(v) => scalar(meta::SIGNED, *v as u64),
        Value::F32(v) => scalar(meta::FLOAT, f64::from(*v).to_bits()),
        Value::F64(v) => scalar(meta::FLOAT, v.to_bits()),
        Value::Bool(v) => scalar(meta::BOOL, (*v).into()),
        Value::String(s) => text(s),
        Value::Array(a) => scalar(meta::ARRAY, a.len() as u64),
    }
}

fn element(array: &ArrayValue, i: usize) -> Option<MetaValue<'_>> {
    Some(match array {
        ArrayValue::U8(v) => convert_scalar(Value::U8(*v.get(i)?)),
        ArrayValue::I8(v) => convert_scalar(Value::I8(*v.get(i)?)),
        ArrayValue::U16(v) => convert_scalar(Value::U16(*v.get(i)?)),
        ArrayValue::I16(v) => convert_scalar(Value::I16(*v.get(i)?)),
        ArrayValue::U32(v) => convert_scalar(Value::U32(*v.get(i)?)),
        ArrayValue::I32(v) => convert_scalar(Value::I32(*v.get(i)?)),
        ArrayValue::F32(v) => convert_scalar(Value::F32(*v.get(i)?)),
        ArrayValue::Bool(v) => convert_scalar(Value::Bool(*v.get(i)?)),
        ArrayValue::U64(v) => convert_scalar(Value::U64(*v.get(i)?)),
        ArrayValue::I64(v) => convert_scalar(Value::I64(*v.get(i)?)),
        ArrayValue::F64(v) => convert_scalar(Value::F64(*v.get(i)?)),
        ArrayValue::String(v) => text(v.get(i)?),
        ArrayValue::Array(v) => scalar(meta::ARRAY, v.get(i)?.len() as u64),
    })
}

/// A scalar holds no text, so its conversion borrows nothing.
fn convert_scalar(value: Value) -> MetaValue<'static> {
    let MetaValue { kind, bits, .. } = convert(&value);
    scalar(kind, bits)
}

extern "C" fn metadata(ctx: Handle, key: RStr<'_>) -> MetaValue<'static> {
    // SAFETY: plugins call this during `fit` and `build`, while the view lives.
    let view = unsafe { view(ctx) };
    view.file.metadata().get(key.as_str()).map_or(NONE, convert)
}

extern "C" fn metadata_element(ctx: Handle, key: RStr<'_>, index: u64) -> MetaValue<'static> {
    // SAFETY: as in `metadata`.
    let view = unsafe { view(ctx) };
    let array = view.file.metadata().array(key.as_str());
    array.and_then(|a| element(a, usize::try_from(index).ok()?)).unwrap_or(NONE)
}

extern "C" fn tensor_count(ctx: Handle) -> u64 {
    // SAFETY: as in `metadata`.
    unsafe { view(ctx) }.dims.len() as u64
}

extern "C" fn tensor_at(ctx: Handle, index: u64) -> TensorMeta<'static> {
    // SAFETY: as in `metadata`.
    unsafe { view(ctx) }.tensor_meta(usize::try_from(index).unwrap_or(usize::MAX))
}

extern "C" fn tensor(ctx: Handle, name: RStr<'_>) -> TensorMeta<'static> {
    // SAFETY: as in `metadata`.
    let view = unsafe { view(ctx) };
    let found = view.file.find(name.as_str());
    // `find` returns a reference into `tensors`, so its distance from the start is its index.
    let index = found.and_then(|t| view.file.tensors().iter().position(|u| std::ptr::eq(t, u)));
    view.tensor_meta(index.unwrap_or(usize::MAX))
}
