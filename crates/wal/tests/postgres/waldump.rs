//! Real WAL, decoded by us and by PostgreSQL: `pg_waldump` for what records hold, `pg_walinspect` for where they end,
//! and the data files for what page images restore to.

use crate::cluster::Cluster;
use anyhow::{Context, Result};

use quire_types::{Fork, Lsn, PAGE_SIZE};
use quire_wal::postgres_version::PG15;
use quire_wal::{Block, BlockImage, DataPath, ImageCompression, RawRecord, Record, WalStream, page, rmgr};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const SEGMENT: u64 = 1 << 20;

const SETTINGS: &str = "
    wal_level = logical
    wal_log_hints = on
    wal_recycle = off
    wal_keep_size = 1GB
    max_wal_size = 2GB
    autovacuum = off
    track_commit_timestamp = on
    max_prepared_transactions = 5
    fsync = off
";

/// Records of every kind that decoding treats differently.
const WORKLOAD: &str = "
    CREATE EXTENSION pg_walinspect;
    CREATE TABLE t (id int PRIMARY KEY, body text);
    INSERT INTO t SELECT i, repeat('x', i % 100) FROM generate_series(1, 5000) i;
    CREATE INDEX t_hash ON t USING hash (id);
    CREATE INDEX t_brin ON t USING brin (id);
    CREATE INDEX t_gist ON t USING gist (point(id, id));
    CREATE INDEX t_spgist ON t USING spgist (body);
    CREATE INDEX t_gin ON t USING gin (to_tsvector('simple', body));
    CREATE UNLOGGED TABLE u (id int PRIMARY KEY);
    CREATE SEQUENCE s;
    SELECT sum(nextval('s')) FROM generate_series(1, 100);
    BEGIN; INSERT INTO t VALUES (-1); SAVEPOINT a; INSERT INTO t VALUES (-2); SAVEPOINT b; DELETE FROM t WHERE id = -2;
    COMMIT;
    BEGIN; SELECT count(*) FROM (SELECT * FROM t WHERE id < 50 FOR UPDATE) x; UPDATE t SET body = 'y' WHERE id < 50;
    PREPARE TRANSACTION 'p';
    COMMIT PREPARED 'p';
    SELECT pg_replication_origin_create('o');
    SELECT pg_replication_origin_session_setup('o');
    BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', now()); INSERT INTO t VALUES (-3); COMMIT;
    SELECT pg_logical_emit_message(true, 'long', repeat('m', 3000000));
    SELECT pg_logical_emit_message(false, 'length ' || i, repeat('m', i)) FROM generate_series(0, 9000, 37) i;
    SELECT pg_switch_wal();
    CREATE DATABASE d STRATEGY file_copy;
    CREATE DATABASE e STRATEGY wal_log;
    DROP DATABASE d;
    CHECKPOINT;
    SET wal_consistency_checking = 'all';
    UPDATE t SET body = 'consistent' WHERE id < 300;
    VACUUM t;
    SET wal_compression = pglz;
    UPDATE t SET body = 'pglz' WHERE id < 300;
    SET wal_compression = lz4;
    UPDATE t SET body = 'lz4' WHERE id < 300;
    SET wal_compression = zstd;
    UPDATE t SET body = 'zstd' WHERE id < 300;
    DROP TABLE t;
    SELECT pg_switch_wal();
";

fn whole_log(cluster: &Cluster, from: Lsn) -> Result<(Vec<u8>, Vec<RawRecord>)> {
    let wal = cluster.wal_from(from, SEGMENT)?;
    let mut stream = WalStream::new(from, SEGMENT, Some(cluster.control()?.system_identifier));
    stream.feed(&wal);
    let records = drain(&mut stream)?;
    assert_eq!(stream.last_record(), Some(cluster.control()?.checkpoint), "the log ends with the shutdown checkpoint");
    Ok((wal, records))
}

fn drain(stream: &mut WalStream) -> Result<Vec<RawRecord>> {
    let mut records = Vec::new();
    while let Some(record) = stream.next_record()? {
        records.push(record);
    }
    Ok(records)
}

fn decode(raw: &RawRecord) -> Result<Record> {
    Ok(Record::decode(raw.start, raw.end, raw.bytes.clone())?)
}

/// A record in the words of `pg_waldump -b`, without its description.
fn dumped(raw: &RawRecord) -> Result<String> {
    let record = decode(raw)?;
    let images: usize = record.blocks.iter().filter_map(|block| Some(block.image.as_ref()?.bytes.len())).sum();
    let (total, name) = (raw.bytes.len(), rmgr::name(record.rmgr).context("unknown resource manager")?);
    let lsn = |lsn: Lsn| format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 as u32);
    let (start, prev) = (lsn(record.start), lsn(record.prev));
    let (length, xid) = (total - images, record.xid);
    let mut text =
        format!("rmgr: {name:<11} len (rec/tot): {length:>6}/{total:>6}, tx: {xid:>10}, lsn: {start}, prev {prev}, ");
    for block in &record.blocks {
        write!(text, "\n{}", dumped_block(block))?;
    }
    Ok(text)
}

fn dumped_block(block: &Block) -> String {
    let (rel, fork) = (block.rel, ["main", "fsm", "vm", "init"][block.rel.fork as usize]);
    let place = format!("{}/{}/{} fork {fork} blk {}", rel.tablespace, rel.database, rel.relation, block.block);
    let image = block.image.as_ref().map(dumped_image).unwrap_or_default();
    format!("\tblkref #{}: rel {place}{image}", block.id)
}

fn dumped_image(image: &BlockImage) -> String {
    let purpose = if image.apply { "" } else { " for WAL verification" };
    let (offset, length) = (image.hole_offset, image.hole_length);
    let saved = PAGE_SIZE - usize::from(length) - image.bytes.len();
    let compressed = |method| format!(", compression saved: {saved}, method: {method}");
    let method = match image.compression {
        ImageCompression::None => String::new(),
        ImageCompression::Pglz => compressed("pglz"),
        ImageCompression::Lz4 => compressed("lz4"),
        ImageCompression::Zstd => compressed("zstd"),
    };
    format!(" (FPW{purpose}); hole: offset: {offset}, length: {length}{method}")
}

/// The records `pg_waldump` finds, without their descriptions.
fn waldump(cluster: &Cluster, first: Lsn, end: Lsn) -> Result<Vec<String>> {
    let folder = cluster.data().join("pg_wal");
    let (first, end) = (first.to_string(), end.to_string());
    let folder = folder.to_str().context("not UTF-8")?;
    let output = cluster.run("pg_waldump", &["-b", "-p", folder, "-s", &first, "-e", &end])?;
    let mut records: Vec<String> = Vec::new();
    for line in output.lines() {
        if let Some((head, _)) = line.split_once("desc: ").filter(|_| line.starts_with("rmgr: ")) {
            records.push(head.to_owned());
        } else if let Some(last) = records.last_mut().filter(|_| line.starts_with("\tblkref ")) {
            write!(last, "\n{line}")?;
        }
    }
    Ok(records)
}

/// Where records end, by their starts, as the running server sees it.
fn record_ends(cluster: &Cluster, from: Lsn) -> Result<BTreeMap<Lsn, Lsn>> {
    let query = format!("SELECT start_lsn, end_lsn FROM pg_get_wal_records_info_till_end_of_wal('{from}')");
    let parse = |line: &str| {
        let (start, end) = line.split_once('|').context("two columns")?;
        Ok((start.parse()?, end.parse()?))
    };
    cluster.sql(&query)?.lines().map(parse).collect()
}

/// Each resource manager and kind of fragment that occurs.
fn features(records: &[Record]) -> BTreeSet<String> {
    let mut features = BTreeSet::new();
    for record in records {
        features.extend(rmgr::name(record.rmgr).map(str::to_owned));
        features.extend(record.origin.map(|_| "origin".to_owned()));
        features.extend(record.toplevel_xid.map(|_| "top-level transaction".to_owned()));
        for image in record.blocks.iter().filter_map(|block| block.image.as_ref()) {
            features.insert(format!("{:?} {}", image.compression, if image.apply { "applied" } else { "compared" }));
        }
    }
    features
}

#[test]
fn records_are_what_postgresqls_own_tools_see() -> Result<()> {
    let cluster = Cluster::init(SETTINGS)?;
    let checkpoint = cluster.control()?.checkpoint;
    let from = Lsn(checkpoint.0 - checkpoint.segment_offset(SEGMENT));
    cluster.start()?;
    cluster.pgbench_init()?;
    cluster.sql(WORKLOAD)?;
    let ends = record_ends(&cluster, checkpoint)?;
    cluster.stop()?;

    let (wal, raw) = whole_log(&cluster, from)?;
    let (first, last) = (raw.first().context("no records")?, raw.last().context("no records")?);
    let ours = raw.iter().map(dumped).collect::<Result<Vec<String>>>()?;
    let theirs = waldump(&cluster, first.start, last.end)?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());

    let by_start: BTreeMap<Lsn, Lsn> = raw.iter().map(|record| (record.start, record.end)).collect();
    assert!(ends.len() > 10_000);
    for (start, end) in &ends {
        assert_eq!(by_start.get(start), Some(end), "end of the record at {start}");
    }

    let records = raw.iter().map(decode).collect::<Result<Vec<Record>>>()?;
    let features = features(&records);
    for needed in [
        "Btree",
        "BRIN",
        "Database",
        "Gin",
        "Gist",
        "Hash",
        "Heap",
        "Heap2",
        "LogicalMessage",
        "Sequence",
        "SPGist",
        "Standby",
        "Storage",
        "Transaction",
        "XLOG",
        "origin",
        "top-level transaction",
        "None applied",
        "None compared",
        "Pglz compared",
        "Lz4 compared",
        "Zstd compared",
    ] {
        assert!(features.contains(needed), "the workload wrote no {needed}");
    }
    assert_pieces_give_the_same(from, &wal, &raw)?;
    assert_images_restore(&records);
    Ok(())
}

fn assert_pieces_give_the_same(from: Lsn, wal: &[u8], whole: &[RawRecord]) -> Result<()> {
    for piece in [61, 8191, 300_000] {
        let mut stream = WalStream::new(from, SEGMENT, None);
        let mut records = Vec::with_capacity(whole.len());
        for bytes in wal.chunks(piece) {
            stream.feed(bytes);
            records.extend(drain(&mut stream)?);
        }
        assert!(records == whole, "pieces of {piece} bytes");
    }
    Ok(())
}

fn assert_images_restore(records: &[Record]) {
    for (record, block) in records.iter().flat_map(|record| record.blocks.iter().map(move |block| (record, block))) {
        if let Some(image) = &block.image {
            let page = image.restore().unwrap_or_else(|error| panic!("{} {}: {error}", record.start, block.rel));
            let looks_right =
                page::is_new(&page[..]) || page::pagesize_version(&page[..]) == page::PAGE_SIZE_AND_VERSION;
            assert!(looks_right || block.rel.fork == Fork::FreeSpaceMap, "{} {}", record.start, block.rel);
        }
    }
}

/// A new index is logged as images of its pages, so each image must be the page in its file.
#[test]
fn restored_images_are_the_pages_on_disk() -> Result<()> {
    let cluster = Cluster::init(SETTINGS)?;
    let from = Lsn(cluster.control()?.checkpoint.0 / SEGMENT * SEGMENT);
    cluster.start()?;
    cluster.sql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 3) AS body FROM generate_series(1, 20000) i;")?;
    let mut indexes = BTreeMap::new();
    for method in ["off", "pglz", "lz4", "zstd"] {
        cluster.sql(&format!("SET wal_compression = {method}; CREATE INDEX i_{method} ON t (body, i);"))?;
        let relation = cluster.sql(&format!("SELECT pg_relation_filenode('i_{method}')"))?.trim().parse::<u32>()?;
        indexes.insert(relation, method);
    }
    cluster.stop()?;

    let mut compared: BTreeMap<(&str, ImageCompression), u32> = BTreeMap::new();
    for raw in whole_log(&cluster, from)?.1 {
        let record = decode(&raw)?;
        for block in &record.blocks {
            let Some(method) = indexes.get(&block.rel.relation) else { continue };
            let image = block.image.as_ref().context("a new index is logged as images")?;
            assert_image_is_on_disk(&cluster, &record, block, image)?;
            *compared.entry((method, image.compression)).or_default() += 1;
        }
    }
    for (method, compression) in [
        ("off", ImageCompression::None),
        ("pglz", ImageCompression::Pglz),
        ("lz4", ImageCompression::Lz4),
        ("zstd", ImageCompression::Zstd),
    ] {
        assert!(compared.get(&(method, compression)).is_some_and(|&pages| pages > 100), "{method}: {compared:?}");
    }
    Ok(())
}

fn assert_image_is_on_disk(cluster: &Cluster, record: &Record, block: &Block, image: &BlockImage) -> Result<()> {
    let mut page = image.restore()?;
    page::set_lsn(&mut page[..], record.end);
    let file = std::fs::read(cluster.data().join(DataPath::Relation { rel: block.rel, segment: 0 }.to_path(&PG15)))?;
    let mut on_disk = file[block.block as usize * PAGE_SIZE..][..PAGE_SIZE].to_vec();
    // PostgreSQL does not clear free space on disk: building an index leaves bytes there that no image has.
    on_disk[page::lower(&page[..]).into()..page::upper(&page[..]).into()].fill(0);
    assert!(page[..] == on_disk[..], "{} block {}, {:?}", block.rel, block.block, image.compression);
    Ok(())
}
