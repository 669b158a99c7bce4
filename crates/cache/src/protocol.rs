//! Who may change a cached block, and when.
//!
//! Each block below the file's capacity is in one of four states:
//!
//! ```text
//!            claim            publish
//!   Absent ---------> Filling --------> Present        the agent installs (or, from Present, drops) the block
//!      ^                 |  ^               |
//!      +---- release ----+  +-- drop_blocks-+            (or looks at a present one, which does not change meanwhile)
//!
//!   Absent | Present --> Writing --> Present           a PostgreSQL process overwrites the block
//! ```
//!
//! `Filling` belongs to the agent and `Writing` to the one process that made it so; only the owner leaves it. Blocks
//! below [`Blocks::remote_nblocks`] ("remote") may be absent: storage has them. Blocks at or past it are local: never
//! `Absent`, and a drop of one is given back. Blocks at or past the capacity have no state and are always local.
//!
//! **Install against write.** A fetched page must never overwrite a newer one a backend has just written. The agent
//! writes a block only while it owns it as `Filling`, which it takes from `Absent` only; a writer writes only while
//! it owns it as `Writing`, and leaves `Present`. Both moves are compare-and-swap on the same word, so one of them
//! comes first: if the install does, the writer waits and then overwrites it; if the write does, the block is not
//! `Absent` any more and nothing is installed.
//!
//! **Drop against read.** A page leaving the cache must never show its zeroes to a reader that saw it present a
//! moment before. The dropper takes `Present -> Filling`, then counts the drop, then punches the hole, then leaves
//! `Absent`. A reader notes the count, checks `Present`, reads, and starts again if the count has changed. Suppose it
//! did read punched bytes. If the drop was counted after the reader noted the count, the reader sees another count
//! and starts again. If before, then the block left `Present` before the reader's check, so the check saw it present
//! *again*: an install came after the punch (the dropper keeps the block `Filling` until then) and before the read,
//! which therefore saw the installed page. A state check alone would not do: dropped and filled again looks like
//! never dropped. A reader that skipped the check, because the block was local when it looked, noted the count
//! before the block was adopted, and drops of it are counted after.
//!
//! **Drop against write.** A writer owns every block it touches below the capacity as `Writing`, local ones too, so
//! that no hole is punched under it, whenever the block became remote.
//!
//! **Install and drop against truncation.** An install after `ftruncate` would make the file longer again, and a block
//! that is absent behind the file's end would later be fetched instead of being zeroes. So `remote_nblocks` is lowered
//! first; then every block cut off is brought to `Present`, waiting for those that are owned; the file is cut after
//! that. A dropper that takes such a block later looks at `remote_nblocks` only once it owns the block, finds it
//! lowered and gives the block back.
//!
//! **Adoption against truncation.** What PostgreSQL has appended becomes remote by raising `remote_nblocks` to the
//! file's length ([`adopt`]; the agent calls it and drops in one thread). A truncation that began before would cut
//! blocks that it did not settle. Truncations are therefore counted when they begin and when they have ended: the agent
//! adopts only if none is under way, looks at the length, raises, and looks at the counts again. If a truncation has
//! begun in between, it lowers the number again: all those blocks were `Present` and are, since no other thread drops.
//! If none has, a later one sees the raised number.
//!
//! **Memory order.** State words, the count and `remote_nblocks` are `SeqCst` and the arguments above hold in that
//! single order. Page bytes are reached by system calls; an implementation of [`Blocks`] puts an acquire fence before
//! and after its loads of the count, so that on no processor a read of page bytes moves across them. (Between two looks
//! at the count a reader only loads, so that no store needs to be kept from moving.) An abstract model of these
//! functions is checked under many thread schedules in `tests/`.

use std::ops::Range;

/// What is known about one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum BlockState {
    /// The local file has it (what a file of zeroes says of all blocks).
    Present = 0,
    /// The agent is installing or dropping it.
    Filling = 1,
    /// Storage has it, the local file has a hole.
    Absent = 2,
    /// A PostgreSQL process is writing it.
    Writing = 3,
}

impl BlockState {
    /// From its two bits; higher bits are ignored.
    pub fn from_bits(bits: u32) -> BlockState {
        match bits & 3 {
            0 => BlockState::Present,
            1 => BlockState::Filling,
            2 => BlockState::Absent,
            _ => BlockState::Writing,
        }
    }
}

/// The shared words of one file. Every method is one atomic operation, sequentially consistent with all others.
pub trait Blocks {
    /// How many blocks have a state.
    fn capacity(&self) -> u32;
    /// Before which block absent ones may be.
    fn remote_nblocks(&self) -> u32;
    /// Lowers it to at most `blocks`, and says what it was.
    fn lower_remote_nblocks(&self, blocks: u32) -> u32;
    /// Makes it `to` if it is `from`, and says whether it was.
    fn raise_remote_nblocks(&self, from: u32, to: u32) -> bool;
    /// Counts a truncation that begins.
    fn begin_cut(&self);
    /// Counts one that has ended.
    fn end_cut(&self);
    /// How many truncations have begun, if as many have ended.
    fn settled_cuts(&self) -> Option<u64>;
    /// The state of a block; `Present` for one that the file has no state for.
    fn state(&self, block: u32) -> BlockState;
    /// Makes a block `to` if it is `from`, and says whether it was.
    fn exchange(&self, block: u32, from: BlockState, to: BlockState) -> bool;
    /// How many drops were counted.
    fn drops(&self) -> u64;
    /// Counts one.
    fn count_drop(&self);
}

/// What a PostgreSQL process does when a block is not as it needs it.
pub trait Helper {
    /// Why it could not be helped.
    type Error;
    /// Has the agent bring in the absent ones of `count` blocks; they may have left again when it returns.
    fn fetch(&self, first_block: u32, count: u32) -> Result<(), Self::Error>;
    /// Lets the owner of a block make progress.
    fn pause(&self) -> Result<(), Self::Error>;
}

/// Takes an absent block for an install; false if it is not absent.
pub fn claim<B: Blocks + ?Sized>(blocks: &B, block: u32) -> bool {
    blocks.exchange(block, BlockState::Absent, BlockState::Filling)
}

/// Ends an install whose bytes are in the file.
pub fn publish<B: Blocks + ?Sized>(blocks: &B, block: u32) {
    let owned = blocks.exchange(block, BlockState::Filling, BlockState::Present);
    assert!(owned, "only a claimed block is published");
}

/// Gives up an install; the block is absent as before.
pub fn release<B: Blocks + ?Sized>(blocks: &B, block: u32) {
    let owned = blocks.exchange(block, BlockState::Filling, BlockState::Absent);
    assert!(owned, "only a claimed block is released");
}

/// Most blocks that one run of drops owns at a time.
pub const DROP_RUN_MAX: u32 = 64;

/// Who decides what leaves the cache, and makes the holes.
pub trait Dropper {
    /// Whether this present block should go, by what is cheap to know.
    fn wants(&mut self, block: u32) -> bool;
    /// Whether it may, now that no other process can write it.
    fn allows(&mut self, block: u32) -> bool;
    /// Makes a hole of these blocks, and says whether it did.
    fn punch(&mut self, blocks: Range<u32>) -> bool;
}

/// Takes out of the cache what `dropper` says of `range`; how many blocks that were.
pub fn drop_blocks<B, D>(blocks: &B, range: Range<u32>, dropper: &mut D) -> u32
where
    B: Blocks + ?Sized,
    D: Dropper + ?Sized,
{
    let mut dropped = 0;
    let mut run = range.start..range.start;
    for block in range {
        let taken = take_to_drop(blocks, block, dropper);
        if taken && run.end == block && run.end - run.start < DROP_RUN_MAX {
            run.end = block + 1;
        } else {
            dropped += drop_run(blocks, run, dropper);
            run = block..block + u32::from(taken);
        }
        if !taken {
            run = block + 1..block + 1;
        }
    }
    dropped + drop_run(blocks, run, dropper)
}

fn take_to_drop<B, D>(blocks: &B, block: u32, dropper: &mut D) -> bool
where
    B: Blocks + ?Sized,
    D: Dropper + ?Sized,
{
    let present = blocks.state(block) == BlockState::Present;
    if !present || !dropper.wants(block) || !blocks.exchange(block, BlockState::Present, BlockState::Filling) {
        return false;
    }
    let may_go = block < blocks.remote_nblocks() && dropper.allows(block);
    if !may_go {
        publish(blocks, block);
    }
    may_go
}

/// Drops blocks that are owned.
fn drop_run<B, D>(blocks: &B, run: Range<u32>, dropper: &mut D) -> u32
where
    B: Blocks + ?Sized,
    D: Dropper + ?Sized,
{
    if run.is_empty() {
        return 0;
    }
    blocks.count_drop();
    let punched = dropper.punch(run.clone());
    run.clone().for_each(|block| if punched { release(blocks, block) } else { publish(blocks, block) });
    if punched { run.end - run.start } else { 0 }
}

/// What became of a look at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look<R> {
    /// It was there, and was not written meanwhile.
    Seen(R),
    /// It is not in the cache.
    Absent,
    /// Another process owns it at this moment.
    Busy,
}

/// Runs `look` while the block is present and is not written, dropped or cut (for the agent). A process that comes to
/// the block meanwhile waits as for one that is being filled.
pub fn look<B, R>(blocks: &B, block: u32, look: impl FnOnce() -> R) -> Look<R>
where
    B: Blocks + ?Sized,
{
    match blocks.state(block) {
        BlockState::Present if blocks.exchange(block, BlockState::Present, BlockState::Filling) => {
            let seen = look();
            publish(blocks, block);
            Look::Seen(seen)
        }
        BlockState::Absent => Look::Absent,
        _ => Look::Busy,
    }
}

/// Makes what was appended to the file remote; `length` says how many whole blocks the file has. Only for the one
/// thread that drops.
pub fn adopt<B: Blocks + ?Sized>(blocks: &B, length: impl FnOnce() -> u32) {
    let Some(cuts) = blocks.settled_cuts() else { return };
    let from = blocks.remote_nblocks();
    let to = length().min(blocks.capacity());
    if to > from && blocks.raise_remote_nblocks(from, to) && blocks.settled_cuts() != Some(cuts) {
        blocks.lower_remote_nblocks(from);
    }
}

/// Brings in what is missing of `range`; all of it was present at some moment (each block at its own) when it returns.
pub fn make_present<B, H>(blocks: &B, range: Range<u32>, helper: &H) -> Result<(), H::Error>
where
    B: Blocks + ?Sized,
    H: Helper,
{
    while let Some(missing) = first_missing(blocks, range.clone()) {
        match blocks.state(missing.start) {
            BlockState::Present => {}
            BlockState::Writing => helper.pause()?,
            BlockState::Absent | BlockState::Filling => helper.fetch(missing.start, missing.end - missing.start)?,
        }
    }
    Ok(())
}

/// The part of `range` that storage had.
fn remote_part<B: Blocks + ?Sized>(blocks: &B, range: Range<u32>) -> Range<u32> {
    range.start..range.end.min(blocks.remote_nblocks())
}

/// From the first block of `range` that cannot simply be read to the end of what storage had; none if all can.
fn first_missing<B: Blocks + ?Sized>(blocks: &B, range: Range<u32>) -> Option<Range<u32>> {
    let remote = remote_part(blocks, range);
    let end = remote.end;
    remote.into_iter().find(|block| blocks.state(*block) != BlockState::Present).map(|first| first..end)
}

/// Reads the blocks `range` by `pread`, which may be called several times.
pub fn read<B, H, R>(blocks: &B, range: Range<u32>, helper: &H, mut pread: impl FnMut() -> R) -> Result<R, H::Error>
where
    B: Blocks + ?Sized,
    H: Helper,
{
    loop {
        let drops = blocks.drops();
        make_present(blocks, range.clone(), helper)?;
        let result = pread();
        if blocks.drops() == drops {
            return Ok(result);
        }
    }
}

/// Writes into the blocks `touched`, of which `covered` are overwritten from end to end, by `pwrite`.
///
/// `pwrite` says its result, and before which block everything is written (`touched.end` if it succeeded).
pub fn write<B, H, R>(
    blocks: &B,
    touched: Range<u32>,
    covered: &Range<u32>,
    helper: &H,
    pwrite: impl FnOnce() -> (R, u32),
) -> Result<R, H::Error>
where
    B: Blocks + ?Sized,
    H: Helper,
{
    let mut grant = WriteGrant { blocks, first: touched.start, owned: 0, was_absent: 0, written_before: 0 };
    for block in touched.start..touched.end.min(blocks.capacity()) {
        grant.take(block, covered.contains(&block), helper)?;
    }
    let (result, written_before) = pwrite();
    grant.written_before = written_before;
    Ok(result)
}

/// The blocks one write owns. Blocks are taken in ascending order, so that two writes cannot wait for each other.
struct WriteGrant<'a, B: Blocks + ?Sized> {
    blocks: &'a B,
    first: u32,
    owned: u32,
    /// Which of the first 64 blocks were absent; later ones are fetched first, so that they never are.
    was_absent: u64,
    written_before: u32,
}

impl<B: Blocks + ?Sized> WriteGrant<'_, B> {
    fn take<H: Helper>(&mut self, block: u32, covered: bool, helper: &H) -> Result<(), H::Error> {
        let may_be_absent = covered && self.owned < u64::BITS;
        loop {
            match self.blocks.state(block) {
                from @ BlockState::Present => {
                    if self.own(block, from) {
                        return Ok(());
                    }
                }
                from @ BlockState::Absent if may_be_absent => {
                    if self.own(block, from) {
                        return Ok(());
                    }
                }
                BlockState::Absent => make_present(self.blocks, block..block + 1, helper)?,
                BlockState::Filling | BlockState::Writing => helper.pause()?,
            }
        }
    }

    fn own(&mut self, block: u32, from: BlockState) -> bool {
        let owned = self.blocks.exchange(block, from, BlockState::Writing);
        if owned {
            if from == BlockState::Absent {
                self.was_absent |= 1 << self.owned;
            }
            self.owned += 1;
        }
        owned
    }

    /// What a block becomes: an absent one that was not completely overwritten is what storage has, as before.
    fn left_as(&self, index: u32) -> BlockState {
        let was_absent = index < u64::BITS && self.was_absent >> index & 1 == 1;
        let written = self.first + index < self.written_before;
        if was_absent && !written { BlockState::Absent } else { BlockState::Present }
    }
}

impl<B: Blocks + ?Sized> Drop for WriteGrant<'_, B> {
    fn drop(&mut self) {
        for index in 0..self.owned {
            self.blocks.exchange(self.first + index, BlockState::Writing, self.left_as(index));
        }
    }
}

/// Forgets all blocks from `keep` on, and cuts the file there by `cut`.
pub fn truncate<B, H, R>(blocks: &B, keep: u32, helper: &H, cut: impl FnOnce() -> R) -> Result<R, H::Error>
where
    B: Blocks + ?Sized,
    H: Helper,
{
    let _counted = Cut::begin(blocks);
    for block in keep..blocks.lower_remote_nblocks(keep) {
        loop {
            match blocks.state(block) {
                BlockState::Present => break,
                BlockState::Absent => {
                    if blocks.exchange(block, BlockState::Absent, BlockState::Present) {
                        break;
                    }
                }
                BlockState::Filling | BlockState::Writing => helper.pause()?,
            }
        }
    }
    Ok(cut())
}

/// A truncation under way.
struct Cut<'a, B: Blocks + ?Sized>(&'a B);

impl<'a, B: Blocks + ?Sized> Cut<'a, B> {
    fn begin(blocks: &'a B) -> Cut<'a, B> {
        blocks.begin_cut();
        Cut(blocks)
    }
}

impl<B: Blocks + ?Sized> Drop for Cut<'_, B> {
    fn drop(&mut self) {
        self.0.end_cut();
    }
}
