//! `amcheck` over everything that a server has.

use crate::Quire;
use std::fmt;
use tokio_postgres::{Client, Row};

/// What was examined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Examined {
    /// Databases that can be connected to.
    pub databases: usize,
    /// B-trees, each against its table and level against level.
    pub indexes: usize,
    /// Tables.
    pub tables: usize,
}

impl fmt::Display for Examined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B-trees and {} tables in {} databases", self.indexes, self.tables, self.databases)
    }
}

/// Expects `amcheck` to find nothing in any B-tree or table of any database.
pub async fn expect_clean_everywhere(quire: &Quire) -> Examined {
    let query = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1";
    let databases = quire.connect().await.query(query, &[]).await.expect("databases are listed");
    let mut examined = Examined { databases: databases.len(), ..Examined::default() };
    for name in databases.iter().map(|row| row.get::<_, String>(0)) {
        let client = quire.connect_to(&name).await;
        client.batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck").await.expect("amcheck is installed");
        examined.indexes += check_indexes(&client, &name).await;
        examined.tables += check_tables(&client, &name).await;
    }
    examined
}

/// An index that was never finished is none. PostgreSQL does not use it either.
async fn check_indexes(client: &Client, database: &str) -> usize {
    let indexes = "SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
        JOIN pg_index i ON i.indexrelid = c.oid WHERE a.amname = 'btree' AND c.relkind = 'i' \
        AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid";
    let indexes = client.query(indexes, &[]).await.expect("indexes are listed");
    for index in &indexes {
        let (oid, name): (u32, String) = (index.get(0), index.get(1));
        let checked = client.execute("SELECT bt_index_parent_check($1::oid, true)", &[&oid]).await;
        checked.unwrap_or_else(|error| panic!("index {name} of {database}: {error:?}"));
    }
    indexes.len()
}

async fn check_tables(client: &Client, database: &str) -> usize {
    let tables = "SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
        WHERE a.amname = 'heap' AND c.relkind IN ('r', 't', 'm') AND c.relpersistence <> 't'";
    let tables = client.query(tables, &[]).await.expect("tables are listed");
    for table in &tables {
        let (oid, name): (u32, String) = (table.get(0), table.get(1));
        let query = "SELECT blkno::bigint, msg FROM verify_heapam($1::oid)";
        let found = client.query(query, &[&oid]).await;
        let found = found.unwrap_or_else(|error| panic!("table {name} of {database}: {error:?}"));
        let describe = |row: &Row| format!("{} {}", row.get::<_, i64>(0), row.get::<_, String>(1));
        assert!(found.is_empty(), "table {name} of {database}: {:?}", found.iter().map(describe).collect::<Vec<_>>());
    }
    tables.len()
}
