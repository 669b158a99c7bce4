//! `kill -9` of everything at once, under load: what was acknowledged is there.

use quire_tests::load::{expect_amcheck_clean, expect_sums_agree, fill, start};
use quire_tests::{Ledger, Quire, short_or_long, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_commit_survives_the_death_of_everything() {
    let quire = Quire::start();
    Ledger::create_table(&quire.connect().await).await;
    let url = quire.url("postgres");
    fill(&url, 2);
    let ledger = Ledger::default();
    for round in 1..=short_or_long(3, 30) {
        let before = ledger.acknowledged();
        let clients = ledger.start_clients(&url, 4);
        let load = start(&url, 4, 600);
        let enough = async || (ledger.acknowledged() > before + 500).then_some(());
        wait_for("the clients get on", 120, enough).await;
        quire.kill_everything().await;
        clients.stop().await;
        load.give_up();
        quire.up();
        let client = quire.connect().await;
        ledger.expect_kept(&client).await;
        expect_sums_agree(&client).await;
        eprintln!("round {round}: {} commits acknowledged and kept", ledger.acknowledged());
    }
    let client = quire.connect().await;
    expect_amcheck_clean(&client).await;
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_comes_back_by_itself_with_every_acknowledged_commit() {
    let quire = Quire::start();
    Ledger::create_table(&quire.connect().await).await;
    let url = quire.url("postgres");
    let ledger = Ledger::default();
    for victim in ["postgres", "agent"] {
        let before = ledger.acknowledged();
        let clients = ledger.start_clients(&url, 4);
        wait_for("the clients get on", 120, async || (ledger.acknowledged() > before + 300).then_some(())).await;
        let pid = match victim {
            "postgres" => i32::try_from(quire.branch()["compute"]["pid"].as_i64().expect("a pid")).expect("a pid"),
            _ => quire.role("compute-main"),
        };
        quire_tests::processes::signal_all(&[pid], nix::sys::signal::Signal::SIGKILL);
        clients.stop().await;
        let client = quire.connect_when_back().await;
        ledger.expect_kept(&client).await;
    }
}
