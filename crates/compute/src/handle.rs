//! Gives orders to an agent and asks it.
//!
//! The supervisor (`supervisor.rs`) carries the orders out; [`crate::http`] is the handle for programs elsewhere.

use crate::covered::Covered;
use crate::metrics::Metrics;
use crate::outdated::Outdated;
use crate::postgres::Postgres;
use crate::session::Session;
use crate::setting::Setting;
use crate::verify;
use crate::{Config, Error, conf, pushdown};
use parking_lot::{Mutex, MutexGuard};
use quire_api::compute::{Phase, Verification};
use quire_cache::AgentState;
use quire_cache::control::CounterValues;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// A phase, and what went wrong last.
#[derive(Clone, Debug)]
pub struct AgentStatus {
    /// What the compute is doing.
    pub phase: Phase,
    /// Why it is not running, if it should be.
    pub error: Option<String>,
    /// How often PostgreSQL itself has failed to start since it last ran.
    pub failed_starts: u32,
}

/// What the supervisor is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Start { cold: bool },
    Stop,
    Restart { cold: bool },
}

/// An order, and whom to tell.
#[derive(Debug)]
pub(crate) struct Command {
    pub order: Order,
    /// Told once the phase shows that the order is being carried out, or why it is not.
    pub taken: oneshot::Sender<Result<(), Error>>,
}

/// Gives orders to an agent and asks it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setting: Setting,
    shim: PathBuf,
    state: watch::Sender<AgentStatus>,
    commands: mpsc::Sender<Command>,
    active: Mutex<Active>,
    verified: AtomicU64,
    covered: Covered,
    outdated: Mutex<Option<Outdated>>,
}

/// What exists at the moment.
#[derive(Clone, Debug, Default)]
struct Active {
    session: Option<Arc<Session>>,
    postgres: Option<Arc<Postgres>>,
}

impl Handle {
    pub(crate) fn new(setting: Setting, shim: PathBuf, commands: mpsc::Sender<Command>) -> Handle {
        let inner = Inner {
            setting,
            shim,
            state: watch::Sender::new(AgentStatus { phase: Phase::Starting, error: None, failed_starts: 0 }),
            commands,
            active: Mutex::default(),
            verified: AtomicU64::new(0),
            covered: Covered::default(),
            outdated: Mutex::default(),
        };
        Handle { inner: Arc::new(inner) }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.setting.config
    }

    /// What the compute is doing.
    pub fn state(&self) -> AgentStatus {
        self.inner.state.borrow().clone()
    }

    /// The present term's session, if there is one.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.active().session.clone()
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        let postgres = self.active().postgres.clone()?;
        postgres.exit_status().is_none().then(|| postgres.pid())
    }

    /// The agent's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.setting.metrics
    }

    /// Counters of PostgreSQL's processes, since the last cold start.
    pub fn counters(&self) -> CounterValues {
        self.session().map(|session| session.control.counter_values()).unwrap_or_default()
    }

    /// Pages compared by the running, or the last, verification.
    pub fn verified_pages(&self) -> u64 {
        self.inner.verified.load(Ordering::Relaxed)
    }

    /// Pages of a server that was not tested that were compared.
    pub fn covered(&self) -> &Covered {
        &self.inner.covered
    }

    /// Which PostgreSQL runs, if it is not the one that is installed.
    pub fn outdated(&self) -> Option<Outdated> {
        self.inner.outdated.lock().clone()
    }

    pub(crate) fn set_outdated(&self, found: Option<Outdated>) {
        self.metrics().outdated(found.is_some());
        let mut known = self.inner.outdated.lock();
        if let Some(note) = found.as_ref().filter(|_| *known != found).map(Outdated::note) {
            tracing::warn!("{note}");
        }
        *known = found;
    }

    /// Starts PostgreSQL if it is stopped, and waits until it runs. A `cold` start discards the cache.
    pub async fn start(&self, cold: bool) -> Result<(), Error> {
        self.order(Order::Start { cold }, Phase::Running).await
    }

    /// Stops PostgreSQL cleanly and waits for that. The cache stays.
    pub async fn stop(&self) -> Result<(), Error> {
        self.order(Order::Stop, Phase::Stopped).await
    }

    /// Stops and starts PostgreSQL; a `cold` restart discards the cache in between.
    pub async fn restart(&self, cold: bool) -> Result<(), Error> {
        self.order(Order::Restart { cold }, Phase::Running).await
    }

    /// Forgets which pages are in use: the next cold start warms up nothing.
    pub fn forget(&self) {
        if let Some(session) = self.session() {
            session.warm_up.forget();
        }
    }

    async fn order(&self, order: Order, goal: Phase) -> Result<(), Error> {
        let mut state = self.inner.state.subscribe();
        let (taken, is_taken) = oneshot::channel();
        self.inner.commands.send(Command { order, taken }).await.map_err(|_| Error::ShuttingDown)?;
        is_taken.await.map_err(|_| Error::ShuttingDown)??;
        let settled = state.wait_for(|state| is_settled(state.phase)).await.map_err(|_| Error::ShuttingDown)?;
        if settled.phase == goal {
            Ok(())
        } else {
            Err(Error::NotAsOrdered { phase: settled.phase, error: settled.error.clone() })
        }
    }

    /// Has storage (`on`) or PostgreSQL make full-page images. If PostgreSQL does not run, from its next start on.
    pub async fn pushdown(&self, on: bool) -> Result<(), Error> {
        match self.running() {
            Some((session, postgres)) => pushdown::switch(self.config(), &postgres, &session, on).await,
            None => conf::write_pushdown(self.config(), on),
        }
    }

    /// Compares every page of the cache with storage.
    pub async fn verify(&self) -> Result<Verification, Error> {
        let state = self.state().phase.name();
        let (session, _) = self.running().ok_or(Error::WrongState { state, hint: "start it first" })?;
        let found = verify::verify(self.setting(), &session, &self.inner.verified).await?;
        self.metrics().verified(found.checked, found.mismatches.len() as u64);
        Ok(found)
    }

    /// The session and its PostgreSQL, while that accepts connections.
    pub(crate) fn running(&self) -> Option<(Arc<Session>, Arc<Postgres>)> {
        let active = self.active().clone();
        let is_running = self.state().phase == Phase::Running;
        is_running.then_some(active.session.zip(active.postgres)).flatten()
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        self.inner.active.lock()
    }

    pub(crate) fn setting(&self) -> &Setting {
        &self.inner.setting
    }

    pub(crate) fn shim(&self) -> &Path {
        &self.inner.shim
    }

    pub(crate) fn set_session(&self, session: Arc<Session>) {
        self.active().session = Some(session);
    }

    pub(crate) fn take_session(&self) -> Option<Arc<Session>> {
        self.active().session.take()
    }

    pub(crate) fn set_postgres(&self, postgres: Arc<Postgres>) {
        self.active().postgres = Some(postgres);
    }

    pub(crate) fn take_postgres(&self) -> Option<Arc<Postgres>> {
        self.active().postgres.take()
    }

    /// Shows a new phase to PostgreSQL's processes and to clients of the status.
    pub(crate) fn enter(&self, phase: Phase, error: Option<&Error>) {
        tracing::info!(phase = phase.name(), "compute");
        if let Some(session) = self.session() {
            session.control.set_state(match phase {
                Phase::Starting | Phase::Stopped => AgentState::Starting,
                Phase::Running => AgentState::Running,
                Phase::Stopping => AgentState::Stopping,
                Phase::Failed | Phase::Fenced => AgentState::Failed,
            });
        }
        // The last error is kept while it is tried again.
        self.inner.state.send_modify(|state| {
            state.phase = phase;
            match (phase, error) {
                (_, Some(error)) => state.error = Some(error.to_string()),
                (Phase::Running | Phase::Stopped, None) => (state.error, state.failed_starts) = (None, 0),
                _ => {}
            }
        });
    }

    /// Counts starts that PostgreSQL itself failed.
    pub(crate) fn count_failed_start(&self, error: &Error) {
        if error.is_of_postgres() {
            self.inner.state.send_modify(|state| state.failed_starts = state.failed_starts.saturating_add(1));
        }
    }
}

/// Whether the compute stays in this phase until an order or an event.
fn is_settled(phase: Phase) -> bool {
    !matches!(phase, Phase::Starting | Phase::Stopping)
}
