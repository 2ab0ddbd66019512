use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rocmforge_quant::DType;

use crate::parse::{
    ALIGNMENT_KEY, MAGIC, MAX_ARRAY_DEPTH, MAX_DIMS, MAX_KEY_BYTES, MAX_TENSOR_NAME_BYTES, align_up, checked_alignment,
    tensor_bytes,
};
use crate::{ArrayValue, GgufError, Metadata, Value};

struct Tensor<'a> {
    name: String,
    dtype: DType,
    dims: Vec<u64>,
    data: Cow<'a, [u8]>,
}

/// Collects metadata and tensors, then writes them as a version 3 file.
///
/// Tensor data starts at multiples of `general.alignment` (32 if that key is absent).
#[derive(Default)]
pub struct GgufWriter<'a> {
    metadata: Metadata,
    tensors: Vec<Tensor<'a>>,
    names: HashSet<String>,
}

fn refuse(problem: String) -> GgufError {
    GgufError::Write { problem }
}

impl<'a> GgufWriter<'a> {
    /// A writer of an empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry.
    ///
    /// # Errors
    ///
    /// If the key is taken or too long, an array is nested too deep, or the value of `general.alignment` is not a power
    /// of two.
    pub fn metadata(&mut self, key: &str, value: Value) -> Result<&mut Self, GgufError> {
        if key.len() as u64 > MAX_KEY_BYTES {
            return Err(refuse(format!("metadata key of {} bytes, expected at most {MAX_KEY_BYTES}", key.len())));
        }
        if let Value::Array(array) = &value {
            check_array(array, 1).map_err(|problem| refuse(format!("metadata key \"{key}\": {problem}")))?;
        }
        if key == ALIGNMENT_KEY {
            let mut only = Metadata::default();
            only.insert(key, value.clone());
            checked_alignment(&only).map_err(|problem| refuse(format!("metadata key \"{key}\": {problem}")))?;
        }
        if !self.metadata.insert(key, value) {
            return Err(refuse(format!("metadata key \"{key}\" given twice")));
        }
        Ok(self)
    }

    /// Adds a tensor; `dims` in file order, row length first.
    ///
    /// # Errors
    ///
    /// If the name is taken or too long, or the data is not as long as type and dimensions ask.
    pub fn tensor(
        &mut self,
        name: &str,
        dtype: DType,
        dims: &[u64],
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, GgufError> {
        let data = data.into();
        let error = |problem: String| refuse(format!("tensor \"{name}\": {problem}"));
        if name.len() as u64 > MAX_TENSOR_NAME_BYTES {
            return Err(error(format!("name of {} bytes, expected at most {MAX_TENSOR_NAME_BYTES}", name.len())));
        }
        if !(1..=MAX_DIMS as usize).contains(&dims.len()) {
            return Err(error(format!("{} dimensions, expected 1 to {MAX_DIMS}", dims.len())));
        }
        let expected = tensor_bytes(dtype, dims).map_err(error)?;
        if data.len() as u64 != expected {
            return Err(error(format!("{} bytes of data, expected {expected} for {dtype} {dims:?}", data.len())));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(error("name given twice".to_owned()));
        }
        self.tensors.push(Tensor { name: name.to_owned(), dtype, dims: dims.to_owned(), data });
        Ok(self)
    }

    /// Writes the file to `out`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let alignment = checked_alignment(&self.metadata).map_err(io::Error::other)?;
        let header = self.header(alignment);
        out.write_all(&header)?;
        pad(out, header.len(), alignment)?;
        for tensor in &self.tensors {
            out.write_all(&tensor.data)?;
            pad(out, tensor.data.len(), alignment)?;
        }
        Ok(())
    }

    /// The whole file in memory.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_to(&mut out).expect("a Vec accepts all bytes and metadata() checked the alignment");
        out
    }

    /// Writes the file to `path`, replacing what is there.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or written.
    pub fn write(&self, path: &Path) -> Result<(), GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), action: "write", source };
        let mut out = BufWriter::new(std::fs::File::create(path).map_err(io)?);
        self.write_to(&mut out).and_then(|()| out.flush()).map_err(io)
    }

    fn header(&self, alignment: u64) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            put_string(&mut out, key);
            out.extend((value.value_type() as u32).to_le_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend((tensor.dtype as u32).to_le_bytes());
            out.extend(u64::to_le_bytes(offset));
            offset = align_up(offset + tensor.data.len() as u64, alignment);
        }
        out
    }
}

fn pad(out: &mut dyn Write, written: usize, alignment: u64) -> io::Result<()> {
    let missing = align_up(written as u64, alignment) - written as u64;
    io::copy(&mut io::Read::take(io::repeat(0), missing), out).map(drop)
}

fn check_array(array: &ArrayValue, depth: u32) -> Result<(), String> {
    if depth > MAX_ARRAY_DEPTH {
        return Err(format!("arrays nested more than {MAX_ARRAY_DEPTH} deep"));
    }
    match array {
        ArrayValue::Array(inner) => inner.iter().try_for_each(|a| check_array(a, depth + 1)),
        _ => Ok(()),
    }
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &ArrayValue) {
    out.extend((array.element_type() as u32).to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        ArrayValue::U8(v) => out.extend(v),
        ArrayValue::I8(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::U16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::I16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::U32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::I32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::F32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::Bool(v) => out.extend(v.iter().map(|&b| u8::from(b))),
        ArrayValue::String(v) => v.iter().for_each(|s| put_string(out, s)),
        ArrayValue::Array(v) => v.iter().for_each(|a| put_array(out, a)),
        ArrayValue::U64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::I64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        ArrayValue::F64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
    }
}
