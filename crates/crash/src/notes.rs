//! Notes of panics, one file each in `panics/` of a role's directory.
//!
//! `<milliseconds since 1970>-<pid>.json`, a [`Note`]. They stay until they are removed; the oldest make room for
//! new ones.

use crate::Work;
use quire_files::{Durability, publish};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory of notes.
pub const FOLDER: &str = "panics";
/// As many are kept.
pub const NOTES_MAX: usize = 1000;

/// What is known of a panic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// Source file and line.
    pub place: String,
    /// What the panic said.
    pub text: String,
    /// The thread's name.
    pub thread: String,
    /// What it was working on.
    pub work: Option<Work>,
}

/// Writes a note durably; where it is.
pub fn write(dir: &Path, note: &Note) -> io::Result<PathBuf> {
    let folder = dir.join(FOLDER);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut paths = list(&folder)?;
    paths.truncate((paths.len() + 1).saturating_sub(NOTES_MAX));
    paths.iter().try_for_each(fs::remove_file)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = folder.join(format!("{:013}-{}.json", now.as_millis(), std::process::id()));
    let text = serde_json::to_vec_pretty(note)?;
    publish(&path, &text, Durability::Machine).map_err(io::Error::other)?;
    quire_files::sync_folder_of(&folder)?;
    Ok(path)
}

/// All notes in a role's directory, oldest first. A file that is no note is left out: none may keep a role from
/// starting.
pub fn read(dir: &Path) -> io::Result<Vec<Note>> {
    let paths = list(&dir.join(FOLDER))?;
    let texts = paths.iter().filter_map(|path| fs::read(path).ok());
    Ok(texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect())
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Note {
        Note { place: "a.rs:1".into(), text: text.into(), thread: "images-0".into(), work: None }
    }

    #[test]
    fn notes_are_read_back_and_what_is_none_is_left_out() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(dir.path()).expect("read"), []);
        let path = write(dir.path(), &note("first")).expect("written");
        fs::write(path.with_file_name("0-broken.json"), "{").expect("written");
        fs::write(path.with_file_name("1-strange.json.new"), "{}").expect("written");
        assert_eq!(read(dir.path()).expect("read"), [note("first")]);
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).expect("made");
        let old = |number: usize| folder.join(format!("{number:013}-1.json"));
        (0..NOTES_MAX + 5).for_each(|number| fs::write(old(number), "{}").expect("written"));
        let path = write(dir.path(), &note("new")).expect("written");
        let left = list(&folder).expect("listed");
        assert_eq!((left.len(), left.last()), (NOTES_MAX, Some(&path)));
        assert!(!old(5).exists() && old(6).exists());
    }
}
