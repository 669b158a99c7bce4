//! Making files and folders that belong to PostgreSQL's user.

use crate::Error;
use crate::owner::Owner;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes a folder that only PostgreSQL's user may enter; one that is there is given to that user.
pub fn folder(path: &Path, owner: Owner) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::file("create", path)(error)),
        _ => owner.give(path),
    }
}

/// Makes a folder and those above it that are missing, below `root`, which is there.
pub fn folders_below(root: &Path, relative: &Path, owner: Owner) -> Result<(), Error> {
    let mut path = root.to_owned();
    for component in relative.components() {
        path.push(component);
        folder(&path, owner)?;
    }
    Ok(())
}

/// Makes a symbolic link that is not there yet.
pub fn link(target: &Path, path: &Path, owner: Owner) -> Result<(), Error> {
    std::os::unix::fs::symlink(target, path).map_err(Error::file("link", path))?;
    owner.give_link(path)
}

/// Writes a whole file.
pub fn file(path: &Path, content: &[u8], owner: Owner) -> Result<(), Error> {
    let mut file = empty_file(path, owner)?;
    file.write_all(content).map_err(Error::file("write", path))
}

/// Makes an empty file, or empties one that is there.
pub fn empty_file(path: &Path, owner: Owner) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path).map_err(Error::file("create", path))?;
    owner.give_open(&file).map_err(Error::file("give away", path))?;
    Ok(file)
}

/// Removes a file; one that is not there is as good.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}
