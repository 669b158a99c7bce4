use super::*;
use crate::accounts::{Account, Carry};
use crate::error::StorageError;
use crate::objects::{LocalFolder, Objects};
use crate::source::Source;
use crate::value::{Kind, Version};
use bytes::Bytes;
use quire_types::{BranchKey, Key, Lsn, ShardId, Slru};
use std::collections::BTreeMap;
use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

type Model = BTreeMap<(Key, Lsn), Version>;

fn page(number: u32) -> Key {
    Key::SlruBlock { slru: Slru::Clog, page: number }
}

/// Some pages with a few versions, one with thousands so that it fills many blocks, and some values.
fn model() -> Model {
    let mut model = Model::new();
    let mut add = |key: Key, lsn: u64, kind: Kind, bytes: usize| {
        let payload: Vec<u8> = (0..bytes).map(|at| (at as u64 * lsn) as u8).collect();
        model.insert((key, Lsn(lsn)), Version { lsn: Lsn(lsn), kind, payload: payload.into() });
    };
    for number in 0..200 {
        add(page(number), 10, Kind::Image, 8192);
        add(page(number), 20 + u64::from(number), Kind::Delta, 100);
    }
    (100..4100).for_each(|lsn| add(page(77), lsn, Kind::Delta, 60));
    (0..3000).for_each(|xid| add(Key::TwoPhase { xid }, 30 + u64::from(xid % 7), Kind::Bytes, 9));
    add(Key::TwoPhase { xid: 5 }, 90, Kind::Tombstone, 0);
    model
}

fn carries() -> Vec<Carry> {
    let account = |number| Account { deltas: number, bytes: 100, since: Lsn(3), last: Lsn(4) };
    (0..200).map(|number| Carry { key: page(number), account: account(number) }).collect()
}

/// The objects among which the layer at `path` is called `layer`.
fn objects(path: &Path) -> Arc<dyn Objects> {
    Arc::new(LocalFolder::new(path.parent().unwrap()))
}

fn open(path: &Path, cache_bytes: usize) -> Result<Arc<Layer>, StorageError> {
    Layer::open(&objects(path), "layer", &BlockCache::new(cache_bytes))
}

fn write(path: &Path, model: &Model) -> Summary {
    let mut writer =
        LayerWriter::create(objects(path).create("layer").unwrap(), BranchKey::default(), ShardId::UNSHARDED).unwrap();
    for ((key, _), version) in model {
        writer.add(*key, version).unwrap();
    }
    writer.finish(carries().into_iter().map(Ok)).unwrap()
}

fn visited(layer: &Layer, key: Key, after: u64, upto: u64) -> Result<Vec<Version>, StorageError> {
    let mut seen = Vec::new();
    layer.visit(key, Lsn(after), Lsn(upto), &mut |version| {
        seen.push(version);
        ControlFlow::Continue(())
    })?;
    Ok(seen)
}

fn expected(model: &Model, key: Key, after: u64, upto: u64) -> Vec<Version> {
    let range = model.range((Bound::Excluded((key, Lsn(after))), Bound::Included((key, Lsn(upto)))));
    range.rev().map(|(_, version)| version.clone()).collect()
}

#[test]
fn every_version_is_found_and_only_within_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = (dir.path().join("layer"), model());
    let summary = write(&path, &model);
    assert_eq!((summary.first_key, summary.last_lsn), (page(0), Lsn(4099)));
    let layer = open(&path, 1 << 20).unwrap();
    assert_eq!(layer.summary(), &summary);
    for key in [page(0), page(76), page(77), page(78), page(199), Key::TwoPhase { xid: 5 }, Key::ControlFile] {
        for (after, upto) in [(0, 5000), (10, 5000), (0, 10), (150, 3000), (4099, 5000), (0, 9)] {
            assert_eq!(visited(&layer, key, after, upto).unwrap(), expected(&model, key, after, upto), "{key}");
        }
        let newest = expected(&model, key, 0, 200).first().cloned();
        assert_eq!(layer.newest(key, Lsn(200)).unwrap(), newest, "{key}");
    }
}

#[test]
fn walking_through_it_gives_all_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = (dir.path().join("layer"), model());
    write(&path, &model);
    let layer = open(&path, 1 << 20).unwrap();
    let walked: Vec<_> = layer.entries().map(Result::unwrap).collect();
    let all: Vec<_> = model.iter().map(|((key, _), version)| (*key, version.clone())).collect();
    assert_eq!(walked, all);
    assert_eq!(layer.carries().map(Result::unwrap).collect::<Vec<_>>(), carries());
}

#[test]
fn a_range_gives_the_newest_version_of_each_key_up_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = (dir.path().join("layer"), model());
    write(&path, &model);
    let layer = open(&path, 1 << 20).unwrap();
    let last = Key::TwoPhase { xid: u32::MAX };
    for (from, upto, limit) in [(0, 33, 10_000), (4, 200, 3), (2500, 33, 100), (2999, 200, 1)] {
        let mut newest = BTreeMap::new();
        for ((key, lsn), version) in model.range((Key::TwoPhase { xid: from }, Lsn(0))..) {
            if *lsn <= Lsn(upto) {
                newest.insert(*key, version.clone());
            }
        }
        let expected: Vec<_> = newest.into_iter().take(limit).collect();
        let from = Bound::Included(Key::TwoPhase { xid: from });
        assert_eq!(layer.newest_in_range(from, last, Lsn(upto), limit).unwrap(), expected);
    }
    let after_all = Bound::Excluded(Key::TwoPhase { xid: 2999 });
    assert_eq!(layer.newest_in_range(after_all, last, Lsn(200), 10).unwrap(), []);
}

#[test]
fn damage_is_an_error_that_names_the_file_and_never_another_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let small: Model = model().into_iter().filter(|((key, _), _)| *key < page(5)).collect();
    write(&path, &small);
    let good = fs::read(&path).unwrap();
    for position in (0..good.len()).step_by(37) {
        let mut damaged = good.clone();
        damaged[position] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        match read_everything(&path) {
            // The version in the file's head is not looked at: the footer has it, too.
            Ok(entries) => assert!((8..12).contains(&position) && entries.len() == small.len(), "byte {position}"),
            Err(StorageError::Corrupt { path: named, .. }) => assert_eq!(named, path),
            Err(other) => panic!("byte {position}: {other}"),
        }
    }
    for length in [0, 10, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(read_everything(&path), Err(StorageError::Corrupt { .. })), "cut at {length}");
    }
}

fn read_everything(path: &Path) -> Result<Vec<(Key, Version)>, StorageError> {
    let layer = open(path, 1 << 20)?;
    let entries = layer.entries().collect::<Result<Vec<_>, _>>()?;
    layer.carries().collect::<Result<Vec<_>, _>>()?;
    Ok(entries)
}

#[test]
fn a_merge_keeps_the_order_and_lets_one_version_win() {
    let version = |lsn: u64, kind| Version { lsn: Lsn(lsn), kind, payload: Bytes::new() };
    let stream = |versions: Vec<Version>| -> Stream<(Key, Version)> {
        Box::new(versions.into_iter().map(|version| Ok((page(0), version))))
    };
    let older = stream(vec![version(1, Kind::Image), version(2, Kind::Delta), version(4, Kind::Delta)]);
    let newer = stream(vec![version(2, Kind::Image), version(3, Kind::Delta)]);
    let merged = Merge::new(vec![older, newer], |(key, version)| (*key, version.lsn), |_, newer| newer);
    let merged: Vec<_> = merged.map(|entry| entry.map(|(_, version)| (version.lsn.0, version.kind)).unwrap()).collect();
    assert_eq!(merged, [(1, Kind::Image), (2, Kind::Image), (3, Kind::Delta), (4, Kind::Delta)]);
}

#[test]
fn the_file_stays_readable_through_an_open_layer_after_it_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    write(&path, &model());
    let layer = open(&path, 0).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(visited(&layer, page(3), 0, 100).unwrap().len(), 2);
}
