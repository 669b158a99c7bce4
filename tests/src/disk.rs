//! Disks that are small enough to be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory at a path; gone when dropped, whoever still uses it.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`, which is created. None, and a loud word about it, where that is not allowed.
    pub fn mount(path: &Path, mebibytes: u32) -> Option<SmallDisk> {
        fs::create_dir_all(path).expect("created");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=711"), "quire-test"]).arg(path);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { path: path.to_owned() });
        }
        eprintln!(
            "SKIPPED: a file system cannot be mounted here (that needs root), so nothing was tested of a full disk"
        );
        None
    }

    /// Takes all room that is left.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("created");
        for piece in [1 << 20, 4096] {
            let bytes = vec![0x5a; piece];
            loop {
                match filler.write_all(&bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("cannot fill {}: {error}", self.path.display()),
                }
            }
        }
    }

    /// Bytes that files take.
    pub fn used(&self) -> u64 {
        let counts = nix::sys::statvfs::statvfs(&self.path).expect("it is mounted");
        (counts.blocks() - counts.blocks_free()) * counts.fragment_size()
    }

    /// Gives the room back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test leaves may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
