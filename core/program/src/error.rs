use std::fmt::Display;

/// What is wrong with a Program, or with a step that is to run it.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The bytes are no Program, or use an operation or field that this version does not know.
    #[error("program: {0}; built against another version of the program crate?")]
    Decode(String),
    /// Another major version.
    #[error("program: version {found} of the IR, expected {}.x; rebuild the plugin against a current SDK", crate::IR_VERSION.major)]
    Version {
        /// The version in the bytes.
        found: semver::Version,
    },
    /// A rule that does not hold.
    #[error("program: {place}: expected {expected}, found {found}")]
    Rule {
        /// Node, table entry or output.
        place: String,
        /// The rule.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A step that does not fit the program or its cache.
    #[error("step: {place}: expected {expected}, found {found}")]
    Step {
        /// The field.
        place: String,
        /// The rule.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl ProgramError {
    /// A broken rule.
    pub fn rule(place: impl Display, expected: impl Display, found: impl Display) -> ProgramError {
        ProgramError::Rule { place: place.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// A step that does not fit.
    pub fn step(place: impl Display, expected: impl Display, found: impl Display) -> ProgramError {
        ProgramError::Step { place: place.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// The same, with the place of the custom operation that it was found in.
    pub(crate) fn inside(self, outer: &str) -> ProgramError {
        match self {
            ProgramError::Rule { place, expected, found } => {
                ProgramError::rule(format!("{outer}: {place}"), expected, found)
            }
            other => other,
        }
    }

    pub(crate) fn decode(e: serde_json::Error) -> ProgramError {
        ProgramError::Decode(e.to_string())
    }
}
