//! Running PostgreSQL's programs, as a user that they accept.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the server's programs are.
pub fn bin(program: &str) -> PathBuf {
    let dir = std::env::var_os("QUIRE_PG_BIN").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    Path::new(&dir).join(program)
}

/// The user PostgreSQL runs as: `postgres` if this is root, which it refuses to be.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    pub fn for_postgres() -> User {
        // SAFETY: plain questions; the entry is read before anything else could overwrite it.
        unsafe {
            let (uid, gid) = (libc::getuid(), libc::getgid());
            let entry = libc::getpwnam(c"postgres".as_ptr());
            if uid != 0 || entry.is_null() {
                return User { uid, gid };
            }
            User { uid: (*entry).pw_uid, gid: (*entry).pw_gid }
        }
    }

    /// Makes a file this user's.
    pub fn own(self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).expect("a file can be given away");
    }

    /// A command run as this user.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.uid(self.uid).gid(self.gid).current_dir("/").env_remove("PGDATABASE");
        command
    }
}

/// Runs to the end, and shows what was said if that was no success.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program can be started");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Everything a program said.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
