//! Types of records that neither the suite nor the other workloads reach. Expects `wal_level = logical`.

use crate::cluster::Cluster;
use anyhow::Result;

/// What administrators do, and what logical decoding needs.
const ADMINISTRATION: &str = "
select pg_create_restore_point('before the rest');
select pg_backup_start('copy', true); select pg_backup_stop(false);
select pg_switch_wal();
select pg_logical_emit_message(true, 'topic', 'a message');
select pg_replication_origin_advance('elsewhere', '0/BB');
select pg_replication_origin_drop('elsewhere');
create table decoded (id int primary key, x text);
select pg_create_logical_replication_slot('slot', 'test_decoding');
begin; alter table decoded add y int; insert into decoded values (1, 'a', 2); savepoint s;
alter table decoded add z int; update decoded set z = 3; release s; commit;
truncate decoded;
insert into decoded select i, repeat('d', 50) from generate_series(1, 500) i;
update decoded set x = 'e' where id % 2 = 0; delete from decoded where id % 3 = 0;
vacuum full pg_class; vacuum full decoded;
select pg_drop_replication_slot('slot');
";

/// An access method of an extension, whose records are ranges of bytes.
const GENERIC: &str = "
create extension if not exists bloom;
create table filtered (a int, b int, c text);
create index filtered_bloom on filtered using bloom (a, b) with (length = 80);
insert into filtered select i % 97, i % 31, 'row ' || i from generate_series(1, 6000) i;
delete from filtered where a < 40; vacuum filtered;
insert into filtered select i % 89, i % 37, 'row ' || i from generate_series(1, 3000) i;
";

/// Databases made and moved by copying their files, which no record shows the contents of.
const COPIES: &str = "
set allow_in_place_tablespaces = on;
create tablespace place location '';
create database duplicate template regression strategy file_copy;
alter database duplicate set tablespace place;
create database brief template template1 strategy file_copy; drop database brief;
";

/// Full-page writes in between, so that images are restored and redone upon.
const IMAGES: &str = "
alter system set full_page_writes = on; select pg_reload_conf(); select pg_sleep(0.2);
checkpoint;
create table imaged (id int primary key, point point, words text[], tag text);
create index imaged_gist on imaged using gist (point); create index imaged_gin on imaged using gin (words);
create index imaged_hash on imaged using hash (tag); create index imaged_spgist on imaged using spgist (tag);
create index imaged_brin on imaged using brin (id) with (pages_per_range = 2);
create sequence imaged_sequence;
insert into imaged select i, point(i, -i), array['w' || i % 50, 'v' || i % 9], 't' || i from generate_series(1, 3000) i;
checkpoint;
select nextval('imaged_sequence') from generate_series(1, 100);
update imaged set tag = tag || 'x', point = point(id, id) where id % 4 = 0;
delete from imaged where id between 500 and 1500;
checkpoint;
vacuum imaged;
insert into imaged select i, point(i, -i), array['w' || i % 70], 't' || i from generate_series(5000, 7000) i;
alter system set full_page_writes = off; select pg_reload_conf(); select pg_sleep(0.2);
checkpoint;
";

/// Each iteration is a subtransaction, so that each row's two lockers make a multixact that there was not before.
const LOCK_ROWS: &str = "
do $$ begin for i in 1..2500 loop
  begin perform 1 from shared_rows where id = i for key share; exception when others then raise; end;
end loop; end $$";

/// Enough transactions for a segment of commit timestamps.
const TRANSACTIONS: &str = "
create procedure spend(count int) language plpgsql as
  $$ begin for i in 1..count loop perform txid_current(); commit; end loop; end $$;
call spend(35000);
update pg_database set datallowconn = true;
";

/// Runs everything but [`freeze`].
pub fn run(cluster: &Cluster) -> Result<()> {
    [ADMINISTRATION, GENERIC, COPIES, IMAGES].iter().try_for_each(|script| cluster.script(script))
}

/// Makes transaction status that is truncated then. It comes before other workloads, whose visibility maps it would
/// fill.
pub fn freeze(cluster: &Cluster) -> Result<()> {
    multixacts(cluster)?;
    cluster.script(TRANSACTIONS)?;
    cluster.freeze_all()?;
    cluster.sql("checkpoint")
}

/// More multixacts than a page of their offsets holds.
fn multixacts(cluster: &Cluster) -> Result<()> {
    cluster.sql(
        "create table shared_rows (id int primary key); insert into shared_rows select generate_series(1, 2500)",
    )?;
    let mut sessions = [cluster.session()?, cluster.session()?];
    for session in &mut sessions {
        session.sql("begin")?;
        session.sql(LOCK_ROWS)?;
    }
    for mut session in sessions {
        session.sql("commit")?;
        session.close()?;
    }
    Ok(())
}
