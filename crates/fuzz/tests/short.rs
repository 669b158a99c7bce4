//! Each target over its seeds and over random changes of them: a short run without a fuzzer, always the same.
//!
//! `QUIRE_FUZZ_ROUNDS` sets the number of changes per target. An input that makes a target panic is written to a file,
//! which the message names; `QUIRE_FUZZ_INPUT` runs that file alone.

use anyhow::{Context, Result, bail};
use quire_fuzz::Target;
use quire_fuzz::mutation::{Random, mutate};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Changes per target, some seconds' worth.
const ROUNDS: u64 = 30_000;

fn rounds() -> Result<u64> {
    match std::env::var("QUIRE_FUZZ_ROUNDS") {
        Ok(rounds) => Ok(rounds.parse()?),
        Err(_) => Ok(ROUNDS),
    }
}

fn check(name: &str) -> Result<()> {
    let target = Target::named(name).context("there is such a target")?;
    if let Some(file) = std::env::var_os("QUIRE_FUZZ_INPUT") {
        return try_input(target, &fs::read(file)?);
    }
    let seeds = target.seeds()?;
    seeds.iter().try_for_each(|seed| try_input(target, seed))?;
    let mut random = Random::new(20);
    (0..rounds()?).try_for_each(|_| try_input(target, &mutate(&seeds, &mut random)))
}

fn try_input(target: Target, input: &[u8]) -> Result<()> {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok() {
        return Ok(());
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
    fs::write(&file, input)?;
    bail!("{} panicked on the input in {}", target.name, file.display())
}

#[test]
fn any_bytes_are_cut_into_records_or_refused() -> Result<()> {
    check("wal_stream")
}

#[test]
fn any_record_is_decoded_or_refused() -> Result<()> {
    check("record")
}

#[test]
fn any_record_is_redone_on_any_page_or_refused() -> Result<()> {
    check("redo")
}

#[test]
fn any_record_is_ingested_or_refused() -> Result<()> {
    check("ingest")
}

#[test]
fn any_message_is_understood_or_refused() -> Result<()> {
    check("frames")
}

#[test]
fn any_file_is_read_or_refused() -> Result<()> {
    check("files")
}
