//! What PostgreSQL and its extensions write into `pg_stat` when they shut down.
//!
//! The counters belong to the state of the database at that moment: PostgreSQL throws them away after a crash. So they
//! are sent with the end of the log, and put back only by a start that finds the log ending there.

use super::{KeptFiles, PATIENCE, data_path, write};
use crate::Error;
use crate::owner::Owner;
use bytes::Bytes;
use quire_protocol::page::{SMALL_FILE_BYTES_MAX, SmallFile};
use quire_types::Lsn;
use std::fs;
use std::path::Path;

const FOLDER: &str = "pg_stat/";
const SUFFIX: &str = ".stat";

/// Puts back what a shutdown at `log_end` left.
pub fn restore(pgdata: &Path, files: &[SmallFile], log_end: Lsn, owner: Owner) -> Result<(), Error> {
    for file in files.iter().filter(|file| file.lsn == log_end) {
        if let Some(path) = data_path(&file.name).filter(|path| path.starts_with(FOLDER)) {
            write(pgdata, path, &file.content, owner)?;
        }
    }
    Ok(())
}

/// Sends what a shutdown has left, whose checkpoint ends the log at `log_end`.
pub async fn send(kept: &KeptFiles, log_end: Lsn) {
    for (name, content) in found(&kept.dir.pgdata()) {
        let sent = kept.try_set(name.clone(), Some((log_end, content))).await;
        if let Err(error) = sent {
            tracing::warn!(%error, name, patience = ?PATIENCE, "statistics are lost with the cache");
        }
    }
}

fn found(pgdata: &Path) -> Vec<(String, Bytes)> {
    let names = fs::read_dir(pgdata.join(FOLDER)).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let load = |name: String| {
        let content = Bytes::from(fs::read(pgdata.join(FOLDER).join(&name)).ok()?);
        (content.len() <= SMALL_FILE_BYTES_MAX).then(|| (format!("{}{FOLDER}{name}", super::PGDATA), content))
    };
    names.filter(|name| name.ends_with(SUFFIX)).filter_map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_come_back_only_to_the_end_of_the_log_they_were_written_at() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("pg_stat")).expect("made");
        let content = Bytes::from_static(b"counters");
        let file = SmallFile { name: "pgdata/pg_stat/pgstat.stat".into(), lsn: Lsn(7), content: content.clone() };
        restore(folder.path(), std::slice::from_ref(&file), Lsn(8), Owner::unchanged()).expect("nothing written");
        assert_eq!(found(folder.path()), []);
        restore(folder.path(), &[file], Lsn(7), Owner::unchanged()).expect("written");
        assert_eq!(found(folder.path()), [("pgdata/pg_stat/pgstat.stat".to_owned(), content)]);
    }
}
