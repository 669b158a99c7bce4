//! A data directory made from nothing: what has to be there before `postgres` starts, but for pages.
//!
//! The directory is what a clean shutdown leaves: `pg_control` points at a shutdown checkpoint, so nothing is replayed.
//! Nothing in it is older than the start; a directory of an earlier term, or from before a crash, is thrown away first.

use crate::kept::settings::AUTO_CONF;
use crate::last_checkpoint::LastCheckpoint;
use crate::owner::Owner;
use crate::setting::Setting;
use crate::users_files::UsersFiles;
use crate::{Config, Error, conf, place, tablespaces};
use bytes::Bytes;
use quire_cache::ComputeDir;
use quire_types::{DataFileName, Key, RelTag, Writer};
use quire_wal::postgres_version::PostgresVersion;
use quire_wal::{ControlFile, DataPath, DatabaseState};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories that `initdb` makes, those of storage's own data included.
const FOLDERS: [&str; 22] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
];

/// Directories below `meta/`, beside those of databases, which come when they are first touched.
const META_FOLDERS: [&str; 8] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_tblspc",
    "pg_xact",
];

/// What the data directory has in the place of the real `PG_VERSION`, for those who come without the shim: a server
/// shows it in its error as the version that made the directory. It is one word of less than 64 bytes, which is what a
/// server reads of it, and begins with a number, since another word would be answered with the advice to run `initdb`.
const NO_VERSION: &str = "0-none:a-cache-of-Quire,with-holes;use-\"quire-compute-start\"\n";

/// Where a user's files of the data directory are from one cold start to the next.
const USERS_FILES: &str = "users-files";

const DISCARDED_PREFIX: &str = "discarded-";

const VERSION: &str = "PG_VERSION";

/// `REPLICATION_STATE_MAGIC` of `origin.c`.
const ORIGIN_MAGIC: u32 = 0x1257_DADE;

/// Moves the data directory and its meta files out of the way, to be deleted in the background, and keeps what outlives
/// them.
pub fn discard(setting: &Setting) -> Result<Option<Vec<u8>>, Error> {
    let config = &setting.config;
    let auto_conf = fs::read(config.pgdata().join(AUTO_CONF)).ok();
    // One without is half-made: what a user had in the one before is not in there yet.
    if config.pgdata().join(VERSION).exists() {
        UsersFiles::of(&config.pgdata()).save(&config.dir.join(USERS_FILES))?;
    }
    tablespaces::discard(&config.pgdata(), &config.tablespaces(), setting.version);
    let withheld = ComputeDir::new(&config.dir).withheld();
    let whole = [
        (config.pgdata(), "pgdata"),
        (config.meta(), "meta"),
        (withheld, "withheld"),
        (config.tablespaces(), "tablespaces"),
    ];
    for (path, name) in whole {
        if path.exists() {
            let aside = unused_name(&config.dir, name);
            fs::rename(&path, &aside).map_err(Error::file("move away", &path))?;
        }
    }
    let folder = config.dir.clone();
    // If the thread cannot be started, the next start deletes more.
    let _ = std::thread::Builder::new().name("discard".into()).spawn(move || delete_discarded(&folder));
    Ok(auto_conf)
}

fn unused_name(folder: &Path, name: &str) -> PathBuf {
    let candidates = (0u64..).map(|number| folder.join(format!("{DISCARDED_PREFIX}{name}-{number}")));
    candidates.into_iter().find(|path| !path.exists()).expect("there are more numbers than directories")
}

fn delete_discarded(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let discarded = |name: &str| name.starts_with(DISCARDED_PREFIX);
    for entry in entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(discarded)) {
        tablespaces::delete_discarded(&entry.path());
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::info!(path = %entry.path().display(), %error, "cannot delete what was discarded");
        }
    }
}

/// Makes the empty directories.
pub fn create_folders(config: &Config, owner: Owner) -> Result<(), Error> {
    for (root, folders) in [(config.pgdata(), &FOLDERS[..]), (config.meta(), &META_FOLDERS[..])] {
        place::folder(&root, owner)?;
        folders.iter().try_for_each(|name| place::folder(&root.join(name), owner))?;
    }
    place::folder(&ComputeDir::new(&config.dir).withheld(), owner)
}

/// Writes the configuration files that a data directory usually has. PostgreSQL is told to use others here; these go
/// along with a base backup, which starts with them anywhere.
pub fn write_plain_conf(config: &Config, owner: Owner) -> Result<(), Error> {
    for (name, content) in conf::PLAIN_FILES {
        place::file(&config.pgdata().join(name), content.as_bytes(), owner)?;
    }
    Ok(())
}

/// Writes the small files that storage keeps: of all databases, prepared transactions and replication origins.
pub fn write_small_files(setting: &Setting, entries: &[(Key, Bytes)]) -> Result<(), Error> {
    let Setting { config, owner, version, .. } = setting;
    let owner = *owner;
    let pgdata = config.pgdata();
    place::file(&pgdata.join(VERSION), NO_VERSION.as_bytes(), owner)?;
    place::file(&ComputeDir::new(&config.dir).real_file(VERSION), version_text(version).as_bytes(), owner)?;
    for tablespace in user_tablespaces(entries) {
        tablespaces::lay_out(&pgdata, &config.tablespaces(), tablespace, version, owner)?;
    }
    write_entries(&pgdata, version, owner, entries)?;
    write_origins(&pgdata, owner, entries)
}

/// The tablespaces that are no directories of the data directory's own.
fn user_tablespaces(entries: &[(Key, Bytes)]) -> BTreeSet<u32> {
    let tablespace = |key: &Key| match key {
        Key::Database { tablespace, .. } | Key::Tablespace { tablespace } => Some(*tablespace),
        _ => None,
    };
    let own = [RelTag::DEFAULT_TABLESPACE, RelTag::GLOBAL_TABLESPACE];
    entries.iter().filter_map(|(key, _)| tablespace(key)).filter(|tablespace| !own.contains(tablespace)).collect()
}

fn write_entries(
    pgdata: &Path,
    version: &PostgresVersion,
    owner: Owner,
    entries: &[(Key, Bytes)],
) -> Result<(), Error> {
    for (key, _) in entries {
        if let Key::Database { tablespace, database } = *key {
            let folder = DataPath::Database { tablespace, database }.to_path(version);
            place::folders_below(pgdata, Path::new(&folder), owner)?;
        }
    }
    for (key, value) in entries {
        if let Some(path) = small_file(*key, version) {
            let path = pgdata.join(path);
            place::file(&path, value, owner)?;
            // Where a database has its relation map, and only there, it has its version. In other tablespaces it has a
            // directory of relations and nothing else, or the tablespace could not be dropped.
            path.parent().map_or(Ok(()), |folder| write_version_of(*key, folder, version, owner))?;
        }
    }
    Ok(())
}

fn write_version_of(key: Key, folder: &Path, version: &PostgresVersion, owner: Owner) -> Result<(), Error> {
    match key {
        Key::RelMap { database, .. } if database != 0 => {
            place::file(&folder.join(VERSION), version_text(version).as_bytes(), owner)
        }
        _ => Ok(()),
    }
}

fn version_text(version: &PostgresVersion) -> String {
    format!("{}\n", version.major)
}

fn small_file(key: Key, version: &PostgresVersion) -> Option<String> {
    match key {
        Key::RelMap { tablespace, database } => Some(DataPath::RelationMap { tablespace, database }.to_path(version)),
        Key::TwoPhase { xid } => Some(DataPath::TwoPhase { xid }.to_path(version)),
        _ => None,
    }
}

/// Source: `origin.c` (`CheckPointReplicationOrigin`).
fn write_origins(pgdata: &Path, owner: Owner, entries: &[(Key, Bytes)]) -> Result<(), Error> {
    let mut out = Writer::new();
    out.u32(ORIGIN_MAGIC);
    for (key, value) in entries {
        if let (Key::ReplicationOrigin { origin }, Some(remote)) = (key, value.first_chunk::<8>()) {
            out.u16(*origin).bytes(&[0; 6]).bytes(remote);
        }
    }
    if out.len() == size_of::<u32>() {
        return Ok(());
    }
    let checksum = crc32c::crc32c(out.as_slice());
    out.u32(checksum);
    place::file(&pgdata.join("pg_logical/replorigin_checkpoint"), out.as_slice(), owner)
}

/// Writes `pg_control`: that of the branch's birth, cleanly shut down at `last`.
pub fn write_control_file(config: &Config, owner: Owner, template: &[u8], last: &LastCheckpoint) -> Result<(), Error> {
    let unusable =
        |error: quire_wal::ControlFileError| Error::Storage { what: "pg_control", reason: error.to_string() };
    let mut control = ControlFile::parse(template).map_err(unusable)?;
    control.state = DatabaseState::ShutDown;
    control.time = last.state.time;
    control.checkpoint = last.record;
    control.checkpoint_copy = last.state;
    control.layout.data_checksum_version = 0;
    place::file(&control_file(&config.dir), &control.to_bytes(), owner)
}

/// Where `pg_control` is: not in the data directory, so that no server starts over that without the shim.
pub fn control_file(compute_dir: &Path) -> PathBuf {
    ComputeDir::new(compute_dir).real_file(&DataFileName::ControlFile.to_string())
}

/// Puts back what `ALTER SYSTEM` had written (storage has it too; this is for those who wrote it before storage did)
/// and files of the user's own.
pub fn restore_local_files(config: &Config, owner: Owner, auto_conf: Option<&[u8]>) -> Result<(), Error> {
    if let Some(content) = auto_conf {
        place::file(&config.pgdata().join(AUTO_CONF), content, owner)?;
    }
    UsersFiles::of(&config.dir.join(USERS_FILES)).restore(&config.pgdata(), owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::postgres_version::PG15;

    #[test]
    fn origins_are_written_with_their_checksum() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("pg_logical")).expect("made");
        let value = Bytes::from([7u64.to_le_bytes(), 9u64.to_le_bytes()].concat());
        let entries = [(Key::ReplicationOrigin { origin: 3 }, value)];
        write_origins(folder.path(), Owner::unchanged(), &entries).expect("written");
        let file = fs::read(folder.path().join("pg_logical/replorigin_checkpoint")).expect("there");
        let (content, checksum) = file.split_at(20);
        assert_eq!(content[..6], [0xDE, 0xDA, 0x57, 0x12, 3, 0]);
        assert_eq!(content[12..20], 7u64.to_le_bytes());
        assert_eq!(checksum, crc32c::crc32c(content).to_le_bytes());
    }

    #[test]
    fn a_database_has_its_version_in_its_own_tablespace_only() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["base", "global", "pg_logical", "pg_tblspc"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        let entries = [
            (Key::Database { tablespace: 1663, database: 5 }, Bytes::new()),
            (Key::Database { tablespace: 20_000, database: 5 }, Bytes::new()),
            (Key::RelMap { tablespace: 1663, database: 5 }, Bytes::from_static(b"map")),
            (Key::RelMap { tablespace: 1664, database: 0 }, Bytes::from_static(b"map")),
            (Key::Tablespace { tablespace: 20_001 }, Bytes::from_static(b"/elsewhere")),
        ];
        assert_eq!(user_tablespaces(&entries), BTreeSet::from([20_000, 20_001]));
        write_entries(folder.path(), &PG15, Owner::unchanged(), &entries).expect("written");
        assert_eq!(fs::read(folder.path().join("base/5/PG_VERSION")).expect("there"), b"15\n");
        let database = DataPath::Database { tablespace: 20_000, database: 5 }.to_path(&PG15);
        assert_eq!(fs::read_dir(folder.path().join(database)).expect("there").count(), 0);
        assert!(!folder.path().join("global/PG_VERSION").exists());
    }

    #[test]
    fn what_is_discarded_goes_away_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["discarded-pgdata-0", "conf"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        assert_eq!(unused_name(folder.path(), "pgdata"), folder.path().join("discarded-pgdata-1"));
        delete_discarded(folder.path());
        let left: Vec<_> =
            fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("read").file_name()).collect();
        assert_eq!(left, ["conf"]);
    }
}
