//! Where things are in a compute's directory.
//!
//! ```text
//! <compute>/pgdata/            PostgreSQL's data directory, nothing of Quire's inside
//! <compute>/tablespaces/16385  what pgdata/pg_tblspc/16385 points at, after a cold start
//! <compute>/meta/base/5/1259   the meta file of pgdata/base/5/1259 (same path below both)
//! <compute>/withheld/          files of pgdata that only processes with the shim find
//! <compute>/control.shm        atomics shared by the agent and all PostgreSQL processes
//! <compute>/agent.sock         the agent's Unix socket
//! ```
//!
//! All of it must be readable and writable by the user PostgreSQL runs as, and `meta/` with all its directories too.

use std::path::{Path, PathBuf};

/// The environment variable that tells the shim the compute's directory, as an absolute path; without it the shim
/// does nothing.
pub const COMPUTE_DIR_VARIABLE: &str = "QUIRE_COMPUTE_DIR";

/// Name of PostgreSQL's data directory in the compute's.
pub const PGDATA: &str = "pgdata";

/// Name of the tree of meta files.
pub const META: &str = "meta";

/// What is added to a meta file's name for the file that is made there before it gets its own name.
pub const ASIDE_SUFFIX: &str = ".new";

/// Name of the directory of tablespaces.
pub const TABLESPACES: &str = "tablespaces";

/// Name of the directory of the files without which no PostgreSQL starts: a process that opens one of them below
/// [`PGDATA`] with the shim is given the one in here, and without the shim there is none, or one that says what is
/// wrong.
pub const WITHHELD: &str = "withheld";

/// What is withheld: the path below the data directory, and the name in [`WITHHELD`].
pub const WITHHELD_FILES: [(&str, &str); 2] = [("global/pg_control", "pg_control"), ("PG_VERSION", "PG_VERSION")];

/// Name of the control file.
pub const CONTROL: &str = "control.shm";

/// Name of the agent's socket.
pub const SOCKET: &str = "agent.sock";

/// Longest compute directory in bytes: a path below it has to fit into a socket address (108 bytes on Linux).
pub const COMPUTE_DIR_BYTES_MAX: usize = 96;

/// A compute's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ComputeDir {
    root: PathBuf,
}

impl ComputeDir {
    /// The directory at `root`, which should be absolute: PostgreSQL changes its working directory.
    pub fn new(root: impl Into<PathBuf>) -> ComputeDir {
        ComputeDir { root: root.into() }
    }

    /// The directory itself, what [`COMPUTE_DIR_VARIABLE`] has to say.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// PostgreSQL's data directory.
    pub fn pgdata(&self) -> PathBuf {
        self.root.join(PGDATA)
    }

    /// The tree of meta files.
    pub fn meta(&self) -> PathBuf {
        self.root.join(META)
    }

    /// The directory of tablespaces.
    pub fn tablespaces(&self) -> PathBuf {
        self.root.join(TABLESPACES)
    }

    /// The directory of the files that only processes with the shim find.
    pub fn withheld(&self) -> PathBuf {
        self.root.join(WITHHELD)
    }

    /// Where a file of the data directory is, by its path in there (`global/pg_control`): there, or withheld.
    pub fn real_file(&self, relative: &str) -> PathBuf {
        let withheld = WITHHELD_FILES.iter().find(|(path, _)| *path == relative);
        withheld.map_or_else(|| self.data_file(relative), |(_, name)| self.withheld().join(name))
    }

    /// The control file.
    pub fn control(&self) -> PathBuf {
        self.root.join(CONTROL)
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join(SOCKET)
    }

    /// A file of PostgreSQL's, by its path below the data directory (`base/5/1259`).
    pub fn data_file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.pgdata().join(relative)
    }

    /// The meta file of a file of PostgreSQL's, by that file's path below the data directory.
    pub fn meta_file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.meta().join(relative)
    }

    /// Where such a file is made before it gets its name: beside its meta file.
    pub fn aside_file(&self, relative: impl AsRef<Path>) -> PathBuf {
        let mut path = self.meta_file(relative).into_os_string();
        path.push(ASIDE_SUFFIX);
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_data_directory_is_beside_it() {
        let dir = ComputeDir::new("/c");
        assert_eq!(dir.real_file("global/pg_control"), Path::new("/c/withheld/pg_control"));
        assert_eq!(dir.real_file("base/5/PG_VERSION"), Path::new("/c/pgdata/base/5/PG_VERSION"));
    }

    #[test]
    fn a_meta_file_mirrors_the_path_of_its_data_file() {
        let dir = ComputeDir::new("/c");
        assert_eq!(dir.data_file("base/5/1259_vm.1"), Path::new("/c/pgdata/base/5/1259_vm.1"));
        assert_eq!(dir.meta_file("base/5/1259_vm.1"), Path::new("/c/meta/base/5/1259_vm.1"));
    }
}
