//! Which kernel images a device runs.

use std::borrow::Cow;
use std::path::Path;

use rocmforge_kernels_hip::{embedded, embedded_archs, from_folder};
use rocmforge_sdk::{Error, Result};

/// Environment variable of a folder of images; the option `images` wins.
pub(crate) const FOLDER_VARIABLE: &str = "ROCMFORGE_HIP_IMAGES";

/// The image of every source for one instruction set.
pub(crate) struct Images(Vec<(&'static str, Cow<'static, [u8]>)>);

impl Images {
    /// The images for an instruction set: of the folder if it has any, else those in the plugin; `None` without any.
    pub(crate) fn find(arch: &str, folder: Option<&Path>) -> Result<Option<Images>> {
        if let Some(folder) = folder.filter(|f| f.join(arch).is_dir()) {
            let images = from_folder(folder, arch).map_err(|e| Error::invalid(format!("images: {e}")))?;
            return Ok(Some(Images(images.into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes))).collect())));
        }
        let images = embedded(arch);
        let images = images.iter().map(|image| (image.name, Cow::Borrowed(image.bytes)));
        Ok(Some(Images(images.collect())).filter(|images| !images.0.is_empty()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (*name, &**bytes))
    }
}

/// The instruction sets that there are images for, for messages.
pub(crate) fn known(folder: Option<&Path>) -> String {
    let mut found: Vec<String> = embedded_archs().map(str::to_owned).collect();
    let entries = folder.and_then(|f| std::fs::read_dir(f).ok()).into_iter().flatten().flatten();
    found.extend(entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()));
    found.sort();
    found.dedup();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}
