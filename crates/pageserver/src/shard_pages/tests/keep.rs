//! Pages as PostgreSQL wrote them, among what the log says.

use super::model::*;
use super::*;
use quire_layers::image_policy::HARD_LIMIT;
use quire_protocol::page::WrittenPage;
use quire_types::Fork;

/// A partial image and deltas past the hard limit on it; the image's LSN.
fn incomplete(bench: &mut Bench) -> Lsn {
    let _ = bench.apply(vec![(block(0), partial(7))]);
    let base = bench.end();
    for round in 0..SETTINGS.max_deltas {
        let _ = bench.apply(vec![(block(0), delta(&round.to_le_bytes()))]);
    }
    assert!(matches!(bench.pages.images().make_next(), Some(ImageOutcome::Incomplete(..))));
    for round in 0..SETTINGS.max_deltas * HARD_LIMIT {
        let must_wait = bench.apply(vec![(block(0), delta(&round.to_le_bytes()))]);
        assert_eq!(must_wait, MustWait::No, "ingest waits for a page that no worker can make");
    }
    assert!(bench.pages.images().make_next().is_none(), "the page is put aside");
    assert_eq!((bench.pages.images().incomplete_pages(), bench.pages.images().broken_pages()), (1, 0));
    bench.check();
    assert_eq!(bench.pages.metrics().images_made(), 0, "a read made an image");
    base
}

fn deltas(bench: &Bench) -> u32 {
    bench.pages.store().account(block(0)).deltas
}

#[test]
fn an_incomplete_page_gets_its_image_once_the_written_page_is_kept() {
    let mut bench = Bench::new();
    let base = incomplete(&mut bench);
    assert_eq!(bench.keep(written(0, base, 9)), Keeping::Kept);
    assert_eq!((bench.make_all_images(), bench.pages.images().incomplete_pages(), deltas(&bench)), (1, 0, 0));
    bench.check();
    bench.reopen();
    bench.check();
}

#[test]
fn an_incomplete_page_gets_its_image_once_it_is_settled_and_not_before() {
    let mut bench = Bench::new();
    let base = incomplete(&mut bench);
    bench.pages.images().settle(Lsn(base.0 - 1));
    assert_eq!(bench.make_all_images(), 0);
    bench.pages.images().settle(base);
    assert_eq!((bench.make_all_images(), bench.pages.images().incomplete_pages(), deltas(&bench)), (1, 0, 0));
    bench.check();
}

#[test]
fn an_incomplete_page_that_the_log_gives_another_base_is_queued_again() {
    let mut bench = Bench::new();
    incomplete(&mut bench);
    let _ = bench.apply(vec![(block(0), image(3))]);
    (0..SETTINGS.max_deltas).for_each(|round| {
        let _ = bench.apply(vec![(block(0), delta(&round.to_le_bytes()))]);
    });
    assert_eq!((bench.make_all_images(), bench.pages.images().incomplete_pages()), (1, 0));
    bench.check();
}

#[test]
fn a_page_put_aside_while_its_written_page_was_kept_is_not_forgotten() {
    let mut bench = Bench::new();
    let base = incomplete(&mut bench);
    bench.keep(written(0, base, 9));
    // The worker that looked before puts the page aside only now.
    let since = bench.pages.store().account(block(0)).since;
    assert!(matches!(bench.pages.images().make_next(), Some(ImageOutcome::Made(_))));
    assert_ne!(bench.pages.store().account(block(0)).since, since);
    assert_eq!(bench.pages.images().incomplete_pages(), 0);
}

#[test]
fn images_that_workers_made_without_the_written_page_are_made_again() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(0), image(1))]);
    let base = bench.end();
    for round in 0..40 {
        let _ = bench.apply(vec![(block(0), delta(&[round]))]);
        bench.make_all_images();
        // Some images are beside their deltas, others in newer layers; some layers are merged.
        if round % 3 == 0 {
            bench.flush().unwrap();
            bench.pages.store().compact().unwrap();
        }
    }
    assert_eq!(bench.pages.metrics().images_made(), 8);
    let before = bench.expected(block(0), bench.end());
    assert_eq!(bench.keep(written(0, base, 2)), Keeping::Kept);
    assert!(bench.expected(block(0), bench.end()) != before);
    bench.check();
    assert_eq!(deltas(&bench), 0);
    while bench.pages.store().compact().unwrap() {}
    bench.reopen();
    bench.check();
}

#[test]
fn a_written_page_below_a_base_of_the_log_or_below_a_later_one_changes_only_the_past() {
    let mut bench = Bench::new();
    let mut lsns = Vec::new();
    for byte in [10, 11, 12] {
        let _ = bench.apply(vec![(block(0), image(byte))]);
        let _ = bench.apply(vec![(block(0), delta(&[byte]))]);
        lsns.push(bench.end());
    }
    let newest = bench.expected(block(0), bench.end());
    assert_eq!(bench.keep(written(0, lsns[1], 20)), Keeping::Kept);
    assert_eq!(bench.keep(written(0, lsns[0], 21)), Keeping::Kept);
    assert_eq!(bench.pages.read_pages(&[block(0)], bench.end()).unwrap()[0], newest);
    assert_eq!(bench.pages.read_pages(&[block(0)], lsns[0]).unwrap()[0], written(0, lsns[0], 21).page);
    assert_eq!(deltas(&bench), 1);
    bench.check();
    // Two of one page in one request, in either order.
    let pages = [written(0, lsns[2], 31), written(0, lsns[1], 30)];
    bench.pages.keep_pages(bench.end(), &pages).unwrap();
    assert_eq!(bench.pages.read_pages(&[block(0)], bench.end()).unwrap()[0], pages[0].page);
    assert_eq!(bench.pages.read_pages(&[block(0)], lsns[1]).unwrap()[0], pages[1].page);
}

#[test]
fn an_image_that_a_worker_made_of_an_older_state_is_not_kept() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(0), image(1))]);
    let base = bench.end();
    (0..SETTINGS.max_deltas).for_each(|round| {
        let _ = bench.apply(vec![(block(0), delta(&round.to_le_bytes()))]);
    });
    let pages = Arc::clone(&bench.pages);
    let account = pages.store().account(block(0));
    let (chain, page) = pages.rebuilder.rebuild(block(0), account.last).unwrap();
    let keep_image = |epoch| pages.store().keep_image(block(0), page.clone(), &account, epoch);
    let keep_historical = |epoch| pages.store().keep_historical_image(block(0), base.add(8), page.clone(), epoch);
    assert_eq!(bench.keep(written(0, base, 2)), Keeping::Kept);
    assert_eq!(pages.store().account(block(0)), account, "the account does not tell");
    assert!(keep_image(chain.epoch()).is_none() && !keep_historical(chain.epoch()));
    let keeping = pages.store().begin_keeping();
    assert!(keep_image(pages.store().epoch()).is_none() && !keep_historical(pages.store().epoch()));
    drop(keeping);
    bench.check();
    assert!(keep_image(pages.store().epoch()).is_some());
}

#[test]
fn a_page_without_an_lsn_is_kept_where_ingest_stands_and_makes_its_relation_longer() {
    let mut bench = Bench::new();
    let read = |bench: &Bench, number| bench.pages.read_pages(&[block(number)], bench.end()).unwrap().remove(0);
    let before = bench.end();
    let _ = bench.apply(vec![]);
    let pages = [written(BLOCKS + 2, Lsn::INVALID, 5), written(BLOCKS + 1, Lsn::INVALID, 6)];
    let kept = bench.pages.keep_pages(before, &pages).unwrap();
    assert_eq!(kept.keepings, [Keeping::Kept, Keeping::Kept]);
    assert_eq!(kept.grown, [(Key::RelSize { rel: REL }, BLOCKS + 3)]);
    bench.flush().unwrap();
    bench.reopen();
    assert_eq!(read(&bench, BLOCKS + 2), pages[0].page);
    assert_eq!(read(&bench, BLOCKS + 1), pages[1].page);
    assert!(read(&bench, BLOCKS).iter().all(|byte| *byte == 0));
    assert!(bench.pages.read_pages(&[block(BLOCKS)], before).is_err(), "the relation was shorter");
    let again = bench.keep(written(BLOCKS + 1, Lsn::INVALID, 7));
    assert_eq!(again, Keeping::Kept, "what was kept so before is not what the log says");
    assert_eq!(read(&bench, BLOCKS + 1), written(BLOCKS + 1, Lsn::INVALID, 7).page);
}

#[test]
fn a_page_without_an_lsn_is_left_to_the_log_where_that_describes_it() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(1), delta(b"x")), (block(2), image(2)), (block(3), partial(3))]);
    let _ = bench.apply(vec![(block(4), Value::Tombstone)]);
    let lsn = bench.end();
    bench.keep(written(5, lsn, 9));
    for number in [1, 2, 3, 5] {
        assert_eq!(bench.keep(written(number, Lsn::INVALID, 9)), Keeping::Logged, "block {number}");
    }
    assert_eq!(bench.keep(written(0, Lsn::INVALID, 9)), Keeping::Kept, "no version");
    assert_eq!(bench.keep(written(4, Lsn::INVALID, 9)), Keeping::Kept, "zeroes");
    // The relation changes after the page was read.
    let upto = bench.end();
    let _ = bench.apply(vec![(Key::RelSize { rel: REL }, size(BLOCKS - 1))]);
    let late = bench.pages.keep_pages(upto, &[written(0, Lsn::INVALID, 8)]).unwrap();
    assert_eq!(late.keepings, [Keeping::Logged]);
    assert_eq!(bench.keep(written(0, Lsn::INVALID, 8)), Keeping::Kept);
    // A block that was cut off begins anew, whatever it was before.
    assert_eq!(bench.keep(written(5, lsn, 9)), Keeping::Gone, "it is cut off");
    assert_eq!(bench.keep(written(5, Lsn::INVALID, 10)), Keeping::Kept);
    bench.check();
}

#[test]
fn pages_of_a_relation_that_is_gone_are_not_kept() {
    let mut bench = Bench::new();
    let lsn = bench.end();
    let _ = bench.apply(vec![(Key::RelSize { rel: REL }, Value::Tombstone)]);
    assert_eq!(bench.keep(written(0, lsn, 1)), Keeping::Gone);
    assert_eq!(bench.keep(written(0, Lsn::INVALID, 1)), Keeping::Gone);
}

#[test]
fn a_request_with_a_page_that_cannot_be_meant_changes_nothing() {
    let mut bench = Bench::new();
    let _ = bench.apply(vec![(block(0), image(1))]);
    let good = written(0, bench.end(), 9);
    let other_fork = |fork| Key::RelBlock { rel: REL.with_fork(fork), block: 0 };
    let with_key = |key| WrittenPage { key, ..good.clone() };
    let short = WrittenPage { page: Bytes::from_static(b"short"), ..good.clone() };
    let refused = |bad: WrittenPage| {
        let error = bench.pages.keep_pages(bench.end(), &[good.clone(), bad]).unwrap_err();
        bench.check();
        error
    };
    for bad in [with_key(other_fork(Fork::FreeSpaceMap)), with_key(Key::Checkpoint), short] {
        assert!(matches!(refused(bad), KeepError::WrongPage(_)));
    }
    assert!(matches!(refused(written(0, bench.end().add(8), 9)), KeepError::Ahead { .. }));
    for far in [u32::MAX, 1 << 30] {
        assert!(matches!(refused(written(far, Lsn::INVALID, 9)), KeepError::Gap { .. }));
    }
    assert!(bench.pages.read_pages(&[block(BLOCKS)], bench.end()).is_err());
}

#[test]
fn a_page_without_an_lsn_is_kept_over_one_of_its_kind_whatever_older_pages_came_since() {
    let mut bench = Bench::new();
    assert_eq!(bench.keep(written(3, Lsn::INVALID, 1)), Keeping::Kept);
    let older = Lsn(bench.end().0 - 1);
    assert_eq!(bench.keep(written(3, older, 2)), Keeping::Kept);
    assert_eq!(bench.keep(written(3, Lsn::INVALID, 3)), Keeping::Kept);
    bench.check();
    let end = bench.end();
    assert_eq!(bench.keep(written(3, end, 4)), Keeping::Kept);
    assert_eq!(bench.keep(written(3, Lsn::INVALID, 5)), Keeping::Logged);
    bench.check();
}
