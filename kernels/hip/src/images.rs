//! Compiled kernels: those embedded in this library, and those of a folder.

use std::path::Path;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The image of one source.
#[derive(Clone, Debug)]
pub struct Image {
    /// The source's name.
    pub name: &'static str,
    /// What hipModuleLoadData takes.
    pub bytes: &'static [u8],
}

/// Why a folder's images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file could not be read.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A kernel's source has no image in the folder.
    #[error("{folder}: expected an image of '{source_name}' ({source_name}.co, .cubin or .so)")]
    Missing {
        /// The folder.
        folder: String,
        /// The source's name.
        source_name: &'static str,
    },
}

/// The embedded images for a target; empty where it was not compiled.
pub fn embedded(arch: &str) -> &'static [Image] {
    EMBEDDED.iter().find(|(name, _)| *name == arch).map_or(&[], |(_, images)| images)
}

/// The targets with embedded images.
pub fn embedded_archs() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

/// The image of every source in `folder/arch`, by the source's name.
pub fn from_folder(folder: &Path, arch: &str) -> Result<Vec<(&'static str, Vec<u8>)>, ImageError> {
    let folder = folder.join(arch);
    let mut images = vec![];
    for source in crate::launch::sources() {
        let candidates = ["co", "cubin", "so"].map(|ending| folder.join(format!("{source}.{ending}")));
        let Some(path) = candidates.iter().find(|path| path.is_file()) else {
            return Err(ImageError::Missing { folder: folder.display().to_string(), source_name: source });
        };
        let bytes = std::fs::read(path).map_err(|error| ImageError::Io { path: path.display().to_string(), error })?;
        images.push((source, bytes));
    }
    Ok(images)
}
