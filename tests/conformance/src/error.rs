/// Why a plugin could not be tested at all, or a case not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin does not load.
    #[error(transparent)]
    Loader(#[from] rocmforge_loader::LoaderError),
    /// The options on the command line are no TOML.
    #[error("--options: expected TOML such as 'threads = 2', found an error: {0}")]
    Options(#[from] toml::de::Error),
    /// A model or a case's file.
    #[error(transparent)]
    Gguf(#[from] rocmforge_gguf::GgufError),
    /// A program of a case breaks a rule.
    #[error(transparent)]
    Program(#[from] rocmforge_program::ProgramError),
    /// The interpreter refuses a case.
    #[error(transparent)]
    Reference(#[from] rocmforge_reference::ReferenceError),
    /// The plugin ends the process that loads it.
    #[error("plugin {}: crashes while it is loaded ({end})", .file.display())]
    Crash {
        /// The library.
        file: std::path::PathBuf,
        /// What became of the process.
        end: String,
    },
    /// A fault of the kit.
    #[error("conformance kit: {0}")]
    Kit(String),
}
