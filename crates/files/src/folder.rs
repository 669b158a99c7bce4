//! What is done with directories, durably.

use crate::error::PublishError;
use crate::fault;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Ends the name of a file that is not in place yet.
pub const ASIDE_SUFFIX: &str = ".tmp";

/// Makes the entry of `path` in its directory durable.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    fault::point().and_then(|()| sync_name_of(path))
}

/// As [`sync_folder_of`], as a part of another step.
pub(crate) fn sync_name_of(path: &Path) -> io::Result<()> {
    fault::pause();
    File::open(folder_of(path).unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes the content of a file durable that is written in place.
pub fn sync_content(file: &File) -> io::Result<()> {
    fault::point().and_then(|()| file.sync_data())
}

/// Removes a file, durably. Whether it is gone after an error is not known.
pub fn remove(path: &Path) -> Result<(), PublishError> {
    let removed = fault::point().and_then(|()| fs::remove_file(path)).and_then(|()| sync_name_of(path));
    removed.map_err(PublishError::unsettled("remove", path))
}

/// Creates a directory with those above it that are missing, durably.
pub fn create_folder(path: &Path) -> Result<(), PublishError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder_of(path) {
        create_folder(above)?;
    }
    fs::create_dir(path).map_err(PublishError::unchanged("create", path))?;
    sync_name_of(path).map_err(PublishError::unchanged("sync the folder of", path))
}

/// Gives a directory, whose content is durable, its name, in place of an empty directory that had the name before.
pub fn publish_folder(aside: &Path, target: &Path) -> Result<(), PublishError> {
    let renamed = fault::point().and_then(|()| fs::rename(aside, target));
    renamed.map_err(PublishError::unsettled("rename", target))?;
    let synced = fault::point().and_then(|()| sync_name_of(target));
    synced.map_err(PublishError::unsettled("sync the folder of", target))
}

/// Removes what a crash left of files in `folder` that were not in place yet.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().ends_with(ASIDE_SUFFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The directory that `path` is in, as far as it says.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_crash_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("state.tmp"), b"half").expect("write");
        fs::write(folder.path().join("state"), b"whole").expect("write");
        remove_leftovers(folder.path()).expect("clean");
        assert!(!folder.path().join("state.tmp").exists());
        assert!(folder.path().join("state").exists());
    }

    #[test]
    fn a_removal_that_fails_may_have_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, b"").expect("write");
        fault::fail_after(Some(0));
        let failed = remove(&path);
        fault::fail_after(None);
        assert!(matches!(failed, Err(PublishError::Unsettled { .. })), "{failed:?}");
        remove(&path).expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_gets_its_name_unless_another_with_something_in_it_has_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (aside, target) = (folder.path().join("aside"), folder.path().join("target"));
        fs::create_dir(&aside).expect("created");
        fs::write(aside.join("new"), b"").expect("write");
        create_folder(&target).expect("created");
        fs::write(target.join("old"), b"").expect("write");
        let failed = publish_folder(&aside, &target);
        assert!(matches!(failed, Err(PublishError::Unsettled { .. })), "{failed:?}");
        assert!(aside.join("new").exists() && target.join("old").exists());
        fs::remove_file(target.join("old")).expect("removed");
        publish_folder(&aside, &target).expect("published");
        assert!(target.join("new").exists() && !aside.exists());
    }

    #[test]
    fn a_folder_is_created_with_those_above_it_and_may_be_there() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a/b/c");
        create_folder(&path).expect("created");
        create_folder(&path).expect("there");
        assert!(path.is_dir());
        fs::write(path.join("file"), b"").expect("write");
        assert!(create_folder(&path.join("file/d")).is_err());
    }
}
