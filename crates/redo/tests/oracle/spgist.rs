//! SP-GiST indexes: what the server does to them, and what the log must then contain.

use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use quire_wal::{Record, rmgr};
use std::collections::BTreeMap;

/// Only SP-GiST's pages are compared record by record here; the tables' files are compared in the end anyway.
const SESSION: &str = "
set wal_consistency_checking = 'spgist';
select setseed(0.75);
";

/// Radix trees: prefixes that split, nodes that are added, nulls, chains that die and are begun again.
const WORDS: &str = "
create table terms (id int, word text);
create index terms_word on terms using spgist (word);
insert into terms select i, md5(i::text) || i from generate_series(1, 800) i;
insert into terms select i, repeat('common prefix ', i % 12) || chr(33 + i % 90) || chr(1000 + (i * 7919) % 3000) || i
  from generate_series(1, 1200) i;
insert into terms select i, left(repeat('long', 500), (i * 37) % 1500) || i from generate_series(1, 100) i;
insert into terms select i, null from generate_series(1, 600) i;
begin; insert into terms select i, 'never ' || i from generate_series(1, 50) i; rollback;
delete from terms where id % 3 > 0;
vacuum terms;
insert into terms select i, 'common' || substr('qwertyuiop', i % 10, 3) || md5((i % 50)::text)
  from generate_series(1, 800) i;
delete from terms where id % 5 > 1 or word is null;
vacuum terms; vacuum terms;
create index terms_included on terms using spgist (word) include (id);
insert into terms select i, case when i % 5 > 0 then md5(i::text) end from generate_series(1, 200) i;
";

/// Tuples so long that inner ones appear early and their pages fill up.
const DEEP_TREES: &str = "
create table stems (id int, word text);
create index stems_word on stems using spgist (word);
insert into stems select i, repeat('stem', 40) || md5(i::text) || repeat(md5((i * 3)::text), 8)
  from generate_series(1, 60) i;
insert into stems select i, left(repeat('stem', 40), i * 5) || 'other' || i from generate_series(1, 30) i;
insert into stems
  select i, chr(48 + (i * 7919) % 75) || chr(48 + (i * 104729) % 75) || chr(48 + (i * 31) % 75) || repeat(md5(i::text), 9)
  from generate_series(1, 2500) i;
delete from stems where substr(word, 2, 1) < 'K';
vacuum stems;
insert into stems select i, chr(48 + (i * 7919) % 75) || chr(76 + (i * 104729) % 46) || repeat(md5(i::text), 9)
  from generate_series(1, 1200) i;
insert into stems select i, chr(48 + (i * 7919) % 75) || chr(48 + (i * 104729) % 26) || repeat(md5(i::text), 20)
  from generate_series(1, 600) i;
create table revived (id int, word text);
create index revived_word on revived using spgist (word);
insert into revived select i, chr(47 + i) || repeat(md5(i::text), 3) from generate_series(1, 78) i;
delete from revived where id % 2 = 0;
vacuum revived;
insert into revived select i, chr(47 + i) || repeat(md5(i::text), 160) from generate_series(2, 20, 2) i;
create table tries (id int, word text);
create index tries_word on tries using spgist (word);
insert into tries select i, chr(65 + i % 3) || chr(65 + i % 4) || chr(48 + (i * 31) % (i / 40 + 2))
    || chr(48 + (i * 7919) % 75) || repeat(md5(i::text), 6)
  from generate_series(1, 2600) i;
vacuum tries;
insert into tries select i, chr(65 + i % 3) || chr(65 + i % 4) || chr(48 + (i * 37) % 75)
    || chr(48 + (i * 104729) % 75) || repeat(md5(i::text), 6)
  from generate_series(1, 2600) i;
";

/// Quad and k-d trees, boxes, ranges, networks; roots that are leaves; unlogged indexes.
const PLANES: &str = "
create table dots (id int, spot point);
create index dots_quad on dots using spgist (spot);
create index dots_kd on dots using spgist (spot kd_point_ops);
insert into dots select i, point((random() * 1000)::int, (random() * 1000)::int) from generate_series(1, 1500) i;
insert into dots select i, point(7, 7) from generate_series(1, 300) i;
delete from dots where spot <@ box '((100,100),(700,900))';
vacuum dots;
insert into dots select i, point(random() * 1000, random() * 1000) from generate_series(1, 600) i;
create table networks (id int, net inet);
create index networks_net on networks using spgist (net) include (id);
insert into networks select i, ('10.0.0.' || i)::inet from generate_series(1, 40) i;
insert into networks select i, null from generate_series(1, 20) i;
delete from networks where id % 4 = 0;
vacuum networks;
insert into networks
  select i, set_masklen(('10.' || i % 200 || '.' || i % 13 || '.' || i % 7)::inet, 16 + i % 17)
  from generate_series(1, 1000) i;
create table areas (id int, area box, during int4range);
create index areas_area on areas using spgist (area);
create index areas_during on areas using spgist (during);
insert into areas select i, box(point(i % 40, i % 31), point(i % 53, i % 7)), int4range(i % 300, i % 300 + i % 20)
  from generate_series(1, 700) i;
delete from areas where id between 200 and 600;
vacuum areas;
create unlogged table passing_dots (spot point);
create index passing_dots_spot on passing_dots using spgist (spot);
insert into passing_dots select spot from dots limit 300;
";

/// Several sessions that add to the same pages while redirections are still needed.
const CONCURRENT: &str = "
\\set x random(1, 1000)
insert into terms select :x, 'shared ' || chr(40 + :x % 80) || repeat(md5((i * :x)::text), 4) from generate_series(1, 10) i;
insert into dots select :x, point(:x + i, i) from generate_series(1, 10) i;
delete from terms where id = :x - 1;
";

/// Runs everything against a server in which nothing of the kind exists.
pub fn run(cluster: &Cluster) -> Result<()> {
    for script in [WORDS, DEEP_TREES, PLANES] {
        cluster.script(&format!("{SESSION}{script}"))?;
    }
    cluster.pgbench(&["-c", "4", "-j", "2", "-t", "30"], Some(CONCURRENT))?;
    cluster.sql("vacuum terms, dots")
}

/// Block references that must have been compared: with the kind of record, the number of the reference.
const COMPARED: &[(u8, u8)] = &[
    (rmgr::XLOG_SPGIST_ADD_LEAF, 0),
    (rmgr::XLOG_SPGIST_ADD_LEAF, 1),
    (rmgr::XLOG_SPGIST_MOVE_LEAFS, 0),
    (rmgr::XLOG_SPGIST_MOVE_LEAFS, 1),
    (rmgr::XLOG_SPGIST_MOVE_LEAFS, 2),
    (rmgr::XLOG_SPGIST_ADD_NODE, 0),
    (rmgr::XLOG_SPGIST_ADD_NODE, 1),
    (rmgr::XLOG_SPGIST_ADD_NODE, 2),
    (rmgr::XLOG_SPGIST_SPLIT_TUPLE, 0),
    (rmgr::XLOG_SPGIST_SPLIT_TUPLE, 1),
    (rmgr::XLOG_SPGIST_PICKSPLIT, 0),
    (rmgr::XLOG_SPGIST_PICKSPLIT, 1),
    (rmgr::XLOG_SPGIST_PICKSPLIT, 2),
    (rmgr::XLOG_SPGIST_PICKSPLIT, 3),
    (rmgr::XLOG_SPGIST_VACUUM_LEAF, 0),
    (rmgr::XLOG_SPGIST_VACUUM_ROOT, 0),
    (rmgr::XLOG_SPGIST_VACUUM_REDIRECT, 0),
];

/// What records did that are of the same kind but not redone alike.
const VARIANTS: &[&str] = &[
    "add leaf: behind a chain's head",
    "add leaf: in a dead tuple's stead",
    "add leaf: new page",
    "add node: in place",
    "add node: parent on a page of its own",
    "add node: parent on the old page",
    "move leaves: chain",
    "move leaves: dead tuple replaced",
    "move leaves: new page",
    "pick split: destination in use",
    "pick split: inner tuple on its parent's page",
    "pick split: nulls",
    "pick split: root",
    "split tuple: postfix on another page",
    "split tuple: postfix on the same page",
    "vacuum leaf: chains linked anew",
    "vacuum leaf: dead tuples",
    "vacuum leaf: placeholders",
    "vacuum leaf: tuples moved",
    "vacuum redirect: placeholders cut off",
    "vacuum redirect: redirections",
];

/// How often each variant occurred.
#[derive(Debug, Default)]
pub struct Variants(BTreeMap<&'static str, usize>);

impl Variants {
    /// Counts what a record does.
    pub fn observe(&mut self, record: &Record) {
        if record.rmgr != rmgr::SPGIST {
            return;
        }
        let variants = match record.info & 0xF0 {
            rmgr::XLOG_SPGIST_ADD_LEAF | rmgr::XLOG_SPGIST_MOVE_LEAFS => leaf_variants(record),
            rmgr::XLOG_SPGIST_ADD_NODE | rmgr::XLOG_SPGIST_SPLIT_TUPLE => inner_variants(record),
            rmgr::XLOG_SPGIST_PICKSPLIT => pick_split_variants(record),
            _ => vacuum_variants(record),
        };
        for (_, variant) in variants.into_iter().filter(|(occurs, _)| *occurs) {
            *self.0.entry(variant).or_default() += 1;
        }
    }

    /// Fails if the log contains too little to prove anything. `seen` counts, by manager, kind and block reference, the
    /// pages that were changed and those that were compared.
    pub fn require(&self, seen: &BTreeMap<(u8, u8, u8), (usize, usize)>) -> Result<()> {
        println!("SP-GiST: {:#?}", self.0);
        let compared =
            |(info, block): &&(u8, u8)| seen.get(&(rmgr::SPGIST, *info, *block)).is_some_and(|counts| counts.1 > 0);
        let missing: Vec<_> = COMPARED.iter().filter(|reference| !compared(reference)).collect();
        ensure!(missing.is_empty(), "no SP-GiST records with these references: {missing:02x?}");
        let missing: Vec<_> = VARIANTS.iter().filter(|variant| !self.0.contains_key(**variant)).collect();
        ensure!(missing.is_empty(), "SP-GiST records did not do this: {missing:?}");
        Ok(())
    }
}

/// Something that a record may do, and whether it does.
type Variant = (bool, &'static str);

/// A half-word of the record's main data.
fn word(record: &Record, at: usize) -> u16 {
    u16::from_le_bytes([record.main_data[at], record.main_data[at + 1]])
}

fn leaf_variants(record: &Record) -> Vec<Variant> {
    let main = &record.main_data;
    match record.info & 0xF0 {
        rmgr::XLOG_SPGIST_ADD_LEAF => {
            let (offset, head) = (word(record, 2), word(record, 4));
            vec![
                (offset != head && head != 0, "add leaf: behind a chain's head"),
                (offset == head, "add leaf: in a dead tuple's stead"),
                (main[0] != 0, "add leaf: new page"),
            ]
        }
        _ => vec![
            (main[3] == 0, "move leaves: chain"),
            (main[3] != 0, "move leaves: dead tuple replaced"),
            (main[2] != 0, "move leaves: new page"),
        ],
    }
}

fn inner_variants(record: &Record) -> Vec<Variant> {
    let (other, is_moved) = (record.main_data[5], record.block(1).is_some());
    match record.info & 0xF0 {
        rmgr::XLOG_SPGIST_ADD_NODE => vec![
            (!is_moved, "add node: in place"),
            (is_moved && other == 0, "add node: parent on the old page"),
            (is_moved && other == 1, "add node: parent on the new page"),
            (is_moved && other == 2, "add node: parent on a page of its own"),
        ],
        _ => vec![
            (other == 0, "split tuple: postfix on another page"),
            (other != 0, "split tuple: postfix on the same page"),
        ],
    }
}

fn pick_split_variants(record: &Record) -> Vec<Variant> {
    let main = &record.main_data;
    vec![
        (main[0] != 0, "pick split: root"),
        (main[6] != 0, "pick split: new source page"),
        (record.block(1).is_some() && main[7] == 0, "pick split: destination in use"),
        (main[11] != 0, "pick split: nulls"),
        (main[12] != 0, "pick split: inner tuple on its parent's page"),
    ]
}

fn vacuum_variants(record: &Record) -> Vec<Variant> {
    match record.info & 0xF0 {
        rmgr::XLOG_SPGIST_VACUUM_LEAF => vec![
            (word(record, 0) > 0, "vacuum leaf: dead tuples"),
            (word(record, 2) > 0, "vacuum leaf: placeholders"),
            (word(record, 4) > 0, "vacuum leaf: tuples moved"),
            (word(record, 6) > 0, "vacuum leaf: chains linked anew"),
        ],
        rmgr::XLOG_SPGIST_VACUUM_REDIRECT => vec![
            (word(record, 0) > 0, "vacuum redirect: redirections"),
            (word(record, 2) > 0, "vacuum redirect: placeholders cut off"),
        ],
        _ => vec![],
    }
}
