//! What the environment chooses.

use std::path::PathBuf;

use rocmforge_hip_sys::hipError_t;

/// A call that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The function.
    pub name: String,
    /// Which call of it, from 1.
    pub call: u64,
    /// With which status.
    pub status: hipError_t,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Lanes of a wave: 32 or 64.
    pub wave: usize,
    /// Number of devices.
    pub devices: usize,
    /// Bytes of memory of each.
    pub memory: usize,
    /// Threads that run blocks.
    pub threads: usize,
    /// Whether work runs as late as HIP allows, instead of at once.
    pub late: bool,
    /// Whether recorded work runs without its first launch, as if it were of an earlier recording.
    pub stale: bool,
    /// Calls that fail.
    pub failures: Vec<Failure>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings; `variable` gives an environment variable.
    ///
    /// # Errors
    /// Which variable has what instead of what.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number = |name: &str, default: usize, least: usize, most: usize| match set(name) {
            None => Ok(default),
            Some(value) => {
                let parsed = value.parse().ok().filter(|n| (least..=most).contains(n));
                parsed.ok_or_else(|| format!("{name}: expected a number from {least} to {most}, found '{value}'"))
            }
        };
        let choice = |name: &str, choices: [&'static str; 2]| match set(name) {
            None => Ok(choices[0]),
            Some(value) => {
                let found = choices.into_iter().find(|c| *c == value);
                found.ok_or_else(|| format!("{name}: expected {} or {}, found '{value}'", choices[0], choices[1]))
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            wave: if choice("HIP_STAND_IN_WAVE", ["32", "64"])? == "64" { 64 } else { 32 },
            devices: number("HIP_STAND_IN_DEVICES", 1, 0, 16)?,
            memory: number("HIP_STAND_IN_MEMORY", 4 << 30, 0, usize::MAX)?,
            threads: number("HIP_STAND_IN_THREADS", processors.min(4), 1, 64)?,
            late: choice("HIP_STAND_IN_STREAMS", ["late", "eager"])? == "late",
            stale: choice("HIP_STAND_IN_GRAPHS", ["right", "stale"])? == "stale",
            failures: failures(&set("HIP_STAND_IN_FAIL").unwrap_or_default())?,
            report: set("HIP_STAND_IN_REPORT").map(PathBuf::from),
        })
    }
}

/// Reads `NAME:CALL:STATUS`, several separated by commas.
fn failures(text: &str) -> Result<Vec<Failure>, String> {
    let known = |name: &str| rocmforge_hip_sys::FUNCTIONS.iter().any(|f| f.name == name);
    let one = |item: &str| {
        let parts: Vec<&str> = item.split(':').collect();
        let [name, call, status] = parts.as_slice() else { return None };
        let call = call.parse().ok().filter(|c| *c > 0)?;
        let status = status.parse().ok().filter(|s| *s > 0).map(hipError_t)?;
        known(name).then(|| Failure { name: (*name).to_owned(), call, status })
    };
    let items = text.split(',').filter(|item| !item.is_empty());
    items
        .map(|item| {
            let expected = "expected FUNCTION:CALL:STATUS, as hipMalloc:3:2";
            one(item).ok_or_else(|| format!("HIP_STAND_IN_FAIL: {expected}, found '{item}'"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_or_refused() {
        let check = |name: &str, value: &str, expected: Result<&dyn Fn(&Settings) -> bool, &str>| {
            let found = Settings::read(|n| (n == name).then(|| value.to_owned()));
            match (&found, expected) {
                (Ok(settings), Ok(holds)) => assert!(holds(settings), "{name}={value}: {settings:?}"),
                (Err(text), Err(part)) => assert!(text.contains(part), "{name}={value}: {text}"),
                _ => panic!("{name}={value}: {found:?}"),
            }
        };
        check("", "", Ok(&|s| s.wave == 32 && s.devices == 1 && s.late && s.failures.is_empty()));
        check("HIP_STAND_IN_WAVE", "64", Ok(&|s| s.wave == 64));
        check("HIP_STAND_IN_WAVE", "16", Err("expected 32 or 64, found '16'"));
        check("HIP_STAND_IN_DEVICES", "0", Ok(&|s| s.devices == 0));
        check("HIP_STAND_IN_DEVICES", "17", Err("from 0 to 16"));
        check("HIP_STAND_IN_MEMORY", "4k", Err("found '4k'"));
        check("HIP_STAND_IN_STREAMS", "eager", Ok(&|s| !s.late));
        check("HIP_STAND_IN_GRAPHS", "", Ok(&|s| !s.stale));
        check("HIP_STAND_IN_GRAPHS", "stale", Ok(&|s| s.stale));
        check(
            "HIP_STAND_IN_FAIL",
            "hipMalloc:3:2,hipModuleLaunchKernel:1:719",
            Ok(&|s| s.failures.len() == 2 && s.failures[0].call == 3 && s.failures[1].status.0 == 719),
        );
        check("HIP_STAND_IN_FAIL", "hipMaloc:3:2", Err("found 'hipMaloc:3:2'"));
        check("HIP_STAND_IN_FAIL", "hipMalloc:0:2", Err("expected FUNCTION:CALL:STATUS"));
        check("HIP_STAND_IN_FAIL", "hipMalloc:1:0", Err("expected FUNCTION:CALL:STATUS"));
    }
}
