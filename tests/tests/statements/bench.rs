//! A Quire whose cache does not hold what it should, under a database that was filled before.

use quire_tests::load::{expect_amcheck_clean, expect_sums_agree, fill};
use quire_tests::{Quire, short_or_long, wait_for};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

const GIB: i64 = 1 << 30;
/// Blocks of pgbench's accounts for each unit of its scale.
const SCALE_BLOCKS: u32 = 1639;

/// Why pages leave the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// There is no room for them.
    Small,
    /// They may.
    Leaky,
}

pub struct Bench {
    pub quire: Quire,
    scale: u32,
    next_block: AtomicU32,
}

impl Bench {
    pub async fn start(mode: Mode) -> Bench {
        let sizes = ["16MiB", "64MiB"];
        let size = sizes[short_or_long(0, 1) as usize];
        let quire = match mode {
            Mode::Small => Quire::new().with_option("--cache-size", size),
            Mode::Leaky => Quire::new().with_option("--cache-size", size).with_variable("QUIRE_DROP_ALL", "1"),
        };
        quire.up();
        // Dirty pages leave PostgreSQL's buffers early, and come back from wherever they are then.
        let eager = "autovacuum_naptime = 1s\nbgwriter_delay = 10ms\nbgwriter_lru_maxpages = 1000";
        quire.set(&format!("shared_buffers = '{}MB'\n{eager}", short_or_long(1, 16)));
        let scale = short_or_long(5, 75);
        fill(&quire.url("postgres"), scale);
        let bench = Bench { quire, scale, next_block: AtomicU32::new(0) };
        let client = bench.client().await;
        let bytes = number(&client, "SELECT pg_database_size('postgres')").await;
        assert!(bytes >= i64::from(short_or_long(0, 1)) * GIB, "the database has {bytes} bytes");
        run(&client, "CREATE EXTENSION pg_prewarm; CREATE EXTENSION pg_visibility").await;
        bench
    }

    pub async fn client(&self) -> Client {
        self.quire.connect().await
    }

    /// Pushes what is there out of PostgreSQL's buffers, and lets pages leave the cache for a moment if any are to.
    pub async fn press(&self) {
        let before = self.dropped();
        let (count, blocks) = (short_or_long(500, 4000), self.scale * SCALE_BLOCKS - 4000);
        let first = self.next_block.fetch_add(count, Ordering::Relaxed) % blocks;
        let last = first + count - 1;
        let read = format!("SELECT pg_prewarm('pgbench_accounts', 'buffer', 'main', {first}, {last})");
        assert_eq!(number(&self.client().await, &read).await, i64::from(count));
        for _ in 0..short_or_long(4, 10) {
            if self.dropped() > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn dropped(&self) -> u64 {
        self.cache("dropped")
    }

    fn cache(&self, what: &str) -> u64 {
        let cache = &self.quire.branch()["compute"]["cache"];
        cache[what].as_u64().unwrap_or_else(|| panic!("no {what} in {cache}"))
    }

    /// Examines all that is there, and that pages did leave.
    pub async fn expect_sound(&self) {
        let client = self.client().await;
        expect_sums_agree(&client).await;
        expect_amcheck_clean(&client).await;
        expect_visibility_map_true(&client, "true").await;
        self.quire.verify();
        let limit = u64::from(short_or_long(16, 64)) << 20;
        wait_for("the cache is within its bound", 60, async || (self.cache("bytes") <= limit).then_some(())).await;
        let dropped = self.dropped();
        assert!(dropped > u64::from(short_or_long(5000, 100_000)), "only {dropped} pages left");
    }

    pub async fn expect_sound_after_cold_restart(&self) {
        self.quire.cold_restart();
        let client = self.client().await;
        expect_sums_agree(&client).await;
        expect_amcheck_clean(&client).await;
        self.quire.verify();
        self.quire.expect_no_panic();
    }
}

pub async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

pub async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// Expects nothing of the visibility maps to be wrong, of the tables that satisfy `which`.
pub async fn expect_visibility_map_true(client: &Client, which: &str) {
    for check in ["pg_check_visible", "pg_check_frozen"] {
        let query = format!(
            "SELECT count(*) FROM pg_class c, LATERAL {check}(c.oid) WHERE c.relkind IN ('r', 'm', 't') \
            AND c.relpersistence = 'p' AND c.relnamespace <> 'pg_catalog'::regnamespace AND {which}"
        );
        assert_eq!(number(client, &query).await, 0, "{check}");
    }
}
