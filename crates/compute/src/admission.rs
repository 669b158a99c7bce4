//! Whether the server that has started is the one that was wanted, before clients are let in.
//!
//! A server over another directory, or without the shim, answers on the same socket and acknowledges commits that no
//! safekeeper has. What makes that impossible is elsewhere: the directory is on the command line, and `pg_control` is
//! only found by the shim. This looks whether it worked, while the shim lets only the agent in. The questions
//! overlap on purpose: each also catches what another has missed.

use crate::postgres::Postgres;
use crate::session::Session;
use crate::{Config, Error, conf, server};
use quire_types::Lsn;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

const IDENTITY: &str = "SELECT system_identifier, current_setting('data_directory') FROM pg_control_system()";

const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'quire', 'start')";

/// Settings in files that are not followed, because they are on the command line.
const IGNORED: &str = "SELECT name, setting, sourcefile, sourceline FROM pg_file_settings \
    WHERE lower(name) = ANY($1) AND setting IS DISTINCT FROM current_setting(lower(name), true)";

/// Fails unless `postgres` works in this session's directory, with the shim, and its commits are the quorum's. A server
/// that refuses the agent (no `client`) is looked at from outside only.
pub async fn check(
    config: &Config,
    postgres: &Postgres,
    session: &Session,
    client: Option<Client>,
) -> Result<(), Error> {
    let wrong = |reason| Error::WrongServer { program: config.program("postgres"), reason };
    check_process(config, postgres.pid()).map_err(wrong)?;
    let Some(client) = client else { return Ok(()) };
    check_identity(config, session, &client).await?.map_err(wrong)?;
    server::check_running(&client, session.server).await?;
    check_commit(session, &client).await?.map_err(wrong)?;
    tell_ignored(config, &client).await
}

/// What the kernel knows of it.
fn check_process(config: &Config, pid: i32) -> Result<(), String> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let unreadable = |error: std::io::Error| format!("process {pid} cannot be looked at ({error})");
    let works_in = fs::metadata(process.join("cwd")).map_err(unreadable)?;
    if !is_same(&works_in, &config.pgdata()) {
        let elsewhere = fs::read_link(process.join("cwd")).map_err(unreadable)?;
        return Err(format!("it works in {} and not in {}", elsewhere.display(), config.pgdata().display()));
    }
    let mapped = fs::read(process.join("maps")).map_err(unreadable)?;
    if String::from_utf8_lossy(&mapped).contains(crate::postgres::SHIM) {
        Ok(())
    } else {
        Err(format!("{} is not loaded in it", crate::postgres::SHIM))
    }
}

fn is_same(found: &Metadata, wanted: &Path) -> bool {
    fs::metadata(wanted).is_ok_and(|wanted| (wanted.dev(), wanted.ino()) == (found.dev(), found.ino()))
}

async fn check_identity(config: &Config, session: &Session, client: &Client) -> Result<Result<(), String>, Error> {
    let row = client.query_one(IDENTITY, &[]).await?;
    let (system, directory) = (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, String>(1));
    let wanted = session.won.identity.system_id;
    if !fs::metadata(&directory).is_ok_and(|found| is_same(&found, &config.pgdata())) {
        return Ok(Err(format!("its data_directory is {directory} and not {}", config.pgdata().display())));
    }
    Ok(if system == wanted { Ok(()) } else { Err(format!("its system identifier is {system} and not {wanted}")) })
}

/// A commit has to be in what the quorum has committed by the time it is acknowledged.
async fn check_commit(session: &Session, client: &Client) -> Result<Result<(), String>, Error> {
    let written: PgLsn = client.query_one(COMMIT, &[]).await?.get(0);
    let (written, committed) = (Lsn(u64::from(written)), session.quorum.committed_lsn());
    Ok(if committed > written {
        Ok(())
    } else {
        Err(format!("it acknowledged a commit after {written}, and the safekeepers have the log up to {committed}"))
    })
}

/// What a user has set in vain is said, once for each start.
async fn tell_ignored(config: &Config, client: &Client) -> Result<(), Error> {
    let names: Vec<&str> = conf::enforced(config).iter().map(|(name, _)| *name).collect();
    for row in client.query(IGNORED, &[&names]).await? {
        let (name, value): (String, Option<String>) = (row.get(0), row.get(1));
        let (file, line): (Option<String>, Option<i32>) = (row.get(2), row.get(3));
        tracing::warn!(name, value, file, line, "a setting is ignored: the compute sets it itself");
    }
    Ok(())
}
