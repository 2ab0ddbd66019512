use std::path::PathBuf;

/// What is wrong with a GGUF file, in which file, and where in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The operating system refused to open, map or write the file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as in "open".
        action: &'static str,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// Something other than a regular file stands at the path.
    #[error("{}: expected a regular file, found a directory or a device", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The first four bytes are not `GGUF`.
    #[error("{}: not a GGUF file: expected it to begin with \"GGUF\", found \"{}\"", path.display(), found.escape_ascii())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first four bytes.
        found: [u8; 4],
    },
    /// The numbers of the file are stored most significant byte first.
    #[error(
        "{}: big-endian GGUF file; only little-endian files are supported: convert it with gguf_convert_endian.py from llama.cpp",
        path.display()
    )]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// A version this reader does not know.
    #[error("{}: GGUF version {found}; versions 2 and 3 are supported: convert the model again with a current converter", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it names.
        found: u32,
    },
    /// The file ends inside something, or claims to hold more of it than its bytes could.
    #[error("{}: {site} at byte {offset}: expected {needed} more bytes, found {available}: the file is truncated or damaged", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        site: String,
        /// Where in the file.
        offset: u64,
        /// Bytes that have to follow for the file to be whole.
        needed: u64,
        /// Bytes that do follow.
        available: u64,
    },
    /// A metadata entry breaks the format.
    #[error("{}: metadata {site}: {problem}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key, or the number of the entry while its key is unknown.
        site: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tensor header breaks the format, or its data does not fit the file.
    #[error("{}: {site}: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, or its number while its name is unknown.
        site: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// The parts of a split model do not fit together.
    #[error("{}: split model: {problem}", path.display())]
    Split {
        /// The part that was being opened.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// The writer was given something that no valid file can hold.
    #[error("cannot write GGUF: {problem}")]
    Write {
        /// What was given and what is possible.
        problem: String,
    },
}
