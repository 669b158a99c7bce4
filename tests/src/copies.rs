//! A client that copies a database again and again, and works in the copy with the indexes whose pages WAL describes
//! least.
//!
//! Whatever the indexes of a copy say, a scan of the table says, too. Only a copy that lived through a crash before its
//! first checkpoint may be wrong, as on a stock server; so a copy is dropped when the server that made it is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

const TEMPLATE: &str = "\
    CREATE TABLE k (n int, v int, p point, f char(300) DEFAULT 'x') WITH (fillfactor = 40); \
    INSERT INTO k SELECT g, g, point(g % 50, g / 50) FROM generate_series(1, 3000) g; \
    CREATE INDEX k_v ON k USING brin (v) WITH (pages_per_range = 1); \
    CREATE INDEX k_p ON k USING gist (p)";

const CHANGES: [&str; 5] = [
    "UPDATE k SET v = v + 1000000 WHERE n <= 200",
    "DELETE FROM k WHERE n % 20 = 1",
    "VACUUM k",
    "INSERT INTO k SELECT g, g, point(g % 50, g / 50) FROM generate_series(3001, 4000) g",
    "VACUUM k",
];

const CONDITIONS: [&str; 2] = ["v >= 1000000", "p <@ box '((0,0),(9,9))'"];

/// The client, and how many copies it has worked in.
#[derive(Default)]
pub struct Copies {
    done: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Copies {
    /// Makes the template, in a database of its own.
    pub async fn create_template(client: &Client, connect: impl AsyncFn(&str) -> Client) {
        client.batch_execute("CREATE DATABASE k_template").await.expect("created");
        let template = connect("k_template").await;
        template.batch_execute(TEMPLATE).await.expect("filled");
        template.batch_execute("VACUUM k").await.expect("vacuumed");
    }

    /// Starts it; `url` is that of the database postgres.
    pub fn start(&mut self, url: &str) {
        self.stop.store(false, Ordering::Relaxed);
        let (url, done, stop) = (url.to_owned(), self.done.clone(), self.stop.clone());
        self.task = Some(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match copy_once(&url).await {
                    Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.code().is_none_or(|code| code.code().starts_with("57P")) => {
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                    }
                    Err(error) => panic!("copying a database: {error:?}"),
                }
            }
        }));
    }

    /// Lets it finish what it does.
    pub async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            task.await.expect("the indexes of every copy are right");
        }
    }

    /// How many copies were right.
    pub fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }
}

async fn copy_once(url: &str) -> Result<(), Error> {
    let client = connect(url).await?;
    client.batch_execute("DROP DATABASE IF EXISTS k_copy WITH (FORCE)").await?;
    client.batch_execute("CREATE DATABASE k_copy TEMPLATE k_template STRATEGY wal_log").await?;
    let made_by = server(&client).await?;
    let (host, _) = url.rsplit_once('/').expect("a URI");
    let copy = connect(&format!("{host}/k_copy")).await?;
    for change in CHANGES {
        copy.batch_execute(change).await?;
    }
    for condition in CONDITIONS {
        let by_index = count(&copy, condition, "SET enable_seqscan = off").await?;
        let by_scan = count(&copy, condition, "SET enable_bitmapscan = off; SET enable_indexscan = off").await?;
        if server(&copy).await? == made_by {
            assert_eq!(by_index, by_scan, "{condition}");
        }
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Names one life of the server.
async fn server(client: &Client) -> Result<String, Error> {
    Ok(client.query_one("SELECT pg_postmaster_start_time()::text", &[]).await?.get(0))
}

async fn count(client: &Client, condition: &str, setting: &str) -> Result<i64, Error> {
    client.batch_execute("RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_indexscan").await?;
    client.batch_execute(setting).await?;
    Ok(client.query_one(&format!("SELECT count(*) FROM k WHERE {condition}"), &[]).await?.get(0))
}
