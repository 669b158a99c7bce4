//! A server that is measured.

use super::pgbench::{Load, Workload};
use super::report::Round;
use crate::sql::Session;
use anyhow::Result;

/// The database the workload runs in.
pub const DATABASE: &str = "quire_bench";

/// Seconds of the workload before the first round, to fill shared buffers.
const WARM_UP_SECONDS: u32 = 5;

/// Quire's compute or the stock server.
pub struct Target {
    name: &'static str,
    admin_url: String,
    url: String,
}

impl Target {
    /// A server called `name`; `admin_url` leads to a database that exists, `url` to the workload's.
    pub fn new(name: &'static str, admin_url: String, url: String) -> Target {
        Target { name, admin_url, url }
    }

    /// What it is called in reports.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A session in the database that exists.
    pub fn admin(&self) -> Result<Session> {
        Session::connect(&self.admin_url)
    }

    /// A session in the workload's database.
    pub fn session(&self) -> Result<Session> {
        Session::connect(&self.url)
    }

    /// Where the workload runs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Fills a fresh database.
    pub fn load(&self, load: &Load) -> Result<()> {
        self.drop_database()?;
        self.admin()?.run(&format!("CREATE DATABASE {DATABASE}"))?;
        load.fill(&self.url)?;
        let session = self.session()?;
        session.run("VACUUM ANALYZE")?;
        session.run("CHECKPOINT")
    }

    /// Fills a fresh database and warms it up.
    pub fn prepare(&self, load: &Load) -> Result<()> {
        self.load(load)?;
        let session = self.session()?;
        session.run("SELECT sum(abalance) FROM pgbench_accounts")?;
        load.run_for(&self.url, WARM_UP_SECONDS).map(drop)
    }

    /// Removes the workload's database.
    pub fn drop_database(&self) -> Result<()> {
        self.admin()?.run(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))
    }

    /// One round.
    pub fn measure(&self, load: &Load, number: u32) -> Result<Round> {
        let session = self.session()?;
        if load.workload == Workload::Tpcb {
            session.run("CHECKPOINT")?;
        }
        let before = Counters::read(&session)?;
        let outcome = load.run(&self.url)?;
        let after = Counters::read(&session)?;
        Ok(Round {
            target: self.name,
            number,
            outcome,
            wal_bytes: after.wal_bytes.saturating_sub(before.wal_bytes),
            full_page_images: after.full_page_images.saturating_sub(before.full_page_images),
        })
    }
}

/// What the server has written since it began.
struct Counters {
    wal_bytes: u64,
    full_page_images: u64,
}

impl Counters {
    fn read(session: &Session) -> Result<Counters> {
        Ok(Counters {
            wal_bytes: session.number("pg_current_wal_insert_lsn() - '0/0'")?,
            full_page_images: session.number("(SELECT wal_fpi FROM pg_stat_wal)")?,
        })
    }
}
