use anyhow::Result;
use rocmforge_loader::Config;

use crate::args::Serve;

pub fn run(_config: &mut Config, _args: &Serve) -> Result<()> {
    anyhow::bail!("pending")
}
