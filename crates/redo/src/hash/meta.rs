//! The meta page (`HashMetaPageData`).

use super::opaque::{FLAG_META_PAGE, Opaque, check_type};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, put, set_lower, u32_at};
use quire_types::Reader;
use quire_wal::page::HEADER_BYTES;
use quire_wal::rmgr::{XLH_SPLIT_META_UPDATE_MASKS, XLH_SPLIT_META_UPDATE_SPLITPOINT};

const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;
/// `HashGetMaxBitmapSize`.
const BITMAP_ROOM_BYTES: u16 = 8152;
/// The largest power of two that fits there, and the binary logarithm of its bits.
const BITMAP_BYTES: u16 = 4096;
const BITMAP_SHIFT: u16 = 15;
/// `HASH_MAX_SPLITPOINTS`.
const SPLIT_POINTS: u32 = 98;
/// `HASH_MAX_BITMAPS`.
const BITMAPS_MAX: u32 = 1024;

const TUPLES_AT: usize = HEADER_BYTES + 8;
const FILL_FACTOR_AT: usize = HEADER_BYTES + 16;
const MAX_BUCKET_AT: usize = HEADER_BYTES + 24;
const HIGH_MASK_AT: usize = HEADER_BYTES + 28;
const LOW_MASK_AT: usize = HEADER_BYTES + 32;
const SPLIT_POINT_AT: usize = HEADER_BYTES + 36;
const FIRST_FREE_AT: usize = HEADER_BYTES + 40;
const BITMAP_COUNT_AT: usize = HEADER_BYTES + 44;
const PROCEDURE_AT: usize = HEADER_BYTES + 48;
const SPARES_AT: usize = HEADER_BYTES + 52;
const BITMAPS_AT: usize = SPARES_AT + 4 * SPLIT_POINTS as usize;
/// End of the array of bitmap pages, with the padding after it.
const END: usize = (BITMAPS_AT + 4 * BITMAPS_MAX as usize).next_multiple_of(8);

/// `_hash_init_metabuffer`.
pub(super) fn init(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let tuples = f64::from_bits(main.u64("tuples")?);
    let (procedure, fill_factor) = (main.u32("hash function")?, main.u16("fill factor")?);
    let buckets = initial_buckets(tuples, fill_factor);
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    let split_point = spare_index(buckets);
    Opaque::without_bucket(FLAG_META_PAGE).init_page(page)?;
    put(page, HEADER_BYTES, &MAGIC.to_le_bytes());
    put(page, HEADER_BYTES + 4, &VERSION.to_le_bytes());
    let sizes = [fill_factor, BITMAP_ROOM_BYTES, BITMAP_BYTES, BITMAP_SHIFT];
    put(page, FILL_FACTOR_AT, &sizes.map(u16::to_le_bytes).concat());
    set(page, MAX_BUCKET_AT, buckets - 1);
    set(page, HIGH_MASK_AT, high_mask);
    set(page, LOW_MASK_AT, high_mask >> 1);
    set(page, SPLIT_POINT_AT, split_point);
    set(page, PROCEDURE_AT, procedure);
    let spare = spare_at(split_point)?;
    set(page, spare, 1);
    set_lower(page, END);
    Ok(())
}

/// How many buckets an index begins with for this many tuples. The numbers come from a record, so they may be anything.
fn initial_buckets(tuples: f64, fill_factor: u16) -> u32 {
    const BUCKETS_MAX: f64 = 1_073_741_824.0;
    let wanted = (tuples / f64::from(fill_factor)).clamp(2.0, BUCKETS_MAX);
    total_buckets(spare_index(wanted as u32))
}

/// `HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE`: so many times all buckets are allocated at once when the index doubles;
/// later in four phases.
const UNDIVIDED_GROUPS: u32 = 10;
/// `HASH_SPLITPOINT_PHASE_BITS`.
const PHASE_BITS: u32 = 2;
/// `HASH_SPLITPOINT_PHASE_MASK`.
const PHASE_MASK: u32 = (1 << PHASE_BITS) - 1;

/// `_hash_spareindex`: the split point at which the index has this many buckets.
fn spare_index(buckets: u32) -> u32 {
    let group = buckets.max(1).next_power_of_two().trailing_zeros();
    if group < UNDIVIDED_GROUPS {
        return group;
    }
    let phase = (buckets - 1) >> (group - (PHASE_BITS + 1)) & PHASE_MASK;
    UNDIVIDED_GROUPS + ((group - UNDIVIDED_GROUPS) << PHASE_BITS) + phase
}

/// `_hash_get_totalbuckets`: the buckets that the index has at this split point.
fn total_buckets(split_point: u32) -> u32 {
    if split_point < UNDIVIDED_GROUPS {
        return 1 << split_point;
    }
    let divided = split_point - UNDIVIDED_GROUPS;
    let before = 1 << (UNDIVIDED_GROUPS + (divided >> PHASE_BITS) - 1);
    before + (before >> PHASE_BITS) * ((divided & PHASE_MASK) + 1)
}

/// `hash_xlog_init_bitmap_page`: the first bitmap page is behind the buckets.
pub(super) fn note_first_bitmap(page: &mut Page) -> Result<(), Misfit> {
    check_type(page, FLAG_META_PAGE)?;
    let block = get(page, MAX_BUCKET_AT).wrapping_add(2);
    push_bitmap(page, block)
}

/// `hash_xlog_insert`.
pub(super) fn count_insertion(page: &mut Page) -> Result<(), Misfit> {
    add_tuples(page, 1.0)
}

/// `hash_xlog_vacuum_one_page`.
pub(super) fn count_vacuumed(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _latest_removed_xid = main.u32("latest removed transaction")?;
    add_tuples(page, -f64::from(main.u32("deleted items")?))
}

fn add_tuples(page: &mut Page, more: f64) -> Result<(), Misfit> {
    check_type(page, FLAG_META_PAGE)?;
    let mut tuples = [0; 8];
    tuples.copy_from_slice(&page[TUPLES_AT..TUPLES_AT + 8]);
    put(page, TUPLES_AT, &(f64::from_le_bytes(tuples) + more).to_le_bytes());
    Ok(())
}

/// `hash_xlog_update_meta_page`.
pub(super) fn set_tuples(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let tuples: [u8; 8] = Reader::new(redo.record.main_data).array("tuples")?;
    check_type(page, FLAG_META_PAGE)?;
    put(page, TUPLES_AT, &tuples);
    Ok(())
}

/// `hash_xlog_squeeze_page`: a page before all free ones became free.
pub(super) fn set_first_free(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let first_free = Reader::new(redo.block.data).u32("first free bit")?;
    check_type(page, FLAG_META_PAGE)?;
    set(page, FIRST_FREE_AT, first_free);
    Ok(())
}

/// `hash_xlog_add_ovfl_page`: unless a free page was found, the index has grown by an overflow page, and by a bitmap
/// page if the last one is full.
pub(super) fn add_overflow_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    set_first_free(page, redo)?;
    let mut main = Reader::new(redo.record.main_data);
    let _bitmap_bytes = main.u16("bitmap's size")?;
    if main.u8("whether a free page was found")? != 0 {
        return Ok(());
    }
    let new_bitmap = redo.record.block(3).map(|block| block.block);
    let spare = spare_at(get(page, SPLIT_POINT_AT))?;
    let pages = get(page, spare).wrapping_add(if new_bitmap.is_some() { 2 } else { 1 });
    set(page, spare, pages);
    new_bitmap.map_or(Ok(()), |block| push_bitmap(page, block))
}

/// `hash_xlog_split_allocate_page`: there is one more bucket, and where the number of buckets passed a power of two or
/// a split point, the masks or the split point changed.
pub(super) fn add_bucket(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let allocation = super::split::Allocation::read(redo)?;
    let mut data = Reader::new(redo.block.data);
    check_type(page, FLAG_META_PAGE)?;
    set(page, MAX_BUCKET_AT, allocation.new_bucket);
    if allocation.flags & XLH_SPLIT_META_UPDATE_MASKS != 0 {
        set(page, LOW_MASK_AT, data.u32("low mask")?);
        set(page, HIGH_MASK_AT, data.u32("high mask")?);
    }
    if allocation.flags & XLH_SPLIT_META_UPDATE_SPLITPOINT != 0 {
        let split_point = data.u32("split point")?;
        let spare = spare_at(split_point)?;
        set(page, spare, data.u32("overflow pages")?);
        set(page, SPLIT_POINT_AT, split_point);
    }
    Ok(())
}

fn push_bitmap(page: &mut Page, block: u32) -> Result<(), Misfit> {
    let count = get(page, BITMAP_COUNT_AT);
    if count >= BITMAPS_MAX {
        return Err(Misfit::Value { field: "number of bitmaps", value: count.into() });
    }
    set(page, BITMAPS_AT + 4 * count as usize, block);
    set(page, BITMAP_COUNT_AT, count + 1);
    Ok(())
}

/// Where the number of overflow pages before this split point is.
fn spare_at(split_point: u32) -> Result<usize, Misfit> {
    if split_point >= SPLIT_POINTS {
        return Err(Misfit::Value { field: "split point", value: split_point.into() });
    }
    Ok(SPARES_AT + 4 * split_point as usize)
}

fn get(page: &Page, at: usize) -> u32 {
    u32_at(page, at)
}

fn set(page: &mut Page, at: usize, value: u32) {
    put(page, at, &value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_begins_with_two_buckets_at_least_and_a_bound_at_most() {
        let cases = [
            (0.0, 307, 2),
            (-1.0, 307, 2),
            (700.0, 307, 2),
            (1000.0, 307, 4),
            (20_000.0, 40, 512),
            (30_000.0, 40, 768),
            (1e300, 10, 1 << 30),
            (f64::INFINITY, 10, 1 << 30),
            (f64::NAN, 10, 1),
            (0.0, 0, 1),
        ];
        for (tuples, fill_factor, buckets) in cases {
            assert_eq!(initial_buckets(tuples, fill_factor), buckets, "{tuples} / {fill_factor}");
        }
    }

    proptest! {
        #[test]
        fn a_split_points_buckets_are_the_fewest_that_suffice(buckets in 1u32..=1 << 30) {
            let split_point = spare_index(buckets);
            prop_assert!(split_point < SPLIT_POINTS);
            prop_assert!(total_buckets(split_point) >= buckets);
            prop_assert!(split_point == 0 || total_buckets(split_point - 1) < buckets);
        }
    }
}
