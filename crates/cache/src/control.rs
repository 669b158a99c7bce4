//! `control.shm`: what the agent and every PostgreSQL process see change.
//!
//! The agent makes the file anew at every start and is the only one who sets its state, its LSNs (but two) and its
//! settings. PostgreSQL processes note what WAL they write and ask for flushes, which [`crate::flush`] explains, and
//! raise the counters. Everything is an atomic; nothing is ever locked.

use crate::error::{CacheError, io};
use crate::mapping::Mapping;
use crate::{BUILD_ID, futex};
use quire_types::Lsn;
use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// `QuireCtl` as a little-endian number.
const CONTROL_MAGIC: u64 = 0x6C74_4365_7269_7551;

/// Bytes of the file: whole memory pages.
const CONTROL_BYTES: usize = 8192;

/// Stripes of the counters that every read and write raises; processes spread over them by process id.
const STRIPES: usize = 64;

/// What the agent is up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AgentState {
    /// Laying out the data directory or starting PostgreSQL; flushes and fetches are already served.
    Starting = 1,
    /// All is well.
    Running = 2,
    /// PostgreSQL is being stopped; flushes and fetches are still served.
    Stopping = 3,
    /// A newer compute was elected: nothing is served any more, a flush is an I/O error.
    Fenced = 4,
    /// The agent cannot continue in this term; as fenced. The next term has another `control.shm`.
    Failed = 5,
}

impl AgentState {
    fn from_number(number: u32) -> AgentState {
        match number {
            1 => AgentState::Starting,
            2 => AgentState::Running,
            3 => AgentState::Stopping,
            4 => AgentState::Fenced,
            _ => AgentState::Failed,
        }
    }

    /// Whether the agent may be up to `next` after this.
    fn may_become(self, next: AgentState) -> bool {
        self.serves() || (self == AgentState::Failed && next == AgentState::Fenced)
    }

    /// Whether flushes and fetches are served.
    pub fn serves(self) -> bool {
        matches!(self, AgentState::Starting | AgentState::Running | AgentState::Stopping)
    }
}

/// A word that many processes write, on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Line<T>(T);

/// How far the local WAL goes, and how often it was written.
#[repr(C, align(64))]
#[derive(Debug, Default)]
struct WalWrites {
    end: AtomicU64,
    count: AtomicU64,
}

/// The ticket and the futex of one direction of the flush protocol.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct FlushSide {
    pub(crate) ticket: AtomicU64,
    pub(crate) futex: AtomicU32,
}

/// Counters that are raised on paths slow enough for one shared word.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Counters {
    /// Fetches asked of the agent.
    pub fills: AtomicU64,
    /// Fetches that failed.
    pub fill_errors: AtomicU64,
    /// Time spent waiting for fetches, in nanoseconds.
    pub fill_wait_ns: AtomicU64,
    /// Prefetches asked of the agent.
    pub prefetches: AtomicU64,
    /// WAL flushes that had to wait.
    pub flush_waits: AtomicU64,
    /// Time spent waiting for WAL flushes, in nanoseconds.
    pub flush_wait_ns: AtomicU64,
    /// Database directories asked for.
    pub materialisations: AtomicU64,
    /// Flushes refused, because the compute is fenced or has failed.
    pub flush_errors: AtomicU64,
}

#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Stripe {
    reads: AtomicU64,
    writes: AtomicU64,
}

/// The counters of all stripes together, and the others, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CounterValues {
    /// Reads of relation and SLRU files that storage had at start, fetched or not.
    pub reads: u64,
    /// Writes of such files.
    pub writes: u64,
    /// As [`Counters::fills`].
    pub fills: u64,
    /// As [`Counters::fill_errors`].
    pub fill_errors: u64,
    /// As [`Counters::fill_wait_ns`].
    pub fill_wait_ns: u64,
    /// As [`Counters::prefetches`].
    pub prefetches: u64,
    /// As [`Counters::flush_waits`].
    pub flush_waits: u64,
    /// As [`Counters::flush_wait_ns`].
    pub flush_wait_ns: u64,
    /// As [`Counters::materialisations`].
    pub materialisations: u64,
    /// As [`Counters::flush_errors`].
    pub flush_errors: u64,
}

/// The contents of `control.shm`.
#[repr(C)]
#[derive(Debug)]
pub struct Control {
    magic: AtomicU64,
    build_id: AtomicU64,
    segment_bytes: AtomicU64,
    timeline: AtomicU32,
    agent_pid: AtomicU32,
    start_lsn: AtomicU64,
    bounded: AtomicU32,
    epoch: Line<AtomicU32>,
    partial_pages: Line<AtomicU32>,
    state: Line<AtomicU32>,
    commit_lsn: Line<AtomicU64>,
    wal: WalWrites,
    pub(crate) request: FlushSide,
    pub(crate) done: FlushSide,
    counters: Counters,
    stripes: [Stripe; STRIPES],
}

const _: () = assert!(size_of::<Control>() <= CONTROL_BYTES);

/// What the agent knows before PostgreSQL starts and never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlSettings {
    /// The agent's process id.
    pub agent_pid: u32,
    /// Bytes in a WAL segment; a power of two between 1 MiB and 1 GiB.
    pub segment_bytes: u64,
    /// The timeline PostgreSQL writes.
    pub timeline: u32,
    /// End of the log when PostgreSQL starts: everything before it is durable.
    pub start_lsn: Lsn,
    /// Whether pages may leave the cache, so that every relation file needs a meta file.
    pub bounded: bool,
}

impl Control {
    /// What the agent is up to.
    pub fn state(&self) -> AgentState {
        AgentState::from_number(self.state.0.load(Ordering::SeqCst))
    }

    /// Says what the agent is up to, and lets those who wait for a flush see it. A failure is final, but for a fence,
    /// which is final whatever comes.
    pub fn set_state(&self, state: AgentState) {
        let if_allowed = |now| AgentState::from_number(now).may_become(state).then_some(state as u32);
        let _ = self.state.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, if_allowed);
        self.done.futex.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(&self.done.futex);
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent_pid.load(Ordering::Relaxed)
    }

    /// Bytes in a WAL segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Ordering::Relaxed)
    }

    /// The timeline PostgreSQL writes.
    pub fn timeline(&self) -> u32 {
        self.timeline.load(Ordering::Relaxed)
    }

    /// End of the log when PostgreSQL started.
    pub fn start_lsn(&self) -> Lsn {
        Lsn(self.start_lsn.load(Ordering::Relaxed))
    }

    /// Whether pages may leave the cache.
    pub fn is_bounded(&self) -> bool {
        self.bounded.load(Ordering::Relaxed) != 0
    }

    /// The epoch that writes are marked with; read after the bytes are in the file.
    pub fn epoch(&self) -> u32 {
        self.epoch.0.load(Ordering::SeqCst)
    }

    /// Begins the next epoch and says which that is: all that is marked with an earlier one was in PostgreSQL's buffers
    /// before now.
    pub fn next_epoch(&self) -> u32 {
        self.epoch.0.fetch_add(1, Ordering::SeqCst).saturating_add(1)
    }

    /// Whether the log has images of pages without all of their contents, so that a flush of their files has to go to
    /// the agent.
    #[inline]
    pub fn has_partial_pages(&self) -> bool {
        self.partial_pages.0.load(Ordering::SeqCst) != 0
    }

    /// Says how many such pages storage does not have as they are (for the agent).
    pub fn set_partial_pages(&self, pages: usize) {
        self.partial_pages.0.store(u32::try_from(pages).unwrap_or(u32::MAX), Ordering::SeqCst);
    }

    /// The quorum's commit LSN as the agent last heard of it.
    pub fn commit_lsn(&self) -> Lsn {
        Lsn(self.commit_lsn.0.load(Ordering::Acquire))
    }

    /// Raises the commit LSN.
    pub fn raise_commit_lsn(&self, lsn: Lsn) {
        self.commit_lsn.0.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// End of the WAL that PostgreSQL has written to its local files, a multiple of WAL pages: the records in it end
    /// somewhere on its last page, or before a switch of segments.
    pub fn wal_written(&self) -> Lsn {
        Lsn(self.wal.end.load(Ordering::SeqCst))
    }

    /// How often WAL was written: the same last page is written many times over, each time with more records on it.
    pub(crate) fn wal_writes(&self) -> u64 {
        self.wal.count.load(Ordering::SeqCst)
    }

    /// Notes that WAL was written, up to `end`; called after the bytes are in the file.
    pub fn raise_wal_written(&self, end: Lsn) {
        self.wal.end.fetch_max(end.0, Ordering::SeqCst);
        self.wal.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Counters to be raised.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts a read of a tracked file by the process `pid`.
    pub fn count_read(&self, pid: u32) {
        self.stripe(pid).reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a write of a tracked file by the process `pid`.
    pub fn count_write(&self, pid: u32) {
        self.stripe(pid).writes.fetch_add(1, Ordering::Relaxed);
    }

    fn stripe(&self, pid: u32) -> &Stripe {
        &self.stripes[pid as usize % STRIPES]
    }

    /// All counters as they are now, for metrics.
    pub fn counter_values(&self) -> CounterValues {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { fills, fill_errors, fill_wait_ns, prefetches, .. } = &self.counters;
        let Counters { flush_waits, flush_wait_ns, materialisations, flush_errors, .. } = &self.counters;
        CounterValues {
            reads: self.stripes.iter().map(|stripe| get(&stripe.reads)).sum(),
            writes: self.stripes.iter().map(|stripe| get(&stripe.writes)).sum(),
            fills: get(fills),
            fill_errors: get(fill_errors),
            fill_wait_ns: get(fill_wait_ns),
            prefetches: get(prefetches),
            flush_waits: get(flush_waits),
            flush_wait_ns: get(flush_wait_ns),
            materialisations: get(materialisations),
            flush_errors: get(flush_errors),
        }
    }

    /// Fills in a file of zeroes; the magic number comes last, so that no process takes a half-made file for a whole
    /// one.
    fn initialise(&self, settings: &ControlSettings) {
        let start = settings.start_lsn.0;
        self.build_id.store(BUILD_ID, Ordering::Relaxed);
        self.segment_bytes.store(settings.segment_bytes, Ordering::Relaxed);
        self.timeline.store(settings.timeline, Ordering::Relaxed);
        self.agent_pid.store(settings.agent_pid, Ordering::Relaxed);
        self.start_lsn.store(start, Ordering::Relaxed);
        self.bounded.store(settings.bounded.into(), Ordering::Relaxed);
        self.epoch.0.store(1, Ordering::Relaxed);
        self.commit_lsn.0.store(start, Ordering::Relaxed);
        self.wal.end.store(start, Ordering::Relaxed);
        self.state.0.store(AgentState::Starting as u32, Ordering::Relaxed);
        self.magic.store(CONTROL_MAGIC, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), CacheError> {
        if self.magic.load(Ordering::SeqCst) != CONTROL_MAGIC {
            return Err(CacheError::WrongMagic("control.shm"));
        }
        let found = self.build_id.load(Ordering::Relaxed);
        if found != BUILD_ID {
            return Err(CacheError::WrongBuild { found, expected: BUILD_ID });
        }
        check_segment_bytes(self.segment_bytes())
    }
}

fn check_segment_bytes(segment_bytes: u64) -> Result<(), CacheError> {
    let fits = segment_bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&segment_bytes);
    fits.then_some(()).ok_or(CacheError::Invalid { field: "WAL segment size", value: segment_bytes })
}

/// A mapped `control.shm`.
#[derive(Debug)]
pub struct ControlMap(Mapping);

impl ControlMap {
    /// Makes the file anew at `path` and maps it (for the agent; a process that has the old one mapped keeps it).
    pub fn create(path: &Path, settings: &ControlSettings) -> Result<ControlMap, CacheError> {
        check_segment_bytes(settings.segment_bytes)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("cannot remove an old control.shm")(error));
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(io("cannot create control.shm"))?;
        // Written, not only sized: a store into a hole would end the process on a full disk.
        file.write_all_at(&[0; CONTROL_BYTES], 0).map_err(io("cannot write control.shm"))?;
        let map = ControlMap(Mapping::of_fd(file.as_raw_fd())?);
        map.initialise(settings);
        Ok(map)
    }

    /// Maps an existing file (for the agent and its tools).
    pub fn open(path: &Path) -> Result<ControlMap, CacheError> {
        let mut options = OpenOptions::new();
        let file: File = options.read(true).write(true).open(path).map_err(io("cannot open control.shm"))?;
        ControlMap::from_fd(file.as_raw_fd())
    }

    /// Maps an existing file by its descriptor, which may be closed afterwards (for the shim).
    pub fn from_fd(fd: RawFd) -> Result<ControlMap, CacheError> {
        let mapping = Mapping::of_fd(fd)?;
        if mapping.bytes() < CONTROL_BYTES {
            return Err(CacheError::Invalid { field: "length of control.shm", value: mapping.bytes() as u64 });
        }
        let map = ControlMap(mapping);
        map.check()?;
        Ok(map)
    }
}

impl Deref for ControlMap {
    type Target = Control;

    fn deref(&self) -> &Control {
        // SAFETY: the mapping is page-aligned, long enough (checked when mapped) and lives as long as `self`; every bit
        // pattern is a valid `Control`, which consists of atomics only.
        unsafe { self.0.start().cast().as_ref() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    pub(crate) const SETTINGS: ControlSettings = ControlSettings {
        agent_pid: 7,
        segment_bytes: 16 << 20,
        timeline: 1,
        start_lsn: Lsn(0x0100_0028),
        bounded: false,
    };

    #[test]
    fn what_the_agent_wrote_is_what_a_second_mapping_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.shm");
        let agent = ControlMap::create(&path, &SETTINGS).unwrap();
        let shim = ControlMap::open(&path).unwrap();
        agent.set_state(AgentState::Running);
        shim.raise_wal_written(Lsn(0x0100_2000));
        shim.count_read(3);
        shim.count_read(4);
        assert_eq!((shim.state(), shim.agent_pid(), shim.timeline()), (AgentState::Running, 7, 1));
        assert_eq!((agent.wal_written(), agent.commit_lsn()), (Lsn(0x0100_2000), SETTINGS.start_lsn));
        assert_eq!(agent.counter_values(), CounterValues { reads: 2, ..CounterValues::default() });
    }

    #[test]
    fn an_lsn_is_never_lowered() {
        let dir = tempfile::tempdir().unwrap();
        let control = ControlMap::create(&dir.path().join("c"), &SETTINGS).unwrap();
        control.raise_wal_written(Lsn(1));
        control.raise_commit_lsn(Lsn(1));
        assert_eq!((control.wal_written(), control.commit_lsn()), (SETTINGS.start_lsn, SETTINGS.start_lsn));
    }

    #[test]
    fn a_fence_is_final() {
        let dir = tempfile::tempdir().unwrap();
        let control = ControlMap::create(&dir.path().join("c"), &SETTINGS).unwrap();
        control.set_state(AgentState::Fenced);
        control.set_state(AgentState::Running);
        assert_eq!(control.state(), AgentState::Fenced);
    }

    #[test]
    fn a_failure_is_final_but_for_a_fence() {
        let dir = tempfile::tempdir().unwrap();
        let control = ControlMap::create(&dir.path().join("c"), &SETTINGS).unwrap();
        control.set_state(AgentState::Failed);
        for state in [AgentState::Starting, AgentState::Running, AgentState::Stopping] {
            control.set_state(state);
            assert_eq!(control.state(), AgentState::Failed, "{state:?}");
        }
        control.fence();
        assert_eq!(control.state(), AgentState::Fenced);
        control.set_state(AgentState::Failed);
        assert_eq!(control.state(), AgentState::Fenced);
    }

    #[test]
    fn no_flush_is_granted_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let control = ControlMap::create(&dir.path().join("c"), &SETTINGS).unwrap();
        control.raise_wal_written(Lsn(0x0100_2000));
        let ticket = control.request_flush();
        let request = control.pending_request().expect("asked for");
        control.set_state(AgentState::Failed);
        control.set_state(AgentState::Running);
        control.complete_flush(request);
        assert!(!control.is_flushed(ticket));
    }

    #[test]
    fn a_file_of_another_build_or_another_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.shm");
        let _agent = ControlMap::create(&path, &SETTINGS).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_at(&1u64.to_ne_bytes(), 8).unwrap();
        assert!(matches!(ControlMap::open(&path), Err(CacheError::WrongBuild { found: 1, .. })));
        file.write_at(b"somebody", 0).unwrap();
        assert!(matches!(ControlMap::open(&path), Err(CacheError::WrongMagic(_))));
        file.set_len(100).unwrap();
        assert!(matches!(ControlMap::open(&path), Err(CacheError::Invalid { .. })));
    }
}
