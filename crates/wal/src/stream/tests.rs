use super::*;
use crate::postgres_version::PG15;
use crate::writer::WalWriter;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

const SEGMENT: u64 = 1 << 20;
const SYSTEM: u64 = 77;

/// A log of records with main data of these lengths, and where each record starts and ends.
fn log(start: Lsn, lengths: &[usize]) -> (Vec<u8>, Vec<(Lsn, Lsn)>) {
    let mut writer = WalWriter::new(&PG15, start, Lsn(0), 1, SYSTEM, SEGMENT);
    let bounds = lengths.iter().map(|&length| (append(&mut writer, length), writer.position())).collect();
    (writer.into_vec(), bounds)
}

fn append(writer: &mut WalWriter, length: usize) -> Lsn {
    writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 5, &vec![0xAB; length])
}

fn stream(start: Lsn) -> WalStream {
    WalStream::new(start, SEGMENT, Some(SYSTEM))
}

fn drain(stream: &mut WalStream) -> Vec<RawRecord> {
    std::iter::from_fn(|| stream.next_record().expect("valid WAL")).collect()
}

/// The same records, and what the stream says after them, taken in runs.
fn drain_runs(stream: &mut WalStream) -> (Vec<RawRecord>, Result<(), WalError>) {
    let (mut run, mut records) = (RecordRun::default(), Vec::new());
    loop {
        match stream.next_run(&mut run) {
            Ok(true) => records.extend(run.records().map(|record| RawRecord {
                start: record.start,
                end: record.end,
                bytes: Bytes::copy_from_slice(record.bytes),
            })),
            other => return (records, other.map(drop)),
        }
    }
}

fn bounds_of(records: &[RawRecord]) -> Vec<(Lsn, Lsn)> {
    records.iter().map(|record| (record.start, record.end)).collect()
}

/// Flips a byte at `offset` of a log of three short records and reads it.
fn read_damaged(offset: usize) -> Result<Vec<RawRecord>, WalError> {
    let (mut bytes, _) = log(Lsn(SEGMENT), &[8, 8, 8]);
    bytes[offset] ^= 0x40;
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&bytes);
    std::iter::from_fn(|| stream.next_record().transpose()).collect()
}

#[test]
fn records_over_page_and_segment_boundaries_keep_their_bounds() {
    let start = Lsn(2 * SEGMENT - 8192);
    let (bytes, bounds) = log(start, &[10, 9000, 0, 300, 20_000, 1]);
    let mut stream = stream(start);
    stream.feed(&bytes);
    let records = drain(&mut stream);
    assert_eq!(bounds_of(&records), bounds);
    assert_eq!(stream.last_record(), bounds.last().map(|bound| bound.0));
    assert_eq!((stream.boundary(), stream.position()), (start.add(bytes.len() as u64), stream.boundary()));
}

#[test]
fn a_record_ends_at_a_page_boundary_before_the_next_pages_header() {
    // 8192 - 40 (header) - 24 (record header) - 5 (long main data header): the record fills the page.
    let (bytes, bounds) = log(Lsn(SEGMENT), &[8123, 8]);
    assert_eq!((bounds[0].1, bounds[1].0), (Lsn(SEGMENT + 8192), Lsn(SEGMENT + 8192 + 24)));
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&bytes[..8192]);
    assert_eq!(bounds_of(&drain(&mut stream)), bounds[..1]);
    stream.feed(&bytes[8192..]);
    assert_eq!(bounds_of(&drain(&mut stream)), bounds[1..]);
}

#[test]
fn a_start_inside_a_record_skips_the_rest_of_it() {
    let (bytes, bounds) = log(Lsn(SEGMENT), &[8, 30_000, 8]);
    for page in 1..=3 {
        let mut stream = stream(Lsn(SEGMENT + page * 8192));
        stream.feed(&bytes[page as usize * 8192..]);
        assert_eq!(bounds_of(&drain(&mut stream)), bounds[2..], "from page {page}");
    }
}

#[test]
fn a_known_boundary_is_not_followed_by_the_rest_of_another_record() {
    let (bytes, _) = log(Lsn(SEGMENT), &[8, 30_000, 8]);
    let mut stream = WalStream::at_boundary(Lsn(SEGMENT + 8192), SEGMENT, Some(SYSTEM));
    stream.feed(&bytes[8192..]);
    assert!(stream.next_record().is_err());
}

#[test]
fn timelines_may_grow_but_not_fall() {
    let (first, bounds) = log(Lsn(SEGMENT), &[8123]);
    for (timeline, is_good) in [(2, true), (1, true), (0, false)] {
        let mut writer = WalWriter::new(&PG15, bounds[0].1, bounds[0].0, timeline, SYSTEM, SEGMENT);
        append(&mut writer, 8);
        let mut stream = stream(Lsn(SEGMENT));
        stream.feed(&first);
        stream.feed(&writer.into_vec());
        assert!(stream.next_record().is_ok_and(|record| record.is_some()));
        assert_eq!(stream.next_record().is_ok(), is_good, "timeline {timeline} after 1");
    }
}

#[test]
fn a_skipped_record_may_end_with_its_page() {
    // The second record ends with the second page: 8152 + 8168 bytes are room for 64 and for it.
    let (bytes, bounds) = log(Lsn(SEGMENT), &[38, 8152 + 8168 - 64 - 29, 8]);
    assert_eq!(bounds[1].1, Lsn(SEGMENT + 2 * 8192));
    let mut stream = stream(Lsn(SEGMENT + 8192));
    stream.feed(&bytes[8192..]);
    assert_eq!(bounds_of(&drain(&mut stream)), bounds[2..]);
}

#[test]
fn a_record_is_withheld_until_its_padding_was_fed() {
    let (bytes, bounds) = log(Lsn(SEGMENT), &[1]);
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&bytes[..bytes.len() - 1]);
    assert_eq!(stream.next_record(), Ok(None));
    assert_eq!(stream.boundary(), Lsn(SEGMENT));
    stream.feed(&bytes[bytes.len() - 1..]);
    assert_eq!(bounds_of(&drain(&mut stream)), bounds);
}

#[test]
fn a_segment_switch_ends_where_the_next_segment_starts() {
    let mut writer = WalWriter::new(&PG15, Lsn(SEGMENT), Lsn(0), 1, SYSTEM, SEGMENT);
    let switch = writer.append(rmgr::XLOG, rmgr::XLOG_SWITCH, 0, &[]);
    let mut bytes = writer.into_vec();
    // PostgreSQL leaves page headers and zeroes there; nothing in it matters.
    bytes.resize(SEGMENT as usize, 0x5A);
    let next = Lsn(2 * SEGMENT);
    let mut writer = WalWriter::new(&PG15, next, switch, 1, SYSTEM, SEGMENT);
    append(&mut writer, 8);
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&bytes[..5000]);
    assert_eq!(stream.next_record(), Ok(None), "the unused rest is part of the switch");
    stream.feed(&bytes[5000..]);
    assert_eq!(bounds_of(&drain(&mut stream)), [(switch, next)]);
    stream.feed(&writer.into_vec());
    assert_eq!(bounds_of(&drain(&mut stream)), [(next.add(40), next.add(40 + 40))]);
}

#[test]
fn a_log_that_ends_in_zeroes_can_be_read_on_once_they_were_overwritten() {
    let (bytes, bounds) = log(Lsn(SEGMENT), &[8, 8, 9000, 8]);
    for cut in [0, bounds[0].1.0 - SEGMENT, bounds[2].1.0 - SEGMENT] {
        let cut = cut as usize;
        let mut tail = bytes[..cut].to_vec();
        tail.resize(cut.next_multiple_of(8192) + 8192, 0);
        let mut stream = stream(Lsn(SEGMENT));
        stream.feed(&tail);
        let before = drain(&mut stream);
        stream.feed(&[1; 100]);
        assert_eq!(stream.next_record(), Ok(None), "the end stays");
        assert_eq!(stream.position(), Lsn(SEGMENT + tail.len() as u64 + 100));
        stream.rewind_to_boundary();
        assert_eq!((stream.position(), stream.boundary()), (Lsn(SEGMENT + cut as u64), stream.position()));
        stream.feed(&bytes[cut..]);
        assert_eq!(bounds_of(&[before, drain(&mut stream)].concat()), bounds, "cut at {cut}");
    }
}

#[test]
fn a_half_written_record_can_be_read_on_after_a_rewind() {
    let (bytes, bounds) = log(Lsn(SEGMENT), &[8, 600]);
    let cut = (bounds[1].0.0 - SEGMENT) as usize + 300;
    let mut torn = bytes[..cut].to_vec();
    torn.resize(bytes.len(), 0);
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&torn);
    assert!(stream.next_record().is_ok_and(|record| record.is_some()));
    let error = stream.next_record().unwrap_err();
    assert_eq!(stream.next_record(), Err(error), "an error stays");
    stream.rewind_to_boundary();
    stream.feed(&bytes[(stream.position().0 - SEGMENT) as usize..]);
    assert_eq!(bounds_of(&drain(&mut stream)), bounds[1..]);
}

#[test]
fn a_lost_continuation_is_overwritten_by_the_page_that_says_so() {
    let (mut bytes, bounds) = log(Lsn(SEGMENT), &[8, 9000]);
    bytes.truncate(8192);
    let overwrite = Lsn(SEGMENT + 8192);
    let mut writer = WalWriter::new(&PG15, overwrite, bounds[0].0, 1, SYSTEM, SEGMENT);
    let start = writer.append(rmgr::XLOG, rmgr::XLOG_OVERWRITE_CONTRECORD, 0, &[0; 16]);
    let mut page = writer.into_vec();
    page[2] |= crate::wal_page::XLP_FIRST_IS_OVERWRITE_CONTRECORD as u8;
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&bytes);
    stream.feed(&page);
    let records = drain(&mut stream);
    assert_eq!(records.iter().map(|record| record.start).collect::<Vec<_>>(), [bounds[0].0, start]);
}

#[test]
fn damage_anywhere_in_a_record_or_page_header_is_an_error() {
    assert_eq!(read_damaged(100).map_err(|_| ()), Err(()));
    for offset in [0, 2, 8, 9, 24, 32, 36, 40, 44, 48, 56, 57, 60, 64, 66] {
        assert!(read_damaged(offset).is_err(), "byte {offset}");
    }
}

#[test]
fn a_run_gives_every_record_before_damage() {
    let (mut bytes, bounds) = log(Lsn(SEGMENT), &[8, 8, 8, 9000, 8]);
    let mut whole = stream(Lsn(SEGMENT));
    whole.feed(&bytes);
    let mut run = RecordRun::default();
    // The record behind a page's header comes alone.
    for expected in [&bounds[..1], &bounds[1..3], &bounds[3..4]] {
        assert!(whole.next_run(&mut run).unwrap());
        assert_eq!(run.records().map(|record| (record.start, record.end)).collect::<Vec<_>>(), expected);
        assert_eq!(
            (whole.last_record(), whole.boundary()),
            expected.last().map(|last| (Some(last.0), last.1)).unwrap()
        );
    }
    bytes[(bounds[2].0.0 - SEGMENT) as usize + 30] ^= 0x40;
    let mut damaged = stream(Lsn(SEGMENT));
    damaged.feed(&bytes);
    let (records, end) = drain_runs(&mut damaged);
    assert_eq!(bounds_of(&records), bounds[..2]);
    assert!(end.is_err());
    assert!(damaged.next_run(&mut run).is_err() && run.is_empty());
}

#[test]
fn a_chain_that_does_not_name_the_record_before_is_an_error() {
    let (bytes, bounds) = log(Lsn(SEGMENT), &[8, 8]);
    let tail = &bytes[(bounds[1].0.0 - SEGMENT) as usize..];
    let mut good = WalStream::resume(bounds[0].1, bounds[0].0, SEGMENT, Some(SYSTEM));
    good.feed(tail);
    assert_eq!(bounds_of(&drain(&mut good)), bounds[1..]);
    let mut bad = WalStream::resume(bounds[0].1, Lsn(SEGMENT + 48), SEGMENT, Some(SYSTEM));
    bad.feed(tail);
    assert!(bad.next_record().is_err());
}

#[test]
fn a_start_where_no_record_can_start_is_an_error() {
    for start in [SEGMENT + 8, SEGMENT + 8192 + 16, SEGMENT + 8192 + 33] {
        assert!(stream(Lsn(start)).next_record().is_err(), "{start}");
    }
    assert!(WalStream::new(Lsn(SEGMENT), 0, None).next_record().is_err());
}

#[test]
fn a_length_field_alone_allocates_nothing() {
    let mut bytes = log(Lsn(SEGMENT), &[8]).0;
    bytes[40..44].copy_from_slice(&(RECORD_BYTES_MAX as u32).to_le_bytes());
    let mut stream = stream(Lsn(SEGMENT));
    stream.feed(&bytes);
    assert_eq!(stream.next_record(), Ok(None));
    let State::Within(partial) = &stream.state else { panic!("the record is incomplete") };
    assert!(partial.bytes.capacity() < 4096);
    bytes[40..44].copy_from_slice(&(RECORD_BYTES_MAX as u32 + 1).to_le_bytes());
    let mut stream = WalStream::new(Lsn(SEGMENT), SEGMENT, None);
    stream.feed(&bytes);
    assert!(stream.next_record().is_err());
}

/// Feeds `bytes` in pieces of these sizes, over and over, taking records after each.
fn read_in_pieces(start: Lsn, bytes: &[u8], pieces: &[usize]) -> Result<Vec<RawRecord>, TestCaseError> {
    let (mut stream, mut rest, mut records) = (stream(start), bytes, Vec::new());
    for &piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        stream.feed(now);
        records.extend(drain(&mut stream));
        prop_assert!(stream.boundary() <= stream.position());
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    Ok(records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pieces_of_any_size_give_what_the_whole_gives(
        lengths in proptest::collection::vec(prop_oneof![0usize..300, 0usize..20_000], 1..12),
        pieces in proptest::collection::vec(prop_oneof![1usize..40, 1usize..9000], 1..8),
    ) {
        let start = Lsn(2 * SEGMENT - 3 * 8192);
        let (bytes, bounds) = log(start, &lengths);
        let mut whole = stream(start);
        whole.feed(&bytes);
        let records = drain(&mut whole);
        prop_assert_eq!(bounds_of(&records), bounds);
        prop_assert_eq!(&read_in_pieces(start, &bytes, &pieces)?, &records);
        let (mut in_runs, mut rest) = (stream(start), &bytes[..]);
        let mut from_runs = Vec::new();
        for &piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            in_runs.feed(now);
            rest = later;
            let (records, end) = drain_runs(&mut in_runs);
            prop_assert_eq!(end, Ok(()));
            from_runs.extend(records);
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(from_runs, records);
        prop_assert_eq!((in_runs.boundary(), in_runs.last_record()), (whole.boundary(), whole.last_record()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop_oneof![Just(SEGMENT), Just(SEGMENT + 8192), Just(SEGMENT + 64), any::<u64>()],
        raw in proptest::collection::vec(any::<u8>(), 0..300),
        splice in 0usize..600,
    ) {
        let mut stream = WalStream::new(Lsn(start), SEGMENT, None);
        stream.feed(&raw);
        while let Ok(Some(_)) = stream.next_record() {}
        // Valid WAL with arbitrary bytes in the middle gets further than arbitrary bytes alone.
        let (mut bytes, _) = log(Lsn(SEGMENT), &[8, 9000, 8]);
        bytes[8000 + splice..8000 + splice + raw.len()].copy_from_slice(&raw);
        let mut stream = WalStream::new(Lsn(SEGMENT), SEGMENT, None);
        stream.feed(&bytes);
        while let Ok(Some(record)) = stream.next_record() {
            let _ = crate::Record::decode(record.start, record.end, record.bytes);
        }
    }
}

#[test]
fn what_comes_from_a_reader_is_as_if_it_were_fed() {
    let (bytes, bounds) = log(Lsn(SEGMENT), &[8, 9000, 300]);
    let mut stream = stream(Lsn(SEGMENT));
    let (mut reader, mut found) = (&bytes[..], Vec::new());
    while stream.feed_from(&mut reader, 1000).expect("memory is read") > 0 {
        found.extend(drain(&mut stream));
    }
    assert!(found.iter().map(|record| (record.start, record.end)).eq(bounds));
    let position = stream.position();
    assert!(stream.feed_from(&mut Broken, 1000).is_err());
    assert_eq!((stream.position(), stream.buffer.len()), (position, 0));
}

/// A reader that gives nothing.
struct Broken;

impl std::io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("broken"))
    }
}

#[test]
fn a_page_of_another_version_is_no_part_of_the_log() {
    let (bytes, _) = log(Lsn(SEGMENT), &[10]);
    let other = Box::leak(Box::new(crate::postgres_version::PostgresVersion { major: 99, ..PG15 }));
    let mut stream = WalStream::new(Lsn(SEGMENT), SEGMENT, Some(SYSTEM)).of_version(other);
    stream.feed(&bytes);
    let error = stream.next_record().expect_err("the page says 15");
    assert!(error.to_string().contains("PostgreSQL 15 in a log of 99"), "{error}");
    let mut stream = WalStream::new(Lsn(SEGMENT), SEGMENT, Some(SYSTEM)).of_version(&PG15);
    stream.feed(&bytes);
    assert!(stream.next_record().expect("of the log").is_some());
}
