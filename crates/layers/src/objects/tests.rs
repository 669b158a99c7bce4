//! What every implementation of [`Objects`] promises.

use super::*;
use std::io::ErrorKind;

fn with_each(check: impl Fn(&dyn Objects)) {
    let dir = tempfile::tempdir().unwrap();
    check(&LocalFolder::new(dir.path()));
    check(&MemoryFolder::default());
}

fn put(objects: &dyn Objects, name: &str, pieces: &[&[u8]]) -> Result<(), StorageError> {
    let mut object = objects.create(name)?;
    pieces.iter().try_for_each(|piece| object.write(piece))?;
    assert_eq!(object.written(), pieces.concat().len() as u64);
    object.put()
}

fn content(object: &dyn Object) -> Vec<u8> {
    let mut bytes = vec![0; object.bytes() as usize];
    object.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Whether nothing was changed, for a reason of this kind.
fn is_refused<T: fmt::Debug>(result: Result<T, StorageError>, kind: ErrorKind) -> bool {
    matches!(result, Err(StorageError::Io { source, .. }) if source.kind() == kind)
}

#[test]
fn what_is_put_is_read_in_ranges_and_listed_with_its_length() {
    with_each(|objects| {
        put(objects, "a", &[b"0123", b"", b"456"]).unwrap();
        let object = objects.open("a").unwrap();
        let mut range = [0; 3];
        object.read_exact_at(&mut range, 2).unwrap();
        assert_eq!((&range, object.bytes()), (b"234", 7));
        assert_eq!(objects.list().unwrap(), [("a".to_owned(), 7)]);
        assert_eq!(objects.locate("a").file_name(), Some("a".as_ref()));
        for offset in [5, 7, i64::MAX as u64 - 3] {
            assert!(is_refused(object.read_exact_at(&mut range, offset), ErrorKind::UnexpectedEof), "{offset}");
        }
    });
}

#[test]
fn an_object_is_put_only_where_there_is_none_and_seen_only_then() {
    with_each(|objects| {
        let mut unfinished = objects.create("a").unwrap();
        unfinished.write(b"half").unwrap();
        assert!(objects.list().unwrap().is_empty() && is_refused(objects.open("a"), ErrorKind::NotFound));
        drop(unfinished);
        put(objects, "a", &[b"first"]).unwrap();
        assert!(is_refused(put(objects, "a", &[b"second"]), ErrorKind::AlreadyExists));
        assert_eq!(objects.read("a").unwrap().unwrap(), b"first");
        assert_eq!(objects.list().unwrap(), [("a".to_owned(), 5)]);
    });
}

#[test]
fn what_is_open_stays_as_it_was_when_its_name_is_given_to_another_or_removed() {
    with_each(|objects| {
        objects.replace("a", b"old").unwrap();
        let old = objects.open("a").unwrap();
        objects.replace("a", b"the new one").unwrap();
        let new = objects.open("a").unwrap();
        objects.remove("a", Durability::Machine).unwrap();
        assert_eq!((content(&*old), content(&*new)), (b"old".to_vec(), b"the new one".to_vec()));
    });
}

#[test]
fn what_was_removed_is_gone_and_cannot_be_removed_again() {
    with_each(|objects| {
        for durability in [Durability::Process, Durability::Machine] {
            objects.replace("a", b"").unwrap();
            objects.remove("a", durability).unwrap();
            assert_eq!((objects.read("a").unwrap(), objects.list().unwrap()), (None, vec![]));
            assert!(objects.remove("a", durability).is_err());
        }
    });
}
