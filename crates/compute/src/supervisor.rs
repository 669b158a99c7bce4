//! The loop that keeps PostgreSQL as ordered.
//!
//! ```text
//!            start, warm or cold          ready
//!  stopped ----------------------> starting ---> running --stop--> stopping --> stopped
//!                                     ^  |          |
//!                                     |  v          | postgres ends by itself, the commit path fails
//!                                    failed <-------+           (tried again, from storage alone, after a delay)
//!  any state --a higher term is seen--> fenced, and the agent ends
//! ```
//!
//! Clients are let in when the compute is running and not before: until then the shim keeps them waiting
//! ([`crate::admission`]).
//!
//! Invariants: `postgres` runs only within a [`Session`]; a session whose `postgres` did not end cleanly is not used
//! again; a fenced compute is never started again, whatever else went wrong at the same moment.

use crate::handle::{Command, Handle, Order};
use crate::kept::settings::Choice;
use crate::postgres::{self, Postgres};
use crate::session::Session;
use crate::{Error, admission, conf, orphans, server, start, stopped};
use nix::sys::signal::Signal;
use quire_api::compute::Phase;
use quire_types::Backoff;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a clean shutdown may take.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take while the quorum is lost: its last checkpoint cannot be committed then.
const HOPELESS_PATIENCE: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// After running for so long, a crash is tried again without delay.
const STABLE: Duration = Duration::from_secs(60);

/// Completes when the agent is to end.
pub(crate) type Shutdown<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Start { cold: bool },
    Wait,
    BackOff,
    End,
}

/// Carries out orders, and answers what happens by itself.
#[derive(Debug)]
pub(crate) struct Supervisor {
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    backoff: Backoff,
}

impl Supervisor {
    /// A supervisor of the compute behind `handle`.
    pub fn new(handle: Handle, commands: mpsc::Receiver<Command>) -> Supervisor {
        Supervisor { handle, commands, backoff: BACKOFF }
    }

    /// Starts PostgreSQL and keeps it as ordered until `shutdown`, or until it is fenced.
    pub async fn run(mut self, mut shutdown: Shutdown<'_>) -> Result<(), Error> {
        let mut next = Next::Start { cold: true };
        let outcome = loop {
            let step = match next {
                Next::Start { cold } => self.start(cold, &mut shutdown).await,
                Next::Wait => self.wait(&mut shutdown).await,
                Next::BackOff => Ok(self.back_off(&mut shutdown).await),
                Next::End => break Ok(()),
            };
            match step {
                Ok(then) => next = then,
                Err(error) => break Err(error),
            }
        };
        self.drop_session().await;
        outcome
    }

    /// Brings PostgreSQL up and stays with it until it is down.
    async fn start(&mut self, cold: bool, shutdown: &mut Shutdown<'_>) -> Result<Next, Error> {
        self.handle.enter(Phase::Starting, None);
        let cold = cold || self.is_another_server().await;
        if cold {
            self.drop_session().await;
        }
        let begun = Instant::now();
        let (mut choice, mut first) = (Choice::Current, None);
        loop {
            let reason = first.as_ref().map(ToString::to_string).unwrap_or_default();
            let bringing_up = bring_up(self.handle.clone(), choice, reason);
            match self.until_cancelled(bringing_up, cold || first.is_some(), shutdown).await {
                Ok(Ok(postgres)) => {
                    if cold {
                        self.handle.metrics().cold_started(begun.elapsed());
                    }
                    return self.watch(&postgres, shutdown).await;
                }
                Ok(Err(error)) => match self.fall_back(choice, &error, first.as_ref()).await {
                    Some(next) => {
                        choice = next;
                        first.get_or_insert(error);
                    }
                    None => return self.failed(first.unwrap_or(error)).await,
                },
                Err(next) => {
                    self.kill_and_drop().await;
                    return Ok(next);
                }
            }
        }
    }

    /// Whether the server's program was replaced by another version since this session began. One that cannot be asked
    /// cannot be started either, and the start says why.
    async fn is_another_server(&self) -> bool {
        let Some(session) = self.handle.session() else { return false };
        let Ok(installed) = server::installed(self.handle.setting()).await else { return false };
        let is_another = installed != session.server;
        if is_another {
            tracing::info!(was = %session.server, is = %installed, "another version of PostgreSQL: the start is a cold one");
        }
        is_another
    }

    /// With which settings to try next, if it may be their fault that PostgreSQL does not start, and there are others.
    /// What may pass is tried with the same ones again `first`: they are left out only if it ends in the same way.
    async fn fall_back(&mut self, choice: Choice, error: &Error, first: Option<&Error>) -> Option<Choice> {
        let session = self.handle.session().filter(|session| error.is_of_settings() && session.fenced().is_none())?;
        let other = session.settings.after(choice, &self.handle.config().pgdata())?;
        let next = match (choice, first) {
            (Choice::Current, None) if !error.is_lasting() => Choice::Current,
            (Choice::Current, Some(first)) if first.to_string() != error.to_string() => return None,
            _ => other,
        };
        tracing::error!(%error, with = ?next, "PostgreSQL does not start; trying once more with settings of ALTER SYSTEM");
        self.kill_and_drop().await;
        Some(next)
    }

    /// Runs `start` to its end, unless it is not wanted any more; then what to do instead.
    async fn until_cancelled<T>(
        &mut self,
        start: impl Future<Output = T>,
        is_cold: bool,
        shutdown: &mut Shutdown<'_>,
    ) -> Result<T, Next> {
        tokio::pin!(start);
        loop {
            tokio::select! {
                outcome = &mut start => return Ok(outcome),
                Some(command) = self.commands.recv() => match command.order {
                    Order::Stop => {
                        self.take(command, Phase::Stopping);
                        return Err(Next::Wait);
                    }
                    Order::Start { cold: true } | Order::Restart { cold: true } if !is_cold => {
                        self.take(command, Phase::Starting);
                        return Err(Next::Start { cold: true });
                    }
                    // It is being started already.
                    Order::Start { .. } | Order::Restart { .. } => self.take(command, Phase::Starting),
                },
                () = &mut *shutdown => return Err(Next::End),
            }
        }
    }

    /// While PostgreSQL runs.
    async fn watch(&mut self, postgres: &Arc<Postgres>, shutdown: &mut Shutdown<'_>) -> Result<Next, Error> {
        self.handle.enter(Phase::Running, None);
        let since = Instant::now();
        let session = self.handle.session().ok_or(Error::ShuttingDown)?;
        loop {
            quire_crash::plant("compute.supervisor");
            tokio::select! {
                status = postgres.exited() => {
                    if since.elapsed() > STABLE {
                        self.backoff.reset();
                    }
                    let log = postgres::log_path(self.handle.config());
                    return self.failed(Error::Crashed { status: status.to_string(), log }).await;
                }
                error = session.broken() => return self.failed(error).await,
                Some(command) = self.commands.recv() => match command.order {
                    Order::Start { cold: true } => {
                        let (state, hint) = (Phase::Running.name(), "to discard its cache, restart it with --cold");
                        let _ = command.taken.send(Err(Error::WrongState { state, hint }));
                    }
                    Order::Start { cold: false } => self.take(command, Phase::Running),
                    Order::Stop | Order::Restart { .. } => return Ok(self.stop_for(command, postgres, &session).await),
                },
                () = &mut *shutdown => {
                    self.handle.enter(Phase::Stopping, None);
                    self.stop(postgres, &session).await;
                    return Ok(Next::End);
                }
            }
        }
    }

    async fn stop_for(&mut self, command: Command, postgres: &Postgres, session: &Session) -> Next {
        let order = command.order;
        self.take(command, Phase::Stopping);
        let clean = self.stop(postgres, session).await;
        match order {
            Order::Restart { cold } => Next::Start { cold: cold || !clean },
            Order::Start { .. } | Order::Stop => Next::Wait,
        }
    }

    /// Stops PostgreSQL; whether it left its files in order. If not, the session is of no further use.
    async fn stop(&mut self, postgres: &Postgres, session: &Session) -> bool {
        let begun = Instant::now();
        let gives_up = || begun.elapsed() > HOPELESS_PATIENCE && session.quorum.status().lost;
        let status = postgres.stop(STOP_PATIENCE, gives_up).await;
        let shut_down = if status.success() {
            stopped::check(self.handle.config(), session.committed())
        } else {
            Err(status.to_string())
        };
        match &shut_down {
            Ok(()) => session.send_unlogged_state().await,
            Err(reason) => {
                tracing::warn!(reason, "postgres ended without having shut down; the next start is cold");
                self.kill_and_drop().await;
            }
        }
        shut_down.is_ok()
    }

    /// A start or a run has ended badly. Being fenced comes first: `postgres` ends because of it, perhaps before it is
    /// told here.
    async fn failed(&mut self, error: Error) -> Result<Next, Error> {
        let fenced = self.handle.session().and_then(|session| session.fenced());
        let error = fenced.unwrap_or(error);
        tracing::error!(%error, "compute failed");
        self.kill_and_drop().await;
        if let Error::Fenced { .. } = error {
            self.handle.enter(Phase::Fenced, Some(&error));
            return Err(error);
        }
        self.handle.enter(Phase::Failed, Some(&error));
        self.handle.count_failed_start(&error);
        Ok(Next::BackOff)
    }

    async fn back_off(&mut self, shutdown: &mut Shutdown<'_>) -> Next {
        let delay = self.backoff.after_failure();
        tokio::select! {
            () = tokio::time::sleep(delay) => Next::Start { cold: true },
            Some(command) = self.commands.recv() => self.order_while_stopped(command),
            () = &mut *shutdown => Next::End,
        }
    }

    /// While PostgreSQL is stopped. The term is kept, so that the cache can be used again.
    async fn wait(&mut self, shutdown: &mut Shutdown<'_>) -> Result<Next, Error> {
        self.handle.enter(Phase::Stopped, None);
        let session = self.handle.session();
        let broken = async {
            match &session {
                Some(session) => session.broken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(command) = self.commands.recv() => Ok(self.order_while_stopped(command)),
            error = broken => match error {
                Error::Fenced { .. } => self.failed(error).await,
                _ => {
                    self.drop_session().await;
                    Ok(Next::Wait)
                }
            },
            () = &mut *shutdown => Ok(Next::End),
        }
    }

    fn order_while_stopped(&mut self, command: Command) -> Next {
        match command.order {
            Order::Stop => {
                self.take(command, Phase::Stopping);
                Next::Wait
            }
            Order::Start { cold } | Order::Restart { cold } => {
                self.take(command, Phase::Starting);
                Next::Start { cold: cold || self.handle.session().is_none() }
            }
        }
    }

    /// Shows that the order is being carried out, then tells who gave it.
    fn take(&self, command: Command, phase: Phase) {
        if self.handle.state().phase != phase {
            self.handle.enter(phase, None);
        }
        // Who gave the order may have gone away.
        let _ = command.taken.send(Ok(()));
    }

    /// Lets go of a session that cannot be used any more, and of what runs in it.
    async fn kill_and_drop(&mut self) {
        self.kill().await;
        self.drop_session().await;
    }

    async fn kill(&mut self) {
        if let Some(postgres) = self.handle.take_postgres() {
            postgres.end_by(Signal::SIGKILL, STOP_PATIENCE).await;
        }
        let pgdata = self.handle.config().pgdata();
        let killed = tokio::task::spawn_blocking(move || orphans::kill_all(&pgdata)).await;
        if let Ok(Err(error)) = killed {
            tracing::error!(%error, "stale postgres processes remain");
        }
    }

    async fn drop_session(&mut self) {
        if let Some(session) = self.handle.take_session() {
            session.end().await;
        }
    }
}

/// From where the handle stands to a PostgreSQL that clients may be let into.
async fn bring_up(handle: Handle, choice: Choice, reason: String) -> Result<Arc<Postgres>, Error> {
    let setting = handle.setting();
    let session = match handle.session() {
        Some(session) => session,
        None => Arc::new(start::cold_start(setting, choice, &reason).await?),
    };
    handle.set_session(session.clone());
    conf::write_files(&setting.config, setting.owner)?;
    let postgres = Arc::new(Postgres::spawn(&setting.config, setting.owner, handle.shim()).await?);
    handle.set_postgres(postgres.clone());
    let admitting = async {
        let client = postgres.ready(&setting.config).await?;
        admission::check(&setting.config, &postgres, &session, client).await?;
        session.settle_settings(setting, choice).await
    };
    tokio::select! {
        admitted = admitting => admitted?,
        error = session.broken() => return Err(error),
    }
    server::warn_of(setting, session.server);
    Ok(postgres)
}
