//! Tablespaces of users.
//!
//! To a compute they are directories like those of databases: the pages in them are a cache, so it does not matter
//! where they are. A new one is where its creator said, behind a link that PostgreSQL makes. A cold start lays all of
//! them out beside the data directory, because the location is the user's and may not be there any more; but behind
//! links as well, since PostgreSQL leaves a tablespace that is not behind a link out of its base backups.

use crate::cached_files::names;
use crate::owner::Owner;
use crate::{Error, place};
use quire_wal::postgres_version::PostgresVersion;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where all of them are, or links to them, below the data directory.
pub const FOLDER: &str = "pg_tblspc";
const DISCARDED_PREFIX: &str = "quire-discarded-";

/// Makes an empty tablespace in `own`, the directory beside the data directory, and the link to it.
pub fn lay_out(
    pgdata: &Path,
    own: &Path,
    tablespace: u32,
    version: &PostgresVersion,
    owner: Owner,
) -> Result<(), Error> {
    let directory = own.join(tablespace.to_string());
    place::folder(own, owner)?;
    place::folder(&directory, owner)?;
    place::folder(&directory.join(version.tablespace_directory), owner)?;
    place::link(&directory, &pgdata.join(FOLDER).join(tablespace.to_string()), owner)
}

/// Moves what is at the locations of users aside, before the data directory is thrown away. From then on the locations
/// can be used for other tablespaces. One that cannot be reached keeps what is not needed any more, which is no reason
/// not to start. What a cold start laid out, in `own`, goes as a whole.
pub fn discard(pgdata: &Path, own: &Path, version: &PostgresVersion) {
    for location in locations(pgdata).into_iter().filter(|link| !is_below(link, own)) {
        let ours = location.join(version.tablespace_directory);
        if !is_folder_of_same_owner(&ours, pgdata) {
            continue;
        }
        let candidates = (0u64..).map(|number| location.join(format!("{DISCARDED_PREFIX}{number}")));
        let aside =
            candidates.into_iter().find(|path| !path.exists()).expect("there are more numbers than directories");
        if let Err(error) = fs::rename(&ours, aside) {
            tracing::warn!(path = %ours.display(), %error, "cannot move a tablespace's directory away");
        }
    }
}

/// Deletes what was moved aside when `pgdata` was thrown away.
pub fn delete_discarded(pgdata: &Path) {
    for location in locations(pgdata) {
        let names = names(&location).unwrap_or_default();
        for path in names.iter().filter(|name| name.starts_with(DISCARDED_PREFIX)).map(|name| location.join(name)) {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::info!(path = %path.display(), %error, "cannot delete what was discarded");
            }
        }
    }
}

fn is_below(link: &Path, directory: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.starts_with(directory))
}

/// What PostgreSQL made belongs to its user. A link to another user's directory is none of PostgreSQL's, and the agent
/// may be root.
fn is_folder_of_same_owner(path: &Path, pgdata: &Path) -> bool {
    match (fs::symlink_metadata(path), fs::metadata(pgdata)) {
        (Ok(theirs), Ok(ours)) => theirs.is_dir() && theirs.uid() == ours.uid(),
        _ => false,
    }
}

/// The links to tablespaces outside of the data directory.
fn locations(pgdata: &Path) -> Vec<PathBuf> {
    let links = pgdata.join(FOLDER);
    let paths = names(&links).unwrap_or_default().into_iter().map(|name| links.join(name));
    paths.filter(|path| path.is_symlink()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::postgres_version::PG15;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_lies_at_a_location_goes_with_the_data_directory_and_strangers_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let [pgdata, own, location] = ["pgdata", "tablespaces", "location"].map(|name| folder.path().join(name));
        let ours = location.join(PG15.tablespace_directory);
        fs::create_dir_all(ours.join("5")).expect("made");
        fs::create_dir_all(location.join("PG_14_202107181/5")).expect("made");
        fs::create_dir_all(pgdata.join(FOLDER)).expect("made");
        lay_out(&pgdata, &own, 16_401, &PG15, Owner::unchanged()).expect("made");
        symlink(&location, pgdata.join("pg_tblspc/16400")).expect("linked");
        discard(&pgdata, &own, &PG15);
        assert!(!ours.exists());
        fs::create_dir(&ours).expect("the location can be used again");
        delete_discarded(&pgdata);
        let mut left = names(&location).expect("listed");
        left.sort();
        assert_eq!(left, ["PG_14_202107181", PG15.tablespace_directory]);
        assert_eq!(names(&own.join("16401")).expect("listed"), [PG15.tablespace_directory]);
        assert_eq!(fs::read_link(pgdata.join("pg_tblspc/16401")).expect("a link"), own.join("16401"));
    }
}
