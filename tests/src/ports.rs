//! Blocks of ports, so that two Quires that start side by side never choose the same one.

use std::fs::{self, File};
use std::path::Path;

/// Where blocks are taken, by all test processes of this machine.
const FOLDER: &str = "/tmp/quire-test-ports";

/// The first port of all, and how many a block has.
const FIRST: u16 = 15_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 170;

/// Ports that are nobody else's while this lives.
#[derive(Debug)]
pub struct PortBlock {
    number: u16,
    _lock: File,
}

impl PortBlock {
    /// Takes a block that no test has.
    pub fn take() -> PortBlock {
        fs::create_dir_all(FOLDER).expect("a folder for locks");
        let taken = (0..BLOCKS).find_map(|number| {
            let lock = File::create(Path::new(FOLDER).join(number.to_string())).expect("a lock");
            lock.try_lock().ok().map(|()| PortBlock { number, _lock: lock })
        });
        taken.expect("fewer Quires at a time than there are blocks of ports")
    }

    /// As `quire up --ports` takes it.
    pub fn range(&self) -> String {
        let first = FIRST + self.number * BLOCK;
        format!("{first}-{}", first + BLOCK - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_taken_once_at_a_time() {
        let (one, two) = (PortBlock::take(), PortBlock::take());
        assert_ne!(one.range(), two.range());
    }
}
