//! GIN indexes: what the server does to them, and what the log must then contain.

use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use quire_wal::{Record, rmgr};
use std::collections::BTreeMap;

/// Only GIN's pages are compared record by record here: the tables below are many cheap rows, which the other workloads
/// compare enough of, and whose files are compared in the end anyway.
const SESSION: &str = "
set wal_consistency_checking = 'gin';
select setseed(0.25);
";

/// Frequent keys, whose posting trees are built, filled up at the end and in the middle, thinned out and emptied.
const POSTING_TREES: &str = "
create table tagged (id int, tags int[] generated always as (
  case when id % 4 = 1 then array[id % 7] else array[-1, -2, -3, -4, -5, id % 300] end) stored);
copy tagged (id) from program 'seq 1 60000';
create index tagged_direct on tagged using gin (tags) with (fastupdate = off);
create index tagged_late on tagged using gin (tags) with (fastupdate = on, gin_pending_list_limit = 100000);
insert into tagged select i from generate_series(60002, 60400) i;
delete from tagged where id % 4 = 1 and id < 30000;
vacuum tagged;
copy tagged (id) from program 'seq 100002 4 101000';
drop index tagged_direct;
copy tagged (id) from program 'seq 110002 4 132000';
select gin_clean_pending_list('tagged_late');
delete from tagged where id between 3000 and 25000 and id % 64 <> 0;
vacuum tagged;
copy tagged (id) from program 'seq 140002 4 148000';
vacuum tagged;
delete from tagged where id < 58000;
vacuum tagged; vacuum tagged;
begin; insert into tagged values (-1); commit;
copy tagged (id) from program 'seq 160002 4 176000';
vacuum tagged;
delete from tagged;
vacuum tagged;
create table batched (id int, tags int[] generated always as (array[1, 2, 3, 4, 5, id % 3 + 6]) stored);
create index batched_tags on batched using gin (tags) with (gin_pending_list_limit = 100000);
copy batched (id) from program 'seq 1 4000';
select gin_clean_pending_list('batched_tags');
create table growing (id int, tags int[] generated always as (array[1, id % 3 + 2]) stored) with (fillfactor = 10);
create index growing_tags on growing using gin (tags) with (fastupdate = off);
insert into growing select i from generate_series(1, 2500) i;
delete from growing where id % 50 <> 0;
vacuum growing;
insert into growing select i from generate_series(3000, 3300) i;
";

/// Long keys, of which three fit a page, so that the entry tree grows deep.
const DEEP_ENTRY_TREE: &str = "
create table long_keys (id int, keys text[]);
create index long_keys_keys on long_keys using gin (keys) with (fastupdate = off);
insert into long_keys
  select i, array[(select string_agg(md5(i::text || j), '') from generate_series(1, 75) j), 'short ' || i % 7]
  from generate_series(1, 120) i;
delete from long_keys where id % 3 = 0;
vacuum long_keys;
insert into long_keys select i, array['short ' || i % 9] from generate_series(200, 400) i;
";

/// Documents, with keys of several columns, without keys, with more keys than fit a page.
const DOCUMENTS: &str = "
create function words(seed int) returns text language sql immutable as
  $$select string_agg('word' || (seed % 1009 * j * 7919 % 1500), ' ') from generate_series(1, 6 + seed % 9) j$$;
create table documents (id int, body tsvector, attributes jsonb, numbers int[]);
create index documents_body on documents using gin (body) with (gin_pending_list_limit = 64);
create index documents_attributes on documents using gin (attributes) with (fastupdate = off);
create index documents_paths on documents using gin (attributes jsonb_path_ops);
create index documents_all on documents using gin (numbers, body, attributes);
insert into documents
  select i, to_tsvector('simple', words(i)),
    jsonb_build_object('n', i % 50, 'name', md5(i::text), 'list', jsonb_build_array(i % 3, null, true)),
    case i % 5 when 0 then null when 1 then '{}' else array[i, null, i % 4] end
  from generate_series(1, 400) i;
insert into documents select 1000 + i, null, null, (select array_agg(j * i) from generate_series(1, 3000) j)
  from generate_series(1, 3) i;
update documents set body = to_tsvector('simple', words(id + 1)) where id % 4 = 0;
begin; insert into documents select i, to_tsvector('simple', words(i)), '{\"a\": 1}', '{7}'
  from generate_series(2000, 2040) i; rollback;
select gin_clean_pending_list('documents_all');
delete from documents where id % 3 = 0;
vacuum documents;
set gin_pending_list_limit = '64kB';
insert into documents select i, to_tsvector('simple', words(i)), jsonb_build_object('n', i), array[i]
  from generate_series(3000, 3150) i;
alter index documents_paths set (fastupdate = off);
insert into documents select i, to_tsvector('simple', words(i)), jsonb_build_object('n', i), array[i]
  from generate_series(4000, 4040) i;
vacuum documents;
reindex index documents_body;
create unlogged table unlogged_documents (body tsvector);
create index unlogged_documents_body on unlogged_documents using gin (body);
insert into unlogged_documents select body from documents limit 100;
";

/// Several sessions that put rows on the pending list and into the trees while others clean up.
const CONCURRENT: &str = "
\\set id random(1, 100000)
insert into documents values (:id, to_tsvector('simple', words(:id)), null, array[:id % 10, :id % 1000]);
delete from documents where id = :id - 1;
select gin_clean_pending_list('documents_all') where :id % 20 = 0;
";

/// Runs everything against a server in which nothing of the kind exists.
pub fn run(cluster: &Cluster) -> Result<()> {
    for script in [POSTING_TREES, DEEP_ENTRY_TREE, DOCUMENTS] {
        cluster.script(&format!("{SESSION}{script}"))?;
    }
    cluster.pgbench(&["-c", "4", "-j", "2", "-t", "25"], Some(CONCURRENT))
}

/// Block references that must have been compared: with the kind of record, the number of the reference.
const COMPARED: &[(u8, u8)] = &[
    (rmgr::XLOG_GIN_CREATE_PTREE, 0),
    (rmgr::XLOG_GIN_INSERT, 0),
    (rmgr::XLOG_GIN_INSERT, 1),
    (rmgr::XLOG_GIN_SPLIT, 3),
    (rmgr::XLOG_GIN_VACUUM_DATA_LEAF_PAGE, 0),
    (rmgr::XLOG_GIN_DELETE_PAGE, 0),
    (rmgr::XLOG_GIN_DELETE_PAGE, 1),
    (rmgr::XLOG_GIN_DELETE_PAGE, 2),
    (rmgr::XLOG_GIN_UPDATE_META_PAGE, 0),
    (rmgr::XLOG_GIN_UPDATE_META_PAGE, 1),
    (rmgr::XLOG_GIN_INSERT_LISTPAGE, 0),
    (rmgr::XLOG_GIN_DELETE_LISTPAGE, 0),
    (rmgr::XLOG_GIN_DELETE_LISTPAGE, 1),
    (rmgr::XLOG_GIN_DELETE_LISTPAGE, 16),
];

/// Block references that must have been restored.
const RESTORED: &[(u8, u8)] =
    &[(rmgr::XLOG_GIN_SPLIT, 0), (rmgr::XLOG_GIN_SPLIT, 1), (rmgr::XLOG_GIN_SPLIT, 2), (rmgr::XLOG_GIN_VACUUM_PAGE, 0)];

/// What records did that are of the same kind but not redone alike.
const VARIANTS: &[&str] = &[
    "insert: new entry",
    "insert: entry replaced",
    "insert: downlink in the entry tree",
    "insert: downlink in a posting tree",
    "insert: segment deleted",
    "insert: segment inserted",
    "insert: segment replaced",
    "insert: segment extended",
    "vacuum: segment deleted",
    "vacuum: segment replaced",
    "meta page: tuples put on the tail",
    "meta page: sublist appended",
    "meta page: alone",
    "list page: row continues",
    "list page: row ends",
];

/// How often each variant occurred.
#[derive(Debug, Default)]
pub struct Variants(BTreeMap<String, usize>);

impl Variants {
    /// Counts what a record does.
    pub fn observe(&mut self, record: &Record) {
        if record.rmgr != rmgr::GIN {
            return;
        }
        let main = &record.main_data;
        let data = record.block(0).map_or(&[][..], |block| &block.data);
        match record.info & 0xF0 {
            rmgr::XLOG_GIN_INSERT => self.insertion(main[0], data),
            rmgr::XLOG_GIN_VACUUM_DATA_LEAF_PAGE => self.segments("vacuum", data),
            rmgr::XLOG_GIN_UPDATE_META_PAGE => match (record.block(1).is_some(), main[80..84] != [0; 4]) {
                (true, true) => self.count("meta page: tuples put on the tail"),
                (true, false) => self.count("meta page: sublist appended"),
                _ => self.count("meta page: alone"),
            },
            rmgr::XLOG_GIN_INSERT_LISTPAGE if main[..4] == [0xFF; 4] => self.count("list page: row ends"),
            rmgr::XLOG_GIN_INSERT_LISTPAGE => self.count("list page: row continues"),
            _ => {}
        }
    }

    fn count(&mut self, variant: &str) {
        *self.0.entry(variant.to_owned()).or_default() += 1;
    }

    fn insertion(&mut self, flags: u8, data: &[u8]) {
        match flags & 3 {
            0 => self.count("insert: downlink in the entry tree"),
            1 => self.count("insert: downlink in a posting tree"),
            2 if data[2] == 0 => self.count("insert: new entry"),
            2 => self.count("insert: entry replaced"),
            _ => self.segments("insert", data),
        }
    }

    fn segments(&mut self, what: &str, data: &[u8]) {
        let word = |at: usize| usize::from(u16::from_le_bytes([data[at], data[at + 1]]));
        let mut at = 2;
        for _ in 0..word(0) {
            let (done, bytes) = match data[at + 1] {
                1 => ("deleted", 0),
                2 => ("inserted", 8 + word(at + 8).next_multiple_of(2)),
                3 => ("replaced", 8 + word(at + 8).next_multiple_of(2)),
                _ => ("extended", 2 + 6 * word(at + 2)),
            };
            self.count(&format!("{what}: segment {done}"));
            at += 2 + bytes;
        }
    }

    /// Fails if the log contains too little to prove anything. `seen` counts, by manager, kind and block reference, the
    /// pages that were changed and those that were compared.
    pub fn require(&self, seen: &BTreeMap<(u8, u8, u8), (usize, usize)>) -> Result<()> {
        println!("GIN: {:#?}", self.0);
        let counts = |(info, block): &(u8, u8)| seen.get(&(rmgr::GIN, *info, *block)).copied().unwrap_or_default();
        let compared = COMPARED.iter().filter(|reference| counts(reference).1 == 0);
        let missing: Vec<_> = compared.chain(RESTORED.iter().filter(|reference| counts(reference).0 == 0)).collect();
        ensure!(missing.is_empty(), "no GIN records with these references: {missing:02x?}");
        let missing: Vec<_> = VARIANTS.iter().filter(|variant| !self.0.contains_key(**variant)).collect();
        ensure!(missing.is_empty(), "GIN records did not do this: {missing:?}");
        Ok(())
    }
}
