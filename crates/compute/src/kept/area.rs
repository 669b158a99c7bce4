//! Which files an area consists of, and which of them storage does not have as they are.

use crate::Error;
use bytes::Bytes;
use quire_cache::FileArea;
use quire_protocol::page::SMALL_FILE_BYTES_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What storage has of a file, as far as it takes to see that it has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KnownContent {
    /// All of it: the file is replaced by others of the same length.
    Content(Bytes),
    /// How long it is: the file is written once, or appended to.
    Length(u64),
}

impl KnownContent {
    /// What to know of a file with this content.
    pub fn of(area: FileArea, content: &Bytes) -> KnownContent {
        match area {
            FileArea::Slots | FileArea::Settings => KnownContent::Content(content.clone()),
            FileArea::Snapshots | FileArea::Mappings => KnownContent::Length(content.len() as u64),
        }
    }
}

/// Paths below the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// What storage lacks, or has differently.
    pub changed: Vec<(String, Bytes)>,
    /// What is not there any more.
    pub gone: Vec<String>,
}

/// How `area` differs from what is known of it.
pub fn changes(pgdata: &Path, area: FileArea, known: &BTreeMap<String, KnownContent>) -> Result<Changes, Error> {
    let paths = paths(pgdata, area).map_err(Error::file("list", pgdata))?;
    let mut changes = Changes::default();
    let mut present = BTreeSet::new();
    for path in paths {
        // One that went away since the listing is as one that was not listed.
        match look_at(&pgdata.join(&path), known.get(&path))? {
            Look::Gone => continue,
            Look::Same => {}
            Look::Changed(content) => changes.changed.push((path.clone(), content)),
        }
        present.insert(path);
    }
    let of_area = known.keys().filter(|path| FileArea::of_path(path.as_bytes()) == Some(area));
    changes.gone = of_area.filter(|path| !present.contains(*path)).cloned().collect();
    Ok(changes)
}

/// What has become of a file.
enum Look {
    /// There is no such file.
    Gone,
    /// It is as known.
    Same,
    /// It has other content.
    Changed(Bytes),
}

fn look_at(path: &Path, known: Option<&KnownContent>) -> Result<Look, Error> {
    let Some(metadata) = unless_gone(path, fs::metadata(path))? else { return Ok(Look::Gone) };
    let bytes = metadata.len();
    if known == Some(&KnownContent::Length(bytes)) {
        return Ok(Look::Same);
    }
    if bytes > SMALL_FILE_BYTES_MAX as u64 {
        return Err(Error::KeptFileTooLong { path: path.to_owned(), bytes, bytes_max: SMALL_FILE_BYTES_MAX as u64 });
    }
    let Some(content) = unless_gone(path, fs::read(path))?.map(Bytes::from) else { return Ok(Look::Gone) };
    match known {
        Some(KnownContent::Content(known)) if *known == content => Ok(Look::Same),
        _ => Ok(Look::Changed(content)),
    }
}

fn unless_gone<T>(path: &Path, outcome: io::Result<T>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn paths(pgdata: &Path, area: FileArea) -> io::Result<Vec<String>> {
    match area {
        FileArea::Slots => {
            let slots = names(pgdata, "pg_replslot")?;
            Ok(slots.into_iter().map(|slot| format!("{slot}/state")).collect())
        }
        FileArea::Snapshots => names(pgdata, "pg_logical/snapshots"),
        FileArea::Mappings => names(pgdata, "pg_logical/mappings"),
        FileArea::Settings => Ok(vec!["postgresql.auto.conf".into()]),
    }
}

/// What is in a directory and is finished, with the directory's name before it.
fn names(pgdata: &Path, folder: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(pgdata.join(folder))? {
        // PostgreSQL gives names of ASCII letters only.
        if let Ok(name) = entry?.file_name().into_string() {
            let path = format!("{folder}/{name}");
            found.extend(FileArea::of_path(path.as_bytes()).map(|_| path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pgdata() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["pg_replslot/a", "pg_replslot/gone.tmp", "pg_logical/snapshots", "pg_logical/mappings"] {
            fs::create_dir_all(folder.path().join(name)).expect("made");
        }
        for name in ["pg_replslot/a/state", "pg_replslot/a/state.tmp", "pg_replslot/gone.tmp/state"] {
            fs::write(folder.path().join(name), b"one").expect("written");
        }
        folder
    }

    fn take(pgdata: &Path, area: FileArea, known: &mut BTreeMap<String, KnownContent>) -> (Vec<String>, Vec<String>) {
        let found = changes(pgdata, area, known).expect("looked at");
        for (path, content) in &found.changed {
            known.insert(path.clone(), KnownContent::of(area, content));
        }
        known.retain(|path, _| !found.gone.contains(path));
        (found.changed.into_iter().map(|(path, _)| path).collect(), found.gone)
    }

    #[test]
    fn a_slot_is_seen_to_come_change_and_go_and_unfinished_files_are_not_seen() {
        let (folder, mut known) = (pgdata(), BTreeMap::new());
        let state = || vec!["pg_replslot/a/state".to_owned()];
        let mut seen = || take(folder.path(), FileArea::Slots, &mut known);
        assert_eq!(seen(), (state(), vec![]));
        assert_eq!(seen(), (vec![], vec![]));
        fs::write(folder.path().join("pg_replslot/a/state"), b"two").expect("written");
        assert_eq!(seen(), (state(), vec![]), "of the same length");
        fs::rename(folder.path().join("pg_replslot/a"), folder.path().join("pg_replslot/a.tmp")).expect("renamed");
        assert_eq!(seen(), (vec![], state()));
        assert_eq!(seen(), (vec![], vec![]));
    }

    #[test]
    fn an_area_does_not_forget_the_files_of_another() {
        let (folder, mut known) = (pgdata(), BTreeMap::new());
        take(folder.path(), FileArea::Slots, &mut known);
        assert_eq!(take(folder.path(), FileArea::Settings, &mut known), (vec![], vec![]));
        let mapping = folder.path().join("pg_logical/mappings/map-5-4e2-0_15A0-2f1-2f1");
        fs::write(&mapping, b"x").expect("written");
        assert_eq!(take(folder.path(), FileArea::Mappings, &mut known).0.len(), 1);
        fs::write(&mapping, b"xy").expect("appended");
        assert_eq!(take(folder.path(), FileArea::Mappings, &mut known).0.len(), 1);
        assert_eq!(take(folder.path(), FileArea::Mappings, &mut known), (vec![], vec![]));
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn a_file_that_storage_does_not_take_is_an_error_that_names_it_and_its_length() {
        let (folder, known) = (pgdata(), BTreeMap::new());
        let mapping = folder.path().join("pg_logical/mappings/map-5-4e2-0_15A0-2f1-2f1");
        let file = fs::File::create(&mapping).expect("created");
        file.set_len(SMALL_FILE_BYTES_MAX as u64).expect("extended");
        assert_eq!(changes(folder.path(), FileArea::Mappings, &known).expect("it is kept").changed.len(), 1);
        file.set_len(SMALL_FILE_BYTES_MAX as u64 + 1).expect("extended");
        let error = changes(folder.path(), FileArea::Mappings, &known).expect_err("one byte too long");
        assert!(matches!(&error, Error::KeptFileTooLong { path, .. } if *path == mapping), "{error}");
        assert!(changes(folder.path(), FileArea::Slots, &known).is_ok(), "other areas are kept");
    }
}
