//! What statements see does not depend on the cache: it is smaller than the database, or loses every page as soon as it
//! may.
//!
//! In the long form the database has a gibibyte, the cache 64 MiB, PostgreSQL's buffers 16 MB, and most tables are
//! larger than the cache.

mod bench;
mod command_ids;
mod concurrency;
mod counters;
mod index_builds;
mod relations;
mod running_transaction;
mod visibility;

use bench::{Bench, Mode};
use quire_tests::short_or_long;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_can_tell_a_cache_that_is_smaller_than_the_database() {
    run_all(Mode::Small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_can_tell_a_cache_that_loses_every_page_as_soon_as_it_may() {
    run_all(Mode::Leaky).await;
}

async fn run_all(mode: Mode) {
    let bench = &Bench::start(mode).await;
    timed(mode, "running transaction", running_transaction::sees_its_own_rows(bench)).await;
    timed(mode, "command ids", command_ids::of_rows_made_and_changed_in_one_transaction(bench)).await;
    timed(mode, "upserts", concurrency::upserts_lose_nothing(bench)).await;
    timed(mode, "splits", concurrency::splits_and_vacuums_lose_nothing(bench)).await;
    timed(mode, "index builds", index_builds::find_what_a_scan_finds(bench)).await;
    timed(mode, "rewrites", relations::keep_their_rows_when_rewritten(bench)).await;
    timed(mode, "truncations", relations::end_where_they_were_cut(bench)).await;
    timed(mode, "databases", relations::databases_come_and_go(bench)).await;
    timed(mode, "sequences", relations::sequences_have_no_gaps(bench)).await;
    timed(mode, "visibility map", visibility::index_only_scans_see_every_change(bench)).await;
    timed(mode, "visibility map under load", visibility::is_true_under_load(bench)).await;
    timed(mode, "examination", bench.expect_sound()).await;
    // These restart a few times and are no different in a small cache, but for what surrounds them.
    if mode == Mode::Leaky || short_or_long(0, 1) == 1 {
        count_ids(mode, bench).await;
    }
    timed(mode, "examination after a cold start", bench.expect_sound_after_cold_restart()).await;
}

async fn count_ids(mode: Mode, bench: &Bench) {
    timed(mode, "transactions", counters::transactions_are_known_across_segments(bench)).await;
    timed(mode, "multixacts", counters::multixacts_are_known_across_segments(bench)).await;
    timed(mode, "ids", counters::no_id_is_given_out_twice(bench)).await;
}

async fn timed(mode: Mode, case: &str, run: impl Future<Output = ()>) {
    let begun = Instant::now();
    run.await;
    eprintln!("{mode:?} cache, {case}: {:.1} s", begun.elapsed().as_secs_f32());
}
