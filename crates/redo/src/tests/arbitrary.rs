//! Arbitrary records and pages: whatever they say, redo returns.

use super::*;
use proptest::prelude::*;

/// A page of some access method whose pointers make sense more often than not.
fn any_page() -> impl Strategy<Value = Box<[u8; PAGE_SIZE]>> {
    let special = prop::sample::select(vec![0usize, 8, 16, 24]);
    let page_ids = vec![0u16, 1, 2, 4, 8, 0x83, 0xFF80, 0xFF81, 0xFF82, 0xFF83, 0xF091, 0xF092, 0xF093];
    let items = proptest::collection::vec((any::<u16>(), any::<u16>()), 0..12);
    let patches = proptest::collection::vec((0usize..40, any::<u8>()), 0..3);
    (special, prop::sample::select(page_ids), any::<u32>(), items, patches).prop_map(
        |(special, page_id, flags, items, patches)| {
            let mut page = Box::new([0; PAGE_SIZE]);
            page::init(page.as_mut_slice(), special);
            page::set_lower(page.as_mut_slice(), 24 + 4 * items.len() as u16);
            page::set_upper(page.as_mut_slice(), 4096);
            for (index, (offset, length)) in items.into_iter().enumerate() {
                let id = u32::from((offset % 0x2000) | 0x1000) | 1 << 15 | u32::from(length % 100) << 17;
                page[24 + 4 * index..28 + 4 * index].copy_from_slice(&id.to_le_bytes());
            }
            page[PAGE_SIZE - 6..PAGE_SIZE - 2].copy_from_slice(&(flags & 0x00FF_00FF).to_le_bytes());
            page[PAGE_SIZE - 2..].copy_from_slice(&page_id.to_le_bytes());
            patches.into_iter().for_each(|(at, byte)| page[8 + at] = byte);
            page
        },
    )
}

/// Small numbers and bounds, which get further than noise.
fn any_bytes(length_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(0u8), 2 => 1u8..20, 1 => Just(0xFFu8), 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..length_max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn no_record_makes_redo_panic(
        rmgr in rmgr::XLOG..=rmgr::LOGICALMSG,
        info in (0u8..16).prop_map(|kind| kind << 4),
        id in 0u8..8,
        will_init in prop::bool::weighted(0.2),
        main in any_bytes(80),
        data in any_bytes(400),
        mut page in any_page(),
    ) {
        let record = (0..id).fold(TestRecord::new(rmgr, info), |record, other| {
            record.block(other, REL, 100 + u32::from(other), false, b"")
        });
        let record = record.block(id, REL, 3, will_init, &data).build(&main);
        let _refused_or_not = apply(&mut page, key(3), Lsn(100), &Delta::Record(record, Lsn(40)));
    }
}
