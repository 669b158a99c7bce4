//! Hash indexes: what the server does to them, and what the log must then contain.

use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use quire_wal::rmgr::{self, *};
use std::collections::BTreeMap;

/// Only the index's pages are compared record by record here; the tables' files are compared in the end anyway.
const SESSION: &str = "
set wal_consistency_checking = 'hash';
select setseed(0.75);
";

/// Buckets split, over and over because they are to hold little, among them some with overflow pages, and the number of
/// buckets passes split points, where the file grows by a gap. Vacuum tells that the table is empty, so that there are
/// but two buckets in the beginning.
const SPLITS: &str = "
create table hashed (id int, repeated int);
vacuum hashed;
create index hashed_id on hashed using hash (id) with (fillfactor = 10);
create index hashed_repeated on hashed using hash (repeated) with (fillfactor = 10);
insert into hashed select i, i % 7 from generate_series(1, 2000) i;
insert into hashed select i, 3 from generate_series(2001, 3200) i;
create index hashed_late on hashed using hash (id) with (fillfactor = 20);
delete from hashed where id % 3 = 0;
vacuum hashed;
insert into hashed select i, i % 5 from generate_series(4001, 4600) i;
create unlogged table hashed_unlogged (id int);
create index hashed_unlogged_id on hashed_unlogged using hash (id);
insert into hashed_unlogged select generate_series(1, 500);
";

/// Long buckets, which are thinned out so that tuples move forward and pages become free, and filled again.
const CHAINS: &str = "
create table chained (id int, key int);
create index chained_key on chained using hash (key);
insert into chained select i, i % 2 from generate_series(1, 5000) i;
delete from chained where random() < 0.3;
vacuum chained;
insert into chained select i, i % 2 from generate_series(5001, 6500) i;
delete from chained where id % 100 <> 0 and key = 1;
vacuum chained;
delete from chained where id between 1000 and 5500;
vacuum chained;
insert into chained select i, 1 from generate_series(7001, 8500) i;
delete from chained;
vacuum chained;
";

/// Tuples that a scan finds dead and marks so, which the next insertion takes out instead of looking for room.
const DEAD_TUPLES: &str = "
create table killed (id int, key int);
create index killed_key on killed using hash (key);
insert into killed select i, 5 from generate_series(1, 1200) i;
delete from killed where id % 3 = 0;
set enable_seqscan = off; set enable_bitmapscan = off;
select count(*) from killed where key = 5;
insert into killed select i, 5 from generate_series(2001, 2300) i;
delete from killed where id % 100 = 50;
select count(*) from killed where key = 5;
insert into killed select i, 5 from generate_series(3001, 3020) i;
vacuum killed;
";

/// An index that begins with more buckets than the rows need, because the statistics are out of date, and so many that
/// their number is no power of two.
const MANY_BUCKETS: &str = "
create table estimated (id int);
insert into estimated select generate_series(1, 100);
vacuum estimated;
update pg_class set reltuples = 30000 where relname = 'estimated';
create index estimated_id on estimated using hash (id) with (fillfactor = 10);
insert into estimated select generate_series(101, 200);
";

/// What several sessions insert into at once.
const TOGETHER: &str = "
create table hashed_together (id int, key int);
vacuum hashed_together;
create index hashed_together_id on hashed_together using hash (id) with (fillfactor = 10);
create index hashed_together_key on hashed_together using hash (key);
";

/// One of these sessions. Vacuum has to wait, and no bucket gets long: in records about a bucket's overflow pages, the
/// image of its primary page is taken without a lock on it.
const CONCURRENT: &str = "
\\set id random(1, 100000)
insert into hashed_together values (:id, :id % 10);
select count(*) from hashed_together where key = :id % 10;
delete from hashed_together where key = (:id + 5) % 10 and id < 20000;
";

/// Runs everything against a server with an empty database.
pub fn run(cluster: &Cluster) -> Result<()> {
    for script in [SPLITS, CHAINS, DEAD_TUPLES, MANY_BUCKETS] {
        cluster.script(&format!("{SESSION}{script}"))?;
    }
    cluster.script(TOGETHER)?;
    cluster.pgbench(&["-c", "4", "-j", "2", "-t", "100"], Some(CONCURRENT))?;
    cluster.sql("vacuum hashed_together")
}

/// Block references that must have been compared: with the kind of record, the number of the reference. Only an index
/// with 32,768 overflow pages gets another bitmap page, block 3 of an overflow page's record.
const COMPARED: &[(u8, u8)] = &[
    (XLOG_HASH_INIT_META_PAGE, 0),
    (XLOG_HASH_INIT_BITMAP_PAGE, 0),
    (XLOG_HASH_INIT_BITMAP_PAGE, 1),
    (XLOG_HASH_INSERT, 0),
    (XLOG_HASH_INSERT, 1),
    (XLOG_HASH_ADD_OVFL_PAGE, 0),
    (XLOG_HASH_ADD_OVFL_PAGE, 1),
    (XLOG_HASH_ADD_OVFL_PAGE, 2),
    (XLOG_HASH_ADD_OVFL_PAGE, 4),
    (XLOG_HASH_SPLIT_ALLOCATE_PAGE, 0),
    (XLOG_HASH_SPLIT_ALLOCATE_PAGE, 1),
    (XLOG_HASH_SPLIT_ALLOCATE_PAGE, 2),
    (XLOG_HASH_SPLIT_COMPLETE, 0),
    (XLOG_HASH_SPLIT_COMPLETE, 1),
    (XLOG_HASH_MOVE_PAGE_CONTENTS, 0),
    (XLOG_HASH_MOVE_PAGE_CONTENTS, 1),
    (XLOG_HASH_MOVE_PAGE_CONTENTS, 2),
    (XLOG_HASH_SQUEEZE_PAGE, 0),
    (XLOG_HASH_SQUEEZE_PAGE, 1),
    (XLOG_HASH_SQUEEZE_PAGE, 2),
    (XLOG_HASH_SQUEEZE_PAGE, 3),
    (XLOG_HASH_SQUEEZE_PAGE, 5),
    (XLOG_HASH_SQUEEZE_PAGE, 6),
    (XLOG_HASH_DELETE, 0),
    (XLOG_HASH_DELETE, 1),
    (XLOG_HASH_SPLIT_CLEANUP, 0),
    (XLOG_HASH_UPDATE_META_PAGE, 0),
    (XLOG_HASH_VACUUM_ONE_PAGE, 0),
    (XLOG_HASH_VACUUM_ONE_PAGE, 1),
];

/// Fails if the log contains too little to prove anything. `seen` counts, by manager, kind and block reference, the
/// pages that were changed and those that were compared; the pages that a split fills are images, which are restored.
pub fn require(seen: &BTreeMap<(u8, u8, u8), (usize, usize)>) -> Result<()> {
    let compared =
        |(info, block): &&(u8, u8)| seen.get(&(rmgr::HASH, *info, *block)).is_some_and(|counts| counts.1 > 0);
    let missing: Vec<_> = COMPARED.iter().filter(|reference| !compared(reference)).collect();
    ensure!(missing.is_empty(), "no hash records with these references: {missing:02x?}");
    ensure!(seen.contains_key(&(rmgr::HASH, XLOG_HASH_SPLIT_PAGE, 0)), "no page was filled by a split");
    Ok(())
}
