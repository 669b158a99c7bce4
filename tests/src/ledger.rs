//! A record of what a server has acknowledged, kept by its clients.
//!
//! Each client inserts numbers that nobody else inserts and notes a number once its commit was acknowledged. Whatever
//! happens to the server: a noted number must be there, and none may be there twice.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// How long a client waits before it tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Numbers handed out and numbers acknowledged, over all lives of the server.
#[derive(Clone, Default)]
pub struct Ledger {
    next: Arc<AtomicI64>,
    acknowledged: Arc<Mutex<HashSet<i64>>>,
}

/// Clients at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Ledger {
    /// Creates the table.
    pub async fn create_table(client: &Client) {
        // Without a unique index on purpose: a number that is there twice must be seen and not refused. A second,
        // indexed, column makes for page splits.
        let table = "CREATE TABLE ledger (id bigint NOT NULL, filler text NOT NULL); CREATE INDEX ON ledger (id); \
            CREATE INDEX ON ledger (filler)";
        client.batch_execute(table).await.expect("table created");
    }

    /// Starts clients that insert until they are stopped; when their server is gone they connect again.
    pub fn start_clients(&self, url: &str, count: usize) -> Clients {
        self.start_clients_of(url, count, insertion)
    }

    /// The same with another transaction, made of the number that it commits.
    pub fn start_clients_of(&self, url: &str, count: usize, transaction: fn(i64) -> String) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(work_until(self.clone(), url.to_owned(), transaction, stop.clone()));
        }
        Clients { stop, tasks }
    }

    /// How many numbers were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("no client panicked").len()
    }

    /// Expects every acknowledged number to be there exactly once, and no other number twice.
    pub async fn expect_kept(&self, client: &Client) {
        self.expect_kept_in(client, "ledger").await;
    }

    /// The same of the column `id` of another table.
    pub async fn expect_kept_in(&self, client: &Client, table: &str) {
        // A sequential scan: the index must not decide what is there.
        let query = &format!("SELECT id, count(*) FROM {table} GROUP BY id");
        client
            .batch_execute("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
            .await
            .expect("set");
        let rows = client.query(query, &[]).await.expect("ledger is readable");
        let twice: Vec<i64> = rows.iter().filter(|row| row.get::<_, i64>(1) != 1).map(|row| row.get(0)).collect();
        assert!(twice.is_empty(), "there more than once: {twice:?}");
        let found: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let acknowledged = self.acknowledged.lock().expect("no client panicked");
        let lost: Vec<&i64> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {} of {}: {lost:?}", lost.len(), acknowledged.len());
    }
}

impl Clients {
    /// Lets each client finish what it does and waits for all.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client of the ledger panicked");
        }
    }
}

fn insertion(id: i64) -> String {
    format!("INSERT INTO ledger SELECT {id}, md5('{id}')")
}

/// Repeats a transaction, with a new number each time, and connects again when the connection is lost. Any other error
/// is the end of the test.
async fn work_until(ledger: Ledger, url: String, transaction: fn(i64) -> String, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            let id = ledger.next.fetch_add(1, Ordering::Relaxed);
            match client.batch_execute(&transaction(id)).await {
                Ok(()) => drop(ledger.acknowledged.lock().expect("no client panicked").insert(id)),
                Err(error) if error.code().is_none_or(is_shutdown) => break,
                Err(error) => panic!("the server refused a transaction: {error:?}"),
            }
        }
        connection.abort();
    }
}

/// `admin_shutdown`, `crash_shutdown`, `cannot_connect_now`: the server is going or gone.
fn is_shutdown(code: &SqlState) -> bool {
    code.code().starts_with("57P")
}
