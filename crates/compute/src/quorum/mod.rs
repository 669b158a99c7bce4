//! The proposer's runtime: the compute's side of the WAL quorum, and the path of every commit.
//!
//! ```text
//! backend          fdatasync: raises the request in control.shm, wakes        shipper
//! shipper          reads pg_wal, cuts at a record boundary, Core::extend  ->  all sockets
//!                  a majority has answered: Core::committed, grant        ->  backend
//! event loop       answers, connections and the clock while the shipper does not wait for answers itself
//! reader           WAL for an acceptor that lags, from pg_wal where it is what was shipped, or from another acceptor
//! ```
//!
//! Invariants:
//!
//! - A flush is granted only when a majority has flushed everything up to the last whole record below it, in this term.
//! - No thread waits for a socket while it holds the core's lock; an acceptor that does not take bytes has them queued
//!   up to the proposer's window, and beyond that lags and is brought up to date from files. A majority never waits for
//!   it.
//! - With the majority lost, flushes wait; connections are tried again for ever.
//! - A failure is final: once the commit path has failed, no flush is granted in this term.
//! - Once a higher term is seen the shared state is *fenced* before anything else happens.
//!
//! Lock order: the right to take answers, then the core's lock, then the watch channels' inside it. Nothing else is
//! taken while another is held.

mod core;
mod event_loop;
mod link;
pub mod local_wal;
mod read_job;
mod reader;
mod shipped;
mod shipper;
pub mod status;

use crate::last_checkpoint::LastCheckpoint;
use crate::{Config, Error};
use bytes::Bytes;
use core::Core;
use local_wal::LocalWal;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use quire_api::compute::QuorumStatus;
use quire_cache::ControlMap;
use quire_consensus::proposer;
use quire_net::quorum_client::{ClientError, QuorumClient};
use quire_types::{BranchKey, Endpoint, Lsn, NodeId};
use quire_wal::WalStream;
pub use shipper::Source;
pub use status::{CommitPathError, SessionEnd, View, Won};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How long a safekeeper that is asked for WAL may take to connect and for each answer.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// What the threads share.
#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    /// Held by the thread that takes the safekeepers' answers; taken before the core's lock.
    answers: Mutex<()>,
    /// Interrupts the wait for answers.
    waker: EventFd,
    local_wal: Mutex<Option<LocalWal>>,
    stopping: AtomicBool,
    branch: BranchKey,
    node: NodeId,
}

/// One compute's participation in the quorum, for one term. Ends with [`Quorum::stop`], or when it is dropped.
#[derive(Debug)]
pub struct Quorum {
    shared: Arc<Shared>,
    view: watch::Receiver<View>,
    committed: watch::Receiver<Lsn>,
    safekeepers: Vec<Endpoint>,
    control: Mutex<Option<Arc<ControlMap>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Quorum {
    /// Starts to connect to the safekeepers.
    pub fn start(config: &Config) -> Result<Quorum, Error> {
        let (reads, jobs) = mpsc::channel();
        let (view_sender, view) = watch::channel(View::default());
        let (committed_sender, committed) = watch::channel(Lsn::INVALID);
        let proposer = proposer::Config {
            branch: config.branch_key(),
            node: config.node,
            acceptors: config.safekeepers.len(),
            identity: None,
        };
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(proposer, &config.safekeepers, reads, view_sender, committed_sender)),
            answers: Mutex::default(),
            waker: waker.map_err(|error| Error::System("cannot make an eventfd", error.into()))?,
            local_wal: Mutex::new(None),
            stopping: AtomicBool::new(false),
            branch: config.branch_key(),
            node: config.node,
        });
        let quorum = Quorum {
            shared,
            view,
            committed,
            safekeepers: config.safekeepers.clone(),
            control: Mutex::default(),
            threads: Mutex::default(),
        };
        quorum.spawn("quorum-events", event_loop::run)?;
        quorum.spawn("quorum-reader", move |shared| reader::run(shared, &jobs))?;
        Ok(quorum)
    }

    fn spawn(&self, name: &str, body: impl FnOnce(&Arc<Shared>) + Send + 'static) -> Result<(), Error> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(&shared));
        self.threads.lock().push(thread.map_err(|error| Error::System("cannot start a thread", error))?);
        Ok(())
    }

    /// Wins an election, however long it takes for a majority to be there.
    pub async fn elect(&self) -> Result<Won, Error> {
        self.shared.with_core(Core::campaign);
        let mut view = self.view.clone();
        loop {
            let elected = view.borrow_and_update().elected;
            if let Some(won) = elected {
                return Ok(won);
            }
            self.shared.with_core(|core| core.election_blocker())?;
            view.changed().await.map_err(|_| Error::ShuttingDown)?;
        }
    }

    /// Replicates `wal`, which continues at `begin`, the end of the log, and ends at a record boundary.
    pub fn append(&self, begin: Lsn, wal: Bytes) -> Result<(), Error> {
        Ok(self.shared.with_core(|core| core.append(begin, wal))?)
    }

    /// Waits until everything before `lsn` is committed.
    pub async fn committed(&self, lsn: Lsn) -> Result<(), Error> {
        let (mut committed, mut view) = (self.committed.clone(), self.view.clone());
        tokio::select! {
            biased;
            reached = committed.wait_for(|committed| *committed >= lsn) => {
                reached.map(|_| ()).map_err(|_| Error::ShuttingDown)
            }
            ended = ended(&mut view) => Err(ended),
        }
    }

    /// What a majority has flushed in this term.
    pub fn committed_lsn(&self) -> Lsn {
        *self.committed.borrow()
    }

    /// A connection to the safekeeper that has the whole log. Blocks.
    pub fn connect_donor(&self, won: &Won) -> Result<QuorumClient, Error> {
        let donor = &self.safekeepers[won.donor];
        self.shared.connect(donor).map_err(|source| Error::Safekeeper { safekeeper: donor.clone(), source })
    }

    /// A connection to any safekeeper that can be reached, to read committed WAL. Blocks.
    pub fn connect_any(&self) -> Result<QuorumClient, Error> {
        let connected = self.safekeepers.iter().find_map(|safekeeper| self.shared.connect(safekeeper).ok());
        connected.ok_or(Error::NoSafekeeper)
    }

    /// Serves PostgreSQL's flushes from `start`, the end of the log and of its `last` record, on.
    pub fn serve(
        &self,
        control: Arc<ControlMap>,
        source: Source,
        won: &Won,
        last: &LastCheckpoint,
        start: Lsn,
    ) -> Result<(), Error> {
        *self.shared.local_wal.lock() = Some(source.wal.another());
        *self.control.lock() = Some(control.clone());
        self.shared.with_core(|core| core.attach(control.clone()));
        let segment_bytes = source.wal.segment_bytes();
        let stream = WalStream::resume(start, last.record, segment_bytes, Some(won.identity.system_id));
        let shipper = shipper::Shipper::new(source, stream);
        self.spawn("quorum-shipper", move |shared| shipper.run(shared, &control))
    }

    /// What the pageserver has made durable and no replication slot needs, for the safekeepers to remove older WAL.
    pub fn set_durable(&self, lsn: Lsn) {
        self.shared.with_core(|core| core.set_durable(lsn));
    }

    /// What others wait for.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// How things stand, for people.
    pub fn status(&self) -> QuorumStatus {
        self.shared.with_core(|core| core.status())
    }

    /// Ends all threads and connections. Flushes that are waited for are not granted any more.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake();
        self.shared.with_core(Core::dismiss_reader);
        if let Some(control) = self.control.lock().as_ref() {
            control.wake_agent();
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Quorum {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until this term cannot be used any more, and says why.
pub async fn ended(view: &mut watch::Receiver<View>) -> Error {
    match view.wait_for(|view| view.ended.is_some()).await {
        Ok(view) => view.ended.clone().map_or(Error::ShuttingDown, SessionEnd::into_error),
        Err(_) => Error::ShuttingDown,
    }
}

impl Shared {
    /// Works on the core, then tells the other threads what they have to know.
    fn with_core<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.core.lock();
        let result = work(&mut core);
        if core.take_wake_needed() {
            self.wake();
        }
        result
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the event loop is awake.
        let _ = self.waker.write(1);
    }

    fn drain_waker(&self) {
        // Nothing to drain is what is usual.
        let _ = self.waker.read();
    }

    fn waker_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    fn local_wal(&self) -> Option<LocalWal> {
        self.local_wal.lock().as_ref().map(LocalWal::another)
    }

    fn connect(&self, safekeeper: &Endpoint) -> Result<QuorumClient, ClientError> {
        QuorumClient::connect(safekeeper, self.branch, self.node, READ_PATIENCE).map(|(client, _)| client)
    }
}
