//! Putting a file in place all at once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Suffix of files that are not in place yet; what is left of them after a crash is deleted.
const ASIDE_SUFFIX: &str = ".aside";

/// Replaces the file at `path`: after a crash it has either its old content or all of the new one, and once this returns, the
/// new one.
pub(crate) fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let aside = aside_of(path, "");
    let mut file = File::create(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    sync_folder_of(path)
}

/// The name under which a file is prepared; `distinct` tells apart those who prepare it at the same time.
pub(crate) fn aside_of(path: &Path, distinct: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(distinct);
    name.push(ASIDE_SUFFIX);
    name.into()
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(folder)?.sync_all()
}

/// Deletes what a crash left behind of files that were not in place yet.
pub(crate) fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().ends_with(ASIDE_SUFFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_replaces_the_old_and_leaves_nothing_aside() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state");
        publish(&path, b"old and long").expect("publish");
        publish(&path, b"new").expect("publish");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("state.aside"), b"half").expect("write");
        fs::write(folder.path().join("state"), b"whole").expect("write");
        remove_leftovers(folder.path()).expect("clean");
        assert!(!folder.path().join("state.aside").exists());
        assert!(folder.path().join("state").exists());
    }
}
