//! The cache's protocols over an abstract page, under many thread schedules.
//!
//! A page is two halves that are read and written apart, as a real page is in the kernel; 0 is a hole. Beside it is the
//! version that a fetch brings in: the dropper notes it from the page it drops, as the agent notes the page's LSN.

use quire_cache::protocol::{self, BlockState, Blocks, Dropper, Helper, Look};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use shuttle::thread;
use std::convert::Infallible;
use std::ops::Range;

const SCHEDULES: usize = 3000;
const HOLE: u64 = 0;

/// One file of two blocks that share their state word.
struct Model {
    word: AtomicU32,
    drops: AtomicU64,
    remote_nblocks: AtomicU32,
    /// How long the file is, in blocks.
    length: AtomicU32,
    cuts: [AtomicU64; 2],
    fetched: [AtomicU64; 2],
    pages: [[AtomicU64; 2]; 2],
}

impl Model {
    fn new(state: BlockState, page: u64, fetched: u64) -> Arc<Model> {
        Arc::new(Model {
            word: AtomicU32::new(state as u32 | (state as u32) << 2),
            drops: AtomicU64::new(0),
            remote_nblocks: AtomicU32::new(2),
            length: AtomicU32::new(2),
            cuts: [0; 2].map(AtomicU64::new),
            fetched: [fetched; 2].map(AtomicU64::new),
            pages: [[page; 2]; 2].map(|page| page.map(AtomicU64::new)),
        })
    }

    fn pwrite(&self, block: u32, value: u64) {
        self.pages[block as usize].iter().for_each(|half| half.store(value, Ordering::SeqCst));
    }

    fn pread(&self, block: u32) -> [u64; 2] {
        self.pages[block as usize].each_ref().map(|half| half.load(Ordering::SeqCst))
    }

    /// What the agent does for a fetch or a prefetch.
    fn install(&self, block: u32) {
        if protocol::claim(self, block) {
            self.pwrite(block, self.fetched[block as usize].load(Ordering::SeqCst));
            protocol::publish(self, block);
        }
    }

    /// What a backend does.
    fn overwrite(&self, block: u32, value: u64) {
        let range = block..block + 1;
        let Ok(()) = protocol::write(self, range.clone(), &range, self, || {
            self.pwrite(block, value);
            self.length.fetch_max(range.end, Ordering::SeqCst);
            ((), range.end)
        });
    }

    fn read(&self, block: u32) -> [u64; 2] {
        let Ok(page) = protocol::read(self, block..block + 1, self, || self.pread(block));
        page
    }

    fn drop_block(&self, block: u32) {
        protocol::drop_blocks(self, block..block + 1, &mut DropAll(self));
    }

    /// What a backend does that cuts the file.
    fn cut(&self, keep: u32) {
        let Ok(()) = protocol::truncate(self, keep, self, || {
            self.length.fetch_min(keep, Ordering::SeqCst);
            (keep..2).for_each(|block| self.pwrite(block, HOLE));
        });
    }

    /// What a backend does that makes it longer.
    fn append(&self, value: u64) {
        let block = self.length.load(Ordering::SeqCst);
        self.overwrite(block, value);
    }

    /// What the agent does from time to time.
    fn sweep(&self) {
        protocol::adopt(self, || self.length.load(Ordering::SeqCst));
        protocol::drop_blocks(self, 0..2, &mut DropAll(self));
    }
}

struct DropAll<'a>(&'a Model);

impl Dropper for DropAll<'_> {
    fn wants(&mut self, _: u32) -> bool {
        true
    }

    fn allows(&mut self, _: u32) -> bool {
        true
    }

    fn punch(&mut self, blocks: Range<u32>) -> bool {
        for block in blocks {
            let [version, _] = self.0.pread(block);
            self.0.fetched[block as usize].store(version, Ordering::SeqCst);
            self.0.pwrite(block, HOLE);
        }
        true
    }
}

impl Blocks for Model {
    fn capacity(&self) -> u32 {
        2
    }

    fn raise_remote_nblocks(&self, from: u32, to: u32) -> bool {
        self.remote_nblocks.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn begin_cut(&self) {
        self.cuts[0].fetch_add(1, Ordering::SeqCst);
    }

    fn end_cut(&self) {
        self.cuts[1].fetch_add(1, Ordering::SeqCst);
    }

    fn settled_cuts(&self) -> Option<u64> {
        let begun = self.cuts[0].load(Ordering::SeqCst);
        (begun == self.cuts[1].load(Ordering::SeqCst)).then_some(begun)
    }

    fn remote_nblocks(&self) -> u32 {
        self.remote_nblocks.load(Ordering::SeqCst)
    }

    fn lower_remote_nblocks(&self, blocks: u32) -> u32 {
        self.remote_nblocks.fetch_min(blocks, Ordering::SeqCst)
    }

    fn state(&self, block: u32) -> BlockState {
        BlockState::from_bits(self.word.load(Ordering::SeqCst) >> (block * 2))
    }

    fn exchange(&self, block: u32, from: BlockState, to: BlockState) -> bool {
        let change = |now: u32| {
            let same = BlockState::from_bits(now >> (block * 2)) == from;
            same.then_some(now & !(3 << (block * 2)) | (to as u32) << (block * 2))
        };
        self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }

    fn drops(&self) -> u64 {
        self.drops.load(Ordering::SeqCst)
    }

    fn count_drop(&self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

impl Helper for Model {
    type Error = Infallible;

    fn fetch(&self, first_block: u32, count: u32) -> Result<(), Infallible> {
        (first_block..first_block + count).for_each(|block| self.install(block));
        self.pause()
    }

    fn pause(&self) -> Result<(), Infallible> {
        thread::yield_now();
        Ok(())
    }
}

/// Runs all of `bodies` at once, and waits for them.
fn at_once(model: &Arc<Model>, bodies: &[fn(&Model)]) {
    let start = |body: &fn(&Model)| {
        let (model, body) = (model.clone(), *body);
        thread::spawn(move || body(&model))
    };
    let threads: Vec<_> = bodies.iter().map(start).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a body does not panic"));
}

#[test]
fn an_install_never_overwrites_a_newer_page() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Absent, HOLE, 1);
            at_once(&model, &[|m| m.install(0), |m| m.overwrite(0, 2), |m| m.install(1)]);
            assert_eq!((model.pread(0), model.pread(1)), ([2, 2], [1, 1]));
            assert_eq!((model.state(0), model.state(1)), (BlockState::Present, BlockState::Present));
        },
        SCHEDULES,
    );
}

#[test]
fn a_reader_never_sees_the_hole_of_a_drop() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Present, 1, 1);
            let reader = |m: &Model| assert_eq!(m.read(0), [1, 1]);
            at_once(&model, &[|m| m.drop_block(0), reader, reader, |m| m.drop_block(0)]);
        },
        SCHEDULES,
    );
}

#[test]
fn a_drop_never_loses_a_write() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Present, 1, 1);
            at_once(&model, &[|m| m.drop_block(0), |m| m.overwrite(0, 2), |m| m.install(0)]);
            assert_eq!(model.read(0), [2, 2]);
        },
        SCHEDULES,
    );
}

#[test]
fn a_look_sees_whole_pages_and_leaves_them_where_they_are() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Present, 1, 1);
            let look = |m: &Model| {
                if let Look::Seen(page) = protocol::look(m, 0, || m.pread(0)) {
                    assert!(page == [1, 1] || page == [2, 2], "{page:?}");
                }
            };
            at_once(&model, &[look, |m| m.overwrite(0, 2), |m| m.drop_block(0), look]);
            assert_eq!(model.read(0), [2, 2]);
        },
        SCHEDULES,
    );
}

#[test]
fn a_look_does_not_keep_a_truncation_from_its_end() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Present, 1, 1);
            let look = |m: &Model| _ = protocol::look(m, 1, || m.pread(1));
            at_once(&model, &[look, |m| m.cut(1), |m| m.sweep()]);
            assert_eq!((model.state(1), model.pread(1)), (BlockState::Present, [HOLE; 2]));
        },
        SCHEDULES,
    );
}

#[test]
fn nothing_is_installed_behind_a_truncation() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Absent, HOLE, 1);
            at_once(&model, &[|m| m.cut(1), |m| m.install(1), |m| m.install(0), |m| m.install(1)]);
            assert_eq!((model.pread(0), model.pread(1), model.remote_nblocks()), ([1, 1], [HOLE; 2], 1));
        },
        SCHEDULES,
    );
}

#[test]
fn nothing_is_absent_behind_a_truncation() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Present, 1, 1);
            model.remote_nblocks.store(1, Ordering::SeqCst);
            at_once(&model, &[|m| m.cut(1), |m| m.sweep(), |m| m.install(0)]);
            assert_eq!(model.state(1), BlockState::Present);
            assert!(model.remote_nblocks() <= 1);
            model.append(3);
            assert_eq!((model.read(0), model.read(1)), ([1, 1], [3, 3]));
        },
        SCHEDULES,
    );
}

#[test]
fn what_was_appended_can_be_dropped_and_is_never_lost() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Present, 1, 1);
            model.remote_nblocks.store(1, Ordering::SeqCst);
            model.length.store(1, Ordering::SeqCst);
            let append_and_read = |m: &Model| {
                m.append(5);
                assert_eq!(m.read(1), [5, 5]);
                m.overwrite(1, 6);
                assert_eq!(m.read(1), [6, 6]);
            };
            at_once(&model, &[append_and_read, |m| (0..2).for_each(|_| m.sweep()), |m| m.install(1)]);
            assert_eq!((model.read(0), model.read(1)), ([1, 1], [6, 6]));
        },
        SCHEDULES,
    );
}

#[test]
fn a_short_write_leaves_what_it_did_not_reach_to_storage() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Absent, HOLE, 1);
            let Ok(()) = protocol::write(&*model, 0..2, &(0..2), &*model, || {
                model.pwrite(0, 2);
                ((), 1)
            });
            assert_eq!((model.read(0), model.read(1)), ([2, 2], [1, 1]));
        },
        1,
    );
}

#[test]
fn a_write_of_part_of_an_absent_block_fetches_it_first() {
    shuttle::check_random(
        || {
            let model = Model::new(BlockState::Absent, HOLE, 1);
            let Ok(()) = protocol::write(&*model, 0..1, &(0..0), &*model, || {
                model.pages[0][0].store(2, Ordering::SeqCst);
                ((), 0)
            });
            assert_eq!(model.read(0), [2, 1]);
        },
        1,
    );
}
