use super::*;
use quire_files::fault;
use std::fs;

const SLOT: &str = "pgdata/pg_replslot/a/state";

fn file(name: &str, content: &str) -> SmallFile {
    SmallFile { name: name.into(), lsn: Lsn(7), content: Bytes::copy_from_slice(content.as_bytes()) }
}

fn version(term: u64, sequence: u64) -> FileVersion {
    FileVersion { term: Term(term), sequence }
}

fn fenced(dir: &Path, term: u64) -> SmallFiles {
    let files = SmallFiles::open_in(dir).unwrap();
    files.fence(Term(term), Lsn(term * 100)).unwrap();
    files
}

fn listed(files: &SmallFiles) -> Vec<SmallFile> {
    files.list("", "").unwrap().files
}

#[test]
fn what_was_put_is_there_after_a_restart_and_what_was_removed_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let files = fenced(dir.path(), 3);
    for (sequence, name) in [(1, SLOT), (2, "fsm/1663/5/16384"), (3, "pgdata/postgresql.auto.conf")] {
        files.put(version(3, sequence), &file(name, name)).unwrap();
    }
    files.remove(version(3, 4), "fsm/1663/5/16384").unwrap();
    files.put(version(3, 5), &file(SLOT, "newer")).unwrap();
    let expected = [file(SLOT, "newer"), file("pgdata/postgresql.auto.conf", "pgdata/postgresql.auto.conf")];
    assert_eq!(listed(&files), expected);
    assert_eq!(listed(&SmallFiles::open_in(dir.path()).unwrap()), expected);
}

#[test]
fn a_fenced_term_writes_nothing_any_more_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let files = fenced(dir.path(), 3);
    files.put(version(3, 1), &file(SLOT, "old compute")).unwrap();
    files.fence(Term(4), Lsn(400)).unwrap();
    for files in [files, SmallFiles::open_in(dir.path()).unwrap()] {
        assert!(matches!(files.put(version(3, 2), &file(SLOT, "late")), Err(FileError::Fenced { .. })));
        assert!(matches!(files.remove(version(3, 3), SLOT), Err(FileError::Fenced { .. })));
        assert!(matches!(files.fence(Term(3), Lsn(900)), Err(FileError::Fenced { .. })));
        assert!(matches!(files.put(version(5, 1), &file(SLOT, "early")), Err(FileError::NotFenced(Term(5)))));
        assert_eq!(listed(&files), [file(SLOT, "old compute")]);
    }
}

#[test]
fn a_new_term_settles_what_is_ingested_and_only_the_term_that_fenced_may_work() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(SmallFiles::open_in(dir.path()).unwrap().settled(), Lsn::INVALID);
    let files = fenced(dir.path(), 3);
    files.fence(Term(3), Lsn(900)).unwrap();
    assert_eq!(files.settled(), Lsn(300), "the same compute still sends what it has");
    files.fence(Term(4), Lsn(400)).unwrap();
    files.fence(Term(5), Lsn(350)).unwrap();
    for files in [files, SmallFiles::open_in(dir.path()).unwrap()] {
        assert_eq!(files.settled(), Lsn(400));
        assert!(matches!(files.in_term(Term(4), || ()), Err(FileError::Fenced { .. })));
        assert!(matches!(files.in_term(Term(6), || ()), Err(FileError::NotFenced(Term(6)))));
        assert_eq!(files.in_term(Term(5), || 7).unwrap(), 7);
    }
}

#[test]
fn a_term_file_of_the_first_version_settles_nothing() {
    let mut out = Writer::new();
    out.bytes(&TERM_MAGIC).u32(1).u64(7);
    assert_eq!(decode_fence(&sealed(out)).unwrap(), Fence { term: Term(7), settled: Lsn::INVALID });
    let mut later = Writer::new();
    later.bytes(&TERM_MAGIC).u32(3).u64(7).u64(8);
    assert!(matches!(decode_fence(&sealed(later)), Err(CodecError::Invalid { field: "version", value: 3 })));
}

#[test]
fn what_a_start_finds_is_made_durable_before_anybody_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    fenced(dir.path(), 3).put(version(3, 1), &file(SLOT, "a")).unwrap();
    fault::fail_after(Some(0));
    let opened = SmallFiles::open_in(dir.path());
    fault::fail_after(None);
    assert!(matches!(opened, Err(StorageError::Io { .. })), "{opened:?}");
    assert_eq!(listed(&SmallFiles::open_in(dir.path()).unwrap()), [file(SLOT, "a")]);
}

#[test]
fn a_term_that_no_campaign_reaches_fences_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = fenced(dir.path(), 3);
    for term in [4 + Term::LEAD_MAX, u64::MAX] {
        assert!(
            matches!(files.fence(Term(term), Lsn(900)), Err(FileError::TermOutOfReach { fence: Term(3), .. })),
            "{term}"
        );
    }
    files.put(version(3, 1), &file(SLOT, "the same compute")).unwrap();
    fenced(dir.path(), 4);
}

#[test]
fn a_write_that_arrives_after_a_newer_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = fenced(dir.path(), 1);
    files.put(version(1, 2), &file(SLOT, "second")).unwrap();
    files.put(version(1, 1), &file(SLOT, "first")).unwrap();
    files.remove(version(1, 2), SLOT).unwrap();
    assert_eq!(listed(&files), [file(SLOT, "second")]);
}

#[test]
fn a_crash_at_any_step_leaves_the_old_file_or_the_new_one() {
    for steps in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let files = fenced(dir.path(), 1);
        files.put(version(1, 1), &file(SLOT, "old")).unwrap();
        fault::fail_after(Some(steps));
        assert!(files.put(version(1, 2), &file(SLOT, "new")).is_err());
        fault::fail_after(None);
        let next = files.put(version(1, 3), &file(SLOT, "new"));
        let is_refused = matches!(next, Err(FileError::Storage(StorageError::Failed(_))));
        assert_eq!(is_refused, steps > 0, "only if the outcome of the one before is not known: {next:?}");
        let reopened = fenced(dir.path(), 1);
        let found = listed(&reopened);
        assert!(found == [file(SLOT, "old")] || found == [file(SLOT, "new")], "{found:?}");
        reopened.put(version(1, 1), &file(SLOT, "newest")).unwrap();
        assert_eq!(listed(&reopened), [file(SLOT, "newest")]);
    }
}

#[test]
fn a_long_list_comes_in_parts_that_fit_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    let files = fenced(dir.path(), 1);
    let large = "x".repeat(SMALL_FILE_BYTES_MAX / 2);
    let names = ["a/1", "b/1", "b/2", "b/3", "c/1"];
    for (sequence, name) in (1..).zip(names) {
        files.put(version(1, sequence), &file(name, &large)).unwrap();
    }
    let names = |listed: &Listed| listed.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    let first = files.list("b/", "").unwrap();
    assert_eq!((names(&first), first.more), (vec!["b/1".into(), "b/2".into()], true));
    let second = files.list("b/", "b/2").unwrap();
    assert_eq!((names(&second), second.more), (vec!["b/3".into()], false));
    let whole = file("a/1", &"x".repeat(SMALL_FILE_BYTES_MAX));
    files.put(version(1, 9), &whole).unwrap();
    assert_eq!(files.list("a/", "").unwrap(), Listed { files: vec![whole], more: false });
    let longer = file("a/1", &"x".repeat(SMALL_FILE_BYTES_MAX + 1));
    assert!(matches!(files.put(version(1, 10), &longer), Err(FileError::TooLong(_))));
}

#[test]
fn a_damaged_file_is_an_error_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    fenced(dir.path(), 1).put(version(1, 1), &file(SLOT, "state")).unwrap();
    let path = dir.path().join("files/pgdata%pg_replslot%a%state");
    let whole = fs::read(&path).unwrap();
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        let files = SmallFiles::open_in(dir.path()).unwrap();
        assert!(matches!(files.list("", ""), Err(FileError::Storage(StorageError::Corrupt { .. }))), "byte {position}");
    }
    fs::write(&path, &whole).unwrap();
    fs::rename(&path, path.with_file_name("pgdata%pg_replslot%b%state")).unwrap();
    assert!(SmallFiles::open_in(dir.path()).unwrap().list("", "").is_err(), "it says another name");
    fs::write(dir.path().join("files/term"), b"nonsense").unwrap();
    assert!(SmallFiles::open_in(dir.path()).is_err());
}

#[test]
fn names_that_could_be_other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = fenced(dir.path(), 1);
    for name in ["", "term", "a%b/c", "a/b.tmp", "a/\u{e9}", "a/ b", &"a/".repeat(101)] {
        assert!(matches!(files.put(version(1, 1), &file(name, "")), Err(FileError::Name(_))), "{name}");
    }
    files.put(version(1, 1), &file("../../x", "")).unwrap();
    assert!(dir.path().join("files/..%..%x").exists());
}
