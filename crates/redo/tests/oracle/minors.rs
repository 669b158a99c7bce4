//! Minor releases of PostgreSQL that `scripts/postgres-minor.sh` has put aside.

use crate::cluster::find_binaries;
use anyhow::{Context, Result};
use quire_wal::ServerVersion;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pairs of releases between which redo changed: GiST's vacuum.
const CHANGES: [(ServerVersion, ServerVersion); 1] = [(ServerVersion::new(15, 18), ServerVersion::new(15, 20))];

/// Releases on either side of a change of redo, with their programs, as far as they are here; not the one that tests
/// run on.
pub fn around_changes() -> Result<Vec<(ServerVersion, PathBuf)>> {
    let tested = version_of(&find_binaries()?)?;
    let wanted = CHANGES.into_iter().flat_map(|(before, after)| [before, after]).filter(|version| *version != tested);
    Ok(wanted.filter_map(|version| Some((version, aside(version)?))).collect())
}

/// The programs of a release that was put aside, or is installed.
fn aside(version: ServerVersion) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/postgres-minor").join(version.to_string());
    let aside = fs::read_to_string(cache.join("complete")).ok().map(|path| PathBuf::from(path.trim()));
    let candidates = aside.into_iter().chain(["/usr/lib/postgresql/15/bin".into()]);
    candidates.into_iter().find(|bin| version_of(bin).is_ok_and(|found| found == version))
}

/// The release whose programs are in a directory.
pub fn version_of(bin: &Path) -> Result<ServerVersion> {
    let output = Command::new(bin.join("postgres")).arg("--version").output();
    let output = output.with_context(|| format!("cannot run postgres in {}", bin.display()))?;
    Ok(ServerVersion::from_program(&String::from_utf8_lossy(&output.stdout))?)
}
