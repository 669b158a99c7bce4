//! PostgreSQL's configuration files, in `conf/` beside the data directory so that they outlive cold starts.
//!
//! `postgresql.conf` is written anew at every start and includes `custom.conf`, if there is one, and
//! `quire.pushdown.conf`. The files of authentication are written once and belong to the user from then on. What must
//! not be overridden is on the command line.

use crate::owner::Owner;
use crate::{Config, Error, place};
use quire_files::{Durability, Staged, publish};
use std::fs;
use std::path::Path;

/// The include file that holds `full_page_writes`, which must be switchable by a reload and so is not on the command
/// line.
pub const PUSHDOWN_FILE: &str = "quire.pushdown.conf";

const HBA: &str = "\
# Written once; edit as you like. The agent itself connects over the Unix socket as postgres.
# TYPE  DATABASE     USER  ADDRESS        METHOD
local   all          all                  trust
local   replication  all                  trust
host    all          all   127.0.0.1/32   trust
host    all          all   ::1/128        trust
host    replication  all   127.0.0.1/32   trust
host    replication  all   ::1/128        trust
host    all          all   all            scram-sha-256
";

const IDENT: &str = "# Written once; edit as you like.\n";

const HEADER: &str = "\
# Written at every start: put settings of your own into custom.conf beside this file, or use ALTER SYSTEM.
dynamic_shared_memory_type = posix
wal_keep_size = 256MB
# A page that is not in the cache comes from storage: what is asked for early enough comes together with others.
effective_io_concurrency = 128
maintenance_io_concurrency = 128
";

/// What is in the data directory itself, for base backups: defaults, and the same authentication as here.
pub const PLAIN_FILES: [(&str, &str); 3] = [
    ("postgresql.conf", "# A compute's settings lie elsewhere; this file is for base backups.\n"),
    ("pg_hba.conf", HBA),
    ("pg_ident.conf", IDENT),
];

/// Writes what a start needs.
pub fn write_files(config: &Config, owner: Owner) -> Result<(), Error> {
    let conf = config.conf();
    place::closed_folder(&conf, owner)?;
    write_once(&conf.join("pg_hba.conf"), HBA)?;
    write_once(&conf.join("pg_ident.conf"), IDENT)?;
    if !conf.join(PUSHDOWN_FILE).exists() {
        write_pushdown(config, config.pushdown)?;
    }
    publish(&conf.join("postgresql.conf"), main_file(config).as_bytes(), Durability::Machine)?;
    place::close_files(&conf, owner)
}

/// Records whether full-page images are to be made by the storage (`on`), which takes effect at the next reload.
pub fn write_pushdown(config: &Config, on: bool) -> Result<(), Error> {
    let setting = if on { "off" } else { "on" };
    let text = format!("# Written by `quire pushdown`.\nfull_page_writes = {setting}\n");
    let mut staged = Staged::create(&config.conf().join(PUSHDOWN_FILE))?;
    staged.write(text.as_bytes())?;
    // PostgreSQL's user may read it at any moment; that other users cannot, the directory sees to until the file is
    // given away.
    staged.set_mode(0o644)?;
    staged.publish(Durability::Machine)?;
    place::close_files(&config.conf(), Owner::detect(config)?)
}

/// Whether the storage is to make full-page images, as last recorded.
pub fn read_pushdown(config: &Config) -> bool {
    let text = fs::read_to_string(config.conf().join(PUSHDOWN_FILE));
    text.map_or(config.pushdown, |text| text.lines().any(|line| line.trim() == "full_page_writes = off"))
}

/// Settings on the command line, which nothing can override.
pub fn enforced(config: &Config) -> Vec<(&'static str, String)> {
    let file = |name: &str| config.conf().join(name).display().to_string();
    vec![
        // A file of settings that was copied from elsewhere names that server's directory, which beats `-D`.
        ("data_directory", config.pgdata().display().to_string()),
        ("config_file", file("postgresql.conf")),
        ("hba_file", file("pg_hba.conf")),
        ("ident_file", file("pg_ident.conf")),
        // It would be written over another server's, and removed at the end.
        ("external_pid_file", String::new()),
        ("port", config.port.to_string()),
        ("listen_addresses", config.listen.to_string()),
        ("unix_socket_directories", quote_in_list(&config.socket_dir().display().to_string())),
        ("fsync", "on".into()),
        ("wal_sync_method", "fdatasync".into()),
        ("wal_recycle", "off".into()),
        ("wal_init_zero", "off".into()),
        ("restart_after_crash", "off".into()),
    ]
}

fn main_file(config: &Config) -> String {
    let mut text = HEADER.to_owned();
    for (name, value) in &config.settings {
        text.push_str(&format!("{name} = {}\n", quote(value)));
    }
    text.push_str(&format!("include_if_exists 'custom.conf'\ninclude '{PUSHDOWN_FILE}'\n"));
    text
}

/// A value that stands for one in a list. Source: `varlena.c` (`SplitDirectoriesString`).
fn quote_in_list(value: &str) -> String {
    let is_plain = value.chars().all(|character| character.is_ascii_alphanumeric() || "/._-".contains(character));
    if is_plain { value.to_owned() } else { format!("\"{}\"", value.replace('"', "\"\"")) }
}

/// A value as the scanner of configuration files reads it back. Source: `guc-file.l` (`GUC_scanstr`).
fn quote(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
    format!("'{escaped}'")
}

fn write_once(path: &Path, text: &str) -> Result<(), Error> {
    if path.exists() { Ok(()) } else { Ok(publish(path, text.as_bytes(), Durability::Machine)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_the_scanner_reads_them() {
        assert_eq!(quote_in_list("/a b,\"c"), "\"/a b,\"\"c\"");
        assert_eq!(quote_in_list("/a-b/c.d"), "/a-b/c.d");
        assert_eq!(quote("4MB"), "'4MB'");
        assert_eq!(quote("it's a \\ and\na line"), "'it''s a \\\\ and\\na line'");
    }
}
