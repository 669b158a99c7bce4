//! Makes the seeds anew: of WAL of a server on which the workloads of redo's own tests run, and of messages and files
//! made by hand. `make corpus` runs it; it takes minutes and rewrites `corpus/`.

#[expect(dead_code, reason = "only the server's workload is of use here")]
#[path = "../../../redo/tests/oracle/brin.rs"]
mod brin;
#[expect(dead_code, reason = "as above")]
#[path = "../../../redo/tests/oracle/cluster.rs"]
mod cluster;
#[path = "../../../redo/tests/oracle/regress/extra.rs"]
mod extra;
#[expect(dead_code, reason = "as above")]
#[path = "../../../redo/tests/oracle/generic.rs"]
mod generic;
#[expect(dead_code, reason = "as above")]
#[path = "../../../redo/tests/oracle/gin.rs"]
mod gin;
#[expect(dead_code, reason = "as above")]
#[path = "../../../redo/tests/oracle/gist.rs"]
mod gist;
#[expect(dead_code, reason = "as above")]
#[path = "../../../redo/tests/oracle/hash.rs"]
mod hash;
mod made;
mod observer;
#[expect(dead_code, reason = "as above")]
#[path = "../../../redo/tests/oracle/spgist.rs"]
mod spgist;
#[path = "../../../redo/tests/oracle/workload.rs"]
mod workload;

/// What the workloads' own checks are made of.
mod replay {
    /// A page.
    pub type Page = [u8; quire_types::PAGE_SIZE];
}

use anyhow::{Context, Result, ensure};
use cluster::Cluster;
use observer::Observer;
use quire_fuzz::corpus;
use quire_types::Lsn;
use quire_types::lsn::segment_file_name;
use quire_wal::{ControlFile, Record, WalStream};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Seeds by target.
pub type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// More than all the packed seeds together may have.
const BYTES_MAX: usize = 1 << 20;

#[test]
#[ignore = "rewrites the committed seeds from a server that runs for minutes"]
fn the_corpus_is_made_anew() -> Result<()> {
    let cluster = Cluster::create(&format!("{}wal_level = logical\n", workload::SETTINGS))?;
    cluster.start()?;
    let before = control_file(&cluster)?;
    run_workloads(&cluster)?;
    cluster.stop()?;
    let mut observer = Observer::default();
    follow(&cluster.data(), &before, &mut observer)?;
    let mut seeds = observer.into_seeds();
    made::add(&mut seeds, &fs::read(cluster.data().join("global/pg_control"))?);
    write(&seeds)
}

fn run_workloads(cluster: &Cluster) -> Result<()> {
    extra::freeze(cluster)?;
    workload::run(cluster)?;
    gin::run(cluster)?;
    gist::run(cluster)?;
    spgist::run(cluster)?;
    hash::run(cluster)?;
    brin::run(cluster)?;
    generic::run(cluster)?;
    cluster.sql("create database regression")?;
    cluster.sql("alter system set wal_compression = 'lz4'")?;
    extra::run(cluster)?;
    for method in ["pglz", "zstd"] {
        cluster.script(&format!(
            "alter system set wal_compression = '{method}'; alter system set full_page_writes = on;
             select pg_reload_conf(); select pg_sleep(0.2); checkpoint; update imaged set tag = tag || 'y' where id < 100;"
        ))?;
    }
    cluster.sql("checkpoint")
}

/// Shows the observer every record from the first checkpoint on.
fn follow(data: &Path, from: &ControlFile, observer: &mut Observer) -> Result<()> {
    let segment_bytes = u64::from(from.layout.wal_segment_bytes);
    let mut stream = WalStream::new(from.checkpoint, segment_bytes, Some(from.system_identifier));
    let mut offset = from.checkpoint.segment_offset(segment_bytes) as usize;
    for number in from.checkpoint.segment_number(segment_bytes).. {
        let Ok(segment) = fs::read(data.join("pg_wal").join(segment_file_name(1, number, segment_bytes))) else {
            break;
        };
        observer.segment(&segment);
        for piece in segment[std::mem::take(&mut offset)..].chunks(1 << 20) {
            stream.feed(piece);
            while let Some(raw) = stream.next_record()? {
                observer.record(&Record::decode(raw.start, raw.end, raw.bytes)?)?;
            }
        }
    }
    ensure!(stream.boundary() > Lsn(0));
    Ok(())
}

fn control_file(cluster: &Cluster) -> Result<ControlFile> {
    Ok(ControlFile::parse(&fs::read(cluster.data().join("global/pg_control"))?)?)
}

fn write(seeds: &Seeds) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut bytes = 0;
    for target in quire_fuzz::TARGETS {
        let seeds = seeds.get(target.name).with_context(|| format!("no seeds for {}", target.name))?;
        seeds.iter().for_each(|seed| (target.run)(seed));
        let packed = corpus::pack(seeds)?;
        println!("{}: {} seeds, {} bytes packed", target.name, seeds.len(), packed.len());
        bytes += packed.len();
        fs::write(folder.join(target.name).with_extension("zst"), packed)?;
    }
    ensure!(bytes < BYTES_MAX, "the seeds take {bytes} bytes");
    Ok(())
}
