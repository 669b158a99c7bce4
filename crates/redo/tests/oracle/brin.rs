//! BRIN indexes: what the server does to them, and what the log must then contain.

use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use quire_wal::rmgr::{self, *};
use std::collections::BTreeMap;

/// Only the index's pages are compared record by record here; the tables' files are compared in the end anyway.
const SESSION: &str = "
set wal_consistency_checking = 'brin';
";

/// A table of many pages with a row each, and ranges of one page, so that the range map needs a second page where there
/// are summaries, which have to move. Then summaries grow, within their page and out of it, are removed and made anew.
/// In the end a page loses all its summaries, the last one first, so that no line pointers are left.
const SUMMARIES: &str = "
create table ranged (id int, name text, filler text default repeat('f', 900)) with (fillfactor = 10);
create index ranged_name on ranged using brin (id, name) with (pages_per_range = 1);
insert into ranged select i, 'name ' || i from generate_series(1, 1600) i;
vacuum ranged;
update ranged set name = name || ' is somewhat longer now' where id % 4 = 0;
update ranged set name = repeat(md5(id::text), 12) where id % 16 = 1;
select brin_desummarize_range('ranged_name', block) from generate_series(0, 1599, 3) block;
select brin_summarize_range('ranged_name', block) from generate_series(0, 1599, 6) block;
vacuum ranged;
create index ranged_late on ranged using brin (id, name) with (pages_per_range = 1);
create index ranged_wide on ranged using brin (id) with (pages_per_range = 16);
create index ranged_multi on ranged using brin (id int4_minmax_multi_ops) with (pages_per_range = 64);
insert into ranged select i, 'name ' || i from generate_series(1601, 1700) i;
select brin_summarize_new_values('ranged_wide'), brin_summarize_new_values('ranged_multi');
select brin_desummarize_range('ranged_wide', block) from generate_series(2000, 0, -16) block;
delete from ranged where id > 1000;
vacuum ranged;
create unlogged table ranged_unlogged (id int);
create index ranged_unlogged_id on ranged_unlogged using brin (id);
insert into ranged_unlogged select generate_series(1, 500);
";

/// Runs everything against a server with an empty database.
pub fn run(cluster: &Cluster) -> Result<()> {
    cluster.script(&format!("{SESSION}{SUMMARIES}"))
}

/// Block references that must have been compared: with the kind of record, the number of the reference.
const COMPARED: &[(u8, u8)] = &[
    (XLOG_BRIN_CREATE_INDEX, 0),
    (XLOG_BRIN_INSERT, 0),
    (XLOG_BRIN_INSERT, 1),
    (XLOG_BRIN_INSERT | XLOG_BRIN_INIT_PAGE, 0),
    (XLOG_BRIN_INSERT | XLOG_BRIN_INIT_PAGE, 1),
    (XLOG_BRIN_UPDATE, 0),
    (XLOG_BRIN_UPDATE, 1),
    (XLOG_BRIN_UPDATE, 2),
    (XLOG_BRIN_UPDATE | XLOG_BRIN_INIT_PAGE, 0),
    (XLOG_BRIN_UPDATE | XLOG_BRIN_INIT_PAGE, 1),
    (XLOG_BRIN_UPDATE | XLOG_BRIN_INIT_PAGE, 2),
    (XLOG_BRIN_SAMEPAGE_UPDATE, 0),
    (XLOG_BRIN_REVMAP_EXTEND, 0),
    (XLOG_BRIN_REVMAP_EXTEND, 1),
    (XLOG_BRIN_DESUMMARIZE, 0),
    (XLOG_BRIN_DESUMMARIZE, 1),
];

/// Fails if the log contains too little to prove anything. `seen` counts, by manager, kind and block reference, the
/// pages that were changed and those that were compared.
pub fn require(seen: &BTreeMap<(u8, u8, u8), (usize, usize)>) -> Result<()> {
    let compared =
        |(info, block): &&(u8, u8)| seen.get(&(rmgr::BRIN, *info, *block)).is_some_and(|counts| counts.1 > 0);
    let missing: Vec<_> = COMPARED.iter().filter(|reference| !compared(reference)).collect();
    ensure!(missing.is_empty(), "no BRIN records with these references: {missing:02x?}");
    Ok(())
}
