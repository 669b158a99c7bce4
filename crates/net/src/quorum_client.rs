//! A blocking client of one safekeeper: one question, one answer.
//!
//! For creating logs, reading WAL and following it. A proposer's connection is another matter: it sends without
//! waiting, on a [`crate::polled::Connection`].

use crate::blocking::{Connection, Reader, Writer};
use crate::dial::DialError;
use crate::frames::read_blocking;
use bytes::{Bytes, BytesMut};
use quire_protocol::frame::FrameError;
use quire_protocol::quorum::{ErrorCode, LogIdentity, MAX_WAL_BYTES, Request, Response};
use quire_types::{BranchKey, Endpoint, Lsn, NodeId, ShardId, Term};
use std::io::{self, BufReader};
use std::time::Duration;

/// Why a safekeeper gave no answer that can be used. The connection is of no use afterwards, except after `Refused`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection failed, or what came is not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The safekeeper says no.
    #[error("the safekeeper refuses: {message} ({code:?})")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The answer belongs to another question.
    #[error("the safekeeper answered something else than {0}")]
    Unexpected(&'static str),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Frame(FrameError::Io(error))
    }
}

/// What a safekeeper says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The safekeeper.
    pub node: NodeId,
    /// Its term for the branch.
    pub term: Term,
    /// The log's identity; none if there is no log of the branch.
    pub identity: Option<LogIdentity>,
}

/// A piece of a followed log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalPiece {
    /// Position of the first byte.
    pub begin: Lsn,
    /// What is committed.
    pub commit: Lsn,
    /// The bytes; none in a heartbeat.
    pub wal: Bytes,
}

/// A connection on which the branch was named.
#[derive(Debug)]
pub struct QuorumClient {
    reader: BufReader<Reader>,
    writer: Writer,
    last_request: u64,
}

impl QuorumClient {
    /// Connects and says `Hello`. `timeout` bounds connecting, and each later read and write.
    pub fn connect(
        safekeeper: &Endpoint,
        branch: BranchKey,
        node: NodeId,
        timeout: Duration,
    ) -> Result<(QuorumClient, Welcome), ClientError> {
        let (reader, writer) = Connection::dial(safekeeper, timeout)?.split()?;
        let reader = BufReader::with_capacity(64 << 10, reader);
        let mut client = QuorumClient { reader, writer, last_request: 0 };
        let welcome = client.expect_welcome(&Request::Hello { branch, node })?;
        Ok((client, welcome))
    }

    /// Sends a request and waits for its answer, which may be [`Response::Error`].
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        let frame = read_blocking(&mut self.reader)?;
        if frame.request_id == self.last_request {
            Ok(Response::from_frame(&frame)?)
        } else {
            Err(ClientError::Unexpected("the last question"))
        }
    }

    /// Creates the branch's log, unless it exists with this identity.
    pub fn create_log(&mut self, identity: LogIdentity) -> Result<Welcome, ClientError> {
        self.expect_welcome(&Request::CreateLog(identity))
    }

    /// Reads WAL `[begin, end)` of any length; see [`Request::ReadWal`] for `term`.
    pub fn read_wal(&mut self, term: Term, begin: Lsn, end: Lsn) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        let mut at = begin;
        while at < end {
            let piece_end = end.min(at.add(MAX_WAL_BYTES as u64));
            let wal = self.read_piece(term, at, piece_end)?;
            if wal.len() as u64 == end.bytes_since(begin) {
                return Ok(wal);
            }
            whole.extend_from_slice(&wal);
            at = piece_end;
        }
        Ok(whole.freeze())
    }

    /// Starts to follow the committed log; [`QuorumClient::next_wal`] gives what comes.
    pub fn follow(&mut self, from: Lsn, shard: ShardId, send_wal: bool) -> Result<(), ClientError> {
        self.send(&Request::Follow { from, shard, send_wal })
    }

    /// Reports what is durable at the shard, on a connection that follows.
    pub fn report_durable(&mut self, lsn: Lsn) -> Result<(), ClientError> {
        self.send(&Request::Durable { lsn })
    }

    /// Waits for the next piece of the followed log, or a heartbeat.
    pub fn next_wal(&mut self) -> Result<WalPiece, ClientError> {
        let frame = read_blocking(&mut self.reader)?;
        match Response::from_frame(&frame)? {
            Response::Wal { begin, commit, wal } => Ok(WalPiece { begin, commit, wal }),
            other => Err(refused(other, "a follower")),
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.last_request += 1;
        let frame = request.to_frame(self.last_request);
        Ok(self.writer.send(&frame.encode())?)
    }

    fn expect_welcome(&mut self, request: &Request) -> Result<Welcome, ClientError> {
        match self.call(request)? {
            Response::Welcome { node, term, identity } => Ok(Welcome { node, term, identity }),
            other => Err(refused(other, "a greeting")),
        }
    }

    fn read_piece(&mut self, term: Term, begin: Lsn, end: Lsn) -> Result<Bytes, ClientError> {
        match self.call(&Request::ReadWal { term, begin, end })? {
            Response::Wal { begin: theirs, wal, .. } if theirs == begin && begin.add(wal.len() as u64) == end => {
                Ok(wal)
            }
            other => Err(refused(other, "ReadWal")),
        }
    }
}

fn refused(response: Response, question: &'static str) -> ClientError {
    match response {
        Response::Error { code, message } => ClientError::Refused { code, message },
        _ => ClientError::Unexpected(question),
    }
}
