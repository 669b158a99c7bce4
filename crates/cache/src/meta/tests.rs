use super::*;
use crate::protocol::{claim, publish};
use quire_types::{Fork, RELATION_SEGMENT_BLOCKS, RelTag};
use std::os::unix::fs::FileExt;

const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 1259, fork: Fork::VisibilityMap };

fn spec(remote_nblocks: u32) -> MetaSpec {
    let file = FileId::Relation { rel: REL, segment: 2 };
    MetaSpec { file, inode: 99, remote_nblocks, bounded: false, request_lsn: Lsn(0x100) }
}

#[test]
fn a_new_meta_says_what_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1259_vm.2");
    spec(33).create(&path).unwrap();
    let meta = Meta::open(&path).unwrap();
    assert_eq!(meta.file(), spec(33).file);
    assert_eq!((meta.inode(), meta.request_lsn(), meta.capacity(), meta.remote_nblocks()), (99, Lsn(0x100), 33, 33));
    assert!((0..33).all(|block| meta.state(block) == BlockState::Absent));
    assert_eq!(meta.state(33), BlockState::Present);
}

#[test]
fn a_mark_is_taken_once_by_whoever_reads_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    spec(100).create(&path).unwrap();
    let (agent, shim) = (Meta::open(&path).unwrap(), Meta::open(&path).unwrap());
    assert_eq!(shim.take_mark(&(0..100)), None);
    agent.set_mark(0, 8..16);
    agent.set_mark(3, 40..50);
    assert_eq!((shim.take_mark(&(0..8)), shim.take_mark(&(16..40))), (None, None));
    assert_eq!((shim.take_mark(&(15..17)), shim.take_mark(&(8..16))), (Some(15), None));
    assert_eq!((shim.take_mark(&(30..60)), shim.take_mark(&(30..60))), (Some(40), None));
}

#[test]
fn states_are_apart_and_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    spec(100).create(&path).unwrap();
    let (agent, shim) = (Meta::open(&path).unwrap(), Meta::open(&path).unwrap());
    let shim = shim.duplicate().unwrap();
    for block in [0, 15, 16, 99] {
        assert!(claim(&agent, block));
        assert!(!claim(&shim, block));
        publish(&agent, block);
    }
    let present: Vec<u32> = (0..100).filter(|block| shim.state(*block) == BlockState::Present).collect();
    assert_eq!(present, [0, 15, 16, 99]);
    assert!(!claim(&agent, 100), "a block past the capacity cannot be claimed");
}

#[test]
fn a_raw_address_is_the_same_meta() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    spec(1).create(&path).unwrap();
    let raw = Meta::open(&path).unwrap().into_raw();
    // SAFETY: `raw` comes from `into_raw` and is taken back last.
    assert_eq!(unsafe { Meta::borrow_raw(raw, Meta::file) }, spec(1).file);
    // SAFETY: as above.
    assert_eq!(unsafe { Meta::from_raw(raw) }.inode(), 99);
}

#[test]
fn a_damaged_meta_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let file = spec(100).create(&path).unwrap();
    for (offset, bytes) in [(0, &[0][..]), (8, &[0; 8]), (40, &[0; 4]), (40, &[255; 4]), (48, &[9]), (64, &[4])] {
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, offset).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        assert!(Meta::open(&path).is_err(), "{bytes:?} at {offset}");
        file.write_all_at(&before, offset).unwrap();
        assert!(Meta::open(&path).is_ok());
    }
    file.set_len(130).unwrap();
    assert!(Meta::open(&path).is_err());
}

#[test]
fn a_bounded_meta_has_room_for_a_segment_and_notes_what_happens_to_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    MetaSpec { bounded: true, ..spec(18) }.create(&path).unwrap();
    let meta = Meta::open(&path).unwrap();
    assert_eq!((meta.capacity(), meta.remote_nblocks()), (RELATION_SEGMENT_BLOCKS, 18));
    assert!((0..18).all(|block| meta.state(block) == BlockState::Absent) && meta.are_sixteen_absent(0));
    let last = RELATION_SEGMENT_BLOCKS - 1;
    assert!([18, 31, last].map(|block| meta.state(block)).iter().all(|state| *state == BlockState::Present));
    meta.note_written(last..last + 9, 6);
    assert_eq!(meta.written_epoch(last), 0, "there was no room for that");
    meta.make_room(last..last + 9).unwrap();
    meta.note_written(last..last + 9, 7);
    assert_eq!((meta.written_epoch(last), meta.written_epoch(last - 1)), (7, 0));
    meta.note_read(3..4);
    (0..9).for_each(|_| meta.note_read(5..6));
    let touches = |block| meta.touches(block);
    assert_eq!([3, 4, 5, last].map(touches), [1, 0, TOUCHES_MAX, 2]);
    let empty = MetaSpec { bounded: true, ..spec(0) };
    empty.create(&dir.path().join("e")).unwrap();
    assert_eq!(Meta::open(&dir.path().join("e")).unwrap().remote_nblocks(), 0);
}

#[test]
fn a_block_stays_marked_as_undescribed_until_the_mark_is_taken_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    MetaSpec { bounded: true, ..spec(18) }.create(&path).unwrap();
    let (agent, shim) = (Meta::open(&path).unwrap(), Meta::open(&path).unwrap());
    assert!(!agent.has_undescribed() && !agent.unmark_undescribed(7));
    shim.make_room(6..9).unwrap();
    shim.note_written(7..8, 3);
    shim.mark_undescribed(7).unwrap();
    shim.note_written(6..9, 4);
    assert_eq!([6, 7, 8].map(|block| agent.is_undescribed(block)), [false, true, false]);
    assert_eq!([6, 7, 8].map(|block| agent.written_epoch(block)), [4; 3]);
    assert!(agent.take_undescribed() && !agent.take_undescribed(), "the file is told of once");
    assert!(!shim.is_guarded() && agent.guard() && !agent.guard() && shim.is_guarded(), "that is said once");
    assert!(!agent.take_undescribed());
    assert!(agent.unmark_undescribed(7) && !agent.is_undescribed(7));
    assert_eq!(agent.written_epoch(7), 4);
}

/// A store into a part of the mapping that the file does not have is answered as on a full disk: by SIGBUS.
#[test]
fn where_there_is_no_room_nothing_is_noted_and_nothing_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let file = MetaSpec { bounded: true, ..spec(18) }.create(&path).unwrap();
    let meta = Meta::open(&path).unwrap();
    file.set_len(4096).unwrap();
    let last = RELATION_SEGMENT_BLOCKS - 1;
    for block in [3, last] {
        let full = meta.make_room(block..block + 1).unwrap_err();
        assert_eq!(full.errno(), libc::ENOSPC);
        meta.note_read(block..block + 1);
        meta.note_written(block..block + 1, 7);
        assert!(meta.mark_undescribed(block).is_err() && !meta.is_undescribed(block));
        assert_eq!((meta.touches(block), meta.written_epoch(block)), (0, 0));
    }
    assert!(claim(&meta, 3), "its state has room");
    assert_eq!(meta.state(last), BlockState::Present);
    assert!(!meta.exchange(last, BlockState::Present, BlockState::Filling));
}

#[test]
fn no_meta_is_made_of_nothing_or_of_more_than_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    assert!(spec(0).create(&dir.path().join("a")).is_err());
    assert!(spec(RELATION_SEGMENT_BLOCKS + 1).create(&dir.path().join("b")).is_err());
}
