//! Prefetches that wait for their turn, so that many that come one by one leave together.

use quire_cache::FileId;
use std::collections::VecDeque;
use std::ops::Range;

/// Who works on prefetches at the same time. What comes while all are busy gathers.
const WORKERS_MAX: usize = 4;
/// Prefetches that wait; those beyond are dropped, as no backend waits for them.
const WAITING_MAX: usize = 4096;

/// The prefetches that are not begun yet.
#[derive(Debug, Default)]
pub struct PrefetchQueue {
    waiting: VecDeque<(FileId, Range<u32>)>,
    workers: usize,
}

/// Prefetches of one file that are worked on together.
pub type Batch = (FileId, Vec<Range<u32>>);

impl PrefetchQueue {
    /// Puts one in; whether another worker is to begin, which calls [`PrefetchQueue::next`] until there is none.
    pub fn push(&mut self, file: FileId, blocks: Range<u32>) -> bool {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((file, blocks));
        }
        let begins = self.workers < WORKERS_MAX;
        self.workers += usize::from(begins);
        begins
    }

    /// The oldest, and with it others of the same file, up to `blocks_max` blocks; none ends the worker that asks.
    pub fn next(&mut self, blocks_max: u32) -> Option<Batch> {
        let Some((file, first)) = self.waiting.pop_front() else {
            self.workers -= 1;
            return None;
        };
        let mut count = first.end - first.start;
        let mut batch = vec![first];
        self.waiting.retain(|(other, blocks)| {
            let fits = *other == file && count + (blocks.end - blocks.start) <= blocks_max;
            if fits {
                count += blocks.end - blocks.start;
                batch.push(blocks.clone());
            }
            !fits
        });
        Some((file, batch))
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]
mod tests {
    use super::*;
    use quire_types::Slru;

    const FILE: FileId = FileId::Slru { slru: Slru::Clog, segment: 0 };
    const OTHER: FileId = FileId::Slru { slru: Slru::Clog, segment: 1 };

    #[test]
    fn what_gathers_while_all_workers_are_busy_leaves_by_file() {
        let mut queue = PrefetchQueue::default();
        let begun = (0..10).filter(|block| queue.push(FILE, *block..block + 1)).count();
        assert_eq!(begun, WORKERS_MAX);
        assert!(!queue.push(OTHER, 0..3));
        assert_eq!(queue.next(8), Some((FILE, (0..8).map(|block| block..block + 1).collect())));
        assert_eq!(queue.next(8), Some((FILE, vec![8..9, 9..10])));
        assert_eq!(queue.next(8), Some((OTHER, vec![0..3])));
        assert_eq!(queue.next(8), None);
        assert!(queue.push(FILE, 0..1), "a worker has ended");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut queue = PrefetchQueue::default();
        for block in 0..2 * WAITING_MAX as u32 {
            queue.push(FILE, block..block + 1);
        }
        assert_eq!(queue.waiting.len(), WAITING_MAX);
    }
}
