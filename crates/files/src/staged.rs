//! A file on its way to its name.

use crate::error::PublishError;
use crate::fault;
use crate::folder::{ASIDE_SUFFIX, sync_name_of};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER_BYTES: usize = 1 << 18;

/// What a published file has to survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The end of the process at any moment. For what is made anew after a crash of the machine, which may leave the
    /// name with a part of the file.
    Process,
    /// A crash of the machine: the file is synced before it gets its name, and the directory after.
    Machine,
}

/// A file that is being written and has no name yet. Dropped before it is published, it leaves nothing.
#[derive(Debug)]
pub struct Staged {
    out: BufWriter<File>,
    aside: PathBuf,
    target: PathBuf,
    written: u64,
    /// Whether there is a file aside, which goes when this is dropped.
    is_aside: bool,
}

impl Staged {
    /// Starts the file that will be `target`. There is only one writer of `target` at a time.
    pub fn create(target: &Path) -> Result<Staged, PublishError> {
        Staged::create_as(aside_of(target, ""), target)
    }

    /// Starts the file that will be `target`, which other threads of this process may be writing too.
    pub fn create_distinct(target: &Path) -> Result<Staged, PublishError> {
        static DISTINCT: AtomicU64 = AtomicU64::new(0);
        let distinct = format!(".{}", DISTINCT.fetch_add(1, Ordering::Relaxed));
        Staged::create_as(aside_of(target, &distinct), target)
    }

    fn create_as(aside: PathBuf, target: &Path) -> Result<Staged, PublishError> {
        let file = File::create(&aside).map_err(PublishError::unchanged("create", &aside))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Staged { out, aside, target: target.to_owned(), written: 0, is_aside: true })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        self.out.write_all(bytes).map_err(PublishError::unchanged("write", &self.aside))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Who may do what with the file, as in `chmod`. Otherwise it is as the process makes its files.
    pub fn set_mode(&self, mode: u32) -> Result<(), PublishError> {
        let set = self.out.get_ref().set_permissions(Permissions::from_mode(mode));
        set.map_err(PublishError::unchanged("set the mode of", &self.aside))
    }

    /// Gives the file its name, in place of what had the name before.
    pub fn publish(mut self, durability: Durability) -> Result<(), PublishError> {
        self.complete(durability)?;
        let renamed = fault::point().and_then(|()| fs::rename(&self.aside, &self.target));
        renamed.map_err(PublishError::unsettled("rename", &self.target))?;
        // From here on another writer may have a file of the same name aside.
        self.is_aside = false;
        self.sync_name(durability)
    }

    /// Gives the file its name, unless there is a file that has it: that one is left as it is. Says whether this one
    /// has it now.
    pub fn publish_if_absent(mut self, durability: Durability) -> Result<bool, PublishError> {
        self.complete(durability)?;
        let is_new = match fault::point().and_then(|()| fs::hard_link(&self.aside, &self.target)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            linked => linked.map(|()| true).map_err(PublishError::unsettled("link", &self.target))?,
        };
        fs::remove_file(&self.aside).map_err(PublishError::unsettled("remove", &self.aside))?;
        self.is_aside = false;
        self.sync_name(durability)?;
        Ok(is_new)
    }

    fn complete(&mut self, durability: Durability) -> Result<(), PublishError> {
        fault::point().map_err(PublishError::unchanged("write", &self.aside))?;
        self.out.flush().map_err(PublishError::unchanged("write", &self.aside))?;
        match durability {
            Durability::Process => Ok(()),
            Durability::Machine => self.out.get_ref().sync_all().map_err(PublishError::unchanged("sync", &self.aside)),
        }
    }

    fn sync_name(&self, durability: Durability) -> Result<(), PublishError> {
        let synced = match durability {
            Durability::Process => Ok(()),
            Durability::Machine => fault::point().and_then(|()| sync_name_of(&self.target)),
        };
        synced.map_err(PublishError::unsettled("sync the folder of", &self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_aside {
            // What cannot be removed now is a leftover like those of a crash.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

/// Publishes a small file in one go.
pub fn publish(target: &Path, content: &[u8], durability: Durability) -> Result<(), PublishError> {
    let mut staged = Staged::create(target)?;
    staged.write(content)?;
    staged.publish(durability)
}

fn aside_of(target: &Path, distinct: &str) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(distinct);
    name.push(ASIDE_SUFFIX);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).expect("listed").count()
    }

    #[test]
    fn an_unpublished_file_leaves_nothing_and_a_published_one_replaces_the_old() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("state");
        for durability in [Durability::Machine, Durability::Process] {
            publish(&target, b"old and long", durability).expect("published");
            let mut staged = Staged::create(&target).expect("created");
            staged.write(b"new").expect("written");
            assert_eq!((staged.written(), count(folder.path())), (3, 2));
            drop(staged);
            assert_eq!(fs::read(&target).expect("read"), b"old and long");
            publish(&target, b"new", durability).expect("published");
            assert_eq!(fs::read(&target).expect("read"), b"new");
            assert_eq!(count(folder.path()), 1);
        }
    }

    #[test]
    fn a_fault_keeps_the_old_file_or_says_that_it_may_not() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("state");
        publish(&target, b"old", Durability::Machine).expect("published");
        for (steps, is_unsettled) in [(0, false), (1, true), (2, true)] {
            fault::fail_after(Some(steps));
            let error = publish(&target, b"new", Durability::Machine).expect_err("injected");
            fault::fail_after(None);
            assert_eq!(matches!(error, PublishError::Unsettled { .. }), is_unsettled, "{error}");
            let expected: &[u8] = if steps < 2 { b"old" } else { b"new" };
            assert_eq!(fs::read(&target).expect("read"), expected, "after {steps} steps");
            assert_eq!(count(folder.path()), 1, "after {steps} steps");
        }
    }

    #[test]
    fn only_what_is_to_survive_the_machine_syncs_the_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("state");
        fault::fail_after(Some(2));
        let lasting = publish(&target, b"", Durability::Machine);
        fault::fail_after(Some(2));
        let passing = publish(&target, b"", Durability::Process);
        fault::fail_after(None);
        assert!(lasting.is_err());
        passing.expect("published without a third step");
    }

    #[test]
    fn a_file_that_has_the_name_is_left_alone_if_so_asked() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("segment");
        let staged = ["first", "second"].map(|content| {
            let mut staged = Staged::create_distinct(&target).expect("created");
            staged.write(content.as_bytes()).expect("written");
            staged
        });
        for staged in staged {
            staged.publish_if_absent(Durability::Machine).expect("published");
        }
        assert_eq!(fs::read(&target).expect("read"), b"first");
        assert_eq!(count(folder.path()), 1);
    }

    #[test]
    fn the_mode_is_there_when_the_name_is() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("program");
        for mode in [0o755, 0o600] {
            let staged = Staged::create(&target).expect("created");
            staged.set_mode(mode).expect("set");
            staged.publish(Durability::Process).expect("published");
            assert_eq!(fs::metadata(&target).expect("there").permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn an_error_keeps_its_kind_and_names_the_file() {
        let folder = tempfile::tempdir().expect("folder");
        let error = publish(&folder.path().join("missing/state"), b"", Durability::Machine).expect_err("no folder");
        let error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("missing/state"), "{error}");
    }
}
