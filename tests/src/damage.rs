//! Bytes of a file that are turned over, and back.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file with a turned byte.
pub struct Damage {
    file: File,
    at: u64,
}

impl Damage {
    /// Turns the byte at `at`.
    pub fn inflict(path: &Path, at: u64) -> Damage {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("opened");
        let damage = Damage { file, at };
        damage.turn();
        damage
    }

    /// Turns it back.
    pub fn repair(self) {
        self.turn();
    }

    fn turn(&self) {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, self.at).expect("read");
        self.file.write_all_at(&[!byte[0]], self.at).expect("written");
    }
}

/// Files below a directory whose names satisfy `wanted`.
pub fn files_below(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    paths
        .flat_map(|path| if path.is_dir() { files_below(&path, wanted) } else { vec![path] })
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(wanted))
        .collect()
}
