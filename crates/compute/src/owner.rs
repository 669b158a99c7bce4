//! The unprivileged user that PostgreSQL runs as when the agent is root.

use crate::{Config, Error, descriptors};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, User, getppid};
use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Who PostgreSQL runs as where the agent is root and nothing else is set: the first of them that there is.
pub const SERVER_USERS: [&str; 2] = ["postgres", "nobody"];

/// An unprivileged user of this machine; as PostgreSQL's, it is given no supplementary groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerUser {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

impl ServerUser {
    /// The first of the candidates that there is, if that is not root.
    pub fn find(candidates: &[&str]) -> Option<ServerUser> {
        let user = candidates.iter().find_map(|name| User::from_name(name).ok().flatten())?;
        (!user.uid.is_root()).then_some(ServerUser { name: user.name, uid: user.uid, gid: user.gid })
    }

    /// Whether the permission bits let this user through; a directory that cannot be looked at counts as closed.
    pub fn may_pass(&self, directory: &Path) -> bool {
        std::fs::metadata(directory).is_ok_and(|metadata| may_pass(&metadata, self.uid, self.gid))
    }
}

/// Who owns what `postgres` and the shim must write. Without root, the agent's own user; then all of this does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    user: Option<(Uid, Gid)>,
}

impl Owner {
    /// The user to run as, from the settings or by default `postgres`, else `nobody`.
    pub fn detect(config: &Config) -> Result<Owner, Error> {
        if !Uid::effective().is_root() {
            return Ok(Owner::unchanged());
        }
        let candidates = match &config.run_as_user {
            Some(name) => vec![name.as_str()],
            None => SERVER_USERS.to_vec(),
        };
        match ServerUser::find(&candidates) {
            Some(user) => Ok(Owner { user: Some((user.uid, user.gid)) }),
            None => {
                Err(Error::Config(format!("no unprivileged user to run postgres as (tried {})", candidates.join(", "))))
            }
        }
    }

    /// The agent's own user: nothing is given away.
    pub fn unchanged() -> Owner {
        Owner { user: None }
    }

    /// Makes the user the owner of `path`.
    pub fn give(&self, path: &Path) -> Result<(), Error> {
        match self.user {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
                .map_err(Error::file("give away", path)),
            None => Ok(()),
        }
    }

    /// Makes the user the owner of a symbolic link.
    pub fn give_link(&self, path: &Path) -> Result<(), Error> {
        match self.user {
            Some((uid, gid)) => std::os::unix::fs::lchown(path, Some(uid.as_raw()), Some(gid.as_raw()))
                .map_err(Error::file("give away", path)),
            None => Ok(()),
        }
    }

    /// Makes the user the owner of an open file.
    pub fn give_open(&self, file: impl AsFd) -> io::Result<()> {
        match self.user {
            Some((uid, gid)) => std::os::unix::fs::fchown(file, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        }
    }

    /// Makes `command` run as the user, without the agent's supplementary groups, and die with the thread that spawns
    /// it.
    pub fn adopt(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.user {
            command.gid(gid.as_raw()).uid(uid.as_raw());
        }
        let (parent, inherited) = (Pid::this(), descriptors::inherited_limit());
        // SAFETY: both only make system calls, which is all that is allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                descriptors::restore_limit(inherited).and_then(|()| die_with_parent(parent, Signal::SIGKILL))
            })
        };
    }

    /// Refuses a directory that the user cannot reach, with the ancestor that is in the way.
    pub fn check_reachable(&self, path: &Path) -> Result<(), Error> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        for ancestor in path.ancestors().skip(1) {
            let metadata = ancestor.metadata().map_err(Error::file("examine", ancestor))?;
            if !may_pass(&metadata, uid, gid) {
                let hint = "chmod o+x it, or choose another directory";
                return Err(Error::Config(format!(
                    "postgres, which does not run as root, cannot pass through {}; {hint}",
                    ancestor.display()
                )));
            }
        }
        Ok(())
    }
}

/// Whether the permission bits let a user without supplementary groups through a directory.
fn may_pass(metadata: &Metadata, uid: Uid, gid: Gid) -> bool {
    let bit = match () {
        () if metadata.uid() == uid.as_raw() => 0o100,
        () if metadata.gid() == gid.as_raw() => 0o010,
        () => 0o001,
    };
    metadata.mode() & bit != 0
}

/// Asks the kernel for a signal to this process when the thread of `parent` that spawned it ends. For use between fork
/// and exec, after the change of user, which clears the wish; it makes system calls only.
pub fn die_with_parent(parent: Pid, signal: Signal) -> io::Result<()> {
    set_pdeathsig(signal)?;
    // The parent may have died before the line above.
    if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_closed_to_others_stops_a_stranger() {
        let stranger = u32::MAX - 7;
        let stranger = ServerUser { name: "stranger".into(), uid: stranger.into(), gid: stranger.into() };
        let folder = tempfile::tempdir().expect("temporary folder");
        let set_mode =
            |mode| std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(mode));
        set_mode(0o700).expect("closed");
        assert!(!stranger.may_pass(folder.path()));
        set_mode(0o711).expect("opened");
        assert!(stranger.may_pass(folder.path()));
        assert!(!stranger.may_pass(Path::new("/nonexistent")));
    }

    #[test]
    fn a_child_of_a_finished_thread_is_killed() {
        let owner = Owner::unchanged();
        let spawned = std::thread::spawn(move || {
            let mut command = Command::new("sleep");
            owner.adopt(command.arg("60"));
            command.spawn().expect("sleep starts")
        });
        let mut child = spawned.join().expect("no panic");
        let status = child.wait().expect("it ends");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }
}
