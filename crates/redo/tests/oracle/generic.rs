//! Generic WAL, as the index access method of the extension `bloom` writes it, and what the log must then contain.

use crate::cluster::Cluster;
use anyhow::{Result, ensure};
use quire_wal::rmgr;
use std::collections::BTreeMap;

/// Only the index's pages are compared record by record here; the tables' files are compared in the end anyway.
const SESSION: &str = "
set wal_consistency_checking = 'generic';
";

/// Pages are built as a whole, changed by small steps, thinned out, emptied and used again.
const BLOOM: &str = "
create extension bloom;
create table flowered (id int, colour int, petals int);
insert into flowered select i, i % 17, i % 29 from generate_series(1, 2000) i;
create index flowered_all on flowered using bloom (id, colour, petals) with (length = 800);
insert into flowered select i, i % 17, i % 29 from generate_series(2001, 2800) i;
delete from flowered where id % 3 = 0;
vacuum flowered;
insert into flowered select i, 1, 2 from generate_series(3001, 3400) i;
delete from flowered where id > 500;
vacuum flowered;
insert into flowered select i, 3, 4 from generate_series(4001, 4600) i;
create unlogged table flowered_unlogged (id int);
create index flowered_unlogged_id on flowered_unlogged using bloom (id);
insert into flowered_unlogged select generate_series(1, 500);
";

/// Runs everything against a server with an empty database.
pub fn run(cluster: &Cluster) -> Result<()> {
    cluster.script(&format!("{SESSION}{BLOOM}"))
}

/// Fails if the log contains too little to prove anything. `seen` counts, by manager, kind and block reference, the
/// pages that were changed and those that were compared, which those logged as images are not.
pub fn require(seen: &BTreeMap<(u8, u8, u8), (usize, usize)>) -> Result<()> {
    for block in [0, 1] {
        let (pages, compared) = seen.get(&(rmgr::GENERIC, 0, block)).copied().unwrap_or_default();
        ensure!(0 < compared && compared < pages, "generic reference {block}: {compared} of {pages} compared");
    }
    Ok(())
}
