use std::fmt::Display;

use rocmforge_abi::{Code, Status, status};
use rocmforge_program::ProgramError;

/// What kind of failure it is; the host decides by it whether to try something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A model file, option or program is wrong.
    Invalid,
    /// Correct, but not supported here.
    Unsupported,
    /// Not enough memory.
    OutOfMemory,
    /// The device is missing, lost or hung.
    Device,
    /// A file or system call failed.
    Io,
    /// A fault of the plugin itself.
    Internal,
}

/// An error of a plugin. The message says what was wrong, where, what was expected and what was found.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Its kind.
    pub kind: ErrorKind,
    /// For the user.
    pub message: String,
}

/// A result of a plugin.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident $kind:ident;)*) => {
        impl Error {$(
            $(#[$doc])*
            pub fn $name(message: impl Display) -> Error {
                Error { kind: ErrorKind::$kind, message: message.to_string() }
            }
        )*}
    };
}

constructors! {
    /// A model file, option or program is wrong.
    invalid Invalid;
    /// Correct, but not supported here.
    unsupported Unsupported;
    /// Not enough memory; give the numbers.
    out_of_memory OutOfMemory;
    /// The device is missing, lost or hung.
    device Device;
    /// A file or system call failed.
    io Io;
    /// A fault of the plugin itself.
    internal Internal;
}

impl From<ProgramError> for Error {
    fn from(e: ProgramError) -> Error {
        Error::invalid(e)
    }
}

impl From<Error> for Status {
    fn from(e: Error) -> Status {
        Status::error(code(e.kind), e.message)
    }
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => status::INVALID,
        ErrorKind::Unsupported => status::UNSUPPORTED,
        ErrorKind::OutOfMemory => status::OUT_OF_MEMORY,
        ErrorKind::Device => status::DEVICE,
        ErrorKind::Io => status::IO,
        ErrorKind::Internal => status::INTERNAL,
    }
}
