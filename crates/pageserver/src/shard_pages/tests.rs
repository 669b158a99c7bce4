//! The shard against a model: every record is kept in a list, and a page is what a fold over the list gives.

mod keep;
mod model;

use super::*;
use crate::images::ImageOutcome;
use model::{BLOCKS, Bench, REL, SETTINGS, START, block, delta, image, partial, size, written};
use proptest::prelude::*;
use quire_files::fault;
use quire_ingest::StateView;
use quire_layers::image_policy::ImageSettings;
use quire_layers::value::Value;
use quire_protocol::page::Keeping;

#[derive(Clone, Debug)]
enum Step {
    Change(Vec<(u32, Option<u8>)>),
    Freeze,
    Flush,
    Compact,
    Image,
    Reopen,
    /// A page written at the LSN of the record so many before the last, or a little before.
    Written(u32, usize, u64, u8),
    /// A page without an LSN.
    Unlogged(u32, u8),
    Settle,
}

fn any_step() -> impl Strategy<Value = Step> {
    let change = (0..BLOCKS, proptest::option::weighted(0.06, any::<u8>()));
    prop_oneof![
        30 => proptest::collection::vec(change, 1..3).prop_map(Step::Change),
        4 => Just(Step::Freeze),
        3 => Just(Step::Flush),
        2 => Just(Step::Compact),
        4 => Just(Step::Image),
        1 => Just(Step::Reopen),
        4 => (0..BLOCKS, 0usize..40, 0..3u64, any::<u8>()).prop_map(|(block, back, before, byte)| {
            Step::Written(block, back, before, byte)
        }),
        2 => (0..BLOCKS, any::<u8>()).prop_map(|(block, byte)| Step::Unlogged(block, byte)),
        1 => Just(Step::Settle),
    ]
}

impl Bench {
    fn step(&mut self, step: Step) {
        match step {
            Step::Change(blocks) => {
                let mut changes: Vec<(Key, Value)> = Vec::new();
                for (number, base) in blocks {
                    let value = match base {
                        Some(0..64) => Value::Tombstone,
                        Some(byte @ 64..160) => partial(byte),
                        Some(byte) => image(byte),
                        None => delta(&[number as u8; 20]),
                    };
                    if changes.iter().all(|(key, _)| *key != block(number)) {
                        changes.push((block(number), value));
                    }
                }
                let _ = self.apply(changes);
            }
            Step::Freeze => self.pages.freeze(Bytes::from_static(b"state")),
            Step::Flush => self.pages.flush().unwrap(),
            Step::Compact => {
                self.pages.store().compact().unwrap();
            }
            Step::Image => {
                self.pages.images().make_next();
            }
            Step::Reopen => self.reopen(),
            Step::Written(number, back, before, byte) => {
                let lsn = self.records[self.records.len().saturating_sub(back + 1)].0;
                assert_eq!(self.keep(written(number, Lsn(lsn.0 - before), byte)), Keeping::Kept);
            }
            Step::Unlogged(number, byte) => {
                let expected = if self.is_unlogged(block(number)) { Keeping::Kept } else { Keeping::Logged };
                assert_eq!(self.keep(written(number, Lsn::INVALID, byte)), expected);
            }
            Step::Settle => self.settle(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_page_at_any_lsn_is_what_the_records_make_of_it(steps in proptest::collection::vec(any_step(), 1..250)) {
        let mut bench = Bench::new();
        steps.into_iter().for_each(|step| bench.step(step));
        bench.check();
        bench.make_all_images();
        for key in (0..BLOCKS).map(block) {
            let deltas = bench.pages.page_chain(key, bench.end()).unwrap().chain.delta_count();
            prop_assert!(deltas < SETTINGS.max_deltas || bench.is_incomplete(key), "{} has {} deltas after idle", key, deltas);
        }
        bench.check();
        bench.reopen();
        bench.check();
    }
}

#[test]
fn a_chain_gets_one_image_for_each_threshold_and_old_versions_stay() {
    let mut bench = Bench::new();
    let mut made = 0;
    for round in 0..40 {
        let _ = bench.apply(vec![(block(1), delta(&[round])), (block(2), image(round))]);
        made += bench.make_all_images();
    }
    assert_eq!(made, 40 / SETTINGS.max_deltas as usize);
    bench.check();
}

#[test]
fn a_page_with_few_deltas_in_each_layer_gets_its_image_too() {
    let mut bench = Bench::new();
    let mut made = 0;
    for round in 0..20 {
        let _ = bench.apply(vec![(block(1), delta(&[round]))]);
        bench.flush().unwrap();
        if round % 3 == 0 {
            bench.reopen();
        }
        while bench.pages.store().compact().unwrap() {}
        made += bench.make_all_images();
    }
    assert_eq!(made, 4);
    bench.check();
}

#[test]
fn a_hot_page_never_replays_more_than_the_hard_limit() {
    let mut bench = Bench::new();
    for round in 0..20_000u32 {
        if bench.apply(vec![(block(0), delta(&round.to_le_bytes()))]) == MustWait::Yes {
            bench.make_all_images();
        }
        if round % 97 == 0 {
            let deltas = bench.pages.page_chain(block(0), bench.end()).unwrap().chain.delta_count();
            assert!(deltas <= SETTINGS.max_deltas * quire_layers::image_policy::HARD_LIMIT, "{deltas}");
        }
    }
    let last = bench.pages.read_pages(&[block(0)], bench.end()).unwrap();
    assert!(last[0] == bench.expected(block(0), bench.end()));
    let middle = bench.records[10_000].0;
    assert!(bench.pages.read_pages(&[block(0)], middle).unwrap()[0] == bench.expected(block(0), middle));
}

#[test]
fn ingest_that_must_wait_waits_for_the_workers() {
    let mut bench = Bench::new();
    let mut rounds = 0u8;
    while bench.apply(vec![(block(0), delta(&[rounds]))]) == MustWait::No {
        rounds += 1;
    }
    assert_eq!(u32::from(rounds) + 1, SETTINGS.max_deltas * quire_layers::image_policy::HARD_LIMIT);
    let worker = std::thread::spawn({
        let pages = Arc::clone(&bench.pages);
        move || pages.images().make_next()
    });
    bench.pages.wait_for_room();
    assert!(matches!(worker.join().unwrap(), Some(ImageOutcome::Made(_))));
    assert_eq!(bench.pages.store().account(block(0)).deltas, 0);
}

#[test]
fn workers_flushes_compactions_and_reads_go_on_beside_ingest() {
    let mut bench = Bench::new();
    let pool = Arc::clone(&bench.pool);
    let workers = pool.start(2).unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    let (pages, is_over) = (Arc::clone(&bench.pages), || ended.load(std::sync::atomic::Ordering::SeqCst));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over() {
                pages.flush().unwrap();
                pages.store().compact().unwrap();
            }
        });
        scope.spawn(|| {
            let keys: Vec<_> = (0..BLOCKS).map(block).collect();
            while !is_over() {
                let lsn = pages.progress().ingested;
                let first = pages.read_pages(&keys, lsn).unwrap();
                assert!(first == pages.read_pages(&keys, lsn).unwrap(), "a page at {lsn} changed");
            }
        });
        for round in 0..6000u32 {
            let must_wait = bench.apply(vec![(block(round % 3), delta(&round.to_le_bytes()))]);
            if round % 200 == 0 {
                bench.pages.freeze(Bytes::from_static(b"state"));
            }
            if must_wait == MustWait::Yes || round % 200 == 0 {
                bench.pages.wait_for_room();
            }
        }
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    pool.end();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    bench.check();
    bench.reopen();
    bench.check();
}

#[test]
fn a_read_that_meets_a_long_chain_keeps_what_it_made() {
    let mut bench = Bench::new();
    (0..8).for_each(|round| {
        let _ = bench.apply(vec![(block(0), delta(&[round]))]);
    });
    let read = |bench: &Bench, lsn| bench.pages.read_pages(&[block(0)], lsn).unwrap();
    let older = bench.records[7].0;
    read(&bench, older);
    assert_eq!(bench.pages.store().account(block(0)).deltas, 8, "the queued page gets an image anyway");
    let newest = read(&bench, bench.end());
    assert!(newest[0] == bench.expected(block(0), bench.end()));
    assert_eq!(bench.pages.metrics().long_chain_reads(), 2);
    assert_eq!(bench.pages.store().account(block(0)).deltas, 0);
    assert!(read(&bench, bench.end()) == newest && bench.pages.metrics().long_chain_reads() == 2);
    read(&bench, older);
    read(&bench, older);
    assert_eq!(bench.pages.metrics().long_chain_reads(), 3, "now the older version has an image of its own");
    assert_eq!(bench.make_all_images(), 0, "the queued page does not need another image");
    bench.check();
}

#[test]
fn a_lower_threshold_queues_what_is_past_it_and_survives_a_restart() {
    let mut bench = Bench::new();
    (0..3).for_each(|round| {
        let _ = bench.apply(vec![(block(0), delta(&[round])), (block(1), delta(&[round]))]);
    });
    assert_eq!(bench.make_all_images(), 0);
    let lower = ImageSettings { max_deltas: 2, max_bytes: 1 << 20 };
    bench.pages.images().set_settings(lower).unwrap();
    assert_eq!(bench.make_all_images(), 2);
    bench.reopen();
    assert_eq!(bench.pages.images().settings(), lower);
}

#[test]
fn a_page_that_cannot_be_rebuilt_is_put_aside_and_its_reads_say_so() {
    let mut bench = Bench::new();
    (0..4).for_each(|round| {
        let _ = bench.apply(vec![(block(0), delta(&[round]))]);
    });
    let _ = bench.apply(vec![(block(0), delta(b"broken"))]);
    assert!(matches!(bench.pages.images().make_next(), Some(ImageOutcome::Failed(..))));
    assert!(bench.pages.images().make_next().is_none());
    let error = bench.pages.read_pages(&[block(0)], bench.end()).unwrap_err();
    assert!(matches!(error, quire_layers::error::ReadError::Redo { lsn, .. } if lsn == bench.end()), "{error}");
    let before = bench.records[4].0;
    assert!(bench.pages.read_pages(&[block(0)], before).is_ok());
}

#[test]
fn blocks_outside_the_relation_do_not_exist_and_those_inside_are_zeroes() {
    let mut bench = Bench::new();
    let before_creation = START;
    let no_such_key = |bench: &Bench, number, lsn| {
        let read = bench.pages.read_pages(&[block(number)], lsn);
        matches!(read, Err(quire_layers::error::ReadError::NoSuchKey { .. }))
    };
    assert!(no_such_key(&bench, 0, before_creation));
    assert!(no_such_key(&bench, BLOCKS, bench.end()));
    assert!(bench.pages.read_pages(&[block(BLOCKS - 1)], bench.end()).unwrap()[0].iter().all(|byte| *byte == 0));
    let _ = bench.apply(vec![(Key::RelSize { rel: REL }, size(2))]);
    assert!(no_such_key(&bench, 2, bench.end()));
    let _ = bench.apply(vec![(Key::RelSize { rel: REL }, Value::Tombstone)]);
    assert!(no_such_key(&bench, 0, bench.end()));
    assert!(bench.pages.read_pages(&[block(5)], bench.records[0].0).is_ok());
}

#[test]
fn changes_out_of_order_twice_or_of_the_wrong_kind_are_refused() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(0), delta(b"x"))]);
    let (end, next) = (bench.end(), bench.end().add(8));
    let change = |lsn, value| Change::new(block(0), lsn, value);
    let apply = |changes: &[Change], lsn| bench.pages.apply(changes, lsn).unwrap_err();
    assert!(matches!(apply(&[], end), ApplyError::OutOfOrder { .. }));
    assert!(matches!(apply(&[change(end, delta(b"x"))], next), ApplyError::OutOfOrder { .. }));
    let twice = [change(next, delta(b"x")), change(next, delta(b"y"))];
    assert!(matches!(apply(&twice, next), ApplyError::Duplicate { .. }));
    assert!(matches!(apply(&[change(next, size(1))], next), ApplyError::WrongKind(_)));
    let short = Value::Image(Bytes::from_static(b"short"));
    assert!(matches!(apply(&[change(next, short)], next), ApplyError::WrongKind(_)));
    bench.check();
}

#[test]
fn a_scan_sees_what_is_alive_wherever_it_lies() {
    let mut bench = Bench::new();
    let file = |xid: u32| (Key::TwoPhase { xid }, Value::Bytes(Bytes::copy_from_slice(&xid.to_le_bytes())));
    for xid in 0..60 {
        let _ = bench.apply(vec![file(xid)]);
        if xid % 10 == 0 {
            bench.flush().unwrap();
        }
        if xid % 3 == 0 {
            let _ = bench.apply(vec![(Key::TwoPhase { xid: xid / 2 }, Value::Tombstone)]);
        }
    }
    let ended: Vec<u32> = (0..60).step_by(3).map(|xid| xid / 2).collect();
    let alive: Vec<u32> = (0..60).filter(|xid| !ended.contains(xid)).collect();
    for limit in [1, 2, 7, 1000] {
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let (from_key, to) = (Key::TwoPhase { xid: from }, Key::TwoPhase { xid: u32::MAX });
            let scanned = bench.pages.store().scan(from_key, to, bench.end(), limit, usize::MAX).unwrap();
            found.extend(scanned.entries.iter().map(|(_, value)| u32::from_le_bytes(value[..].try_into().unwrap())));
            if !scanned.more {
                break;
            }
            from = found.last().unwrap() + 1;
        }
        assert_eq!(found, alive, "limit {limit}");
    }
    let sizes = bench.pages.scan(block(0), Key::Checkpoint, START.add(8)).unwrap();
    assert_eq!(sizes.entries.len(), 1, "pages are left out, and files of later times");
}

#[test]
fn every_crash_while_publishing_leaves_all_that_was_durable() {
    let mut first = Bench::new();
    (0..7).for_each(|round| assert!(first.round(round).is_ok()));
    let mut steps = 0;
    loop {
        let mut bench = first.copy();
        fault::fail_after(Some(steps));
        // The first of these rounds ends with a compaction.
        let result = (7..10).try_for_each(|round| bench.round(round));
        if let Err(error) = &result {
            let _ = bench.apply(vec![(block(0), delta(b"more"))]);
            assert!(bench.flush().is_err(), "nothing can be written");
            fault::fail_after(None);
            let is_unsettled = matches!(error, StorageError::Unsettled { .. });
            match bench.flush() {
                Err(StorageError::Failed(_)) if is_unsettled => {}
                Ok(()) if !is_unsettled => assert_eq!(bench.others(), 0, "attempts that failed leave nothing"),
                other => panic!("{other:?} after {error}"),
            }
        }
        fault::fail_after(None);
        bench.check();
        bench.reopen();
        bench.check();
        bench.flush().unwrap();
        bench.check();
        if result.is_ok() {
            break;
        }
        steps += 1;
    }
    assert!(steps > 6 * 3, "every layer and manifest is published in three steps, not {steps} in all");
}

#[test]
fn a_layer_that_cannot_be_merged_holds_up_nothing_else() {
    let mut bench = Bench::new();
    (0..7).for_each(|round| assert!(bench.round(round).is_ok()));
    let damaged = bench.layer_files().remove(0);
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[20] ^= 0xff;
    std::fs::write(&damaged, bytes).unwrap();
    let merged = bench.round(7);
    assert!(matches!(merged, Err(StorageError::Corrupt { ref path, .. }) if *path == damaged), "{merged:?}");
    let _ = bench.apply(vec![(block(1), delta(b"more"))]);
    bench.flush().expect("the branch goes on");
    assert_eq!(bench.others(), 0);
}

#[test]
fn ingest_and_images_wait_for_a_damaged_layer_until_another_is_put_in_its_place() {
    let mut bench = Bench::new();
    // A chain past the threshold, of which a part is in the layer.
    (0..4).for_each(|round| {
        let _ = bench.apply(vec![(block(0), delta(&[round]))]);
    });
    bench.flush().unwrap();
    let layer = bench.layer_files().remove(0);
    let whole = std::fs::read(&layer).unwrap();
    let mut damaged = whole.clone();
    damaged[20] ^= 0xff;
    std::fs::write(&layer, damaged).unwrap();
    let _ = bench.apply(vec![(block(0), delta(b"more"))]);
    assert!(matches!(bench.pages.images().make_next(), Some(ImageOutcome::Unread(_))));
    assert_eq!((bench.pages.images().make_next().is_none(), bench.pages.images().broken_pages()), (true, 1));
    let named = |reason: Option<String>| reason.is_some_and(|reason| reason.contains(layer.to_str().unwrap()));
    assert!(named(bench.pages.unread()), "{:?}", bench.pages.unread());

    let pages = Arc::clone(&bench.pages);
    let ingest = std::thread::spawn(move || PatientView(&pages).page(block(0)));
    while bench.pages.progress().health == IngestHealth::Running {
        std::thread::yield_now();
    }
    let health = bench.pages.progress().health;
    assert!(matches!(health, IngestHealth::Unreadable(_)) && named(health.reason().map(ToString::to_string)));
    assert!(!ingest.is_finished());
    let replacement = bench.dir.path().join("replacement");
    std::fs::write(&replacement, whole).unwrap();
    std::fs::rename(&replacement, &layer).unwrap();
    assert_eq!(ingest.join().unwrap().unwrap(), bench.expected(block(0), bench.end()));
    assert_eq!(bench.pages.progress().health, IngestHealth::Running);
    bench.pages.images().retry_unread();
    assert_eq!((bench.make_all_images(), bench.pages.images().broken_pages()), (1, 0));
    bench.check();
}

#[test]
fn who_waits_for_a_damaged_layer_ends_with_the_shard() {
    let bench = Bench::new();
    bench.flush().unwrap();
    for layer in bench.layer_files() {
        std::fs::write(layer, b"nothing of it is left").unwrap();
    }
    let pages = Arc::clone(&bench.pages);
    let ingest = std::thread::spawn(move || PatientView(&pages).value(Key::RelSize { rel: REL }));
    while bench.pages.progress().health == IngestHealth::Running {
        std::thread::yield_now();
    }
    bench.pages.shut_down();
    assert!(ingest.join().unwrap().is_err());
}

#[test]
fn a_restart_removes_what_was_never_published() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(0), delta(b"x"))]);
    bench.flush().unwrap();
    let stray = bench.dir.path().join("00000000000000ff.layer");
    let temporary = bench.dir.path().join("manifest.tmp");
    std::fs::write(&stray, b"half a layer").unwrap();
    std::fs::write(&temporary, b"half a manifest").unwrap();
    bench.reopen();
    assert!(!stray.exists() && !temporary.exists());
    bench.check();
}

#[tokio::test]
async fn a_wait_ends_when_ingest_gets_there_or_stops_or_takes_too_long() {
    let mut bench = Bench::new();
    let (there, soon) = (bench.end(), std::time::Duration::from_millis(20));
    let pages = Arc::clone(&bench.pages);
    assert!(pages.wait_for(there, soon).await.is_ok());
    let late = pages.wait_for(there.add(8), soon).await;
    assert!(matches!(late, Err(quire_layers::error::ReadError::Timeout { .. })));
    let waiting = tokio::spawn({
        let pages = Arc::clone(&pages);
        async move { pages.wait_for(there.add(8), std::time::Duration::from_secs(60)).await }
    });
    let _ = bench.apply(vec![(block(0), delta(b"x"))]);
    assert!(waiting.await.unwrap().is_ok());
    pages.stop_ingest("a record of an unknown resource manager");
    let stopped = pages.wait_for(there.add(16), std::time::Duration::from_secs(60)).await;
    assert!(matches!(stopped, Err(quire_layers::error::ReadError::IngestStopped { .. })));
    assert!(pages.wait_for(there, soon).await.is_ok());
}

#[test]
fn what_a_start_finds_is_made_durable_before_anybody_hears_of_it() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(0), image(1))]);
    bench.flush().unwrap();
    for steps in 0..4 {
        fault::fail_after(Some(steps));
        let opened = bench.try_reopen();
        fault::fail_after(None);
        assert!(matches!(opened, Err(StorageError::Io { .. })), "after {steps} steps: {opened:?}");
    }
    bench.reopen();
    bench.check();
}
