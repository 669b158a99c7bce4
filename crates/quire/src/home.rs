//! Where things are below `--dir`.
//!
//! ```text
//! quire.json               what the folder is: project, branches, ports
//! run/up.pid               the supervisor, locked as long as it lives
//! run/ready                there once everything answers
//! run/trouble              there while a compute does not start, with the reason
//! run/<role>.json          the configuration each role was started with
//! log/<role>.log           what each role says, and log/up.log
//! safekeeper-1/ ...        WAL
//! pageserver-1/            pages
//! compute/<branch>/        a cache that may be thrown away
//! evidence/<branch>/       pages that differ from storage's, put aside
//! ```

use anyhow::{Context, Result, ensure};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directory of one Quire, as an absolute path.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The directory `dir`, which need not exist yet.
    pub fn new(dir: &Path) -> Result<Home> {
        let absolute =
            std::path::absolute(dir).with_context(|| format!("the directory {} has no path", dir.display()))?;
        // A directory that exists is known by one name, whatever links lead to it: processes are recognised by it.
        let root = fs::canonicalize(&absolute).unwrap_or(absolute);
        Ok(Home { root })
    }

    /// Refuses a directory whose path PostgreSQL or a configuration could not hold.
    pub fn check_path(&self) -> Result<()> {
        let path = self.root.to_str().with_context(|| format!("the path {} is not UTF-8", self.root.display()))?;
        ensure!(
            !path.contains(|character: char| character.is_control()),
            "the path {path:?} has a character that ends a line or controls a terminal; choose another directory with --dir"
        );
        Ok(())
    }

    /// Closes to others what is below the directory and was made by an earlier version, or under another umask.
    pub fn close(&self) -> Result<()> {
        close_file(&self.state_file())?;
        for folder in [self.root.join("run"), self.root.join("log")] {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                close_file(&entry?.path())?;
            }
        }
        for entry in fs::read_dir(&self.root).with_context(|| format!("cannot list {}", self.root.display()))? {
            let (name, path) = (entry.as_ref().map(fs::DirEntry::file_name), entry.as_ref().map(fs::DirEntry::path));
            if let (Ok(name), Ok(path)) = (name, path)
                && is_closed_folder(&name.to_string_lossy())
            {
                create_dir(&path, 0o700)?;
            }
        }
        Ok(())
    }

    /// Creates the directory and its parts. Others may pass through a new directory, since the server's user must reach
    /// its cache, but find every part that has data closed. A directory that exists keeps its permissions.
    pub fn create(dir: &Path) -> Result<Home> {
        let root = Home::new(dir)?.root;
        if !root.exists() {
            if let Some(above) = root.parent() {
                // With the permissions that the user wants for new directories, whatever this process has for its
                // files.
                fs::create_dir_all(above).with_context(|| format!("cannot create {}", above.display()))?;
            }
            create_dir(&root, 0o711)?;
        }
        let home = Home::new(dir)?;
        create_dir(&home.root.join("run"), 0o700)?;
        create_dir(&home.root.join("log"), 0o700)?;
        Ok(home)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `quire.json`.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("quire.json")
    }

    /// The supervisor's pid, and the file that is locked.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("run/up.pid")
    }

    /// Exists while everything is started.
    pub fn ready_file(&self) -> PathBuf {
        self.root.join("run/ready")
    }

    /// Exists while storage is started and a compute does not start: the supervisor's pid, and why.
    pub fn trouble_file(&self) -> PathBuf {
        self.root.join("run/trouble")
    }

    /// The configuration of a role.
    pub fn config_file(&self, role: &str) -> PathBuf {
        self.root.join(format!("run/{role}.json"))
    }

    /// The log of a role.
    pub fn log_file(&self, role: &str) -> PathBuf {
        self.root.join(format!("log/{role}.log"))
    }

    /// Where pages of a branch that differ from storage's are put aside.
    pub fn evidence_dir(&self, branch: &str) -> PathBuf {
        self.root.join("evidence").join(branch)
    }

    /// What a safekeeper or a pageserver keeps.
    pub fn data_dir(&self, role: &str) -> PathBuf {
        self.root.join(role)
    }

    /// Creates [`Home::data_dir`].
    pub fn create_data_dir(&self, role: &str) -> Result<()> {
        create_dir(&self.data_dir(role), 0o700)
    }

    /// The caches of computes, if the server's user can reach this directory.
    pub fn compute_root(&self) -> PathBuf {
        self.root.join("compute")
    }
}

/// Directories of roles, which have data.
fn is_closed_folder(name: &str) -> bool {
    ["safekeeper-", "pageserver-"].iter().any(|role| name.starts_with(role)) || name == "evidence"
}

/// Lets only the owner read or write a file, if there is one.
fn close_file(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot close {} to others", path.display())),
        _ => Ok(()),
    }
}

/// Creates a directory, or sets the permissions of one that exists.
pub fn create_dir(path: &Path, mode: u32) -> Result<()> {
    let create = || {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    create().with_context(|| format!("cannot create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it exists").permissions().mode() & 0o777
    }

    #[test]
    fn new_folder_lets_the_server_pass_and_nobody_read() {
        let above = tempfile::tempdir().expect("temporary folder");
        let home = Home::create(&above.path().join("q")).expect("created");
        assert_eq!(mode(home.root()), 0o711);
        assert_eq!(mode(&home.root().join("log")), 0o700);
    }

    #[test]
    fn permissions_of_an_existing_folder_are_left_alone() {
        let existing = tempfile::tempdir().expect("temporary folder");
        fs::set_permissions(existing.path(), Permissions::from_mode(0o750)).expect("set");
        let home = Home::create(existing.path()).expect("created");
        assert_eq!(mode(home.root()), 0o750);
    }
}
