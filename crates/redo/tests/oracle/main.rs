//! PostgreSQL as the oracle: with `wal_consistency_checking` each record carries the pages as the server has them after
//! the record, and redo must arrive at the same pages. Afterwards the server is stopped and all its files are compared
//! with the pages that redo arrived at, so that what no record carries (the visibility map, transaction status) is
//! checked as well.

mod brin;
mod cluster;
mod damage;
mod files;
mod generic;
mod gin;
mod gist;
mod hash;
mod minors;
mod pages;
mod regress;
mod replay;
mod spgist;
mod unreferenced;
mod workload;

use anyhow::{Result, ensure};
use cluster::Cluster;
use files::Files;
use quire_wal::{ControlFile, rmgr};
use replay::{Mismatch, Replay};
use std::collections::BTreeMap;
use std::fs;

/// Runs the workload with these settings and replays its WAL. Prints what was seen, fails on any difference.
fn check(more_settings: &str, more_required: &[(u8, u8)]) -> Result<()> {
    let cluster = Cluster::create(&settings(more_settings))?;
    let replay = replay_of(&cluster, run_workloads)?;
    report(&replay);
    require(&replay, more_required)?;
    replay.gin.require(&replay.seen)?;
    gist::require(&replay.seen)?;
    replay.gist.require()?;
    replay.spgist.require(&replay.seen)?;
    hash::require(&replay.seen)?;
    brin::require(&replay.seen)?;
    generic::require(&replay.seen)?;
    expect_no_difference(&cluster, &replay)
}

/// Runs a workload on a new cluster and replays its WAL.
fn replay_of(cluster: &Cluster, workload: impl FnOnce(&Cluster) -> Result<()>) -> Result<Replay> {
    // The first start makes what a start with these settings makes, so that it is in the copy that replay begins with.
    cluster.start()?;
    cluster.stop()?;
    let mut replay = Replay::new(Files::load(&cluster.data())?.pages, cluster.version()?.1);
    let before = control_file(cluster)?;
    cluster.start()?;
    workload(cluster)?;
    cluster.stop()?;
    replay.run(&cluster.data(), before.checkpoint, before.system_identifier)?;
    let after = control_file(cluster)?;
    ensure!(replay.last_record == after.checkpoint, "replay ended at {}", replay.last_record);
    Ok(replay)
}

/// Fails if a page differs, be it from the image in a record or from the file in the end.
fn expect_no_difference(cluster: &Cluster, replay: &Replay) -> Result<()> {
    ensure!(replay.damage.panics().is_empty(), "{}", replay.damage);
    ensure!(replay.mismatches.is_empty(), "pages differ from images:\n{}", first_few(&replay.mismatches));
    let (mismatches, compared) = replay.compare_files(&Files::load(&cluster.data())?);
    println!("compared with files: {compared:?}");
    ensure!(mismatches.is_empty(), "pages differ from files:\n{}", first_few(&mismatches));
    Ok(())
}

/// Everything that the server is made to do.
fn run_workloads(cluster: &Cluster) -> Result<()> {
    workload::run(cluster)?;
    gin::run(cluster)?;
    gist::run(cluster)?;
    spgist::run(cluster)?;
    hash::run(cluster)?;
    brin::run(cluster)?;
    generic::run(cluster)
}

/// The workloads' settings and these; each record has its pages with it.
fn settings(more: &str) -> String {
    format!("{}wal_consistency_checking = 'all'\n{more}", workload::SETTINGS)
}

/// Kinds of records that a run must contain, or it proves too little. The top bit of a heap's kind says that the page
/// is initialised.
const REQUIRED: &[(u8, u8)] = &[
    (rmgr::XLOG, rmgr::XLOG_FPI),
    (rmgr::HEAP, rmgr::XLOG_HEAP_INSERT),
    (rmgr::HEAP, rmgr::XLOG_HEAP_INSERT | rmgr::XLOG_HEAP_INIT_PAGE),
    (rmgr::HEAP, rmgr::XLOG_HEAP_DELETE),
    (rmgr::HEAP, rmgr::XLOG_HEAP_UPDATE),
    (rmgr::HEAP, rmgr::XLOG_HEAP_UPDATE | rmgr::XLOG_HEAP_INIT_PAGE),
    (rmgr::HEAP, rmgr::XLOG_HEAP_HOT_UPDATE),
    (rmgr::HEAP, rmgr::XLOG_HEAP_CONFIRM),
    (rmgr::HEAP, rmgr::XLOG_HEAP_LOCK),
    (rmgr::HEAP, rmgr::XLOG_HEAP_INPLACE),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_PRUNE),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_VACUUM),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_FREEZE_PAGE),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_VISIBLE),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_MULTI_INSERT),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_MULTI_INSERT | rmgr::XLOG_HEAP_INIT_PAGE),
    (rmgr::HEAP2, rmgr::XLOG_HEAP2_LOCK_UPDATED),
    (rmgr::BTREE, rmgr::XLOG_BTREE_INSERT_LEAF),
    (rmgr::BTREE, rmgr::XLOG_BTREE_INSERT_UPPER),
    (rmgr::BTREE, rmgr::XLOG_BTREE_INSERT_META),
    (rmgr::BTREE, rmgr::XLOG_BTREE_SPLIT_L),
    (rmgr::BTREE, rmgr::XLOG_BTREE_SPLIT_R),
    (rmgr::BTREE, rmgr::XLOG_BTREE_INSERT_POST),
    (rmgr::BTREE, rmgr::XLOG_BTREE_DEDUP),
    (rmgr::BTREE, rmgr::XLOG_BTREE_DELETE),
    (rmgr::BTREE, rmgr::XLOG_BTREE_UNLINK_PAGE),
    (rmgr::BTREE, rmgr::XLOG_BTREE_UNLINK_PAGE_META),
    (rmgr::BTREE, rmgr::XLOG_BTREE_NEWROOT),
    (rmgr::BTREE, rmgr::XLOG_BTREE_MARK_PAGE_HALFDEAD),
    (rmgr::BTREE, rmgr::XLOG_BTREE_VACUUM),
    (rmgr::BTREE, rmgr::XLOG_BTREE_META_CLEANUP),
    (rmgr::SEQ, rmgr::XLOG_SEQ_LOG),
];

fn require(replay: &Replay, more: &[(u8, u8)]) -> Result<()> {
    let is_missing = |(id, info): &&(u8, u8)| !replay.seen.keys().any(|(rmgr, kind, _)| (rmgr, kind) == (id, info));
    let missing: Vec<_> = REQUIRED.iter().chain(more).filter(is_missing).collect();
    ensure!(replay.map_truncations > 0, "the workload truncated no relation with a visibility map");
    ensure!(missing.is_empty(), "the workload made no records of these kinds: {missing:02x?}");
    Ok(())
}

fn report(replay: &Replay) {
    println!("{:<12} {:<6} {:>10} {:>10}", "manager", "kind", "pages", "compared");
    for ((id, info, block), (pages, compared)) in &replay.seen {
        let name = rmgr::name(*id).unwrap_or("?");
        println!("{name:<12} {info:#04x}/{block} {pages:>10} {compared:>10}");
    }
    let mut by_kind = BTreeMap::new();
    for mismatch in &replay.mismatches {
        *by_kind.entry(&mismatch.what).or_insert(0) += 1;
    }
    println!("mismatches: {by_kind:?}; pages lost: {}", replay.lost.len());
    println!("{}", replay.damage);
}

fn first_few(all: &[Mismatch]) -> String {
    all.iter().take(10).map(|mismatch| format!("{mismatch}\n")).collect()
}

fn control_file(cluster: &Cluster) -> Result<ControlFile> {
    Ok(ControlFile::parse(&fs::read(cluster.data().join("global/pg_control"))?)?)
}

#[test]
fn pages_equal_postgresqls_at_wal_level_replica() -> Result<()> {
    check("wal_level = replica\nwal_compression = lz4\n", &[])
}

#[test]
fn pages_equal_postgresqls_at_wal_level_logical() -> Result<()> {
    check("wal_level = logical\n", &[])
}

/// What minor releases redo otherwise, on those of them that are at hand beside the one that all else runs on.
#[test]
fn pages_equal_postgresqls_on_both_sides_of_a_change_of_redo() -> Result<()> {
    for (version, bin) in minors::around_changes()? {
        println!("PostgreSQL {version}");
        let cluster = Cluster::of(bin, &settings("wal_level = replica\n"))?;
        let replay = replay_of(&cluster, gist::run)?;
        replay.gist.require()?;
        expect_no_difference(&cluster, &replay)?;
    }
    Ok(())
}
