//! What can go wrong.

use std::fmt;
use std::path::PathBuf;

use crate::types::hipError_t;

/// A name under which the library was looked for, and what the dynamic loader said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// A file, or a bare name that the dynamic loader looks for.
    pub candidate: PathBuf,
    /// Its answer.
    pub reason: String,
}

impl Attempt {
    /// Whether there simply is no such file.
    fn is_absence(&self) -> bool {
        self.reason.contains("No such file or directory")
    }
}

/// Why HIP cannot be used, or what it answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HipError {
    /// No library could be loaded.
    #[error("HIP's library could not be loaded{}: {}", origin(.chosen), Attempts(.attempts))]
    NotFound {
        /// What named the one library that was to be taken, where something did.
        chosen: Option<String>,
        /// Every attempt, in order.
        attempts: Vec<Attempt>,
    },
    /// A library without a function that must be there.
    #[error(
        "{}: expected HIP's function {symbol}, found none in this library ({version}): {reason}; it is not libamdhip64, or older \
         than ROCm 5",
        .library.display()
    )]
    MissingSymbol {
        /// The library's file.
        library: PathBuf,
        /// The library's version, as far as it can be asked.
        version: String,
        /// The function.
        symbol: &'static str,
        /// What the dynamic loader said.
        reason: String,
    },
    /// A function that this library does not have, in a call that needs it.
    #[error("{}: {symbol} is needed, but this library ({version}) has no such function", .library.display())]
    Unsupported {
        /// The library's file.
        library: PathBuf,
        /// The library's version.
        version: String,
        /// The function.
        symbol: &'static str,
    },
    /// Device properties that do not have the layout that their symbol stands for.
    #[error(
        "{}: expected the name of an instruction set such as gfx1100 at byte {offset} of what {symbol} wrote about device \
         {device}, found {found}; this library ({version}) has another layout",
        .library.display()
    )]
    Properties {
        /// The library's file.
        library: PathBuf,
        /// The library's version.
        version: String,
        /// The function.
        symbol: &'static str,
        /// The device.
        device: i32,
        /// Where the name was looked for.
        offset: usize,
        /// The bytes that were there, as text.
        found: String,
    },
    /// A call that failed.
    #[error("{call} failed: {name} ({}): {text}", .status.0)]
    Status {
        /// The function.
        call: &'static str,
        /// Its status.
        status: hipError_t,
        /// HIP's name of the status.
        name: String,
        /// HIP's description of the status.
        text: String,
    },
}

impl HipError {
    /// The status of a failed call; `None` for a library that cannot be used.
    pub fn status(&self) -> Option<hipError_t> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the device had too little memory.
    pub fn is_out_of_memory(&self) -> bool {
        self.status() == Some(crate::types::hipErrorOutOfMemory)
    }

    /// Whether the device takes no more work from this process.
    pub fn loses_device(&self) -> bool {
        self.status().is_some_and(hipError_t::loses_device)
    }

    /// Whether there is no library at all on this machine: nothing is wrong with it, ROCm is just not installed.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NotFound { chosen: None, attempts } => attempts.iter().all(Attempt::is_absence),
            _ => false,
        }
    }
}

fn origin(chosen: &Option<String>) -> String {
    chosen.as_ref().map(|by| format!(" (chosen by {by})")).unwrap_or_default()
}

/// All attempts in one line: those that found a file first, as they are what is wrong.
struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (absent, refused): (Vec<&Attempt>, Vec<&Attempt>) = self.0.iter().partition(|a| a.is_absence());
        for (i, attempt) in refused.iter().enumerate() {
            let comma = if i == 0 { "" } else { "; " };
            write!(f, "{comma}{}: {}", attempt.candidate.display(), attempt.reason)?;
        }
        if !absent.is_empty() {
            let comma = if refused.is_empty() { "" } else { "; " };
            let names: Vec<String> = absent.iter().map(|a| a.candidate.display().to_string()).collect();
            write!(f, "{comma}no such file: {}", names.join(", "))?;
        }
        Ok(())
    }
}
