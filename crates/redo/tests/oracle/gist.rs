//! GiST indexes: what the server does to them, and what the log must then contain.

use crate::cluster::Cluster;
use crate::replay::Page;
use anyhow::{Result, ensure};
use quire_wal::Record;
use quire_wal::rmgr::{self, XLOG_GIST_DELETE, XLOG_GIST_PAGE_DELETE, XLOG_GIST_PAGE_SPLIT, XLOG_GIST_PAGE_UPDATE};
use std::collections::BTreeMap;

/// Only GiST's pages are compared record by record here; the tables' files are compared in the end anyway.
const SESSION: &str = "
set wal_consistency_checking = 'gist';
select setseed(0.25);
";

/// Geometric types: short keys, sorted and buffered builds, unlogged indexes, items that are deleted and come again.
const SHAPES: &str = "
create table places (id int, spot point, area box, disc circle) with (fillfactor = 90);
create index places_spot on places using gist (spot);
create index places_area on places using gist (area) include (id);
create index places_disc on places using gist (disc) with (fillfactor = 60);
insert into places select i, spot, box(spot, spot + point(i % 5, 1)), circle(spot, i % 9)
  from (select i, point(random() * 100, random() * 100) spot from generate_series(1, 2500) i) rows;
begin; update places set disc = circle(spot, 20) where id % 7 = 0; rollback;
delete from places where spot <@ box '((0,0),(50,60))';
vacuum places;
insert into places select i, spot, box(spot, point(50, 50)), null
  from (select i, point(random() * 60, random() * 60) spot from generate_series(1, 800) i) rows;
create extension btree_gist;
create index places_buffered on places using gist (spot, id) with (buffering = on);
create index places_sorted on places using gist (spot);
insert into places select i, point(i, i), box(point(i, i), point(i, i)), circle(point(i, i), 1) from generate_series(1, 200) i;
reindex index places_area;
create unlogged table passing_places (spot point);
create index passing_places_spot on passing_places using gist (spot);
insert into passing_places select spot from places limit 300;
";

/// Keys of which a page holds a handful, so that the tree grows deep, splits on all levels, loses whole pages and takes
/// them up again, which it may only after a later transaction.
const DEEP_TREE: &str = "
create type text_range as range (subtype = text, collation = \"C\");
create function filler(seed int, bytes int) returns text language sql immutable
  as $$ select left(string_agg(md5(seed::text || i), ''), bytes) from generate_series(1, 1 + bytes / 32) i $$;
create table spans (id int, span text_range);
create index spans_span on spans using gist (span);
insert into spans
  select i, text_range(lpad(i::text, 6, '0') || filler(i, 300 + i % 400), lpad(i::text, 6, '0') || 'x' || filler(-i, 300))
  from (select i from generate_series(1, 500) i order by i % 17, i) numbers;
delete from spans where id between 100 and 450;
vacuum spans;
select txid_current(); select txid_current();
vacuum spans;
insert into spans select i, text_range(md5(i::text) || filler(i, 100 + i % 500), null) from generate_series(1, 200) i;
create table articles (id int, words tsvector);
create index articles_words on articles using gist (words tsvector_ops (siglen = 400));
insert into articles
  select i, to_tsvector('simple', (select string_agg(md5((i * j % 97)::text), ' ') from generate_series(1, 1 + i % 120) j))
  from generate_series(1, 250) i;
delete from articles where id % 3 > 0;
vacuum articles;
";

/// Constraints that exclude each other's rows, and items found dead by scans before there is no room any more.
const EXCLUSION: &str = "
create table bookings (room int, during int4range, exclude using gist (room with =, during with &&));
insert into bookings select i % 10, int4range(i, i + 9) from generate_series(1, 1500) i;
insert into bookings select i % 10, int4range(i, i + 5) from generate_series(1000, 2000) i on conflict do nothing;
set enable_seqscan = off; set enable_bitmapscan = off;
delete from bookings where during && int4range(200, 1200);
select count(*) from bookings where during && int4range(0, 2000);
insert into bookings select i % 10, int4range(i, i + 3) from generate_series(200, 1200) i on conflict do nothing;
delete from bookings where room < 7;
select count(*) from bookings where during && int4range(0, 2000);
insert into bookings select i % 7, int4range(i, i + 3) from generate_series(1, 2000) i on conflict do nothing;
reset enable_seqscan; reset enable_bitmapscan;
vacuum bookings;
";

/// Several sessions that split the same pages.
const CONCURRENT: &str = "
\\set x random(1, 1000)
insert into places select :x, point(:x % 50 + i, :x % 40), box(point(:x, 1), point(1, i)), null
  from generate_series(1, 10) i;
delete from places where id = :x - 1;
insert into spans values (:x, text_range('5' || filler(:x, 500), null));
";

/// Runs everything against a server in which nothing of the kind exists.
pub fn run(cluster: &Cluster) -> Result<()> {
    for script in [SHAPES, DEEP_TREE, EXCLUSION] {
        cluster.script(&format!("{SESSION}{script}"))?;
    }
    cluster.pgbench(&["-c", "4", "-j", "2", "-t", "30"], Some(CONCURRENT))?;
    cluster.sql("vacuum places, spans")
}

/// Block references that must have been compared: with the kind of record, the number of the reference.
const COMPARED: &[(u8, u8)] = &[
    (XLOG_GIST_PAGE_UPDATE, 0),
    (XLOG_GIST_PAGE_UPDATE, 1),
    (XLOG_GIST_DELETE, 0),
    (XLOG_GIST_PAGE_SPLIT, 0),
    (XLOG_GIST_PAGE_SPLIT, 1),
    (XLOG_GIST_PAGE_SPLIT, 2),
    (XLOG_GIST_PAGE_SPLIT, 3),
    (XLOG_GIST_PAGE_DELETE, 0),
    (XLOG_GIST_PAGE_DELETE, 1),
];

/// What records do that their kind does not tell.
#[derive(Default)]
pub struct Variants {
    /// Records of a vacuum that took items off a page, of which minor releases redo one half so and the other
    /// otherwise.
    vacuums: usize,
}

impl Variants {
    /// Counts what a record does.
    pub fn observe(&mut self, record: &Record) {
        if (record.rmgr, record.info & 0xF0) == (rmgr::GIST, XLOG_GIST_PAGE_UPDATE) {
            let count = |at: usize| u16::from_le_bytes([record.main_data[at], record.main_data[at + 1]]);
            self.vacuums += usize::from(count(0) > 0 && count(2) == 0);
        }
    }

    /// Fails if the log had too few of them.
    pub fn require(&self) -> Result<()> {
        ensure!(self.vacuums >= 10, "only {} records of a vacuum", self.vacuums);
        Ok(())
    }
}

/// Fails if the log contains too little to prove anything. `seen` counts, by manager, kind and block reference, the
/// pages that were changed and those that were compared.
pub fn require(seen: &BTreeMap<(u8, u8, u8), (usize, usize)>) -> Result<()> {
    let compared =
        |(info, block): &&(u8, u8)| seen.get(&(rmgr::GIST, *info, *block)).is_some_and(|counts| counts.1 > 0);
    let missing: Vec<_> = COMPARED.iter().filter(|reference| !compared(reference)).collect();
    ensure!(missing.is_empty(), "no GiST records with these references: {missing:02x?}");
    Ok(())
}

/// The first byte that differs of the node sequence number or the follow-right mark. Images in records do not have them
/// right, so that the masks hide them, but in the end the files must.
pub fn split_state_difference(ours: &Page, file: &Page) -> Option<usize> {
    const NSN: std::ops::Range<usize> = 8176..8184;
    const FLAGS: usize = 8188;
    const FOLLOW_RIGHT: u8 = 1 << 3;
    let differs = |at: &usize| match *at {
        FLAGS => (ours[FLAGS] ^ file[FLAGS]) & FOLLOW_RIGHT != 0,
        at => ours[at] != file[at],
    };
    NSN.chain([FLAGS]).find(differs)
}
