//! The unprivileged user that PostgreSQL runs as when the agent is root.

use crate::{Config, Error, descriptors};
use nix::unistd::{Gid, Uid, User};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

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
            None => vec!["postgres", "nobody"],
        };
        let user = candidates.iter().find_map(|name| User::from_name(name).ok().flatten());
        match user {
            Some(user) if !user.uid.is_root() => Ok(Owner { user: Some((user.uid, user.gid)) }),
            _ => {
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
        let (parent, inherited) = (std::process::id(), descriptors::inherited_limit());
        // SAFETY: both only make system calls, which is all that is allowed between fork and exec.
        unsafe {
            command.pre_exec(move || descriptors::restore_limit(inherited).and_then(|()| die_with_parent(parent)))
        };
    }

    /// Refuses a directory that the user cannot reach, with the ancestor that is in the way.
    pub fn check_reachable(&self, path: &Path) -> Result<(), Error> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        for ancestor in path.ancestors().skip(1) {
            let metadata = ancestor.metadata().map_err(Error::file("examine", ancestor))?;
            if !searchable(&metadata, uid, gid) {
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

fn searchable(metadata: &std::fs::Metadata, uid: Uid, gid: Gid) -> bool {
    use std::os::unix::fs::MetadataExt;
    let bit = match () {
        () if metadata.uid() == uid.as_raw() => 0o100,
        () if metadata.gid() == gid.as_raw() => 0o010,
        () => 0o001,
    };
    metadata.mode() & bit != 0
}

/// Asks the kernel for SIGKILL when the spawning thread ends. Must run after the change of user, which clears the wish.
fn die_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: prctl with these arguments touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the wish was made.
    match std::os::unix::process::parent_id() == parent {
        true => Ok(()),
        false => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
