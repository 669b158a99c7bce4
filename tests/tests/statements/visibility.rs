//! The visibility map: it is what an index-only scan believes.

use super::bench::{Bench, expect_visibility_map_true, number, run};
use quire_tests::load::{expect_sums_agree, start};
use quire_tests::short_or_long;

pub async fn index_only_scans_see_every_change(bench: &Bench) {
    let client = bench.client().await;
    let rows = i64::from(short_or_long(30_000, 600_000));
    let options = "WITH (autovacuum_enabled = off)";
    run(&client, &format!("CREATE TABLE v (n int, k int, pad text DEFAULT repeat('x', 100)) {options}")).await;
    run(&client, &format!("INSERT INTO v SELECT n, n FROM generate_series(1, {rows}) n; CREATE INDEX v_n ON v (n)"))
        .await;
    run(&client, "SET enable_seqscan = off; SET enable_bitmapscan = off").await;
    let refill = format!("INSERT INTO v SELECT n, n FROM generate_series(7, {rows}, 50) n");
    for vacuum in ["VACUUM v", "VACUUM (FREEZE) v", "VACUUM v", "VACUUM (FREEZE) v"] {
        run(&client, vacuum).await;
        bench.press().await;
        for (change, expected) in [
            ("DELETE FROM v WHERE n % 50 = 7", rows - rows / 50),
            (refill.as_str(), rows),
            ("UPDATE v SET n = n WHERE k % 77 = 5", rows),
            ("DO $$ BEGIN PERFORM 1 FROM v WHERE k % 91 = 3 FOR UPDATE; END $$", rows),
        ] {
            run(&client, change).await;
            bench.press().await;
            assert_eq!(
                number(&client, "SELECT count(*) FROM v WHERE n > 0").await,
                expected,
                "{change} after {vacuum}"
            );
        }
        expect_visibility_map_true(&client, "c.oid = 'v'::regclass").await;
    }
}

pub async fn is_true_under_load(bench: &Bench) {
    let client = bench.client().await;
    let load = start(&bench.quire.url("postgres"), 4, short_or_long(10, 120));
    while !load.has_ended() {
        run(&client, "VACUUM pgbench_accounts").await;
        expect_visibility_map_true(&client, "c.relname LIKE 'pgbench%'").await;
    }
    load.finish();
    expect_sums_agree(&client).await;
}
