//! Which server runs: its version is recorded in the log before it writes there, because redo may depend on it.
//!
//! A cold start asks the program and, unless storage knows that this very version wrote the log last, begins its part
//! of the log with a record of it (`quire_wal::effects::server_version`). If the program was replaced by another
//! version since, a warm start becomes a cold one, for there is no place in the log between two servers over one data
//! directory: what a new server logs first, before anybody could connect to it, must follow the record.

use crate::covered::PAGES_WANTED;
use crate::owner::Owner;
use crate::page_client::PageClient;
use crate::setting::Setting;
use crate::{Config, Error, bootstrap};
use quire_types::{Key, Lsn};
use quire_wal::ServerVersion;
use quire_wal::postgres_version::{PostgresVersion, PostgresVersions, SUPPORTED};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio_postgres::Client;

/// The version of PostgreSQL that the programs are of.
pub fn find_version(config: &Config, owner: Owner) -> Result<&'static PostgresVersion, Error> {
    version_of(ask_program(config, owner)?, SUPPORTED)
}

fn version_of(server: ServerVersion, supported: PostgresVersions) -> Result<&'static PostgresVersion, Error> {
    let unsupported = || format!("the programs are of PostgreSQL {server}, which is not supported: use {supported}");
    supported.of_server(server).ok_or_else(|| Error::Config(unsupported()))
}

/// The version of the program that a start would run.
pub async fn installed(setting: &Setting) -> Result<ServerVersion, Error> {
    let setting = setting.clone();
    let asked = tokio::task::spawn_blocking(move || ask_program(&setting.config, setting.owner));
    let server = asked.await.map_err(|_| Error::ShuttingDown)??;
    let ours = setting.version.major;
    if server.major() != ours {
        let message = format!("the agent was started for PostgreSQL {ours}, and the programs are of {server} now");
        return Err(Error::Config(message));
    }
    Ok(server)
}

/// Checks that the branch is of the programs' version.
pub async fn check_branch(version: &PostgresVersion, client: &PageClient, end: Lsn) -> Result<(), Error> {
    check_version(bootstrap::stored_control_file(client, end).await?.version, version)
}

fn check_version(branch: &PostgresVersion, programs: &PostgresVersion) -> Result<(), Error> {
    let (branch, programs) = (branch.major, programs.major);
    if branch != programs {
        let message = format!("this is a branch of PostgreSQL {branch}, and the programs are of {programs}");
        return Err(Error::Config(message));
    }
    Ok(())
}

fn ask_program(config: &Config, owner: Owner) -> Result<ServerVersion, Error> {
    let mut command = Command::new(config.program("postgres"));
    command.arg("--version").current_dir("/").stdin(Stdio::null()).env_remove("LD_PRELOAD");
    owner.adopt(&mut command);
    let output = command.output().map_err(Error::file("run", config.program("postgres")))?;
    let failed = |output_text: String| Error::Program {
        program: "postgres --version".into(),
        status: output.status.to_string(),
        output: output_text,
    };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    ServerVersion::from_program(&String::from_utf8_lossy(&output.stdout)).map_err(|error| failed(error.to_string()))
}

/// The version that the log up to `end` says writes it.
pub async fn recorded(client: &PageClient, end: Lsn, patience: Duration) -> Result<Option<ServerVersion>, Error> {
    let entries = client.scan(end, Key::ServerVersion, Key::ServerVersion, patience).await?;
    let unusable =
        |error: quire_types::CodecError| Error::Storage { what: "server version", reason: error.to_string() };
    entries.first().map(|(_, value)| ServerVersion::decode(value).map_err(unusable)).transpose()
}

/// Checks that the server that was started is the one that the log says: its program may have been replaced after it
/// was asked. A start that fails is tried again, as a cold one, which asks again.
pub async fn check_running(client: &Client, recorded: ServerVersion) -> Result<(), Error> {
    let row = client.query_one("SHOW server_version_num", &[]).await?;
    let number: &str = row.try_get(0)?;
    let running = number.parse().ok().and_then(ServerVersion::from_number);
    if running == Some(recorded) { Ok(()) } else { Err(Error::ServerReplaced { recorded, running: number.to_owned() }) }
}

/// Says in the log what is not known of a server.
pub fn warn_of(setting: &Setting, server: ServerVersion) {
    if let Some(doubt) = setting.version.doubts(server) {
        let pages = PAGES_WANTED;
        match setting.config.tuning.verify_rate() {
            0 => tracing::warn!("{doubt}; nothing that it writes is compared, because of --verify-rate 0"),
            _ => tracing::warn!("{doubt}; every page that it writes is compared until {pages} of each kind were equal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::postgres_version::PG15;

    const NEXT: PostgresVersion =
        PostgresVersion { major: 99, newest_tested: ServerVersion::new(99, 1), doubtful: &[], ..PG15 };
    static TABLE: PostgresVersions = PostgresVersions::new(&[PG15, NEXT]);

    #[test]
    fn programs_of_every_version_in_the_table_are_served() {
        assert_eq!(version_of(ServerVersion::new(15, 3), SUPPORTED).expect("supported"), &PG15);
        assert_eq!(version_of(ServerVersion::new(99, 0), TABLE).expect("in the table"), &NEXT);
        let refused = version_of(ServerVersion::new(14, 2), TABLE).expect_err("not in the table").to_string();
        assert!(refused.contains("14.2") && refused.contains("15, 99"), "{refused}");
    }

    #[test]
    fn a_branch_is_served_by_programs_of_its_own_version() {
        assert!(check_version(&NEXT, &NEXT).is_ok());
        let refused = check_version(&PG15, &NEXT).expect_err("another version").to_string();
        assert!(refused.contains("branch of PostgreSQL 15") && refused.contains("99"), "{refused}");
    }
}
