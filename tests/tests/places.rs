//! Where a Quire may be, under which umask, and what others can do with its files.

use quire_tests::Quire;
use quire_tests::processes::postgres_program;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NOBODY: u32 = 65_534;

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Everything below a directory.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let below = if is_dir { all_below(&path) } else { Vec::new() };
            below.into_iter().chain([path])
        })
        .collect()
}

fn works(quire: &Quire) {
    quire.up();
    quire.ok(&["psql", "--", "-c", "CREATE TABLE kept AS SELECT generate_series(1, 10) n"]);
    quire.cold_restart();
    assert_eq!(quire.ok(&["psql", "--", "-Atc", "SELECT count(*) FROM kept"]).trim(), "10");
    assert!(quire.dir().join("compute/main/pgdata").exists(), "the cache is in the folder");
}

#[test]
fn a_folder_may_have_any_name_that_is_one() {
    for name in ["a b:c", "it's \"50%\", $LIB\\ü;"] {
        works(&Quire::new().in_folder(name));
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_refused_before_anything_is_made() {
    let quire = Quire::new().in_folder("a\nb");
    let output = quire.try_up();
    assert!(!output.status.success() && said(&output).contains("choose another directory"), "{}", said(&output));
    assert!(!quire.dir().exists());
}

#[test]
fn a_start_under_any_umask_works_and_opens_nothing() {
    for umask in ["umask 077", "umask 000", "umask 777"] {
        let quire = Quire::new().after(umask);
        works(&quire);
        expect_closed(&quire);
    }
}

#[test]
fn a_first_start_that_fails_leaves_nothing_and_the_next_one_works() {
    let quire = Quire::new();
    let programs = quire.beside("bin");
    fs::create_dir(&programs).expect("made");
    fs::set_permissions(&programs, Permissions::from_mode(0o755)).expect("opened");
    symlink(postgres_program("postgres"), programs.join("postgres")).expect("linked");
    let initdb = programs.join("initdb");
    fs::write(&initdb, "#!/bin/sh\necho 'the disk is on fire' >&2; exit 1\n").expect("written");
    fs::set_permissions(&initdb, Permissions::from_mode(0o755)).expect("made a program");
    let quire = quire.with_option("--pg-bin", programs.to_str().expect("text"));
    let output = quire.try_up();
    assert!(!output.status.success() && said(&output).contains("the disk is on fire"), "{}", said(&output));
    let mut left: Vec<PathBuf> = all_below(&quire.dir()).into_iter().filter(|path| path.is_file()).collect();
    left.retain(|path| !path.starts_with(quire.dir().join("log")) && !path.ends_with("run/up.pid"));
    assert_eq!(left, Vec::<PathBuf>::new());
    assert!(!quire.dir().join("safekeeper-1").exists() && !quire.dir().join("compute").exists());
    let status = quire.run(&["status"]);
    assert!(said(&status).contains("there is no Quire"), "{}", said(&status));
    fs::remove_file(&initdb).expect("removed");
    symlink(postgres_program("initdb"), &initdb).expect("linked");
    works(&quire);
}

/// Nobody else may read or list anything, and every file and directory says so itself but for the way to the cache.
fn expect_closed(quire: &Quire) {
    let dir = quire.dir();
    let ways = [dir.clone(), dir.join("compute")];
    for path in all_below(&dir).into_iter().chain([dir.clone()]) {
        // What PostgreSQL has removed meanwhile, links, sockets and the shim are as they are, behind a closed
        // directory.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let kind = metadata.file_type();
        if !(kind.is_file() || kind.is_dir()) || path.ends_with("libquire_shim.so") {
            continue;
        }
        let allowed = if ways.contains(&path) { 0o711 } else { 0o700 };
        assert_eq!(metadata.mode() & 0o777 & !allowed, 0, "{} is {:o}", path.display(), metadata.mode());
    }
    let files: Vec<PathBuf> = all_below(&dir).into_iter().filter(|path| !path.is_dir()).collect();
    let mut reading = Command::new("sh");
    reading
        .args(["-c", "for f; do { : < \"$f\"; } 2>/dev/null && echo \"$f\"; done; true", "sh"])
        .args(&files)
        .args(&ways);
    let output = reading.uid(NOBODY).gid(NOBODY).output().expect("sh runs");
    assert_eq!(said(&output), "", "read by nobody");
}

#[test]
fn another_user_can_read_nothing_and_learns_nothing_to_start_a_compute_with() {
    let quire = Quire::start();
    fs::write(quire.dir().join("compute/main/conf/custom.conf"), "work_mem = '7MB'\n").expect("written");
    quire.down();
    // As an earlier version has left it.
    for path in [
        "quire.json",
        "run/compute-main.json",
        "log/up.log",
        "compute/main/postgres.log",
        "compute/main/conf/pg_hba.conf",
    ] {
        fs::set_permissions(quire.dir().join(path), Permissions::from_mode(0o644)).expect("opened");
    }
    for path in ["safekeeper-1", "pageserver-1", "compute/main", "compute/main/conf"] {
        fs::set_permissions(quire.dir().join(path), Permissions::from_mode(0o755)).expect("opened");
    }
    quire.up();
    expect_closed(&quire);
    assert_eq!(quire.ok(&["psql", "--", "-Atc", "SHOW work_mem"]).trim(), "7MB", "PostgreSQL reads what is its own");
    let program = quire.beside("quire");
    fs::copy(quire_tests::quire::binary(), &program).expect("copied");
    let config = quire.dir().join("run/compute-main.json").display().to_string();
    for arguments in [vec!["status"], vec!["url"], vec!["compute", "run", "--config", config.as_str()]] {
        let mut command = Command::new(&program);
        command.arg("--dir").arg(quire.dir()).args(&arguments).uid(NOBODY).gid(NOBODY);
        let output = command.output().expect("it runs");
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {}", said(&output));
    }
}
