//! What a first `quire up` makes, to be taken away again if it fails.
//!
//! A directory without a branch has nothing of use in it, and what a start has left half-made would be in the way of
//! one that is told something else. What was there before the start is never touched, and the logs stay: they say why
//! it failed.

use crate::deployment::Deployment;
use crate::home::Home;
use crate::user::compute_dirs;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// The directory as it is before a start.
pub struct Beginning {
    is_new: bool,
    before: BTreeSet<OsString>,
}

impl Beginning {
    /// Looks at it.
    pub fn note(home: &Home) -> Result<Beginning> {
        Ok(Beginning { is_new: Deployment::load(home)?.is_none(), before: names(home.root())? })
    }

    /// Takes away what has come since, if this was a first start and there is still no branch.
    pub fn undo(&self, home: &Home) -> Result<()> {
        let deployment = Deployment::load(home)?;
        if !self.is_new || deployment.iter().flat_map(|deployment| &deployment.branches).any(|branch| branch.created) {
            return Ok(());
        }
        for name in names(home.root())?.difference(&self.before) {
            remove(&home.root().join(name))?;
        }
        for dir in deployment
            .iter()
            .flat_map(|deployment| compute_dirs(home, deployment))
            .filter(|dir| !dir.starts_with(home.root()))
        {
            remove(&dir)?;
        }
        for name in names(&home.root().join("run"))?.iter().filter(|name| name.as_encoded_bytes().ends_with(b".json")) {
            remove(&home.root().join("run").join(name))?;
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}, which a failed start has left", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PortRange;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::create(&folder.path().join("q")).expect("made");
        (folder, home)
    }

    #[test]
    fn a_failed_first_start_leaves_what_was_there_before() {
        let (_folder, home) = home();
        fs::create_dir(home.root().join("safekeeper-1")).expect("made");
        let beginning = Beginning::note(&home).expect("noted");
        Deployment::new("/bin".into(), PortRange::default(), 3, 1).expect("new").save(&home).expect("saved");
        fs::create_dir_all(home.root().join("compute/main")).expect("made");
        fs::write(home.root().join("run/safekeeper-1.json"), "{}").expect("written");
        beginning.undo(&home).expect("undone");
        let left: Vec<_> = names(home.root()).expect("listed").into_iter().collect();
        assert_eq!(left, ["log", "run", "safekeeper-1"]);
        assert!(names(&home.root().join("run")).expect("listed").is_empty());
    }

    #[test]
    fn a_folder_with_a_branch_is_left_as_it_is() {
        let (_folder, home) = home();
        let beginning = Beginning::note(&home).expect("noted");
        let mut deployment = Deployment::new("/bin".into(), PortRange::default(), 3, 1).expect("new");
        deployment.branches.push(deployment.new_branch("main").expect("new"));
        deployment.branches[0].created = true;
        deployment.save(&home).expect("saved");
        beginning.undo(&home).expect("nothing to undo");
        assert!(Deployment::load(&home).expect("loaded").is_some());
    }
}
