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
use crate::{Config, Error};
use quire_types::{Key, Lsn};
use quire_wal::{ServerVersion, version};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio_postgres::Client;

/// The version of the program that a start would run.
pub async fn installed(setting: &Setting) -> Result<ServerVersion, Error> {
    let setting = setting.clone();
    let asked = tokio::task::spawn_blocking(move || ask_program(&setting.config, setting.owner));
    let server = asked.await.map_err(|_| Error::ShuttingDown)??;
    match server.major() == version::CURRENT.major {
        true => Ok(server),
        false => Err(Error::Config(format!(
            "this is a branch of PostgreSQL {}, and the programs are of {server}",
            version::CURRENT.major
        ))),
    }
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
    match running == Some(recorded) {
        true => Ok(()),
        false => Err(Error::ServerReplaced { recorded, running: number.to_owned() }),
    }
}

/// Says in the log what is not known of a server.
pub fn warn_of(server: ServerVersion, verify_rate: u32) {
    if let Some(doubt) = version::CURRENT.doubts(server) {
        let pages = PAGES_WANTED;
        match verify_rate {
            0 => tracing::warn!("{doubt}; nothing that it writes is compared, because of --verify-rate 0"),
            _ => tracing::warn!("{doubt}; every page that it writes is compared until {pages} of each kind were equal"),
        }
    }
}
