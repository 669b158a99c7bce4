//! One term of a compute.

use crate::Error;
use crate::as_written::{AsWritten, PartialPages};
use crate::fill::FillThread;
use crate::guard::Guard;
use crate::kept::free_space::FreeSpaceMaps;
use crate::kept::settings::{Choice, Settings};
use crate::kept::{KeptFiles, statistics};
use crate::materialise::Materialiser;
use crate::page_client::PageClient;
use crate::quorum::{self, Quorum, SessionEnd, Won};
use crate::setting::Setting;
use crate::storage_position::Position;
use crate::throttle::Throttle;
use crate::warm_up::WarmUp;
use quire_api::compute::Throttled;
use quire_cache::{AgentState, ControlMap, FileArea};
use quire_types::Lsn;
use quire_wal::ServerVersion;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long a stopped compute may take to send what no backend waits for.
const FAREWELL: Duration = Duration::from_secs(10);

/// One term of a compute: from a won election to a crash, a fence or a cold restart. Within it, PostgreSQL may be
/// stopped and started over the same cache.
#[derive(Debug)]
pub struct Session {
    /// The quorum, with the term.
    pub quorum: Arc<Quorum>,
    /// The memory shared with PostgreSQL.
    pub control: Arc<ControlMap>,
    /// Storage.
    pub client: PageClient,
    /// How far storage is.
    pub position: watch::Receiver<Position>,
    /// Holds commits back while storage lags.
    pub throttle: Arc<Throttle>,
    /// Which databases are in the cache.
    pub materialiser: Arc<Materialiser>,
    /// What PostgreSQL keeps outside WAL.
    pub kept: Arc<KeptFiles>,
    /// The settings of `ALTER SYSTEM` to go back to.
    pub settings: Settings,
    /// Free space maps.
    pub maps: Arc<FreeSpaceMaps>,
    /// Pages of which the log has only a part.
    pub partial: Arc<PartialPages>,
    /// Has storage keep pages that the log does not describe.
    pub as_written: Arc<AsWritten>,
    /// Relations of which redo is not trusted.
    pub guard: Arc<Guard>,
    /// The election that was won.
    pub won: Won,
    /// Where the compute started.
    pub start: Lsn,
    /// The server that writes the log in this session.
    pub server: ServerVersion,
    /// What is in the cache, for the session after this one.
    pub warm_up: Arc<WarmUp>,
    /// Where fills are served.
    pub fills: FillThread,
    /// What continues until the session ends.
    pub tasks: Vec<AbortHandle>,
}

impl Session {
    /// Ends it: no flush is granted and no page fetched any more.
    pub async fn end(&self) {
        self.control.set_state(AgentState::Failed);
        self.tasks.iter().for_each(AbortHandle::abort);
        self.materialiser.end();
        self.warm_up.clone().remember().await;
        stop(self.quorum.clone()).await;
    }

    /// The end of what is committed, a record boundary: what storage can be asked for without waiting for more.
    pub fn committed(&self) -> Lsn {
        self.quorum.committed_lsn().max(self.start)
    }

    /// PostgreSQL has shut down cleanly: sends what it leaves behind on that way, as far as storage takes it.
    pub async fn send_unlogged_state(&self) {
        if let Err(error) = self.as_written.keep_sequences().await {
            tracing::warn!(%error, "storage does not know how far sequences are: after a cold start they leave gaps");
        }
        let sending = async {
            statistics::send(&self.kept, self.committed()).await;
            self.maps.send_changed().await;
        };
        if tokio::time::timeout(FAREWELL, sending).await.is_err() {
            tracing::warn!("storage did not take all statistics and free space maps in time");
        }
    }

    /// PostgreSQL is ready with the settings of `ALTER SYSTEM` that were chosen, which are the current ones from now
    /// on.
    pub async fn settle_settings(&self, setting: &Setting, choice: Choice) -> Result<(), Error> {
        if choice != Choice::Current {
            self.kept.keep(FileArea::Settings).await?;
        }
        self.settings.is_ready(&setting.config, setting.owner, self.kept.clone()).await
    }

    /// Who holds commits back at the moment, if anybody does.
    pub fn throttled(&self) -> Option<Throttled> {
        self.throttle.throttled(self.client.is_connected())
    }

    /// The higher term that ended this one, if one was seen.
    pub fn fenced(&self) -> Option<Error> {
        match self.quorum.view().borrow().ended {
            Some(SessionEnd::Fenced(newer)) => Some(Error::Fenced { newer }),
            _ => None,
        }
    }

    /// Waits until this term cannot be used any more, and says why.
    pub async fn broken(&self) -> Error {
        quorum::ended(&mut self.quorum.view()).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.control.set_state(AgentState::Failed);
        self.tasks.iter().for_each(AbortHandle::abort);
        self.materialiser.end();
    }
}

/// Ends the threads of a quorum.
pub async fn stop(quorum: Arc<Quorum>) {
    // Joining threads blocks.
    let _ = tokio::task::spawn_blocking(move || quorum.stop()).await;
}
