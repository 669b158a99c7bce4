//! A connection of a proposer, a reader or a follower, served by a thread of its own.
//!
//! Requests are answered in order. All that has arrived by the time the thread looks is taken together, so that WAL
//! sent in several messages is flushed once; see [`crate::branch_log::BranchLog::handle`].

use crate::branch_log::BranchLog;
use crate::follower::Follower;
use crate::shared::Shared;
use quire_net::blocking::{self, Reader, Writer};
use quire_net::frames;
use quire_protocol::frame::{Frame, FrameError};
use quire_protocol::quorum::{ErrorCode, MAX_WAL_BYTES, Request, Response};
use quire_types::{BranchKey, Lsn, NodeId, ShardId, Term};
use std::io::BufReader;
use std::net::SocketAddr;
use std::sync::Arc;

/// Room for many small messages; longer ones are read past it.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// The most messages taken together.
const GROUP_MAX: usize = 256;

struct Connection {
    shared: Arc<Shared>,
    reader: BufReader<Reader>,
    writer: Writer,
    branch: BranchKey,
    peer: NodeId,
    log: Option<Arc<BranchLog>>,
    follower: Option<(ShardId, Follower)>,
}

/// Serves a connection until it ends, and logs why if that is not the peer's doing.
pub(crate) fn serve(shared: Arc<Shared>, connection: blocking::Connection, address: SocketAddr) {
    match Connection::greet(shared, connection).and_then(|mut connection| connection.run()) {
        Ok(()) | Err(FrameError::Closed) => tracing::debug!(%address, "connection closed"),
        Err(FrameError::Io(error)) => tracing::info!(%address, %error, "connection lost"),
        Err(error) => tracing::warn!(%address, %error, "connection refused"),
    }
}

impl Connection {
    /// Reads `Hello` and answers it.
    fn greet(shared: Arc<Shared>, connection: blocking::Connection) -> Result<Connection, FrameError> {
        let (reader, writer) = connection.split()?;
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        let frame = frames::read_blocking(&mut reader)?;
        let hello = Request::from_frame(&frame).inspect_err(|error| {
            let _ = writer.send(&protocol_error(error.to_string()).to_frame(frame.request_id).encode());
        })?;
        let Request::Hello { branch, node: peer } = hello else {
            return Err(FrameError::Unexpected(frame.kind));
        };
        let log = shared.logs.get(branch);
        let connection = Connection { shared, reader, writer, branch, peer, log, follower: None };
        let welcome = connection.welcome();
        connection.writer.send(&welcome.to_frame(frame.request_id).encode())?;
        if matches!(welcome, Response::Error { .. }) {
            return Err(FrameError::Closed);
        }
        tracing::info!(branch = %branch, peer = %connection.peer, "connected");
        Ok(connection)
    }

    fn run(&mut self) -> Result<(), FrameError> {
        loop {
            quire_crash::plant("safekeeper.connection");
            let group = self.read_group()?;
            let mut out = Vec::new();
            let result = self.serve_group(group, &mut out);
            self.writer.send(&out)?;
            result?;
        }
    }

    /// Waits for a request and takes those along that have arrived behind it.
    fn read_group(&mut self) -> Result<Vec<Frame>, FrameError> {
        let mut group = vec![frames::read_blocking(&mut self.reader)?];
        while group.len() < GROUP_MAX && Frame::is_whole(self.reader.buffer()) {
            group.push(frames::read_blocking(&mut self.reader)?);
        }
        Ok(group)
    }

    fn serve_group(&mut self, group: Vec<Frame>, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let mut for_acceptor = Vec::new();
        let mut ids = Vec::new();
        for frame in group {
            let request = Request::from_frame(&frame)?;
            if matches!(request, Request::RequestVote { .. } | Request::Elected { .. } | Request::Append { .. }) {
                for_acceptor.push(request);
                ids.push(frame.request_id);
                continue;
            }
            self.serve_acceptor(&mut for_acceptor, &mut ids, out);
            if let Some(response) = self.serve_other(request)? {
                out.extend(response.to_frame(frame.request_id).encode());
            }
        }
        self.serve_acceptor(&mut for_acceptor, &mut ids, out);
        Ok(())
    }

    fn serve_acceptor(&self, requests: &mut Vec<Request>, ids: &mut Vec<u64>, out: &mut Vec<u8>) {
        if requests.is_empty() {
            return;
        }
        let responses = match &self.log {
            Some(log) => log.handle(requests),
            None => vec![no_such_log(); requests.len()],
        };
        for (response, id) in responses.iter().zip(ids.drain(..)) {
            out.extend(response.to_frame(id).encode());
        }
        requests.clear();
    }

    fn serve_other(&mut self, request: Request) -> Result<Option<Response>, FrameError> {
        let response = match request {
            Request::CreateLog(identity) => Some(self.create_log(identity)),
            Request::ReadWal { term, begin, end } => Some(self.read_wal(term, begin, end)),
            Request::Follow { from, shard, send_wal } => self.follow(from, shard, send_wal).err(),
            Request::Durable { lsn } => self.report_durable(lsn).err(),
            // A second greeting; what is the acceptor's was taken out before.
            _ => return Err(FrameError::Unexpected(1)),
        };
        Ok(response)
    }

    fn welcome(&self) -> Response {
        match &self.log {
            Some(log) => log.welcome(),
            None => Response::Welcome { node: self.shared.node, term: Term(0), identity: None },
        }
    }

    fn create_log(&mut self, identity: quire_protocol::quorum::LogIdentity) -> Response {
        let created = self.shared.logs.get_or_create(self.branch, identity);
        let created = created.and_then(|log| log.identity().map(|present| (log, present)));
        match created {
            Ok((log, present)) if present == identity => {
                self.log = Some(log);
                self.welcome()
            }
            Ok((log, _)) => log.handle(&[Request::CreateLog(identity)]).remove(0),
            Err(error) => {
                tracing::error!(branch = %self.branch, %error, "the log cannot be created");
                Response::Error { code: ErrorCode::Storage, message: error.to_string() }
            }
        }
    }

    fn read_wal(&self, term: Term, begin: Lsn, end: Lsn) -> Response {
        match &self.log {
            None => no_such_log(),
            Some(_) if end.bytes_since(begin) > MAX_WAL_BYTES as u64 => {
                protocol_error(format!("at most {MAX_WAL_BYTES} bytes are read at once"))
            }
            Some(log) => log.read(term, begin, end),
        }
    }

    fn follow(&mut self, from: Lsn, shard: ShardId, send_wal: bool) -> Result<(), Response> {
        if self.follower.is_some() {
            return Err(protocol_error("this connection follows already".into()));
        }
        let log = self.log.as_ref().ok_or_else(no_such_log)?;
        log.follow(shard, from)?;
        let reader = log.reader().map_err(|error| storage_error(&error))?;
        let (writer, metrics) = (self.writer.clone(), self.shared.metrics.clone());
        let follower = Follower::start(log.clone(), reader, writer, metrics, from, send_wal);
        let follower = follower.map_err(|error| protocol_error(format!("no thread for a follower: {error}")))?;
        self.follower = Some((shard, follower));
        Ok(())
    }

    fn report_durable(&self, lsn: Lsn) -> Result<(), Response> {
        let (Some(log), Some((shard, _))) = (&self.log, &self.follower) else {
            return Err(protocol_error("only followers report what is durable".into()));
        };
        log.report_durable(*shard, lsn).map_err(|error| storage_error(&error))
    }
}

fn no_such_log() -> Response {
    Response::Error { code: ErrorCode::NoSuchLog, message: "this safekeeper has no log of the branch".into() }
}

fn protocol_error(message: String) -> Response {
    Response::Error { code: ErrorCode::Protocol, message }
}

fn storage_error(error: &crate::error::BranchLogError) -> Response {
    Response::Error { code: ErrorCode::Storage, message: error.to_string() }
}
