use std::collections::HashSet;
use std::path::Path;

use rocmforge_quant::DType;

use crate::cursor::{Cursor, Site};
use crate::{ArrayValue, GgufError, Metadata, Strings, Value, ValueType};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const MAX_KEY_BYTES: u64 = 65_535;
pub(crate) const MAX_TENSOR_NAME_BYTES: u64 = 64;
pub(crate) const MAX_DIMS: u32 = 4;
pub(crate) const MAX_ARRAY_DEPTH: u32 = 4;
/// Bounds the memory that metadata can take: the largest published vocabularies need some 20 MiB.
pub(crate) const MAX_HEADER_BYTES: usize = 256 << 20;

/// Far above any model; an entry or a tensor costs a few hundred bytes of memory however short it is in the file.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;

const MIN_ENTRY_BYTES: usize = 8 + 4 + 1;
const MIN_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// Where a tensor lies in one file.
pub(crate) struct RawTensor {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u64>,
    /// From the start of the file.
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// Everything of one file but the tensor data.
pub(crate) struct Parsed {
    pub(crate) version: u32,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<RawTensor>,
    /// Bytes of all that, at the beginning of the file.
    pub(crate) header: usize,
}

/// Parses the header of the file with these `bytes`; touches no tensor data.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, GgufError> {
    let mut cursor = Cursor::new(path, &bytes[..bytes.len().min(MAX_HEADER_BYTES)]);
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.u64(Site::Header)?;
    let entry_count = cursor.count(MIN_ENTRY_BYTES, Site::Header)? as u64;
    for (what, count, limit) in [("tensors", tensor_count, MAX_TENSORS), ("entries", entry_count, MAX_ENTRIES)] {
        if count > limit {
            return Err(cursor.error(Site::Header, format!("{count} {what}, expected at most {limit}")));
        }
    }
    let metadata = read_metadata(&mut cursor, entry_count)?;
    let alignment = alignment(&cursor, &metadata)?;
    let headers = read_tensor_headers(&mut cursor, tensor_count)?;
    let data_start = align_up(cursor.position() as u64, alignment);
    let tensors = headers
        .into_iter()
        .map(|header| place(&cursor, header, data_start, alignment, bytes.len()))
        .collect::<Result<Vec<_>, _>>()?;
    check_overlap(&cursor, &tensors)?;
    Ok(Parsed { version, metadata, tensors, header: cursor.position() })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let path = cursor.path().to_owned();
    let magic = cursor.take(4, Site::Header)?;
    if magic != MAGIC {
        return Err(GgufError::NotGguf { path, found: [magic[0], magic[1], magic[2], magic[3]] });
    }
    match cursor.u32(Site::Header)? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=0xffff) => Err(GgufError::BigEndian { path }),
        found => Err(GgufError::Version { path, found }),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    for i in 0..count {
        let key = cursor.string(MAX_KEY_BYTES, Site::Entry(i))?;
        let site = Site::Key(key);
        let value_type = read_value_type(cursor, site)?;
        let value = read_value(cursor, value_type, site)?;
        if !metadata.insert(key, value) {
            return Err(cursor.error(site, "key occurs twice, expected every key once"));
        }
    }
    Ok(metadata)
}

fn read_value_type(cursor: &mut Cursor<'_>, site: Site<'_>) -> Result<ValueType, GgufError> {
    let id = cursor.u32(site)?;
    ValueType::from_id(id).ok_or_else(|| cursor.error(site, format!("unknown value type {id}, expected 0 to 12")))
}

fn read_bool(cursor: &mut Cursor<'_>, site: Site<'_>) -> Result<bool, GgufError> {
    match cursor.u8(site)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.error(site, format!("truth value stored as {other}, expected 0 or 1"))),
    }
}

fn read_value(cursor: &mut Cursor<'_>, value_type: ValueType, site: Site<'_>) -> Result<Value, GgufError> {
    Ok(match value_type {
        ValueType::U8 => Value::U8(cursor.u8(site)?),
        ValueType::I8 => Value::I8(cursor.u8(site)?.cast_signed()),
        ValueType::U16 => Value::U16(cursor.u16(site)?),
        ValueType::I16 => Value::I16(cursor.u16(site)?.cast_signed()),
        ValueType::U32 => Value::U32(cursor.u32(site)?),
        ValueType::I32 => Value::I32(cursor.u32(site)?.cast_signed()),
        ValueType::F32 => Value::F32(f32::from_bits(cursor.u32(site)?)),
        ValueType::Bool => Value::Bool(read_bool(cursor, site)?),
        ValueType::String => Value::String(cursor.string(u64::MAX, site)?.to_owned()),
        ValueType::Array => Value::Array(read_array(cursor, 1, site)?),
        ValueType::U64 => Value::U64(cursor.u64(site)?),
        ValueType::I64 => Value::I64(cursor.u64(site)?.cast_signed()),
        ValueType::F64 => Value::F64(f64::from_bits(cursor.u64(site)?)),
    })
}

fn read_array(cursor: &mut Cursor<'_>, depth: u32, site: Site<'_>) -> Result<ArrayValue, GgufError> {
    if depth > MAX_ARRAY_DEPTH {
        return Err(cursor.error(site, format!("arrays nested more than {MAX_ARRAY_DEPTH} deep")));
    }
    let element = read_value_type(cursor, site)?;
    let n = cursor.count(element.min_bytes(), site)?;
    fn collect<'c, T>(
        cursor: &mut Cursor<'c>,
        n: usize,
        mut read: impl FnMut(&mut Cursor<'c>) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        let mut out = Vec::with_capacity(n);
        for _ in 0..n {
            out.push(read(cursor)?);
        }
        Ok(out)
    }
    Ok(match element {
        ValueType::U8 => ArrayValue::U8(cursor.take(n as u64, site)?.to_vec()),
        ValueType::I8 => ArrayValue::I8(collect(cursor, n, |c| Ok(c.u8(site)?.cast_signed()))?),
        ValueType::U16 => ArrayValue::U16(collect(cursor, n, |c| c.u16(site))?),
        ValueType::I16 => ArrayValue::I16(collect(cursor, n, |c| Ok(c.u16(site)?.cast_signed()))?),
        ValueType::U32 => ArrayValue::U32(collect(cursor, n, |c| c.u32(site))?),
        ValueType::I32 => ArrayValue::I32(collect(cursor, n, |c| Ok(c.u32(site)?.cast_signed()))?),
        ValueType::F32 => ArrayValue::F32(collect(cursor, n, |c| Ok(f32::from_bits(c.u32(site)?)))?),
        ValueType::Bool => ArrayValue::Bool(collect(cursor, n, |c| read_bool(c, site))?),
        ValueType::String => {
            let mut strings = Strings::with_capacity(n);
            for _ in 0..n {
                strings.push(cursor.string(u64::MAX, site)?);
            }
            ArrayValue::String(strings)
        }
        ValueType::Array => ArrayValue::Array(collect(cursor, n, |c| read_array(c, depth + 1, site))?),
        ValueType::U64 => ArrayValue::U64(collect(cursor, n, |c| c.u64(site))?),
        ValueType::I64 => ArrayValue::I64(collect(cursor, n, |c| Ok(c.u64(site)?.cast_signed()))?),
        ValueType::F64 => ArrayValue::F64(collect(cursor, n, |c| Ok(f64::from_bits(c.u64(site)?)))?),
    })
}

/// The alignment a file's metadata asks for, or what is wrong with it.
pub(crate) fn checked_alignment(metadata: &Metadata) -> Result<u64, String> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match metadata.u64(ALIGNMENT_KEY) {
        Some(n) if n.is_power_of_two() && n <= 1 << 31 => Ok(n),
        _ => Err(format!("value {value}, expected a power of two up to 2147483648")),
    }
}

fn alignment(cursor: &Cursor<'_>, metadata: &Metadata) -> Result<u64, GgufError> {
    checked_alignment(metadata).map_err(|problem| cursor.error(Site::Key(ALIGNMENT_KEY), problem))
}

/// `position` is below 2^63 for anything in memory and `alignment` at most 2^31, so this cannot overflow.
pub(crate) fn align_up(position: u64, alignment: u64) -> u64 {
    position.next_multiple_of(alignment)
}

struct TensorHeader {
    name: String,
    dtype: DType,
    dims: Vec<u64>,
    offset: u64,
}

fn read_tensor_headers(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorHeader>, GgufError> {
    let count = cursor.check_count(count, MIN_TENSOR_BYTES, Site::Header)?;
    let mut headers = Vec::with_capacity(count);
    let mut names = HashSet::with_capacity(count);
    for i in 0..count as u64 {
        let name = cursor.string(MAX_TENSOR_NAME_BYTES, Site::TensorNumber(i))?;
        let site = Site::Tensor(name);
        if !names.insert(name) {
            return Err(cursor.error(site, "name occurs twice, expected every name once"));
        }
        let n_dims = cursor.u32(site)?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            return Err(cursor.error(site, format!("{n_dims} dimensions, expected 1 to {MAX_DIMS}")));
        }
        let dims = (0..n_dims).map(|_| cursor.u64(site)).collect::<Result<Vec<_>, _>>()?;
        let id = cursor.u32(site)?;
        let Some(dtype) = DType::from_id(id) else {
            return Err(cursor.error(site, format!("unknown tensor type {id}: this build reads {}", known_types())));
        };
        headers.push(TensorHeader { name: name.to_owned(), dtype, dims, offset: cursor.u64(site)? });
    }
    Ok(headers)
}

fn known_types() -> String {
    DType::ALL.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ")
}

/// Bytes of a tensor with these `dims` (row length first), or what is wrong with them.
pub(crate) fn tensor_bytes(dtype: DType, dims: &[u64]) -> Result<u64, String> {
    let layout = dtype.layout();
    let (row, block) = (dims.first().copied().unwrap_or(0), layout.block_elements as u64);
    if dims.contains(&0) {
        return Err(format!("dimensions {dims:?}, expected none to be 0"));
    }
    if !row.is_multiple_of(block) {
        return Err(format!("rows of {row} elements, expected a multiple of {block} for {dtype}"));
    }
    dims[1..]
        .iter()
        .try_fold((row / block).checked_mul(layout.block_bytes as u64), |n, &d| Some(n?.checked_mul(d)))
        .flatten()
        .ok_or_else(|| format!("dimensions {dims:?}: the size in bytes overflows 64 bits"))
}

fn place(
    cursor: &Cursor<'_>,
    header: TensorHeader,
    data_start: u64,
    alignment: u64,
    file_len: usize,
) -> Result<RawTensor, GgufError> {
    let TensorHeader { name, dtype, dims, offset } = header;
    let site = Site::Tensor(&name);
    let len = tensor_bytes(dtype, &dims).map_err(|problem| cursor.error(site, problem))?;
    if !offset.is_multiple_of(alignment) {
        return Err(cursor.error(site, format!("data offset {offset}, expected a multiple of {alignment}")));
    }
    let end = data_start.checked_add(offset).and_then(|start| start.checked_add(len));
    match end.and_then(|end| usize::try_from(end).ok()) {
        Some(end) if end <= file_len => {
            let len = len as usize;
            Ok(RawTensor { name, dtype, dims, offset: end - len, len })
        }
        _ => Err(cursor.error(
            site,
            format!(
                "data of {len} bytes at offset {offset} after byte {data_start} reaches past the end of the file \
                 ({file_len} bytes): the file is truncated or damaged"
            ),
        )),
    }
}

fn check_overlap(cursor: &Cursor<'_>, tensors: &[RawTensor]) -> Result<(), GgufError> {
    let mut order: Vec<&RawTensor> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        if before.offset + before.len > after.offset {
            return Err(cursor.error(
                Site::Tensor(&after.name),
                format!(
                    "data at byte {} overlaps that of tensor \"{}\" (bytes {} to {})",
                    after.offset,
                    before.name.escape_debug(),
                    before.offset,
                    before.offset + before.len
                ),
            ));
        }
    }
    Ok(())
}
