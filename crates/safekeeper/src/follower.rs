//! Sending committed WAL to a pageserver as it is committed.

use crate::branch_log::BranchLog;
use crate::metrics::Metrics;
use crate::published::Published;
use crate::segments::SegmentReader;
use quire_net::blocking::Writer;
use quire_protocol::quorum::{MAX_WAL_BYTES, Response};
use quire_types::Lsn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often an idle follower hears that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The least time between two pieces of WAL, unless there is a whole one to send. Under many small commits each piece
/// costs both ends, and the machine between them, more than its bytes do. An idle branch's commit is sent at once.
const PACE: Duration = Duration::from_millis(2);

/// A thread that sends WAL. It ends with the connection, at the latest one heartbeat after this handle is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    stopped: Arc<AtomicBool>,
}

struct Stream {
    log: Arc<BranchLog>,
    writer: Writer,
    metrics: Arc<Metrics>,
    reader: SegmentReader,
    position: Lsn,
    send_wal: bool,
    stopped: Arc<AtomicBool>,
    last_piece: Instant,
}

impl Follower {
    /// Starts to send what is committed from `from` on, or heartbeats only.
    pub fn start(
        log: Arc<BranchLog>,
        reader: SegmentReader,
        writer: Writer,
        metrics: Arc<Metrics>,
        from: Lsn,
        send_wal: bool,
    ) -> io::Result<Follower> {
        let stopped = Arc::new(AtomicBool::new(false));
        let last_piece = Instant::now();
        let stream =
            Stream { log, writer, metrics, reader, position: from, send_wal, stopped: stopped.clone(), last_piece };
        thread::Builder::new().name("follower".into()).spawn(move || stream.run())?;
        Ok(Follower { stopped })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

impl Stream {
    fn run(mut self) {
        while !self.stopped.load(Ordering::Relaxed) {
            quire_crash::plant("safekeeper.follower");
            match self.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::info!(branch = %self.log.key(), position = %self.position, %error, "follower lost");
                    break;
                }
            }
        }
    }

    /// Sends the next piece or a heartbeat; `false` at shutdown.
    fn step(&mut self) -> io::Result<bool> {
        let published = self.wait();
        let (begin, commit) = (self.position, published.commit);
        let end = if self.send_wal { commit.max(begin).min(begin.add(MAX_WAL_BYTES as u64)) } else { begin };
        let wal = self.reader.read(begin, end)?;
        self.metrics.sent(wal.len() as u64);
        self.writer.send(&Response::Wal { begin, commit, wal }.to_frame(0).encode())?;
        self.position = end;
        Ok(!published.closed)
    }

    /// Waits until a piece or a heartbeat is due.
    fn wait(&mut self) -> Published {
        if !self.send_wal {
            return self.log.wait_closed(HEARTBEAT);
        }
        let published = self.log.wait_committed(self.position, HEARTBEAT);
        let pause = PACE.saturating_sub(self.last_piece.elapsed());
        let has_whole_piece = published.commit >= self.position.add(MAX_WAL_BYTES as u64);
        if published.closed || has_whole_piece || pause.is_zero() {
            self.last_piece = Instant::now();
            return published;
        }
        thread::sleep(pause);
        self.last_piece = Instant::now();
        self.log.published()
    }
}
