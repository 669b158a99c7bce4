//! pgbench, and what must be true of its tables at any time.

use crate::processes::{is_alive, postgres_program};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio_postgres::Client;

/// Loads pgbench's tables.
pub fn fill(url: &str, scale: u32) {
    let mut pgbench = pgbench();
    let output = pgbench.args(["-i", "-q", "-s", &scale.to_string(), url]).output().expect("pgbench runs");
    assert!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts the TPC-B-like workload.
pub fn start(url: &str, clients: u32, seconds: u32) -> Load {
    let (clients, seconds) = (format!("-c{clients}"), format!("-T{seconds}"));
    let mut pgbench = pgbench();
    let child = pgbench.args(["-n", "-Mprepared", &clients, "-j2", &seconds, url]).spawn().expect("pgbench runs");
    Load { child }
}

/// Starts clients that each run `statement` `times` times. `file` is where pgbench reads it from.
pub fn start_script(url: &str, statement: &str, clients: u32, times: u32, file: &Path) -> Load {
    std::fs::write(file, format!("{statement};\n")).expect("script written");
    let mut pgbench = pgbench();
    pgbench.args(["-n", "-Mprepared", "-j2", &format!("-c{clients}"), &format!("-t{times}"), "-f"]).arg(file).arg(url);
    Load { child: pgbench.spawn().expect("pgbench runs") }
}

/// A running pgbench.
pub struct Load {
    child: Child,
}

impl Load {
    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        i32::try_from(self.child.id()).is_ok_and(|pid| !is_alive(pid))
    }

    /// Waits for its end, which must be a success without a failed transaction; how many it did.
    pub fn finish(self) -> u64 {
        let output = self.child.wait_with_output().expect("pgbench ends");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pgbench: {}\n{said}\n{errors}", output.status);
        assert!(said.contains("number of failed transactions: 0 "), "{said}\n{errors}");
        let count = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        count
            .and_then(|count| count.split('/').next()?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no count in:\n{said}"))
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end, whatever it is: its server was killed.
    pub fn give_up(mut self) {
        let _ = self.child.wait();
    }
}

fn pgbench() -> Command {
    let mut command = Command::new(postgres_program("pgbench"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The four sums that every transaction changes by the same amount.
pub async fn sums(client: &Client) -> [i64; 4] {
    let query = "SELECT (SELECT sum(abalance)::bigint FROM pgbench_accounts), (SELECT sum(bbalance)::bigint FROM pgbench_branches), \
        (SELECT sum(tbalance)::bigint FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0)::bigint FROM pgbench_history)";
    let row = client.query_one(query, &[]).await.expect("sums");
    [0, 1, 2, 3].map(|column| row.get(column))
}

/// Expects the four sums to agree.
pub async fn expect_sums_agree(client: &Client) {
    let sums = sums(client).await;
    assert!(sums.iter().all(|sum| *sum == sums[0]), "accounts, branches, tellers, history: {sums:?}");
}

/// Expects `amcheck` to find nothing in any index or table of the database.
pub async fn expect_amcheck_clean(client: &Client) {
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck").await.expect("amcheck is installed");
    let indexes = "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
        WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'";
    client.query(indexes, &[]).await.expect("every B-tree is sound");
    let tables = "SELECT c.relname::text, v.blkno::bigint, v.msg FROM pg_class c, LATERAL verify_heapam(c.oid) v \
        WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'";
    let found = client.query(tables, &[]).await.expect("every table can be examined");
    let describe = |row: &tokio_postgres::Row| {
        format!("{} {} {}", row.get::<_, String>(0), row.get::<_, i64>(1), row.get::<_, String>(2))
    };
    assert!(found.is_empty(), "{:?}", found.iter().map(describe).collect::<Vec<_>>());
}
