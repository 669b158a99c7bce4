//! Unpacks every target's seeds into a directory of its own below the one that is named, as libFuzzer wants them.

use anyhow::{Context, Result};
use quire_fuzz::TARGETS;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("name a folder")?);
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in target.seeds()?.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:04}")), seed)?;
        }
    }
    Ok(())
}
