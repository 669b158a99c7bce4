//! Finding the PostgreSQL programs and the shim.

use anyhow::{Context, Result, bail, ensure};
use quire_wal::ServerVersion;
use quire_wal::postgres_version::{PostgresVersion, SUPPORTED};
use std::path::{Path, PathBuf};
use std::process::Command;

/// File name of the library that stands between PostgreSQL and its files.
const SHIM: &str = "libquire_shim.so";

/// The directory of `postgres`, `initdb` and the rest: the one asked for, else the one used before, else the first
/// usable one found, of the newest version that is supported.
pub fn find_programs(asked: Option<&Path>, remembered: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = asked {
        let folder = std::path::absolute(folder)?;
        find_version(&folder)?;
        return Ok(folder);
    }
    let remembered = remembered.filter(|folder| find_version(folder).is_ok()).map(Path::to_path_buf);
    let found = remembered.or_else(|| SUPPORTED.newest_first().find_map(find_in_usual_places));
    found.with_context(|| {
        let newest = SUPPORTED.newest().major;
        format!(
            "no PostgreSQL found of a supported version ({SUPPORTED}); install one (Debian: apt-get install \
             postgresql-{newest}) or name the folder of its programs with --pg-bin"
        )
    })
}

fn find_in_usual_places(version: &PostgresVersion) -> Option<PathBuf> {
    usual_places(version.major).find(|folder| find_version(folder).is_ok_and(|found| found == version))
}

fn usual_places(major: u32) -> impl Iterator<Item = PathBuf> {
    let own = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    own.into_iter().chain([PathBuf::from("/usr/local/pgsql/bin")]).chain(told_by_pg_config()).chain(on_path)
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// The version of the programs in a directory.
fn find_version(folder: &Path) -> Result<&'static PostgresVersion> {
    for program in ["postgres", "initdb"] {
        let path = folder.join(program);
        ensure!(path.is_file(), "{} is not there; name a directory that has it with --pg-bin", path.display());
    }
    let postgres = folder.join("postgres");
    let output = Command::new(&postgres).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", postgres.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match ServerVersion::from_program(&said).ok().and_then(|server| SUPPORTED.of_server(server)) {
        Some(version) => Ok(version),
        None => bail!(
            "{} is of no supported version of PostgreSQL ({SUPPORTED}): it prints {:?}",
            postgres.display(),
            said.trim()
        ),
    }
}

/// The shim: the one asked for, else the one beside this program.
pub fn find_shim(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = asked {
        ensure!(path.is_file(), "the shim {} is not there", path.display());
        return Ok(std::path::absolute(path)?);
    }
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let folder = program.parent().context("this program has no directory")?;
    let places = [folder.join(SHIM), folder.join("../lib").join(SHIM)];
    let found = places.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{SHIM} is not beside {}; build it with `cargo build --release -p quire-shim` or name it with --shim",
            program.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_postgres_is_refused_by_name() {
        let error = find_programs(Some(Path::new("/nonexistent")), None).expect_err("nothing there");
        assert!(error.to_string().contains("/nonexistent/postgres"), "{error}");
    }
}
