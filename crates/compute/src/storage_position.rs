//! Follows how far storage is: the one place of a session that asks.

use crate::kept::KeptFiles;
use crate::kept::retention::Retention;
use crate::page_client::PageClient;
use crate::quorum::Quorum;
use crate::throttle::Throttle;
use quire_types::Lsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
/// The same while so little may wait for ingest that the time between two looks would be felt.
const POLL_LOWERED: Duration = Duration::from_millis(10);

/// How far storage is, as it last said; at first nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Everything before is ingested and can be read.
    pub ingested: Lsn,
    /// Everything before is durable there.
    pub durable: Lsn,
}

/// What is told how far storage is, and asked.
#[derive(Debug)]
pub struct Stored {
    /// Tells all others of the session, which do not ask by themselves.
    pub position: watch::Sender<Position>,
    /// Learns what safekeepers may remove.
    pub quorum: Arc<Quorum>,
    /// Learns how far ingest is.
    pub throttle: Arc<Throttle>,
    /// Storage.
    pub client: PageClient,
    /// Knows what replication slots need.
    pub kept: Arc<KeptFiles>,
}

/// Lets the safekeepers know what storage has made durable and no replication slot needs, so that they can remove older
/// WAL, and the throttle how far ingest is.
pub async fn watch(stored: Stored, mut retention: Retention) {
    let Stored { position, quorum, throttle, client, kept } = stored;
    loop {
        quire_crash::plant("compute.position");
        match client.position(PATIENCE).await {
            Ok((ingested, durable)) => {
                position.send_replace(Position { ingested, durable });
                throttle.ingested(ingested);
                quorum.set_durable(durable.min(retention.horizon(kept.wal_needed())));
            }
            Err(error) => tracing::debug!(%error, "storage does not say how far it is"),
        }
        tokio::time::sleep(if throttle.is_lowered() { POLL_LOWERED } else { POLL }).await;
    }
}
