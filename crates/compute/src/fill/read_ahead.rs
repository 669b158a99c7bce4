//! How far to fetch ahead of those who read a file in order.
//!
//! A *run* is a scan's way through a file, up or down. It begins where a block next to an earlier miss is missed, or
//! the first block of a file. What is ahead of it is fetched in *windows*, each twice as long as the one before up to
//! a bound. A mark in the file's shared memory covers the beginning of the newest window: the first reader who comes
//! there says so, without waiting, and the next window is fetched while that one is read. So a reader that is no faster
//! than storage never waits again. (Only the beginning, because a process that reads here and there must not come to it
//! by chance and have ever longer windows fetched.)
//!
//! Runs belong to files and not to processes: the workers of a parallel scan share theirs. This is pure bookkeeping;
//! the windows may hold blocks that are there already.

use quire_cache::{FileId, meta::MARKS};
use quire_types::RELATION_SEGMENT_BLOCKS;
use std::collections::HashMap;
use std::ops::Range;

/// The first window of a run.
const WINDOW_BLOCKS_MIN: u32 = 8;
/// The longest (4 MiB of pages).
pub const WINDOW_BLOCKS_MAX: u32 = 512;
/// How many blocks a run may skip: index pages of another level, blocks that are in PostgreSQL's buffers.
const SKIP_BLOCKS: u32 = 4;
/// Misses of a file that are remembered as possible beginnings of a run.
const MISSES_MAX: usize = 16;
/// Files whose runs are remembered.
const FILES_MAX: usize = 1024;

/// What to fetch ahead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The window.
    pub blocks: Range<u32>,
    /// The mark of its run.
    pub mark: usize,
    /// What the mark is to cover: where a run enters the window.
    pub entry: Range<u32>,
}

/// The runs through all files.
#[derive(Debug)]
pub struct ReadAhead {
    window_blocks_max: u32,
    files: HashMap<FileId, FileRuns>,
}

impl ReadAhead {
    /// No runs yet; no window will be longer than `window_blocks_max`.
    pub fn new(window_blocks_max: u32) -> ReadAhead {
        let window_blocks_max = window_blocks_max.clamp(WINDOW_BLOCKS_MIN, WINDOW_BLOCKS_MAX);
        ReadAhead { window_blocks_max, files: HashMap::new() }
    }

    /// A backend waits for `blocks`.
    pub fn missed(&mut self, file: FileId, blocks: Range<u32>) -> Option<Step> {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&file) {
            self.files.clear();
        }
        self.files.entry(file).or_default().missed(blocks, self.window_blocks_max)
    }

    /// A backend has come to a mark, at `block`.
    pub fn reached(&mut self, file: FileId, block: u32) -> Option<Step> {
        self.files.get_mut(&file)?.reached(block, self.window_blocks_max)
    }
}

/// The runs through one file, and the misses that may become some.
#[derive(Debug, Default)]
struct FileRuns {
    runs: [Option<Run>; MARKS],
    misses: [Option<Miss>; MISSES_MAX],
    next_miss: usize,
    clock: u64,
}

#[derive(Clone, Debug)]
struct Miss(Range<u32>);

#[derive(Clone, Copy, Debug)]
struct Run {
    downwards: bool,
    /// Where the next window begins, in the run's own direction: see [`turned`].
    next: u32,
    window: u32,
    used_at: u64,
}

/// Blocks as a run in the given direction counts them; for one that goes down, from the end of the segment. Its own
/// inverse.
fn turned(downwards: bool, blocks: Range<u32>) -> Range<u32> {
    let from_end = |block| RELATION_SEGMENT_BLOCKS.saturating_sub(block);
    if downwards { from_end(blocks.end)..from_end(blocks.start) } else { blocks }
}

impl Run {
    /// Whether those blocks are on its way: in its newest window, or a little behind.
    fn covers(&self, blocks: &Range<u32>) -> bool {
        let here = turned(self.downwards, blocks.clone());
        (self.next.saturating_sub(self.window)..=self.next.saturating_add(SKIP_BLOCKS)).contains(&here.start)
    }

    /// The next window, which begins no earlier than `from`.
    fn advance(&mut self, mark: usize, from: u32, window_max: u32, now: u64) -> Step {
        let start = self.next.max(from);
        self.window = (self.window * 2).clamp(WINDOW_BLOCKS_MIN, window_max);
        self.next = start.saturating_add(self.window).min(RELATION_SEGMENT_BLOCKS);
        self.used_at = now;
        let entry = start..start.saturating_add(SKIP_BLOCKS).min(self.next);
        Step { blocks: turned(self.downwards, start..self.next), mark, entry: turned(self.downwards, entry) }
    }
}

impl FileRuns {
    fn missed(&mut self, blocks: Range<u32>, window_max: u32) -> Option<Step> {
        self.clock += 1;
        let slot = match self.run_at(&blocks) {
            Some(slot) => slot,
            None => self.begin(&blocks)?,
        };
        let run = self.runs[slot].as_mut()?;
        let end = turned(run.downwards, blocks).end;
        // Otherwise the block is on its way, and the reader is as fast as storage.
        (end > run.next).then(|| run.advance(slot, end, window_max, self.clock))
    }

    fn reached(&mut self, block: u32, window_max: u32) -> Option<Step> {
        self.clock += 1;
        let slot = self.run_at(&(block..block + 1))?;
        let step = self.runs[slot].as_mut()?.advance(slot, 0, window_max, self.clock);
        (!step.blocks.is_empty()).then_some(step)
    }

    fn run_at(&self, blocks: &Range<u32>) -> Option<usize> {
        self.runs.iter().position(|run| run.is_some_and(|run| run.covers(blocks)))
    }

    /// Begins a run at `blocks`, in place of the one that was used longest ago, if something speaks for one.
    fn begin(&mut self, blocks: &Range<u32>) -> Option<usize> {
        let Some(downwards) = self.direction(blocks) else {
            self.misses[self.next_miss] = Some(Miss(blocks.clone()));
            self.next_miss = (self.next_miss + 1) % MISSES_MAX;
            return None;
        };
        let used_at = |slot: &usize| self.runs[*slot].map_or(0, |run| run.used_at);
        let slot = (0..MARKS).min_by_key(used_at)?;
        let next = turned(downwards, blocks.clone()).start;
        self.runs[slot] = Some(Run { downwards, next, window: 0, used_at: self.clock });
        Some(slot)
    }

    /// Whether a run that begins here goes down; none if nothing speaks for a run.
    fn direction(&mut self, blocks: &Range<u32>) -> Option<bool> {
        if blocks.start == 0 {
            return Some(false);
        }
        for known in &mut self.misses {
            let Some(Miss(before)) = known else { continue };
            let up = (before.end..=before.end + SKIP_BLOCKS).contains(&blocks.start);
            let down = (blocks.end..=blocks.end + SKIP_BLOCKS).contains(&before.start);
            if up || down {
                *known = None;
                return Some(down);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Slru;

    const FILE: FileId = FileId::Slru { slru: Slru::Clog, segment: 0 };

    fn read_ahead() -> ReadAhead {
        ReadAhead::new(64)
    }

    fn blocks(step: Option<Step>) -> Range<u32> {
        step.expect("something is fetched ahead").blocks
    }

    #[test]
    fn a_second_miss_beside_the_first_begins_a_run_and_windows_grow_as_it_is_read() {
        let mut ahead = read_ahead();
        assert_eq!(ahead.missed(FILE, 100..101), None);
        let mut window = blocks(ahead.missed(FILE, 101..102));
        let mut windows = vec![window.clone()];
        for _ in 0..4 {
            window = blocks(ahead.reached(FILE, window.start));
            windows.push(window.clone());
        }
        assert_eq!(windows, [102..110, 110..126, 126..158, 158..222, 222..286]);
    }

    #[test]
    fn the_beginning_of_a_file_begins_a_run() {
        assert_eq!(blocks(read_ahead().missed(FILE, 0..1)), 1..9);
    }

    #[test]
    fn scattered_misses_are_followed_by_nothing() {
        let mut ahead = read_ahead();
        for block in (1..100).map(|number| number * 1000 % 9973 + 50) {
            assert_eq!(ahead.missed(FILE, block..block + 1), None, "{block}");
        }
    }

    #[test]
    fn a_reader_that_overtakes_its_window_asks_for_nothing_twice() {
        let mut ahead = read_ahead();
        ahead.missed(FILE, 0..1);
        assert_eq!(ahead.missed(FILE, 1..2), None);
        assert_eq!(ahead.missed(FILE, 8..9), None);
        assert_eq!(blocks(ahead.missed(FILE, 9..10)), 10..26);
    }

    #[test]
    fn a_few_skipped_blocks_do_not_end_a_run_and_a_jump_does() {
        let mut ahead = read_ahead();
        ahead.missed(FILE, 0..1);
        assert_eq!(blocks(ahead.missed(FILE, 12..13)), 13..29);
        assert_eq!(ahead.missed(FILE, 500..501), None);
        assert_eq!(ahead.reached(FILE, 501), None);
    }

    #[test]
    fn a_run_downwards_is_followed_downwards_until_the_beginning() {
        let mut ahead = read_ahead();
        assert_eq!(ahead.missed(FILE, 30..31), None);
        assert_eq!(blocks(ahead.missed(FILE, 29..30)), 21..29);
        assert_eq!(blocks(ahead.reached(FILE, 28)), 5..21);
        assert_eq!(blocks(ahead.reached(FILE, 20)), 0..5);
        assert_eq!(ahead.reached(FILE, 4), None);
    }

    #[test]
    fn runs_side_by_side_have_marks_of_their_own_and_survive_scattered_misses() {
        let mut ahead = read_ahead();
        let mut begin = |at: u32| {
            ahead.missed(FILE, at..at + 1);
            ahead.missed(FILE, at + 1..at + 2).expect("a run").mark
        };
        let mut marks: Vec<usize> = [1000, 2000, 3000, 4000].map(&mut begin).to_vec();
        marks.sort_unstable();
        assert_eq!(marks, [0, 1, 2, 3]);
        for block in (0..50).map(|number| 10_000 + number * 100) {
            assert_eq!(ahead.missed(FILE, block..block + 1), None);
        }
        assert_eq!(blocks(ahead.reached(FILE, 1002)), 1010..1026);
    }

    #[test]
    fn only_where_a_run_enters_a_window_is_marked() {
        let mut ahead = read_ahead();
        ahead.missed(FILE, 40..41);
        assert_eq!(ahead.missed(FILE, 41..42).map(|step| step.entry), Some(42..46));
        ahead.missed(FILE, 3000..3001);
        assert_eq!(ahead.missed(FILE, 2999..3000).map(|step| step.entry), Some(2995..2999));
    }

    /// Reads blocks of a file of so many here and there: how many were fetched ahead.
    fn read_at_random(blocks_in_file: u32, reads: u32) -> u64 {
        let mut ahead = ReadAhead::new(WINDOW_BLOCKS_MAX);
        let mut present = vec![false; blocks_in_file as usize];
        let mut marks: [Range<u32>; MARKS] = Default::default();
        let (mut fetched, mut seed) = (0, 1_u64);
        for _ in 0..reads {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = (seed >> 33) as u32 % blocks_in_file;
            let reached = marks.iter_mut().find(|mark| mark.contains(&block)).map(std::mem::take);
            let mut steps = vec![reached.and_then(|_| ahead.reached(FILE, block))];
            if !std::mem::replace(&mut present[block as usize], true) {
                steps.push(ahead.missed(FILE, block..block + 1));
            }
            for step in steps.into_iter().flatten() {
                marks[step.mark] = step.entry;
                for block in step.blocks.start..step.blocks.end.min(blocks_in_file) {
                    fetched += u64::from(!std::mem::replace(&mut present[block as usize], true));
                }
            }
        }
        fetched
    }

    #[test]
    fn who_reads_here_and_there_is_not_taken_for_a_run() {
        let (reads, fetched) = (40_000, read_at_random(RELATION_SEGMENT_BLOCKS, 40_000));
        assert!(fetched < reads / 20, "{fetched} blocks were fetched ahead of {reads} random reads");
    }

    #[test]
    fn no_window_reaches_past_the_segment() {
        let mut ahead = read_ahead();
        let last = RELATION_SEGMENT_BLOCKS - 1;
        assert_eq!(ahead.missed(FILE, last - 2..last - 1), None);
        assert_eq!(blocks(ahead.missed(FILE, last - 1..last)), last..last + 1);
        assert_eq!(ahead.reached(FILE, last), None);
    }
}
