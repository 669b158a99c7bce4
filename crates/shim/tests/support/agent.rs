//! A compute agent that serves one machine's files: fetches come from a directory, and a flush is granted after a
//! millisecond.

use super::postgres::User;
use quire_cache::protocol::{self, Dropper};
use quire_cache::request::{HELLO_BYTES, REQUEST_BYTES};
use quire_cache::{
    AgentState, Answer, BlockState, Blocks, ComputeDir, ControlMap, ControlSettings, FileId, Hello, Meta, MetaSpec,
    Request,
};
use quire_types::{Lsn, RelTag};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PAGE: u64 = 8192;
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// What the threads of an agent share.
pub struct Agent {
    pub dir: ComputeDir,
    /// The directory that stands for storage.
    storage: PathBuf,
    pub control: ControlMap,
    user: User,
    /// Databases and relations whose files are made, and databases that are complete.
    materialised: Mutex<HashSet<(u32, Option<u32>)>>,
    pub blocks_installed: AtomicU64,
    /// Whether flushes are granted at all.
    pub grants: AtomicBool,
    /// Whether fetches are served at all.
    pub fills: AtomicBool,
    stopped: AtomicBool,
}

impl Agent {
    /// Lays out what exists from the start, and begins to serve.
    pub fn start(dir: ComputeDir, storage: PathBuf, start_lsn: Lsn) -> Arc<Agent> {
        let settings = ControlSettings {
            agent_pid: std::process::id(),
            segment_bytes: SEGMENT_BYTES,
            timeline: 1,
            start_lsn,
            bounded: false,
        };
        let user = User::for_postgres();
        let control = ControlMap::create(&dir.control(), &settings).expect("control.shm can be made");
        user.own(&dir.control());
        let agent = Arc::new(Agent {
            dir,
            storage,
            control,
            user,
            materialised: Mutex::default(),
            blocks_installed: AtomicU64::new(0),
            grants: AtomicBool::new(true),
            fills: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        });
        for folder in ["global", "pg_xact", "pg_multixact/offsets", "pg_multixact/members"] {
            agent.materialise_folder(Path::new(folder), |_| true);
        }
        for database in fs::read_dir(agent.storage.join("base")).expect("storage has databases") {
            let folder = Path::new("base").join(database.expect("storage can be listed").file_name());
            agent.materialise_folder(&folder, |name| relation_of(name).is_none());
        }
        agent.control.set_state(AgentState::Running);
        agent.listen();
        agent.grant_flushes();
        agent
    }

    /// Ends the threads that would continue for ever.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.control.wake_agent();
    }

    fn listen(self: &Arc<Agent>) {
        let listener = UnixListener::bind(self.dir.socket()).expect("the socket can be bound");
        self.user.own(&self.dir.socket());
        let agent = Arc::clone(self);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (agent, stream) = (Arc::clone(&agent), stream.expect("a connection is accepted"));
                thread::spawn(move || agent.serve(stream));
            }
        });
    }

    fn grant_flushes(self: &Arc<Agent>) {
        let agent = Arc::clone(self);
        thread::spawn(move || {
            while !agent.stopped.load(Ordering::SeqCst) {
                let Some(request) = agent.control.next_request(Duration::from_millis(500)) else { continue };
                thread::sleep(Duration::from_millis(1));
                if agent.grants.load(Ordering::SeqCst) {
                    agent.check_wal_is_local(request.written);
                    agent.control.complete_flush(request);
                    agent.control.raise_commit_lsn(request.written);
                }
            }
        });
    }

    /// What is asked to be flushed must be in the local file: its last page has a page header's magic number, or is
    /// empty, as what follows a switch of segments is.
    fn check_wal_is_local(&self, lsn: Lsn) {
        let last = Lsn(lsn.0 - PAGE);
        let name = quire_types::lsn::segment_file_name(1, last.segment_number(SEGMENT_BYTES), SEGMENT_BYTES);
        let file = File::open(self.dir.data_file(format!("pg_wal/{name}"))).expect("the segment is there");
        let mut magic = [0; 2];
        file.read_exact_at(&mut magic, last.segment_offset(SEGMENT_BYTES)).expect("the page is there");
        assert!(matches!(magic, [_, 0xD1] | [0, 0]), "no WAL page before {lsn}");
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut hello = [0; HELLO_BYTES];
        if stream.read_exact(&mut hello).is_err() {
            return;
        }
        Hello::decode(&hello).expect("the shim is of this build");
        let mut answer = Answer::Ok;
        loop {
            if stream.write_all(&answer.encode()).is_err() {
                return;
            }
            match self.next_answered(&mut stream) {
                Some(request) => answer = self.answer(&request),
                None => return,
            }
        }
    }

    /// The next request that is answered; those before it that are not have been done.
    fn next_answered(&self, stream: &mut UnixStream) -> Option<Request> {
        loop {
            let mut raw = [0; REQUEST_BYTES];
            stream.read_exact(&mut raw).ok()?;
            let request = Request::decode(&raw).expect("the shim sends what can be decoded");
            if request.is_answered() {
                return Some(request);
            }
            self.answer(&request);
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let done = match *request {
            Request::MaterialiseDatabase { tablespace, database } => self.materialise(tablespace, database, None),
            Request::MaterialiseRelation { tablespace, database, relation } => {
                self.materialise(tablespace, database, Some(relation))
            }
            Request::Fill { file, first_block, count } | Request::Prefetch { file, first_block, count } => {
                self.fill(file, first_block, count)
            }
            Request::WalSegment { segment_number, .. } => self.wal_segment(segment_number),
            // This agent sets no marks and keeps no files.
            Request::Reached { .. } | Request::KeepFiles { .. } | Request::KeepPages { .. } | Request::MakeRoom => {
                Ok(())
            }
        };
        match done {
            Ok(()) if matches!(request, Request::MaterialiseDatabase { .. }) => Answer::Complete,
            Ok(()) => Answer::Ok,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Answer::NotFound,
            Err(_) => Answer::IoError,
        }
    }

    /// Brings back a segment from those set aside.
    fn wal_segment(&self, segment_number: u64) -> io::Result<()> {
        let name = quire_types::lsn::segment_file_name(1, segment_number, SEGMENT_BYTES);
        let path = self.dir.data_file(format!("pg_wal/{name}"));
        fs::copy(self.storage.join("pg_wal").join(&name), &path)?;
        self.user.own(&path);
        Ok(())
    }

    /// Makes the files of one relation of a database, or of all.
    fn materialise(&self, tablespace: u32, database: u32, relation: Option<u32>) -> io::Result<()> {
        assert_eq!(tablespace, RelTag::DEFAULT_TABLESPACE);
        let folder = PathBuf::from(format!("base/{database}"));
        fs::metadata(self.storage.join(&folder))?;
        let mut made = self.materialised.lock().expect("no thread panicked");
        if made.contains(&(database, None)) {
            return Ok(());
        }
        let is_made = |name: &str| made.contains(&(database, relation_of(name)));
        let is_wanted = |name: &str| relation.is_none_or(|relation| relation_of(name) == Some(relation));
        self.materialise_folder(&folder, |name| relation_of(name).is_some() && is_wanted(name) && !is_made(name));
        made.insert((database, relation));
        Ok(())
    }

    /// Makes files that storage has in a directory: files of pages sparse with a meta file, others copied.
    fn materialise_folder(&self, folder: &Path, is_wanted: impl Fn(&str) -> bool) {
        self.create_meta_folders(folder);
        for entry in fs::read_dir(self.storage.join(folder)).expect("storage has the folder") {
            let entry = entry.expect("storage can be listed");
            if !is_wanted(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let relative = folder.join(entry.file_name());
            let path = self.dir.data_file(&relative);
            match file_id(&relative) {
                Some(id) => self.create_sparse(id, &relative, entry.metadata().expect("a file has a size").len()),
                None => drop(fs::copy(entry.path(), &path).expect("a small file can be copied")),
            }
            self.user.own(&path);
        }
    }

    fn create_meta_folders(&self, folder: &Path) {
        fs::create_dir_all(self.dir.meta_file(folder)).expect("a folder can be made");
        for part in folder.ancestors() {
            self.user.own(&self.dir.meta_file(part));
        }
    }

    fn create_sparse(&self, file: FileId, relative: &Path, bytes: u64) {
        let data = File::create_new(self.dir.data_file(relative)).expect("a file of the cache is new");
        data.set_len(bytes).expect("a file can be made longer");
        let remote_nblocks = u32::try_from(bytes / PAGE).expect("a segment has a gigabyte at most");
        if remote_nblocks > 0 {
            let inode = data.metadata().expect("a file has an inode").ino();
            let spec = MetaSpec { file, inode, remote_nblocks, bounded: false, request_lsn: self.control.start_lsn() };
            spec.create(&self.dir.meta_file(relative)).expect("a meta file can be made");
            self.user.own(&self.dir.meta_file(relative));
        }
    }

    fn fill(&self, file: FileId, first_block: u32, count: u32) -> io::Result<()> {
        if !self.fills.load(Ordering::SeqCst) {
            return Err(io::Error::other("storage is away"));
        }
        let relative = path_of(file);
        let meta = Meta::open(&self.dir.meta_file(&relative)).map_err(io::Error::other)?;
        let data = File::options().write(true).open(self.dir.data_file(&relative))?;
        let stored = File::open(self.storage.join(&relative))?;
        if data.metadata()?.ino() != meta.inode() {
            return Err(io::Error::other("the meta file is of another file"));
        }
        (first_block..first_block + count).try_for_each(|block| self.install(&meta, &data, &stored, block))
    }

    /// Takes all pages of a file out of the cache, over and over, until `until` says so; how often.
    pub fn drop_pages(&self, relative: &Path, until: impl Fn() -> bool) -> u64 {
        let meta = Meta::open(&self.dir.meta_file(relative)).expect("it has a meta file");
        let data = File::options().write(true).open(self.dir.data_file(relative)).expect("it is there");
        let mut dropped = 0;
        while !until() {
            dropped += u64::from(protocol::drop_blocks(&meta, 0..meta.remote_nblocks(), &mut Everything(&data)));
            thread::sleep(Duration::from_micros(300));
        }
        dropped
    }

    fn install(&self, meta: &Meta, data: &File, stored: &File, block: u32) -> io::Result<()> {
        while block < meta.remote_nblocks() {
            match meta.state(block) {
                BlockState::Present | BlockState::Writing => break,
                BlockState::Filling => thread::yield_now(),
                BlockState::Absent if protocol::claim(meta, block) => {
                    let mut page = [0; PAGE as usize];
                    stored.read_exact_at(&mut page, u64::from(block) * PAGE)?;
                    data.write_all_at(&page, u64::from(block) * PAGE)?;
                    protocol::publish(meta, block);
                    self.blocks_installed.fetch_add(1, Ordering::SeqCst);
                }
                BlockState::Absent => {}
            }
        }
        Ok(())
    }
}

/// Drops what it is asked about; only for files that nobody writes.
struct Everything<'a>(&'a File);

impl Dropper for Everything<'_> {
    fn wants(&mut self, _: u32) -> bool {
        true
    }

    fn allows(&mut self, _: u32) -> bool {
        true
    }

    fn punch(&mut self, blocks: Range<u32>) -> bool {
        let (start, bytes) =
            (i64::from(blocks.start) * PAGE as i64, i64::from(blocks.end - blocks.start) * PAGE as i64);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: an open descriptor; no memory is passed.
        unsafe { libc::fallocate(self.0.as_raw_fd(), mode, start, bytes) == 0 }
    }
}

/// What a path below the data directory is of, if it is a file of pages.
pub fn file_id(relative: &Path) -> Option<FileId> {
    use quire_types::{Fork, Slru};
    let (folder, name) = (relative.parent()?.to_str()?, relative.file_name()?.to_str()?);
    if let Some(slru) = Slru::ALL.into_iter().find(|slru| slru.directory() == folder) {
        return Some(FileId::Slru { slru, segment: u32::from_str_radix(name, 16).ok()? });
    }
    let (tablespace, database) = match folder.strip_prefix("base/") {
        Some(database) => (RelTag::DEFAULT_TABLESPACE, database.parse().ok()?),
        None => (RelTag::GLOBAL_TABLESPACE, 0),
    };
    let (stem, segment) = name.split_once('.').map_or((name, Ok(0)), |(stem, segment)| (stem, segment.parse()));
    let (number, suffix) = stem.split_at(stem.find('_').unwrap_or(stem.len()));
    let fork = Fork::ALL.into_iter().find(|fork| fork.file_suffix() == suffix)?;
    let rel = RelTag { tablespace, database, relation: number.parse().ok()?, fork };
    Some(FileId::Relation { rel, segment: segment.ok()? })
}

fn path_of(file: FileId) -> PathBuf {
    match file {
        FileId::Slru { slru, segment } => format!("{}/{segment:04X}", slru.directory()).into(),
        FileId::Relation { rel, segment } => {
            let folder = if rel.database == 0 { "global".to_owned() } else { format!("base/{}", rel.database) };
            let suffix = if segment == 0 { String::new() } else { format!(".{segment}") };
            format!("{folder}/{}{}{suffix}", rel.relation, rel.fork.file_suffix()).into()
        }
    }
}

/// The relation that a file in a database's directory belongs to.
fn relation_of(name: &str) -> Option<u32> {
    name.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
