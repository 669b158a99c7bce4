//! Redo is that of the server that wrote the log, whichever minor release it is, and whichever wrote before or reads
//! now.

use quire_tests::minor::{Installation, Minor};
use quire_tests::{Quire, wait_for};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

/// The releases between which redo of a GiST index's vacuum changed.
const BEFORE: &str = "15.18";
const AFTER: &str = "15.20";

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

async fn create(client: &Client) {
    run(
        client,
        "CREATE EXTENSION pageinspect;
         CREATE TABLE s (id serial PRIMARY KEY, p point) WITH (autovacuum_enabled = off);
         CREATE INDEX s_p ON s USING gist (p);
         INSERT INTO s (p) SELECT point(random() * 1000, random() * 1000) FROM generate_series(1, 20000)",
    )
    .await;
}

/// Deletes some rows of all leaves, and has VACUUM remove them from the index.
async fn vacuum(client: &Client, one_in_20: u32) {
    run(client, &format!("DELETE FROM s WHERE id % 20 = {one_in_20}")).await;
    run(client, "VACUUM s").await;
    run(client, "CHECKPOINT").await;
}

/// What each page of the index says of itself. Free ones are left out: nobody reads them.
async fn flags(client: &Client) -> Vec<String> {
    let query = "SELECT coalesce(flags::text, '') FROM generate_series(0, pg_relation_size('s_p') / 8192 - 1) block,
         LATERAL gist_page_opaque_info(get_raw_page('s_p', block::int)) ORDER BY block";
    client.query(query, &[]).await.expect("read").iter().map(|row| row.get(0)).collect()
}

fn marked(flags: &[String]) -> usize {
    flags.iter().filter(|flags| flags.contains("tuples_deleted")).count()
}

fn server(quire: &Quire) -> String {
    quire.branch()["compute"]["server"]["version"].as_str().expect("a version").to_owned()
}

/// Nothing differs, and nothing was found to differ before.
fn expect_all_equal(quire: &Quire) {
    quire.verify();
    let branch = quire.branch();
    assert_eq!(branch["verification"]["mismatches"], 0, "{:#}", branch["verification"]);
    assert_eq!(branch["pushdown"]["state"], "on");
}

async fn gist_vacuum_on(minor: &Minor) {
    let quire = Quire::new().with_option("--pg-bin", minor.programs.to_str().expect("text"));
    quire.up();
    assert_eq!(server(&quire), minor.version);
    let client = quire.connect().await;
    create(&client).await;
    vacuum(&client, 1).await;
    expect_all_equal(&quire);
    let before = flags(&client).await;
    drop(client);
    quire.cold_restart();
    assert_eq!(flags(&quire.connect().await).await, before, "storage has the pages as PostgreSQL had them");
    assert_eq!(marked(&before) > 0, *minor != Minor { version: AFTER.into(), ..minor.clone() }, "{}", minor.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuumed_gist_index_equals_storages() {
    let tested = Minor::tested();
    gist_vacuum_on(&tested).await;
    for version in [BEFORE, AFTER] {
        match Minor::aside(version) {
            Some(minor) if minor.version != tested.version => gist_vacuum_on(&minor).await,
            Some(_) => {}
            None => eprintln!("PostgreSQL {version} is not here; scripts/postgres-minor.sh {version} puts it aside"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_redone_as_the_server_did_that_wrote_it_across_upgrades_and_back() {
    let (Some(older), Some(newer)) = (Minor::aside(BEFORE), Minor::aside(AFTER)) else {
        eprintln!("{BEFORE} and {AFTER} are not both here; scripts/postgres-minor.sh puts them aside");
        return;
    };
    let quire = Quire::new();
    let installation = Installation::new(quire.beside("programs"), &older);
    let quire = quire.with_option("--pg-bin", installation.programs());
    quire.up();
    quire.set("wal_level = logical");
    create(&quire.connect().await).await;
    run(&quire.connect().await, "SELECT pg_create_logical_replication_slot('slot', 'test_decoding')").await;
    vacuum(&quire.connect().await, 1).await;
    expect_all_equal(&quire);
    let marked_at_first = marked(&flags(&quire.connect().await).await);
    assert!(marked_at_first > 0);
    // A start that may keep the cache, one that may not, and one after a crash of everything.
    for (step, minor) in [&newer, &older, &newer, &older].into_iter().enumerate() {
        let before = flags(&quire.connect().await).await;
        installation.install(minor);
        match step {
            0 | 3 => _ = quire.ok(&["compute", "restart", "main"]),
            1 => quire.cold_restart(),
            _ => {
                quire.kill_everything().await;
                quire.up();
            }
        }
        assert_eq!(server(&quire), minor.version);
        let client = quire.connect().await;
        assert_eq!(flags(&client).await, before, "step {step}: pages of both releases are as they were");
        // New leaves, without the mark.
        run(&client, "INSERT INTO s (p) SELECT point(random() * 1000, random() * 1000) FROM generate_series(1, 5000)")
            .await;
        vacuum(&client, 2 + step as u32).await;
        expect_all_equal(&quire);
    }
    let before = flags(&quire.connect().await).await;
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(flags(&client).await, before);
    // Nobody who decodes the log comes across the records that tell the server's version.
    let query =
        "SELECT count(*) FILTER (WHERE data LIKE '%s:%'), count(*) FILTER (WHERE data LIKE 'message%server_version%')
         FROM pg_logical_slot_get_changes('slot', NULL, NULL)";
    let row = client.query_one(query, &[]).await.expect("decoded");
    assert!(row.get::<_, i64>(0) > 20_000 && row.get::<_, i64>(1) == 0, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_newer_than_any_tested_one_is_told_and_its_pages_are_compared() {
    let tested = Minor::tested();
    let quire = Quire::new();
    let programs = renumbered(&quire, &tested, "98");
    let quire = quire.with_option("--pg-bin", &programs).with_option("--verify-rate", "1000");
    quire.up();
    assert_eq!(server(&quire), "15.98");
    let log = fs::read_to_string(quire.dir().join("log/compute-main.log")).expect("a log");
    assert!(log.contains("15.98 is newer than"), "{log}");
    let client = quire.connect().await;
    run(&client, "CREATE TABLE t (n int PRIMARY KEY, pad text); CREATE INDEX ON t USING hash (n)").await;
    run(&client, "INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n; CHECKPOINT").await;
    let compared = |kind: &str| quire.branch()["compute"]["server"]["compared"][kind].as_u64().unwrap_or_default();
    let enough = async || (compared("Heap") == 1000 && compared("Hash") > 10).then_some(());
    wait_for("a thousand pages are compared", 120, enough).await;
    let told = quire.ok(&["status"]);
    assert!(told.contains("PostgreSQL 15.98 is newer than") && told.contains("Heap 1000"), "{told}");
    expect_all_equal(&quire);
}

/// The programs of a release under the number of another, which has not been released: the server says so of itself
/// wherever it says its version.
fn renumbered(quire: &Quire, minor: &Minor, number: &str) -> String {
    let real = fs::canonicalize(&minor.programs).expect("there");
    let (tree, share) = (quire.beside("renumbered"), Share::of(&real));
    let programs = tree.join(&share.programs);
    fs::create_dir_all(&programs).expect("made");
    for entry in fs::read_dir(&real).expect("listed").flatten() {
        symlink(entry.path(), programs.join(entry.file_name())).expect("linked");
    }
    for folder in share.folders {
        let link = tree.join(&folder);
        fs::create_dir_all(link.parent().expect("a folder above")).expect("made");
        symlink(share.root.join(&folder), link).expect("linked");
    }
    for program in ["postgres", "initdb"] {
        let patched = patch(fs::read(real.join(program)).expect("read"), &minor.version, number);
        let path = programs.join(program);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, patched).expect("written");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("made executable");
    }
    programs.to_str().expect("text").to_owned()
}

/// Where the programs of a package find their files, all below one directory.
struct Share {
    root: PathBuf,
    programs: PathBuf,
    folders: Vec<PathBuf>,
}

impl Share {
    fn of(programs: &Path) -> Share {
        let root =
            programs.ancestors().find(|folder| folder.join("share/postgresql/15").is_dir()).expect("Debian's places");
        let below = programs.strip_prefix(root).expect("below it").to_owned();
        let library = below.parent().expect("a folder above").join("lib");
        Share { root: root.to_owned(), programs: below, folders: vec!["share/postgresql/15".into(), library] }
    }
}

/// Exchanges the minor version in a program, in words and as a number.
fn patch(mut program: Vec<u8>, version: &str, number: &str) -> Vec<u8> {
    let (major, minor) = version.split_once('.').expect("a dot");
    assert_eq!(minor.len(), number.len(), "the length stays");
    let as_number = |minor: &str| {
        (major.parse::<u32>().expect("digits") * 10_000 + minor.parse::<u32>().expect("digits")).to_le_bytes()
    };
    let words = (version.as_bytes().to_vec(), format!("{major}.{number}").into_bytes());
    let numbers = (as_number(minor).to_vec(), as_number(number).to_vec());
    for (old, new) in [words, numbers] {
        for at in 0..program.len() - old.len() {
            if program[at..].starts_with(&old) {
                program[at..at + old.len()].copy_from_slice(&new);
            }
        }
    }
    program
}
