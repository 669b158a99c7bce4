//! Making files and directories that belong to PostgreSQL's user.

use crate::Error;
use crate::owner::Owner;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a directory that only PostgreSQL's user may enter; one that is there is given to that user.
pub fn folder(path: &Path, owner: Owner) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::file("create", path)(error)),
        _ => owner.give(path),
    }
}

/// Makes a directory that only PostgreSQL's user may enter, or closes one that is there to all others.
pub fn closed_folder(path: &Path, owner: Owner) -> Result<(), Error> {
    folder(path, owner)?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(Error::file("close to others", path))
}

/// Makes the files in a directory PostgreSQL's user's, and closes them to all others. A link is left as it is:
/// PostgreSQL's user may have made it, and what it leads to may belong to another user.
pub fn close_files(folder: &Path, owner: Owner) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))? {
        let path = entry.map_err(Error::file("list", folder))?.path();
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            close_file(&path, owner).map_err(Error::file("close to others", &path))?;
        }
    }
    Ok(())
}

fn close_file(path: &Path, owner: Owner) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(0o600))?;
    owner.give_open(&file)
}

/// Makes a directory and those above it that are missing, below `root`, which is there.
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
