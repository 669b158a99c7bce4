//! Random processes are killed for minutes, under load: nothing acknowledged is lost, nothing is there twice, nothing
//! is damaged.

use quire_tests::load::{self, Load, expect_amcheck_clean, expect_sums_agree, fill};
use quire_tests::torture::{Killer, Victim};
use quire_tests::{Bank, Copies, Ledger, Quire, short_or_long, wait_for};
use std::time::{Duration, Instant};

const SHORT_SECONDS: u32 = 60;
const LONG_SECONDS: u32 = 600;
/// How long everything may take to come back, and to get on, after a blow.
const RECOVERY_SECONDS: u64 = 120;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_whoever_is_killed() {
    let quire = Quire::start();
    torture(&quire, "nothing_is_lost_whoever_is_killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_whoever_is_killed_while_pages_leave_the_cache() {
    let quire = Quire::new().with_option("--cache-size", "64MiB").with_variable("QUIRE_DROP_ALL", "1");
    quire.up();
    quire.set("shared_buffers = '2MB'\nautovacuum_naptime = 1s\nbgwriter_delay = 10ms\nbgwriter_lru_maxpages = 1000");
    torture(&quire, "nothing_is_lost_whoever_is_killed_while_pages_leave_the_cache").await;
}

async fn torture(quire: &Quire, test: &str) {
    let mut killer = Killer::new(test);
    let mut work = Work::start(quire).await;
    let end = Instant::now() + Duration::from_secs(short_or_long(SHORT_SECONDS, LONG_SECONDS).into());
    let mut blows = 0;
    while Instant::now() < end {
        let victim = killer.pick();
        killer.kill(quire, victim).await;
        blows += 1;
        eprintln!("{test}: blow {blows}, {victim:?}, {} acknowledged", work.acknowledged());
        if victim == Victim::Everything {
            work = work.stop().await;
            quire.up();
            work.expect_kept(quire).await;
            work.go_on(quire);
        } else if !killer.is_impatient() {
            work.expect_progress(quire).await;
        }
        tokio::time::sleep(killer.pause()).await;
        work.start_pgbench_again(quire);
    }
    work.expect_progress(quire).await;
    let work = work.stop().await;
    work.expect_kept(quire).await;
    quire.verify();
    quire.cold_restart();
    work.expect_kept(quire).await;
    expect_amcheck_clean(&quire.connect().await).await;
    quire.verify();
    quire.expect_no_panic();
    let branch = quire.branch();
    assert_eq!(branch["pushdown"]["state"], "on", "{branch:#}");
    let (commits, copies) = (work.acknowledged(), work.copies.done());
    assert!(copies > 0, "no database was copied");
    eprintln!("{test}: {blows} blows, {commits} commits acknowledged and kept, {copies} databases copied");
}

/// What continues while processes die: pgbench, a bank, a ledger, and databases that are copied.
struct Work {
    url: String,
    ledger: Ledger,
    bank: Bank,
    clients: Vec<quire_tests::ledger::Clients>,
    pgbench: Option<Load>,
    copies: Copies,
}

impl Work {
    async fn start(quire: &Quire) -> Work {
        let client = quire.connect().await;
        Ledger::create_table(&client).await;
        Bank::create_tables(&client).await;
        Copies::create_template(&client, async |database: &str| quire.connect_to(database).await).await;
        let url = quire.url("postgres");
        fill(&url, 2);
        let (ledger, bank, clients) = (Ledger::default(), Bank::default(), Vec::new());
        let mut work = Work { url, ledger, bank, clients, pgbench: None, copies: Copies::default() };
        work.go_on(quire);
        work
    }

    fn go_on(&mut self, quire: &Quire) {
        self.clients.push(self.ledger.start_clients(&self.url, 2));
        self.clients.push(self.bank.start_clients(&self.url, 4));
        self.copies.start(&self.url);
        self.start_pgbench_again(quire);
    }

    /// pgbench ends when it loses its connections.
    fn start_pgbench_again(&mut self, quire: &Quire) {
        if let Some(ended) = self.pgbench.take_if(|pgbench| pgbench.has_ended()) {
            ended.give_up();
        }
        let is_running = quire.branch()["compute"]["state"] == "running";
        if self.pgbench.is_none() && is_running {
            self.pgbench = Some(load::start(&self.url, 2, LONG_SECONDS));
        }
    }

    async fn stop(mut self) -> Work {
        for clients in self.clients.drain(..) {
            clients.stop().await;
        }
        self.copies.stop().await;
        if let Some(pgbench) = self.pgbench.take() {
            pgbench.kill();
        }
        self
    }

    fn acknowledged(&self) -> usize {
        self.ledger.acknowledged() + self.bank.acknowledged()
    }

    /// Waits until both kinds of clients have got on, and the bank's money is all there.
    async fn expect_progress(&self, quire: &Quire) {
        let before = (self.ledger.acknowledged(), self.bank.acknowledged());
        let further = async || {
            let now = (self.ledger.acknowledged(), self.bank.acknowledged());
            (now.0 > before.0 + 10 && now.1 > before.1 + 10).then_some(())
        };
        wait_for("the clients get on", RECOVERY_SECONDS, further).await;
        self.bank.expect_balanced(&quire.connect_when_back().await).await;
    }

    async fn expect_kept(&self, quire: &Quire) {
        let client = quire.connect_when_back().await;
        self.ledger.expect_kept(&client).await;
        self.bank.expect_kept(&client).await;
        expect_sums_agree(&client).await;
    }
}
