//! Pages and records that look like those of a resource manager, made of arbitrary numbers.

use super::{Page, redo};
use crate::record_bytes::{BlockSpec, record};
use arbitrary::{Arbitrary, Unstructured};
use quire_redo::Delta;
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RelTag};
use quire_wal::page::{self, HEADER_BYTES, ITEM_ID_BYTES};
use quire_wal::rmgr;

const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
/// The block that the records are applied to.
const BLOCK: u32 = 3;

/// Resource managers that change pages, with the length of their pages' special space and what it ends in.
const MANAGERS: [(u8, usize, &[u16]); 11] = [
    (rmgr::XLOG, 0, &[0]),
    (rmgr::HEAP, 0, &[0]),
    (rmgr::HEAP2, 0, &[0]),
    (rmgr::BTREE, 16, &[0, 1, 42]),
    (rmgr::HASH, 16, &[0xFF80]),
    (rmgr::GIN, 8, &[0, 1, 2, 3, 4, 8, 0x10, 0x43, 0x83, 0x87]),
    (rmgr::GIST, 16, &[0xFF81]),
    (rmgr::SEQ, 8, &[0x1717]),
    (rmgr::SPGIST, 8, &[0xFF82]),
    (rmgr::BRIN, 8, &[0xF091, 0xF092, 0xF093]),
    (rmgr::GENERIC, 8, &[0xFF83, 0]),
];

/// A page, and records that are applied to it until one is refused.
#[derive(Debug)]
pub(super) struct Case {
    manager: u8,
    page: Shape,
    records: Vec<Made>,
}

/// What a page consists of.
#[derive(Arbitrary, Debug)]
struct Shape {
    is_blank: bool,
    fork: u8,
    end: u8,
    special: [u8; 24],
    items: Vec<Item>,
    gap: u16,
    patches: Vec<(u16, u8)>,
}

/// A line pointer and the bytes it points at.
#[derive(Arbitrary, Debug)]
struct Item {
    state: u8,
    bytes: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Made {
    kind: u8,
    info: u8,
    xid: u32,
    is_target: [bool; 6],
    blocks: Vec<Reference>,
    main: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Reference {
    will_init: bool,
    data: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Case> {
        let manager = input.arbitrary()?;
        let count = input.int_in_range(1..=4)?;
        let records = (0..count).map(|_| input.arbitrary()).collect::<Result<_, _>>()?;
        Ok(Case { manager, records, page: input.arbitrary()? })
    }
}

impl Case {
    pub(super) fn run(&self) {
        let (manager, special_bytes, ends) = MANAGERS[usize::from(self.manager) % MANAGERS.len()];
        let mut page = self.page.page(special_bytes, ends);
        let rel = REL.with_fork(Fork::from_number(self.page.fork / 64).unwrap_or(Fork::Main));
        for (number, made) in (1..).zip(&self.records) {
            let (bytes, is_referenced) = made.bytes(manager, rel);
            let key = Key::RelBlock { rel, block: BLOCK };
            let delta = Delta::Record(bytes, Lsn(8));
            if !is_referenced || !redo(&mut page, key, Lsn(u64::MAX / 8 + number), &delta) {
                break;
            }
        }
    }
}

impl Made {
    /// The record, and whether one of its references is the page.
    fn bytes(&self, manager: u8, rel: RelTag) -> (bytes::Bytes, bool) {
        let mut blocks = Vec::new();
        for ((id, reference), is_target) in (0..).zip(&self.blocks).zip(self.is_target) {
            let is_first = is_target && blocks.iter().all(|block: &BlockSpec<'_>| block.block != BLOCK);
            let block = if is_first { BLOCK } else { 100 + u32::from(id) };
            let Reference { will_init, data } = reference;
            blocks.push(BlockSpec { id, rel, block, will_init: *will_init, image: None, data });
        }
        let is_referenced = blocks.iter().any(|block| block.block == BLOCK);
        let info = self.kind << 4 | self.info & rmgr::XLR_SPECIAL_REL_UPDATE;
        (record(manager, info, self.xid, &blocks, &self.main), is_referenced)
    }
}

impl Shape {
    /// The page, its line pointers in order and its items packed, unless patches damage that.
    fn page(&self, special_bytes: usize, ends: &[u16]) -> Box<Page> {
        let mut page = Box::new([0; PAGE_SIZE]);
        if self.is_blank {
            return page;
        }
        page::init(page.as_mut_slice(), special_bytes);
        let special = PAGE_SIZE - special_bytes;
        page[special..].copy_from_slice(&self.special[..special_bytes]);
        if special_bytes > 0 {
            page[PAGE_SIZE - 2..].copy_from_slice(&ends[usize::from(self.end) % ends.len()].to_le_bytes());
        }
        self.add_items(&mut page, special);
        for (at, byte) in &self.patches {
            page[usize::from(*at) % PAGE_SIZE] = *byte;
        }
        page
    }

    fn add_items(&self, page: &mut Page, special: usize) {
        let (mut lower, mut upper) = (HEADER_BYTES, special);
        for item in &self.items {
            let aligned = item.bytes.len().next_multiple_of(8);
            let Some(start) = upper.checked_sub(aligned).filter(|start| lower + ITEM_ID_BYTES <= *start) else { break };
            page[start..start + item.bytes.len()].copy_from_slice(&item.bytes);
            page[lower..lower + ITEM_ID_BYTES].copy_from_slice(&item.line_pointer(start).to_le_bytes());
            (lower, upper) = (lower + ITEM_ID_BYTES, start);
        }
        let gap = usize::from(self.gap) % (upper - lower + 1);
        let stored = |position: usize| u16::try_from(position).expect("a page is short");
        page::set_lower(page, stored(lower));
        page::set_upper(page, stored(if self.gap & 1 == 0 { upper } else { lower + gap }));
    }
}

impl Item {
    /// Mostly a normal one, else unused, redirected or dead.
    fn line_pointer(&self, start: usize) -> u32 {
        let state = if self.state < 192 { 1 } else { u32::from(self.state % 4) };
        let length = u32::try_from(self.bytes.len()).unwrap_or(0) & 0x7FFF;
        u32::try_from(start).unwrap_or(0) | state << 15 | length << 17
    }
}
