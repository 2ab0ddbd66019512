//! `doctor`: what this machine has and lacks, and what to do about it.

mod cards;
mod found;
mod system;

use std::path::Path;

use anyhow::Result;
use rocmforge_loader::Config;
use serde::Serialize;
use serde_json::json;

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    /// As it should be, or a mere fact.
    Fact,
    /// Works, but not as well as it could.
    Note,
    /// Keeps something from working.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    mark: Mark,
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// Findings under a title.
#[derive(Clone, Debug, Serialize)]
struct Section {
    title: &'static str,
    findings: Vec<Finding>,
}

impl Section {
    fn new(title: &'static str) -> Section {
        Section { title, findings: vec![] }
    }

    fn fact(&mut self, what: impl Into<String>) {
        self.findings.push(Finding { mark: Mark::Fact, what: what.into(), advice: None });
    }

    fn note(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { mark: Mark::Note, what: what.into(), advice: Some(advice.into()) });
    }

    fn problem(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { mark: Mark::Problem, what: what.into(), advice: Some(advice.into()) });
    }
}

pub fn run(config: &Config, as_json: bool) -> Result<()> {
    let root = Path::new("/");
    let mut sections = vec![system::system(root), system::processor(root), system::memory(root), cards::cards(root)];
    sections.extend(found::found(config));
    let count = |mark| sections.iter().flat_map(|s| &s.findings).filter(|f| f.mark == mark).count();
    let (notes, problems) = (count(Mark::Note), count(Mark::Problem));
    if as_json {
        let value =
            json!({"version": env!("CARGO_PKG_VERSION"), "sections": sections, "notes": notes, "problems": problems});
        say!("{value:#}");
        return Ok(());
    }
    say!("rocmforge-host {}", env!("CARGO_PKG_VERSION"));
    for section in &sections {
        say!("\n{}", section.title);
        for finding in &section.findings {
            let mark = match finding.mark {
                Mark::Fact => " ",
                Mark::Note => "-",
                Mark::Problem => "!",
            };
            say!("  {mark} {}", finding.what);
            if let Some(advice) = &finding.advice {
                say!("      {advice}");
            }
        }
    }
    say!("\n{problems} problems (!), {notes} notes (-)");
    Ok(())
}

/// The first line of a file, without white space around it.
fn first_line(root: &Path, file: &str) -> Option<String> {
    let text = std::fs::read_to_string(root.join(file)).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn number(root: &Path, file: &str) -> Option<u64> {
    first_line(root, file)?.parse().ok()
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
