//! Redo: a record, or an effect on a page that it does not reference, applied to a page.
//!
//! The first byte of the input says how the rest is read:
//! - a page and a record (`real`), as they are, for seeds from real WAL: the lengths of the page's used start and end,
//!   these two, then the record, whose length is put right;
//! - a key, a page and an encoded [`Delta`];
//! - a page and records made up so that they look like those of some resource manager, applied one after the
//!   other.

mod made;

use crate::input::Input;
use crate::record_bytes::repaired;
use arbitrary::{Arbitrary, Unstructured};
use quire_redo::{Delta, apply, mask};
use quire_types::key::KEY_BYTES;
use quire_types::{Key, Lsn, PAGE_SIZE, Writer};
use quire_wal::{Record, page};

/// A page.
pub type Page = [u8; PAGE_SIZE];

const REAL: u8 = 0;
const EFFECT: u8 = 1;

/// Applies what the input says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() {
        REAL => real(&mut input),
        EFFECT => effect(&mut input),
        _ => {
            let mut bytes = Unstructured::new(input.rest());
            if let Ok(case) = made::Case::arbitrary(&mut bytes) {
                case.run();
            }
        }
    }
}

/// A seed: a record, and the page of the reference with this number as it was before.
pub fn real_seed(page: &Page, reference: u8, record: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(REAL).u8(reference);
    write_page(&mut out, page);
    out.bytes(record);
    out.into_vec()
}

/// A seed: an effect on a page.
pub fn effect_seed(key: Key, page: &Page, delta: &Delta) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(EFFECT).bytes(&key.encode());
    write_page(&mut out, page);
    out.bytes(&delta.encode());
    out.into_vec()
}

fn real(input: &mut Input<'_>) {
    let reference = usize::from(input.u8());
    let mut page = read_page(input);
    let bytes = repaired(input.rest());
    let lsn = page::lsn(&page[..]).add(8);
    let Ok(record) = Record::decode(Lsn(8), lsn, bytes.clone()) else { return };
    let Some(block) = record.blocks.get(reference % record.blocks.len().max(1)) else { return };
    let key = Key::RelBlock { rel: block.rel, block: block.block };
    redo(&mut page, key, lsn, &Delta::Record(bytes, Lsn(8)));
}

fn effect(input: &mut Input<'_>) {
    let key = Key::decode(&input.array::<KEY_BYTES>());
    let mut page = read_page(input);
    if let (Ok(key), Ok(delta)) = (key, Delta::decode(input.rest().to_vec().into())) {
        let lsn = page::lsn(&page[..]).add(8);
        redo(&mut page, key, lsn, &delta);
    }
}

/// Applies a delta; what it makes of the page is then looked at as verification would.
fn redo(page: &mut Page, key: Key, lsn: Lsn, delta: &Delta) -> bool {
    let before = *page;
    let applied = apply(page, key, lsn, delta).is_ok();
    let _difference = mask::first_difference(page, &before, key);
    applied
}

/// The page up to the end of its line pointers, and from its tuples on, each with its length before it.
fn write_page(out: &mut Writer, page: &Page) {
    let (lower, upper) = (usize::from(page::lower(page)), usize::from(page::upper(page)));
    let is_hole = lower <= upper && upper <= PAGE_SIZE && page[lower..upper].iter().all(|byte| *byte == 0);
    let (lower, upper) = if is_hole { (lower, upper) } else { (PAGE_SIZE, PAGE_SIZE) };
    for part in [&page[..lower], &page[upper..]] {
        out.u16(u16::try_from(part.len()).expect("a page is short")).bytes(part);
    }
}

fn read_page(input: &mut Input<'_>) -> Box<Page> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let (start, end) = (input.piece(), input.piece());
    let (start, end) = (&start[..start.len().min(PAGE_SIZE)], &end[..end.len().min(PAGE_SIZE)]);
    page[..start.len()].copy_from_slice(start);
    page[PAGE_SIZE - end.len()..].copy_from_slice(end);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeds_page_is_read_as_it_was_written() {
        let mut page = [0; PAGE_SIZE];
        page::init(&mut page, 16);
        page[PAGE_SIZE - 1] = 9;
        let blank = [0; PAGE_SIZE];
        for page in [page, [3; PAGE_SIZE], blank] {
            let mut out = Writer::new();
            write_page(&mut out, &page);
            assert!(*read_page(&mut Input::new(out.as_slice())) == page);
        }
    }
}
