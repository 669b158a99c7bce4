//! What the server is made to do: every kind of record of heaps, B-trees and sequences, in a few tens of seconds.

use crate::cluster::Cluster;
use anyhow::Result;

/// What a server needs on which the workloads run: all of its log is kept, and it does nothing by itself.
pub const SETTINGS: &str = "
full_page_writes = off
track_commit_timestamp = on
max_prepared_transactions = 5
autovacuum = off
fsync = off
shared_buffers = 64MB
wal_keep_size = 8GB
max_wal_size = 8GB
checkpoint_timeout = 1h
";

/// Rows inserted, updated, deleted, pruned, frozen, copied, toasted, moved between partitions.
const HEAP: &str = "
create table plain (id int primary key, counter int, note text) with (fillfactor = 80);
insert into plain select i, 0, 'note ' || i from generate_series(1, 3000) i;
update plain set counter = counter + 1 where id % 3 = 0;
update plain set note = note || repeat('x', 40) where id % 5 = 0;
update plain set counter = counter + 1 where id % 3 = 0;
delete from plain where id % 7 = 0;
begin; update plain set counter = -1 where id < 100; delete from plain where id between 200 and 250; rollback;
begin; insert into plain values (9001, 1, 'a'); savepoint a; insert into plain values (9002, 2, 'b');
rollback to a; insert into plain values (9003, 3, 'c'); savepoint b; update plain set counter = 4 where id = 9001;
release b; commit;
vacuum plain;
update plain set counter = counter + 1 where id % 11 = 0;
insert into plain select i, 0, 'again' from generate_series(10000, 10500) i;
vacuum (freeze, analyze) plain;
begin; select count(*) from (select * from plain where id < 40 for update) locked; commit;
begin; select count(*) from (select * from plain where id between 40 and 80 for share) locked; commit;
update plain set note = null where id between 100 and 300;
delete from plain where id > 2000;
vacuum plain;
create table wide (id int, body text);
alter table wide alter body set storage external;
insert into wide select i, (select string_agg(md5(i::text || j), '') from generate_series(1, 200) j)
  from generate_series(1, 40) i;
update wide set body = body || 'more' where id % 2 = 0;
delete from wide where id % 3 = 0;
vacuum wide;
create table copied (id int, filler text default repeat('c', 30));
copy copied (id) from program 'seq 1 4000';
vacuum copied;
copy copied (id) from program 'seq 4001 4100';
delete from copied where id % 2 = 0;
vacuum copied;
copy copied (id) from program 'seq 5001 6500';
begin; truncate copied; copy copied (id) from program 'seq 1 2000' with (freeze); commit;
update copied set filler = 'short' where id between 500 and 700;
create table parted (id int, part int) partition by list (part);
create table parted_1 partition of parted for values in (1);
create table parted_2 partition of parted for values in (2);
insert into parted select i, 1 from generate_series(1, 300) i;
update parted set part = 2 where id % 3 = 0;
vacuum parted;
create unlogged table forgotten (id int primary key);
insert into forgotten select generate_series(1, 500);
create temp table passing (id int); insert into passing select generate_series(1, 500);
create table upserts (id int primary key, times int default 1);
insert into upserts select generate_series(1, 300) on conflict do nothing;
insert into upserts select generate_series(200, 500) on conflict (id) do update set times = upserts.times + 1;
create table shrunk (id int, filler text default repeat('s', 200));
insert into shrunk select generate_series(1, 6000);
vacuum shrunk;
delete from shrunk where id > 1000;
vacuum shrunk;
select pg_replication_origin_create('elsewhere');
select pg_replication_origin_session_setup('elsewhere');
begin; insert into upserts values (666666);
select pg_replication_origin_xact_setup('0/AA', '2020-01-02 03:04:05+00'); commit;
select pg_replication_origin_session_reset();
begin; insert into upserts values (777777); prepare transaction 'later'; commit prepared 'later';
begin; insert into upserts values (888888); savepoint s; insert into upserts values (888889); prepare transaction 'never';
rollback prepared 'never';
";

/// Splits in all places, deduplication, deletion of items and pages, deep trees that become thin.
const BTREE: &str = "
create table keyed (id int, random_key int, duplicate int, long_key text);
create index keyed_id on keyed (id);
create index keyed_random on keyed (random_key);
create index keyed_duplicate on keyed (duplicate);
select setseed(0.5);
insert into keyed select i, (random() * 1000000)::int, i % 20, null from generate_series(1, 12000) i;
insert into keyed select -i, (random() * 1000000)::int, (random() * 20)::int, null from generate_series(1, 3000) i;
delete from keyed where random_key % 3 = 0;
vacuum keyed;
insert into keyed select i, (random() * 1000000)::int, (random() * 20)::int, null from generate_series(1, 5000) i;
delete from keyed where id between 2000 and 11000;
vacuum keyed;
vacuum keyed;
insert into keyed select i, i, 3, null from generate_series(20000, 26000) i;
create table churned (id int primary key, version int, tag int, pad text default repeat('p', 30));
create index churned_version on churned (version);
create index churned_tag on churned (tag);
insert into churned select i, 0, i % 5 from generate_series(1, 1200) i;
update churned set version = version + 1; update churned set version = version + 1;
update churned set version = version + 1; update churned set version = version + 1;
update churned set version = version + 1; update churned set version = version + 1;
set enable_seqscan = off; set enable_bitmapscan = off;
delete from churned where id between 300 and 900;
select count(*) from churned where id between 1 and 1200;
select count(*) from churned where tag = 3;
insert into churned select i, 1, i % 5 from generate_series(300, 900) i;
reset enable_seqscan; reset enable_bitmapscan;
create table deep (key text primary key);
insert into deep select md5(i::text) || repeat(md5(i::text || 'a') || md5(i::text || 'b'), 6) from generate_series(1, 6000) i;
create table thin (id int, key text);
create index thin_key on thin (key);
insert into thin
  select i, lpad(i::text, 8, '0') || string_agg(md5(i::text || j), '') from generate_series(1, 4000) i, generate_series(1, 14) j
  group by i order by i;
delete from thin where id between 100 and 2900;
vacuum thin; vacuum thin;
delete from thin where id < 3990;
vacuum thin; vacuum thin;
insert into thin
  select i, lpad(i::text, 8, '0') || string_agg(md5(i::text || j), '') from generate_series(3000, 3400) i, generate_series(1, 14) j
  group by i order by i;
delete from deep where key < '8';
vacuum deep;
begin; create index keyed_two on keyed (duplicate, random_key); commit;
reindex index keyed_random;
cluster keyed using keyed_id;
vacuum full deep;
";

/// Values taken, set, restarted.
const SEQUENCES: &str = "
create sequence counter_a; create sequence counter_b increment 7 cache 5;
select nextval('counter_a') from generate_series(1, 200);
select nextval('counter_b') from generate_series(1, 100);
select setval('counter_a', 5000); select setval('counter_b', 9, false);
alter sequence counter_a restart with 3; select nextval('counter_a');
create table numbered (id serial, x int);
insert into numbered (x) select generate_series(1, 300);
truncate numbered restart identity;
drop sequence counter_b;
";

/// Several sessions at once, so that speculative insertions collide and posting lists are hit in their middle.
const CONCURRENT: &str = "
\\set id random(1, 60)
\\set tag random(1, 6)
insert into contested (id, tag) values (:id, :tag) on conflict (id) do update set times = contested.times + 1;
delete from contested where id = :id + 7;
begin;
select * from contested where id = :id for key share;
update contested set tag = :tag where id = :id;
savepoint s;
update contested set times = 0 where id = :id;
rollback to s;
end;
";

/// Runs everything against a server with an empty database.
pub fn run(cluster: &Cluster) -> Result<()> {
    cluster.script(HEAP)?;
    cluster.script(BTREE)?;
    cluster.script(SEQUENCES)?;
    row_locks(cluster)?;
    cluster.sql(
        "create table contested (id int primary key, tag int, times int default 1);
         create index contested_tag on contested (tag)",
    )?;
    cluster.pgbench(&["-c", "4", "-j", "2", "-t", "250"], Some(CONCURRENT))?;
    cluster.sql("vacuum (freeze) contested")?;
    cluster.pgbench(&["-i", "-s", "1", "-q"], None)?;
    cluster.pgbench(&["-c", "4", "-j", "2", "-t", "200"], None)?;
    cluster.sql("vacuum (freeze, analyze)")?;
    cluster.sql("checkpoint")
}

/// Rows locked by several transactions at once, and rows locked while they are being updated.
fn row_locks(cluster: &Cluster) -> Result<()> {
    cluster.sql("create table locked (id int primary key, x int); insert into locked select i, 0 from generate_series(1, 400) i")?;
    let mut sessions = [cluster.session()?, cluster.session()?, cluster.session()?];
    for session in &mut sessions {
        session.sql("begin")?;
        session.sql("select count(*) from (select * from locked where id between 1 and 150 for share) rows")?;
        session.sql("select count(*) from (select * from locked where id between 150 and 300 for key share) rows")?;
    }
    let [first, second, third] = &mut sessions;
    first.sql("update locked set x = 1 where id between 160 and 220")?;
    second.sql("select count(*) from (select * from locked where id between 160 and 200 for key share) rows")?;
    third.sql("savepoint s")?;
    third.sql("select count(*) from (select * from locked where id between 190 and 230 for key share) rows")?;
    third.sql("rollback to s")?;
    first.sql("commit")?;
    second.sql("rollback")?;
    third.sql("commit")?;
    sessions.into_iter().try_for_each(|session| session.close())?;
    cluster.sql("delete from locked where id < 40")?;
    cluster.sql("vacuum (freeze) locked")?;
    cluster.sql("begin; select count(*) from (select * from locked for no key update) rows; commit")
}
