//! Names are read as they are written.

use super::*;
use crate::key::{Fork, RelTag};
use proptest::prelude::*;

const DIRECTORY: &[u8] = b"PG_15_202209061";

fn relation(tablespace: u32, database: u32, relation: u32, fork: Fork, segment: u32) -> DataFileName<'static> {
    let rel = RelTag { tablespace, database, relation, fork };
    DataFileName::Relation(RelationFile::new(rel, segment, DIRECTORY))
}

fn folder(tablespace: u32, database: u32) -> DatabaseFolder<'static> {
    DatabaseFolder::new(tablespace, database, DIRECTORY)
}

fn other(tablespace: u32, database: u32, name: &'static [u8]) -> DataFileName<'static> {
    DataFileName::OtherInDatabase { folder: folder(tablespace, database), name }
}

#[test]
fn names_postgresql_writes_are_understood_and_given_back() {
    let known = [
        ("base/5/1259", relation(1663, 5, 1259, Fork::Main, 0)),
        ("base/5/1259_vm.1", relation(1663, 5, 1259, Fork::VisibilityMap, 1)),
        ("base/5/16384_init", relation(1663, 5, 16384, Fork::Init, 0)),
        ("global/1262_fsm", relation(1664, 0, 1262, Fork::FreeSpaceMap, 0)),
        ("pg_tblspc/16385/PG_15_202209061/5/99.12", relation(16385, 5, 99, Fork::Main, 12)),
        ("base/4294967295/1", relation(1663, u32::MAX, 1, Fork::Main, 0)),
        ("base/5/pg_filenode.map", DataFileName::RelationMap(folder(1663, 5))),
        ("global/pg_filenode.map", DataFileName::RelationMap(folder(1664, 0))),
        ("global", DataFileName::Database(folder(1664, 0))),
        ("base/16384", DataFileName::Database(folder(1663, 16384))),
        ("pg_tblspc/16385/PG_15_202209061/5", DataFileName::Database(folder(16385, 5))),
        ("base/5/PG_VERSION", other(1663, 5, b"PG_VERSION")),
        ("base/5/t3_16384", other(1663, 5, b"t3_16384")),
        ("base/5/t3_16384_fsm.1", other(1663, 5, b"t3_16384_fsm.1")),
        ("global/pg_internal.init", other(1664, 0, b"pg_internal.init")),
        ("pg_xact/0000", DataFileName::Slru { slru: Slru::Clog, segment: 0, digits: 4 }),
        ("pg_commit_ts/00FF", DataFileName::Slru { slru: Slru::CommitTs, segment: 255, digits: 4 }),
        (
            "pg_multixact/members/1A2B3",
            DataFileName::Slru { slru: Slru::MultixactMembers, segment: 0x1A2B3, digits: 5 },
        ),
        (
            "pg_wal/0000000A00000002000000FF",
            DataFileName::WalSegment(WalSegmentName { timeline: 10, log: 2, segment: 255 }),
        ),
        ("pg_twophase/0000028A", DataFileName::TwoPhase { xid: 0x28A }),
        ("global/pg_control", DataFileName::ControlFile),
        ("pg_replslot", DataFileName::ReplicationSlot(b"")),
        ("pg_replslot/a/state", DataFileName::ReplicationSlot(b"/a/state")),
        ("pg_logical/snapshots/0-1500028.snap", DataFileName::LogicalSnapshot(b"/0-1500028.snap")),
        ("pg_logical/mappings", DataFileName::LogicalMapping(b"")),
        ("postgresql.auto.conf", DataFileName::AutoConf),
    ];
    for (path, meaning) in known {
        assert_eq!(DataFileName::parse(path.as_bytes()), Some(meaning), "{path}");
        assert_eq!(DataFileName::parse_exact(path.as_bytes()), Some(meaning), "{path}");
        assert_eq!(meaning.to_string(), path);
    }
}

#[test]
fn numbers_are_read_however_they_are_written_unless_names_are_to_be_exact() {
    let spelt = [
        ("base/05/1259", relation(1663, 5, 1259, Fork::Main, 0)),
        ("base/5/01259", relation(1663, 5, 1259, Fork::Main, 0)),
        ("base/5/1259.0", relation(1663, 5, 1259, Fork::Main, 0)),
        ("base/5/1259_fsm.01", relation(1663, 5, 1259, Fork::FreeSpaceMap, 1)),
        ("base/0/1", relation(1663, 0, 1, Fork::Main, 0)),
        ("base/5/0", relation(1663, 5, 0, Fork::Main, 0)),
        ("pg_xact/00001", DataFileName::Slru { slru: Slru::Clog, segment: 1, digits: 5 }),
        ("pg_xact/00ab", DataFileName::Slru { slru: Slru::Clog, segment: 0xAB, digits: 4 }),
        (
            "pg_wal/00000001000000000000000a",
            DataFileName::WalSegment(WalSegmentName { timeline: 1, log: 0, segment: 10 }),
        ),
        ("pg_twophase/0000028a", DataFileName::TwoPhase { xid: 0x28A }),
    ];
    for (path, meaning) in spelt {
        assert_eq!(DataFileName::parse(path.as_bytes()), Some(meaning), "{path}");
        assert_eq!(DataFileName::parse_exact(path.as_bytes()), None, "{path}");
    }
    let linked = b"pg_tblspc/1663/PG_15_202209061/5/1";
    assert!(matches!(DataFileName::parse(linked), Some(DataFileName::Relation(file)) if file.rel().tablespace == 1663));
    assert_eq!(DataFileName::parse_exact(linked), None);
}

#[test]
fn other_names_in_a_database_are_no_relations() {
    let names = ["", "1259_", "1259_xx", "1259.", "1259.x", "+1", "4294967296", "1259.4294967296", "t3_16384", "_vm"];
    for name in names {
        let expected = DataFileName::OtherInDatabase { folder: folder(1663, 5), name: name.as_bytes() };
        assert_eq!(DataFileName::parse(format!("base/5/{name}").as_bytes()), Some(expected), "{name}");
    }
}

#[test]
fn other_names_are_in_no_form_of_the_grammar() {
    let unknown = [
        "",
        "/",
        "base",
        "base/",
        "base/5x",
        "base/5/1259/1",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/4294967296/1",
        "global/pg_internal/init",
        "pg_tblspc/16385",
        "pg_tblspc/16385/PG_15_202209061",
        "pg_tblspc/16385/PG_15_202209061/pgsql_tmp",
        "pg_wal",
        "pg_wal/archive_status",
        "pg_wal/xlogtemp.17",
        "pg_wal/00000001000000000000000",
        "pg_wal/00000001000000000000000G",
        "pg_wal/000000010000000000000001.partial",
        "pg_xact",
        "pg_xact/000",
        "pg_xact/000000000",
        "pg_subtrans/0000",
        "pg_twophase/28A",
        "pg_replslot/a.tmp",
        "pg_replslot/a.tmp/state",
        "pg_replslot/a/state.tmp",
        "pg_replslots",
        "pg_logical/snapshots/0-1500028.snap.17.tmp",
        "pg_logical/replorigin_checkpoint",
        "pg_logical",
        "postgresql.auto.conf.tmp",
        "postgresql.conf",
        "PG_VERSION",
    ];
    for path in unknown {
        assert_eq!(DataFileName::parse(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn the_directory_of_any_version_is_yielded() {
    let path = b"pg_tblspc/16385/PG_99_209912311/5/1";
    let Some(DataFileName::Relation(file)) = DataFileName::parse_exact(path) else { panic!("a relation's") };
    assert_eq!(file.folder.version_directory(), Some(&b"PG_99_209912311"[..]));
    assert_eq!(file.rel(), RelTag { tablespace: 16385, database: 5, relation: 1, fork: Fork::Main });
}

#[test]
fn wal_segments_are_numbered_by_their_size() {
    let name = WalSegmentName { timeline: 1, log: 1, segment: 0xFFF };
    assert_eq!(name.segment_number(1 << 20), Some(0x1FFF));
    assert_eq!(WalSegmentName::new(1, 0x1FFF, 1 << 20), name);
    assert_eq!(name.segment_number(0), None);
    assert_eq!(
        WalSegmentName::parse(b"0000000100000001000000FF").and_then(|name| name.segment_number(16 << 20)),
        Some(0x1FF)
    );
}

fn any_folder() -> impl Strategy<Value = DatabaseFolder<'static>> {
    let number = 1..=u32::MAX;
    prop_oneof![
        Just(DatabaseFolder::Global),
        number.clone().prop_map(|database| DatabaseFolder::Base { database }),
        (1665..=u32::MAX, number).prop_map(|(tablespace, database)| folder(tablespace, database)),
    ]
}

fn any_name() -> impl Strategy<Value = DataFileName<'static>> {
    let file = (any_folder(), 1..=u32::MAX, 0..4_u8, any::<u32>()).prop_map(|(folder, relation, fork, segment)| {
        let fork = Fork::from_number(fork).expect("one of four");
        DataFileName::Relation(RelationFile { folder, relation, fork, segment })
    });
    let slru = (0..4_u8, any::<u32>())
        .prop_map(|(slru, segment)| DataFileName::slru(Slru::from_number(slru).expect("one of four"), segment));
    let wal = any::<(u32, u32, u32)>().prop_map(|(timeline, log, segment)| WalSegmentName { timeline, log, segment });
    prop_oneof![
        any_folder().prop_map(DataFileName::Database),
        any_folder().prop_map(DataFileName::RelationMap),
        any_folder().prop_map(|folder| DataFileName::OtherInDatabase { folder, name: b"t3_16384" }),
        file,
        slru,
        wal.prop_map(DataFileName::WalSegment),
        any::<u32>().prop_map(|xid| DataFileName::TwoPhase { xid }),
        Just(DataFileName::ControlFile),
        Just(DataFileName::ReplicationSlot(b"/a/state")),
        Just(DataFileName::LogicalMapping(b"")),
        Just(DataFileName::AutoConf),
    ]
}

/// Paths that are often names, and often almost.
fn almost_names() -> impl Strategy<Value = String> {
    "(base|global|pg_xact|pg_wal|pg_tblspc|pg_twophase|pg_replslot|pg_multixact/members)?/?[0-9A-F_a-z./]{0,30}"
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(name in any_name()) {
        let path = name.to_string();
        prop_assert_eq!(DataFileName::parse(path.as_bytes()), Some(name));
        prop_assert_eq!(DataFileName::parse_exact(path.as_bytes()), Some(name));
    }

    #[test]
    fn what_is_read_exactly_is_written_back(path in almost_names()) {
        if let Some(name) = DataFileName::parse_exact(path.as_bytes()) {
            prop_assert_eq!(name.to_string(), path);
        }
    }

    #[test]
    fn a_name_means_the_same_exactly_or_nothing(path in almost_names()) {
        let exact = DataFileName::parse_exact(path.as_bytes());
        prop_assert!(exact.is_none() || exact == DataFileName::parse(path.as_bytes()));
    }

    #[test]
    fn arbitrary_bytes_are_survived(path in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Some(name) = DataFileName::parse_exact(&path) {
            prop_assert_eq!(name.to_string().into_bytes(), path);
        }
    }
}
