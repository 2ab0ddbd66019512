use std::fmt;
use std::path::Path;

use crate::GgufError;
use crate::metadata::quote;

/// What is being read, for error messages.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    Header,
    Entry(u64),
    Key(&'a str),
    TensorNumber(u64),
    Tensor(&'a str),
}

impl fmt::Display for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Header => f.write_str("file header"),
            Site::Entry(i) => write!(f, "entry {i}"),
            Site::Key(key) => {
                f.write_str("key ")?;
                quote(f, key)
            }
            Site::TensorNumber(i) => write!(f, "tensor {i}"),
            Site::Tensor(name) => write!(f, "tensor \"{}\"", name.escape_debug()),
        }
    }
}

/// Reads little-endian values from the front of a file; every read is checked against the bytes left.
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Cursor { path, bytes, position: 0 }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn truncated(&self, site: Site<'_>, needed: u64) -> GgufError {
        GgufError::Truncated {
            path: self.path.to_owned(),
            site: site.to_string(),
            offset: self.position as u64,
            needed,
            available: self.remaining() as u64,
        }
    }

    /// The error for `problem` at `site`.
    pub(crate) fn error(&self, site: Site<'_>, problem: impl Into<String>) -> GgufError {
        let (path, problem) = (self.path.to_owned(), problem.into());
        match site {
            Site::Header | Site::Entry(_) | Site::Key(_) => {
                GgufError::Metadata { path, site: site.to_string(), problem }
            }
            Site::TensorNumber(_) | Site::Tensor(_) => GgufError::Tensor { path, site: site.to_string(), problem },
        }
    }

    pub(crate) fn take(&mut self, len: u64, site: Site<'_>) -> Result<&'a [u8], GgufError> {
        match usize::try_from(len) {
            Ok(len) if len <= self.remaining() => {
                let taken = &self.bytes[self.position..self.position + len];
                self.position += len;
                Ok(taken)
            }
            _ => Err(self.truncated(site, len)),
        }
    }

    fn array<const N: usize>(&mut self, site: Site<'_>) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, site)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, site: Site<'_>) -> Result<u8, GgufError> {
        Ok(self.array::<1>(site)?[0])
    }

    pub(crate) fn u16(&mut self, site: Site<'_>) -> Result<u16, GgufError> {
        self.array(site).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, site: Site<'_>) -> Result<u32, GgufError> {
        self.array(site).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, site: Site<'_>) -> Result<u64, GgufError> {
        self.array(site).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each; an error if so many cannot follow.
    pub(crate) fn count(&mut self, least: usize, site: Site<'_>) -> Result<usize, GgufError> {
        let count = self.u64(site)?;
        self.check_count(count, least, site)
    }

    /// Errs if `count` things of at least `least` bytes cannot follow, so that it is safe to reserve room for them.
    pub(crate) fn check_count(&self, count: u64, least: usize, site: Site<'_>) -> Result<usize, GgufError> {
        let needed = count.saturating_mul(least as u64);
        if needed > self.remaining() as u64 {
            return Err(self.truncated(site, needed));
        }
        Ok(count as usize)
    }

    /// A string of at most `limit` bytes.
    pub(crate) fn string(&mut self, limit: u64, site: Site<'_>) -> Result<&'a str, GgufError> {
        let len = self.u64(site)?;
        if len > limit && len <= self.remaining() as u64 {
            return Err(self.error(site, format!("name is {len} bytes long, expected at most {limit}")));
        }
        let bytes = self.take(len, site)?;
        std::str::from_utf8(bytes).map_err(|e| {
            let shown: String = bytes.escape_ascii().take(80).map(char::from).collect();
            self.error(site, format!("string is not UTF-8 (byte {} of it): \"{shown}\"", e.valid_up_to()))
        })
    }
}
