//! Which devices are used.

use std::path::Path;
use std::sync::Arc;

use rocmforge_hip_sys::Hip;
use rocmforge_sdk::{Error, Result, log};

use crate::gpu::{Facts, Gpu};
use crate::images::{FOLDER_VARIABLE, Images, known};
use crate::options::{HipOptions, Selector};

/// The devices that the options ask for, with their kernels loaded.
pub(crate) fn devices(options: &HipOptions) -> Result<Vec<Arc<Gpu>>> {
    let hip = Hip::load(options.library.as_deref()).map_err(Error::device)?;
    let hip = Arc::new(hip);
    let count = hip.device_count().map_err(|e| Error::device(format!("{}: {e}", hip.path().display())))?;
    if count == 0 {
        return Err(Error::device(format!("{} ({}) finds no device", hip.path().display(), hip.version())));
    }
    let mut found = vec![];
    for ordinal in 0..count {
        match Facts::of(&hip, ordinal as i32) {
            Ok(facts) => found.push(facts),
            Err(e) => log!(Warn, "device {ordinal} is left out: {e}"),
        }
    }
    let from_environment = std::env::var_os(FOLDER_VARIABLE).filter(|v| !v.is_empty());
    let folder = options.images.as_deref().or(from_environment.as_deref().map(Path::new));
    let chosen = choose(&found, &options.devices)?;
    let mut gpus = vec![];
    let mut refused = vec![];
    for facts in chosen {
        match Images::find(&facts.arch, folder)? {
            Some(images) => gpus.push(Arc::new(Gpu::new(Arc::clone(&hip), facts.clone(), &images)?)),
            None if options.devices.is_empty() => refused.push(facts.to_string()),
            None => return Err(no_images(&[facts.to_string()], folder)),
        }
    }
    if gpus.is_empty() {
        return Err(no_images(&refused, folder));
    }
    for device in refused {
        log!(Info, "device {device} is left out: there are kernels for {}", known(folder));
    }
    log!(Debug, "{} ({}), driver {:?}", hip.path().display(), hip.version(), hip.driver_version());
    Ok(gpus)
}

fn no_images(devices: &[String], folder: Option<&Path>) -> Error {
    Error::device(format!("no kernels for device {}; there are kernels for {}", devices.join(", "), known(folder)))
}

/// The devices that selectors name, in their order; without selectors all.
fn choose<'a>(found: &'a [Facts], selectors: &[Selector]) -> Result<Vec<&'a Facts>> {
    if selectors.is_empty() {
        return Ok(found.iter().collect());
    }
    let mut chosen: Vec<&Facts> = vec![];
    for selector in selectors {
        let matching: Vec<&Facts> = found.iter().filter(|f| names(selector, f)).collect();
        let [one] = matching[..] else {
            let all: Vec<String> = found.iter().map(|f| format!("{f}, UUID {}", f.uuid)).collect();
            return Err(Error::invalid(format!(
                "option devices: expected the number, PCI address or UUID of one device, found {selector:?}; devices: {}",
                all.join("; ")
            )));
        };
        if chosen.iter().any(|c| c.ordinal == one.ordinal) {
            return Err(Error::invalid(format!("option devices: device {one} is named twice")));
        }
        chosen.push(one);
    }
    Ok(chosen)
}

/// Whether a selector means a device. A PCI address may leave out the domain, a UUID its prefix `GPU-` and dashes.
fn names(selector: &Selector, facts: &Facts) -> bool {
    match selector {
        Selector::Index(index) => i64::from(*index) == i64::from(facts.ordinal),
        Selector::Text(text) => {
            let text = text.to_lowercase();
            let pci = facts.pci.to_lowercase();
            let plain = |t: &str| t.trim_start_matches("gpu-").replace('-', "");
            let uuid = plain(&facts.uuid.to_lowercase());
            text.parse() == Ok(facts.ordinal)
                || (!pci.is_empty() && (pci == text || pci.split_once(':').is_some_and(|(_, p)| p == text)))
                || (!uuid.is_empty() && uuid == plain(&text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(ordinal: i32, pci: &str, uuid: &str) -> Facts {
        let (name, arch) = (format!("card {ordinal}"), "gfx1100".to_owned());
        let (pci, uuid) = (pci.to_owned(), uuid.to_owned());
        Facts { ordinal, name, arch, pci, uuid, wave: 32, compute_units: 1, memory: 1 << 30 }
    }

    #[test]
    fn devices_are_named_by_number_address_or_uuid() {
        let found = [facts(0, "0000:03:00.0", "00ab12"), facts(1, "0000:44:00.0", "ff0012")];
        let check = |selectors: &[Selector], expected: Result<&[i32], &str>| match choose(&found, selectors) {
            Ok(chosen) => assert_eq!(Ok(&chosen.iter().map(|c| c.ordinal).collect::<Vec<_>>()[..]), expected),
            Err(e) => {
                let expected = expected.expect_err("an error is expected");
                assert!(e.message.contains(expected), "{e}");
            }
        };
        let text = |t: &str| Selector::Text(t.into());
        check(&[], Ok(&[0, 1]));
        check(&[Selector::Index(1)], Ok(&[1]));
        check(&[text("1"), text("0")], Ok(&[1, 0]));
        check(&[text("0000:44:00.0")], Ok(&[1]));
        check(&[text("44:00.0")], Ok(&[1]));
        check(&[text("GPU-FF0012"), text("03:00.0")], Ok(&[1, 0]));
        check(&[Selector::Index(2)], Err("devices: 0: card 0"));
        check(&[text("")], Err("found Text(\"\")"));
        check(&[text("0"), Selector::Index(0)], Err("named twice"));
    }
}
