//! How far to fetch beyond what was asked: a run of fetches through a file is followed by ever longer ones.

use quire_cache::FileId;
use std::collections::HashMap;

/// The most blocks that are fetched ahead (512 KiB of pages).
const WINDOW_BLOCKS_MAX: u32 = 64;
const WINDOW_BLOCKS_MIN: u32 = 8;
/// How many files one process is believed to run through at the same time.
const RUNS_MAX: usize = 64;

/// What one process has fetched lately.
#[derive(Debug, Default)]
pub struct ReadAhead {
    runs: HashMap<FileId, Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// The block after the last one fetched, ahead or not.
    next: u32,
    window: u32,
}

impl ReadAhead {
    /// How many blocks to fetch beyond `first + count` in `file`.
    pub fn window(&mut self, file: FileId, first: u32, count: u32) -> u32 {
        let window = match self.runs.get(&file) {
            // Blocks in between may be in the cache already.
            Some(run) if (run.next..=run.next + run.window).contains(&first) => {
                (run.window * 2).clamp(WINDOW_BLOCKS_MIN, WINDOW_BLOCKS_MAX)
            }
            _ => 0,
        };
        if self.runs.len() >= RUNS_MAX && !self.runs.contains_key(&file) {
            self.runs.clear();
        }
        self.runs.insert(file, Run { next: first + count + window, window });
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Slru;

    const FILE: FileId = FileId::Slru { slru: Slru::Clog, segment: 0 };

    #[test]
    fn a_run_is_followed_by_longer_and_longer_windows() {
        let mut ahead = ReadAhead::default();
        let mut first = 0;
        let windows: Vec<u32> = (0..6)
            .map(|_| {
                let window = ahead.window(FILE, first, 1);
                first += 1 + window;
                window
            })
            .collect();
        assert_eq!(windows, [0, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn blocks_that_are_there_already_do_not_end_a_run() {
        let mut ahead = ReadAhead::default();
        ahead.window(FILE, 0, 1);
        assert_eq!(ahead.window(FILE, 1, 1), 8);
        assert_eq!(ahead.window(FILE, 15, 1), 16);
    }

    #[test]
    fn a_jump_ends_the_run() {
        let mut ahead = ReadAhead::default();
        ahead.window(FILE, 0, 1);
        assert_eq!(ahead.window(FILE, 1, 1), 8);
        assert_eq!(ahead.window(FILE, 500, 1), 0);
        assert_eq!(ahead.window(FILE, 502, 1), 0);
    }
}
