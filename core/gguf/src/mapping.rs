use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use crate::GgufError;

/// Bytes that a system maps beside one that is read, if its cache has them (`fault_around_bytes` of Linux).
#[cfg(unix)]
const BESIDE: usize = 64 << 10;

/// The bytes of one file, mapped read-only and page-aligned.
///
/// The file must not be truncated or rewritten while it is mapped: reading a page that is gone ends the process with
/// a bus error. Replace model files by renaming a new one over them.
#[derive(Debug)]
pub struct Mapping {
    path: PathBuf,
    map: Mmap,
    /// Whether what is mapped is the file, else a copy of it.
    of_file: bool,
}

impl Mapping {
    pub(crate) fn open(path: &Path) -> Result<Mapping, GgufError> {
        let io = |action| move |source| GgufError::Io { path: path.to_owned(), action, source };
        // Opening a pipe would wait for a writer, so ask first.
        if !std::fs::metadata(path).map_err(io("open"))?.is_file() {
            return Err(GgufError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io("open"))?;
        // SAFETY: the map is read-only and handed out as shared slices only. That nobody truncates or rewrites the file
        // meanwhile cannot be enforced on POSIX systems; the type's documentation asks it of the user.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        Ok(Mapping { path: path.to_owned(), map, of_file: true })
    }

    /// A copy of `bytes` in memory of its own; `name` stands for the path in messages.
    pub(crate) fn from_bytes(name: &Path, bytes: &[u8]) -> Result<Mapping, GgufError> {
        let io = |source| GgufError::Io { path: name.to_owned(), action: "copy to memory", source };
        let mut map = MmapMut::map_anon(bytes.len()).map_err(io)?;
        map.copy_from_slice(bytes);
        Ok(Mapping { path: name.to_owned(), map: map.make_read_only().map_err(io)?, of_file: false })
    }

    /// The file that is mapped.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Says that a range will not be read soon. Its pages no longer count as this process's memory; one that is read
    /// after all comes back from the system's cache of the file, or from the file. The same goes for pages beside it, as
    /// systems map some of those together with one that is read.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if self.of_file && self.bytes().get(range.clone()).is_some_and(|bytes| !bytes.is_empty()) {
            let range = range.start.saturating_sub(BESIDE)..range.end.saturating_add(BESIDE).min(self.bytes().len());
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: pages of a shared map of a file that are dropped have the same contents when they are read again.
            // A system that does not take the advice costs nothing but memory.
            let _ = unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// The bytes of one tensor, which keep their file mapped for as long as they live.
#[derive(Clone, Debug)]
pub struct TensorData {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl TensorData {
    /// `None` if `range` does not lie inside the mapping.
    pub fn new(mapping: Arc<Mapping>, range: Range<usize>) -> Option<TensorData> {
        mapping.bytes().get(range.clone())?;
        Some(TensorData { mapping, range })
    }

    /// The bytes, in the tensor's storage layout.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping.bytes()[self.range.clone()]
    }

    /// The file they lie in.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Where they lie in it.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Deref for TensorData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsRef<[u8]> for TensorData {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
