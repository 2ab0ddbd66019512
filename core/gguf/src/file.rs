use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rocmforge_quant::DType;

use crate::parse::{Parsed, parse};
use crate::{GgufError, Mapping, Metadata, TensorData, split};

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name, as in `blk.0.attn_q.weight`.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// One to four dimensions in file order: `dims[0]` is the row length, the last one varies slowest.
    pub dims: Vec<u64>,
    /// Bytes of data.
    pub len: usize,
    /// The file of a split model it lies in; 0 for a model in one file.
    pub shard: usize,
    /// Byte of that file at which its data starts.
    pub offset: usize,
}

impl TensorInfo {
    /// Elements in total.
    pub fn elements(&self) -> u64 {
        // The reader has checked that the size in bytes fits; elements can still be up to 14 times that.
        self.dims.iter().fold(1, |n: u64, &d| n.saturating_mul(d))
    }
}

/// One tensor of an open file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Name, type, shape and place.
    pub info: &'a TensorInfo,
    mapping: &'a Arc<Mapping>,
}

impl<'a> TensorView<'a> {
    /// The data as it lies in the file, without a copy. Its address has the file's alignment (32 unless
    /// `general.alignment` says otherwise).
    pub fn bytes(&self) -> &'a [u8] {
        &self.mapping.bytes()[self.info.offset..self.info.offset + self.info.len]
    }

    /// Says that the data will not be read soon, see [`Mapping::release`].
    pub fn release(&self) {
        self.mapping.release(self.info.offset..self.info.offset + self.info.len);
    }

    /// The same data, owned together with the mapping: it outlives the [`GgufFile`].
    pub fn data(&self) -> TensorData {
        let range = self.info.offset..self.info.offset + self.info.len;
        TensorData::new(Arc::clone(self.mapping), range).expect("the parser checked the range")
    }
}

/// An open model: one GGUF file, or all parts of a split one.
///
/// Opening reads the header and maps the rest; tensor data is read from disk when it is looked at. The files must not
/// be truncated or rewritten while they are open, see [`Mapping`].
#[derive(Debug)]
pub struct GgufFile {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    shards: Vec<Arc<Mapping>>,
}

impl GgufFile {
    /// Opens the file at `path`, and with the first part of a split model all its other parts.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, breaks the format, or is a part other than the first.
    pub fn open(path: &Path) -> Result<GgufFile, GgufError> {
        let mut file = GgufFile::from_mapping(Mapping::open(path)?)?;
        let siblings = split::siblings(path, &file.metadata)?;
        if siblings.is_empty() {
            return Ok(file);
        }
        let count = siblings.len() + 1;
        for (i, part) in siblings.iter().enumerate() {
            let mapping = match Mapping::open(part) {
                Err(GgufError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Err(split::missing(path, part, count));
                }
                other => other?,
            };
            let parsed = parse(part, mapping.bytes())?;
            split::check_part(part, &parsed.metadata, i as u64 + 1, count as u64)?;
            file.add_shard(mapping, parsed)?;
        }
        split::check_tensor_count(path, &file.metadata, file.tensors.len())?;
        Ok(file)
    }

    /// Reads a file that is already in memory; `name` stands for its path in messages. Split models are not followed.
    ///
    /// # Errors
    ///
    /// If the bytes break the format.
    pub fn from_bytes(name: &Path, bytes: &[u8]) -> Result<GgufFile, GgufError> {
        GgufFile::from_mapping(Mapping::from_bytes(name, bytes)?)
    }

    fn from_mapping(mapping: Mapping) -> Result<GgufFile, GgufError> {
        let mut parsed = parse(mapping.path(), mapping.bytes())?;
        let mut file = GgufFile {
            version: parsed.version,
            metadata: std::mem::take(&mut parsed.metadata),
            tensors: Vec::new(),
            index: HashMap::new(),
            shards: Vec::new(),
        };
        file.add_shard(mapping, parsed)?;
        Ok(file)
    }

    fn add_shard(&mut self, mapping: Mapping, parsed: Parsed) -> Result<(), GgufError> {
        // It has been copied.
        mapping.release(0..parsed.header);
        let shard = self.shards.len();
        self.tensors.reserve(parsed.tensors.len());
        for t in parsed.tensors {
            if let Some(&i) = self.index.get(&t.name) {
                let other = self.shards[self.tensors[i].shard].path().display();
                return Err(GgufError::Tensor {
                    path: mapping.path().to_owned(),
                    site: format!("tensor \"{}\"", t.name.escape_debug()),
                    problem: format!("name already used in {other}, expected every name once"),
                });
            }
            self.index.insert(t.name.clone(), self.tensors.len());
            self.tensors.push(TensorInfo {
                name: t.name,
                dtype: t.dtype,
                dims: t.dims,
                len: t.len,
                shard,
                offset: t.offset,
            });
        }
        self.shards.push(Arc::new(mapping));
        Ok(())
    }

    /// The format version, 2 or 3 (of the first file).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata (of the first file; the other parts of a split model carry none).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order. Empty for a file that holds a vocabulary only.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What the file says of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.find(name).map(|info| TensorView { info, mapping: &self.shards[info.shard] })
    }

    /// All tensors with their data, in file order.
    pub fn views(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|info| TensorView { info, mapping: &self.shards[info.shard] })
    }

    /// The mapped files, in order of their number; one unless the model is split.
    pub fn shards(&self) -> &[Arc<Mapping>] {
        &self.shards
    }

    /// Size of all files together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes().len() as u64).sum()
    }
}
