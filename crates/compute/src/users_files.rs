//! Files of a user's in the data directory.
//!
//! A setting such as `ssl_cert_file = 'server.crt'` names a file in there, so that is where people put it. A cold start
//! begins with an empty directory: what is at its top and is none of PostgreSQL's own goes along, as long as there
//! was a directory. Storage does not have it.

use crate::owner::Owner;
use crate::{Error, place};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// More than certificates and keys have, in files and in bytes of one.
const FILES_MAX: usize = 64;
const BYTES_MAX: u64 = 1 << 20;

/// Beginnings of the names that PostgreSQL gives, or that would make it do something else than start.
const POSTGRESQL: [&str; 14] = [
    "PG_VERSION",
    "postgresql.",
    "pg_hba.conf",
    "pg_ident.conf",
    "postmaster.",
    "current_logfiles",
    "backup_label",
    "backup_manifest",
    "tablespace_map",
    "standby.signal",
    "recovery.",
    "promote",
    "fallback_promote",
    "core",
];

/// The files that go along, by name.
#[derive(Debug, Default)]
pub struct UsersFiles(Vec<(OsString, Vec<u8>)>);

impl UsersFiles {
    /// Those in a data directory. What cannot be read stays behind, and is told.
    pub fn of(pgdata: &Path) -> UsersFiles {
        let mut files = UsersFiles::default();
        for name in fs::read_dir(pgdata).into_iter().flatten().flatten().map(|entry| entry.file_name()) {
            if is_postgresqls(&name.to_string_lossy()) {
                continue;
            }
            match content(&pgdata.join(&name)) {
                Ok(Some(content)) if files.0.len() < FILES_MAX => files.0.push((name, content)),
                Ok(Some(_)) => tracing::warn!(?name, "too many files in the data directory are none of PostgreSQL's"),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(?name, %error, "a file in the data directory does not outlive the cold start")
                }
            }
        }
        files
    }

    /// Keeps them in `folder`, in place of what was kept before.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let aside = folder.with_extension("new");
        for old in [aside.as_path(), folder] {
            match fs::remove_dir_all(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", old)(error)),
                _ => {}
            }
        }
        if self.0.is_empty() {
            return Ok(());
        }
        place::folder(&aside, Owner::unchanged())?;
        self.restore(&aside, Owner::unchanged())?;
        fs::rename(&aside, folder).map_err(Error::file("rename", &aside))
    }

    /// Puts them into a new data directory.
    pub fn restore(&self, pgdata: &Path, owner: Owner) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, content)| place::file(&pgdata.join(name), content, owner))
    }
}

fn is_postgresqls(name: &str) -> bool {
    POSTGRESQL.iter().any(|begin| name.starts_with(begin))
}

/// None of what is no plain file: a directory, or a link, which may lead to what PostgreSQL's user could not read.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if !path.symlink_metadata()?.is_file() {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Ok(None);
    }
    if metadata.len() > BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {BYTES_MAX} bytes")));
    }
    let mut content = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_files_go_along_and_postgresqls_and_links_do_not() {
        let (old, new) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        for name in ["server.crt", "PG_VERSION", "postmaster.pid", "postgresql.auto.conf", "standby.signal"] {
            fs::write(old.path().join(name), name).expect("written");
        }
        fs::create_dir(old.path().join("base")).expect("made");
        fs::File::create(old.path().join("large")).and_then(|file| file.set_len(BYTES_MAX + 1)).expect("made");
        std::os::unix::fs::symlink("/etc/shadow", old.path().join("link")).expect("linked");
        let kept = old.path().join("kept");
        fs::create_dir(&kept).expect("made");
        fs::write(kept.join("older.crt"), "old").expect("written");
        UsersFiles::of(old.path()).save(&kept).expect("saved");
        UsersFiles::of(&kept).restore(new.path(), Owner::unchanged()).expect("restored");
        let names: Vec<_> =
            fs::read_dir(new.path()).expect("listed").map(|entry| entry.expect("read").file_name()).collect();
        assert_eq!(names, ["server.crt"]);
        assert_eq!(fs::read(new.path().join("server.crt")).expect("there"), b"server.crt");
    }
}
