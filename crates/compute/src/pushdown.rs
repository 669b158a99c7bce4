//! Switching image generation between PostgreSQL and storage while both run.
//!
//! The setting goes into the include file; a reload makes PostgreSQL's checkpointer log `XLOG_FPW_CHANGE`, which
//! nothing flushes; a transaction with a logical message does. Then storage is asked what it has learnt from the log.

use crate::postgres::{self, Postgres};
use crate::session::Session;
use crate::{Config, Error, conf};
use nix::sys::signal::Signal;
use quire_types::{Backoff, CodecError, Key};
use quire_wal::effects::FullPageWrites;
use std::time::Duration;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);
/// Each look is a commit, and the checkpointer may be busy.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
const EMIT: &str = "SELECT pg_logical_emit_message(true, 'quire', 'full_page_writes')";

/// Switches a running compute and waits until storage has seen it in the log.
pub async fn switch(config: &Config, postgres: &Postgres, session: &Session, on: bool) -> Result<(), Error> {
    conf::write_pushdown(config, on)?;
    postgres.signal(Signal::SIGHUP);
    let (deadline, mut backoff) = (Instant::now() + PATIENCE, BACKOFF);
    while Instant::now() < deadline {
        if setting_agrees(config, on).await? && storage_agrees(config, session, on).await? {
            return Ok(());
        }
        tokio::time::sleep(backoff.after_failure()).await;
    }
    Err(Error::NotSwitched { seconds: PATIENCE.as_secs() })
}

/// Whether new sessions see the setting; those that are open follow when they are next idle.
async fn setting_agrees(config: &Config, on: bool) -> Result<bool, Error> {
    let client = postgres::connect(config, "postgres").await?;
    let setting: String = client.query_one("SHOW full_page_writes", &[]).await?.get(0);
    Ok((setting == "off") == on)
}

/// Makes the log reach storage, and asks whether the change was in it: the checkpointer may be a moment late.
async fn storage_agrees(config: &Config, session: &Session, on: bool) -> Result<bool, Error> {
    let client = postgres::connect(config, "postgres").await?;
    client.batch_execute(&format!("SET synchronous_commit = on; {EMIT}")).await?;
    let committed = session.committed();
    let entries = session.client.scan(committed, Key::FullPageWrites, Key::FullPageWrites, PATIENCE).await?;
    let Some((_, value)) = entries.first() else { return Ok(false) };
    let unusable = |reason: CodecError| Error::Storage { what: "full-page-writes state", reason: reason.to_string() };
    let state = FullPageWrites::decode(value).map_err(unusable)?;
    Ok(state.on != on)
}
