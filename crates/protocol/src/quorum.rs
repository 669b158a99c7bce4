//! What proposers, readers and safekeepers say to each other.
//!
//! A compute's proposer opens one connection to each safekeeper and sends [`Request::Hello`], then votes, then streams.
//! A pageserver opens one to each, sends `Hello` too and then [`Request::Follow`]. Both may send [`Request::ReadWal`].
//! Requests on one connection are answered in order.

use crate::frame::{Frame, FrameError};
use bytes::Bytes;
use quire_types::{BranchId, BranchKey, CodecError, Lsn, NodeId, ProjectId, Reader, ShardId, Term, Writer};
use std::fmt;

/// The version said in `Hello`; a safekeeper refuses any other.
pub const PROTOCOL_VERSION: u32 = 1;

/// The most WAL that one `Append`, `Wal` or `ReadWal` carries.
pub const MAX_WAL_BYTES: usize = 1 << 20;

/// The most terms a history may have: one for each start of a compute.
pub const MAX_TERM_HISTORY: usize = 500_000;

/// Where each term began: the proposer of `term` wrote from `start` on. Strictly ascending in term, ascending in LSN.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TermHistory(pub Vec<TermStart>);

/// One entry of a [`TermHistory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// Its first byte.
    pub start: Lsn,
}

impl fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogIdentity { system_id, segment_bytes, start } = self;
        write!(f, "system {system_id}, segments of {} MiB, from {start} on", segment_bytes >> 20)
    }
}

impl TermHistory {
    /// The highest term in which something was, or was about to be, written up to `flush`: PostgreSQL people would
    /// say the last timeline that this log took part in. 0 for an empty history.
    pub fn last_term_at(&self, flush: Lsn) -> Term {
        self.0.iter().rev().find(|entry| entry.start <= flush).map_or(Term(0), |entry| entry.term)
    }
}

/// The facts of a branch's log that never change; every safekeeper of the branch keeps the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// PostgreSQL's system identifier, from `pg_control`.
    pub system_id: u64,
    /// Bytes in a WAL segment, from `pg_control`.
    pub segment_bytes: u32,
    /// The branch's first byte of WAL, at a segment boundary.
    pub start: Lsn,
}

/// What a proposer or reader sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The first message on a connection. Answer: [`Response::Welcome`], or `Error` and the end.
    Hello {
        /// The branch that all further messages are about.
        branch: BranchKey,
        /// Who asks, for logs.
        node: NodeId,
    },
    /// Creates the branch's log; harmless if it exists with the same identity. Answer: `Welcome`.
    CreateLog(LogIdentity),
    /// Asks for the vote in `term`. Answer: [`Response::Vote`].
    RequestVote {
        /// The candidate's term.
        term: Term,
    },
    /// The candidate has a majority. The acceptor truncates what diverges. Answer: [`Response::Appended`].
    Elected {
        /// The term won.
        term: Term,
        /// Where the proposer will start to stream to this acceptor.
        stream_from: Lsn,
        /// The proposer's history, ending with its own term.
        history: TermHistory,
    },
    /// WAL `[begin, begin + wal.len())`; empty as a heartbeat. Answer: `Appended`, once everything up to the last
    /// record boundary is flushed.
    Append {
        /// The proposer's term.
        term: Term,
        /// First byte.
        begin: Lsn,
        /// What the proposer knows to be committed.
        commit: Lsn,
        /// What every pageserver shard has made durable: WAL before it may be removed.
        durable: Lsn,
        /// Whether the bytes end at a record boundary. If not, more of a long record follows, and the acceptor's flush
        /// position, which is always a record boundary, stays where it is.
        ends_record: bool,
        /// The bytes.
        wal: Bytes,
    },
    /// Asks for WAL `[begin, end)`, at most [`MAX_WAL_BYTES`]. Answer: [`Response::Wal`].
    ReadWal {
        /// 0 asks for committed WAL, which is the same under every leader. Otherwise all that is flushed may be asked
        /// for, and is given only while the acceptor's term is this one: the elected proposer's way to bring others up
        /// to date.
        term: Term,
        /// First byte.
        begin: Lsn,
        /// One past the last byte.
        end: Lsn,
    },
    /// Asks for committed WAL from `from` on, as it comes. Answer: a stream of `Wal`, empty ones as heartbeats.
    Follow {
        /// First byte.
        from: Lsn,
        /// Which shard follows.
        shard: ShardId,
        /// Whether to send WAL at all: a follower reads from one safekeeper and reports to all.
        send_wal: bool,
    },
    /// A follower's report, sent at any time after `Follow`. No answer.
    Durable {
        /// Everything before this LSN is durable at the shard.
        lsn: Lsn,
    },
}

/// What a safekeeper answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// Who and where this acceptor is.
    Welcome {
        /// The safekeeper.
        node: NodeId,
        /// Its term for this branch.
        term: Term,
        /// The log's identity; none if the log was not created yet.
        identity: Option<LogIdentity>,
    },
    /// The answer to `RequestVote`; the rest is true whether or not the vote was granted.
    Vote {
        /// Whether this acceptor votes for the candidate.
        granted: bool,
        /// The acceptor's term after the vote.
        term: Term,
        /// Everything before is on its disk, ending at a record boundary.
        flush: Lsn,
        /// What it knows to be committed.
        commit: Lsn,
        /// The oldest WAL it still has.
        oldest: Lsn,
        /// Its history.
        history: TermHistory,
    },
    /// The answer to `Elected` and `Append`. A `term` above the proposer's own says that it is deposed.
    Appended {
        /// The acceptor's term.
        term: Term,
        /// Everything before is on its disk.
        flush: Lsn,
        /// What it knows to be committed.
        commit: Lsn,
    },
    /// WAL `[begin, begin + wal.len())`; in a `Follow` stream it is committed and ends at a record boundary or at
    /// [`MAX_WAL_BYTES`].
    Wal {
        /// First byte.
        begin: Lsn,
        /// What is committed.
        commit: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// The request cannot be answered; the connection continues where that makes sense.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// Why a safekeeper refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ErrorCode {
    /// The branch has no log here.
    NoSuchLog = 1,
    /// The log exists with another identity.
    IdentityMismatch = 2,
    /// WAL before what is still kept, or past what is flushed, was asked for.
    OutOfRange = 3,
    /// The disk failed; the safekeeper must be restarted before it takes more.
    Storage = 4,
    /// The message does not fit the state of the conversation.
    Protocol = 5,
    /// No term can be that far ahead; nothing was changed.
    TermOutOfReach = 6,
}

impl ErrorCode {
    fn from_number(number: u8) -> Result<ErrorCode, CodecError> {
        use ErrorCode::{IdentityMismatch, NoSuchLog, OutOfRange, Protocol, Storage, TermOutOfReach};
        [NoSuchLog, IdentityMismatch, OutOfRange, Storage, Protocol, TermOutOfReach]
            .into_iter()
            .find(|code| *code as u8 == number)
            .ok_or(CodecError::Invalid { field: "error code", value: number.into() })
    }
}

impl Request {
    /// The frame that carries this request.
    pub fn to_frame(&self, request_id: u64) -> Frame {
        let mut out = Writer::new();
        let kind = match self {
            Request::Hello { branch, node } => {
                out.u32(PROTOCOL_VERSION).bytes(&branch.project.0).bytes(&branch.branch.0).u64(node.0);
                1
            }
            Request::CreateLog(identity) => {
                write_identity(&mut out, identity);
                2
            }
            Request::RequestVote { term } => {
                out.u64(term.0);
                3
            }
            Request::Elected { term, stream_from, history } => {
                out.u64(term.0).u64(stream_from.0);
                write_history(&mut out, history);
                4
            }
            Request::Append { term, begin, commit, durable, ends_record, wal } => {
                out = Writer::with_capacity(37 + wal.len());
                out.u64(term.0)
                    .u64(begin.0)
                    .u64(commit.0)
                    .u64(durable.0)
                    .u8(u8::from(*ends_record))
                    .length_prefixed(wal);
                5
            }
            Request::ReadWal { term, begin, end } => {
                out.u64(term.0).u64(begin.0).u64(end.0);
                6
            }
            Request::Follow { from, shard, send_wal } => {
                out.u64(from.0).u8(shard.number).u8(shard.count).u8(u8::from(*send_wal));
                7
            }
            Request::Durable { lsn } => {
                out.u64(lsn.0);
                8
            }
        };
        Frame { kind, request_id, payload: out.into_bytes() }
    }

    /// Reads a request out of a frame.
    pub fn from_frame(frame: &Frame) -> Result<Request, FrameError> {
        let mut input = Reader::new(&frame.payload);
        let request = match frame.kind {
            1 => {
                let theirs = input.u32("protocol version")?;
                if theirs != PROTOCOL_VERSION {
                    return Err(FrameError::Version { theirs, ours: PROTOCOL_VERSION });
                }
                let (project, branch) = (ProjectId(input.array("project")?), BranchId(input.array("branch")?));
                Request::Hello { branch: BranchKey { project, branch }, node: NodeId(input.u64("node")?) }
            }
            2 => Request::CreateLog(read_identity(&mut input)?),
            3 => Request::RequestVote { term: Term(input.u64("term")?) },
            4 => Request::Elected {
                term: Term(input.u64("term")?),
                stream_from: Lsn(input.u64("stream_from")?),
                history: read_history(&mut input)?,
            },
            5 => Request::Append {
                term: Term(input.u64("term")?),
                begin: Lsn(input.u64("begin")?),
                commit: Lsn(input.u64("commit")?),
                durable: Lsn(input.u64("durable")?),
                ends_record: input.u8("ends_record")? != 0,
                wal: read_wal(&mut input, frame)?,
            },
            6 => Request::ReadWal {
                term: Term(input.u64("term")?),
                begin: Lsn(input.u64("begin")?),
                end: Lsn(input.u64("end")?),
            },
            7 => Request::Follow {
                from: Lsn(input.u64("from")?),
                shard: ShardId { number: input.u8("shard number")?, count: input.u8("shard count")? },
                send_wal: input.u8("send_wal")? != 0,
            },
            8 => Request::Durable { lsn: Lsn(input.u64("lsn")?) },
            other => return Err(FrameError::Unexpected(other)),
        };
        input.finish()?;
        Ok(request)
    }
}

impl Response {
    /// The frame that carries this response to the request of that id.
    pub fn to_frame(&self, request_id: u64) -> Frame {
        let mut out = Writer::new();
        let kind = match self {
            Response::Welcome { node, term, identity } => {
                out.u64(node.0).u64(term.0).u8(u8::from(identity.is_some()));
                if let Some(identity) = identity {
                    write_identity(&mut out, identity);
                }
                65
            }
            Response::Vote { granted, term, flush, commit, oldest, history } => {
                out.u8(u8::from(*granted)).u64(term.0).u64(flush.0).u64(commit.0).u64(oldest.0);
                write_history(&mut out, history);
                66
            }
            Response::Appended { term, flush, commit } => {
                out.u64(term.0).u64(flush.0).u64(commit.0);
                67
            }
            Response::Wal { begin, commit, wal } => {
                out.u64(begin.0).u64(commit.0).length_prefixed(wal);
                68
            }
            Response::Error { code, message } => {
                out.u8(*code as u8).length_prefixed(message.as_bytes());
                69
            }
        };
        Frame { kind, request_id, payload: out.into_bytes() }
    }

    /// Reads a response out of a frame.
    pub fn from_frame(frame: &Frame) -> Result<Response, FrameError> {
        let mut input = Reader::new(&frame.payload);
        let response = match frame.kind {
            65 => Response::Welcome {
                node: NodeId(input.u64("node")?),
                term: Term(input.u64("term")?),
                identity: match input.u8("has identity")? {
                    0 => None,
                    _ => Some(read_identity(&mut input)?),
                },
            },
            66 => Response::Vote {
                granted: input.u8("granted")? != 0,
                term: Term(input.u64("term")?),
                flush: Lsn(input.u64("flush")?),
                commit: Lsn(input.u64("commit")?),
                oldest: Lsn(input.u64("oldest")?),
                history: read_history(&mut input)?,
            },
            67 => Response::Appended {
                term: Term(input.u64("term")?),
                flush: Lsn(input.u64("flush")?),
                commit: Lsn(input.u64("commit")?),
            },
            68 => Response::Wal {
                begin: Lsn(input.u64("begin")?),
                commit: Lsn(input.u64("commit")?),
                wal: read_wal(&mut input, frame)?,
            },
            69 => Response::Error {
                code: ErrorCode::from_number(input.u8("error code")?)?,
                message: String::from_utf8_lossy(input.length_prefixed("message")?).into_owned(),
            },
            other => return Err(FrameError::Unexpected(other)),
        };
        input.finish()?;
        Ok(response)
    }
}

fn write_identity(out: &mut Writer, identity: &LogIdentity) {
    out.u64(identity.system_id).u32(identity.segment_bytes).u64(identity.start.0);
}

fn read_identity(input: &mut Reader<'_>) -> Result<LogIdentity, CodecError> {
    let identity = LogIdentity {
        system_id: input.u64("system id")?,
        segment_bytes: input.u32("segment bytes")?,
        start: Lsn(input.u64("start")?),
    };
    let valid_size = (1 << 20..=1 << 30).contains(&identity.segment_bytes) && identity.segment_bytes.is_power_of_two();
    if !valid_size {
        return Err(CodecError::Invalid { field: "segment bytes", value: identity.segment_bytes.into() });
    }
    if identity.start.segment_offset(identity.segment_bytes.into()) != 0 {
        return Err(CodecError::Invalid { field: "start", value: identity.start.0 });
    }
    Ok(identity)
}

/// Appends a history: a `u32` count, then term and LSN of each.
pub fn write_history(out: &mut Writer, history: &TermHistory) {
    out.u32(history.0.len() as u32);
    for entry in &history.0 {
        out.u64(entry.term.0).u64(entry.start.0);
    }
}

/// Reads what [`write_history`] wrote, and refuses one that is out of order.
pub fn read_history(input: &mut Reader<'_>) -> Result<TermHistory, CodecError> {
    let count = input.u32("history length")? as usize;
    if count > MAX_TERM_HISTORY || count * 16 > input.remaining() {
        return Err(CodecError::Invalid { field: "history length", value: count as u64 });
    }
    let mut entries: Vec<TermStart> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = TermStart { term: Term(input.u64("term")?), start: Lsn(input.u64("term start")?) };
        let in_order = entries.last().is_none_or(|last| last.term < entry.term && last.start <= entry.start);
        if !in_order {
            return Err(CodecError::Invalid { field: "history order", value: entry.term.0 });
        }
        entries.push(entry);
    }
    Ok(TermHistory(entries))
}

fn read_wal(input: &mut Reader<'_>, frame: &Frame) -> Result<Bytes, CodecError> {
    let wal = input.length_prefixed("wal")?;
    if wal.len() > MAX_WAL_BYTES {
        Err(CodecError::Invalid { field: "wal length", value: wal.len() as u64 })
    } else {
        Ok(frame.payload.slice_ref(wal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history() -> TermHistory {
        TermHistory(vec![
            TermStart { term: Term(1), start: Lsn(16 << 20) },
            TermStart { term: Term(4), start: Lsn(17 << 20) },
        ])
    }

    fn requests() -> Vec<Request> {
        let identity = LogIdentity { system_id: 9, segment_bytes: 16 << 20, start: Lsn(16 << 20) };
        vec![
            Request::Hello { branch: BranchKey::default(), node: NodeId(3) },
            Request::CreateLog(identity),
            Request::RequestVote { term: Term(5) },
            Request::Elected { term: Term(5), stream_from: Lsn(1), history: history() },
            Request::Append {
                term: Term(5),
                begin: Lsn(1),
                commit: Lsn(2),
                durable: Lsn(3),
                ends_record: true,
                wal: Bytes::from_static(b"wal"),
            },
            Request::ReadWal { term: Term(5), begin: Lsn(1), end: Lsn(2) },
            Request::Follow { from: Lsn(1), shard: ShardId::UNSHARDED, send_wal: true },
            Request::Durable { lsn: Lsn(8) },
        ]
    }

    #[test]
    fn every_request_reads_back() {
        for request in requests() {
            assert_eq!(Request::from_frame(&request.to_frame(1)).expect("valid"), request);
        }
    }

    #[test]
    fn every_response_reads_back() {
        let responses = [
            Response::Welcome { node: NodeId(1), term: Term(2), identity: None },
            Response::Vote {
                granted: true,
                term: Term(1),
                flush: Lsn(2),
                commit: Lsn(3),
                oldest: Lsn(4),
                history: history(),
            },
            Response::Appended { term: Term(1), flush: Lsn(2), commit: Lsn(3) },
            Response::Wal { begin: Lsn(1), commit: Lsn(2), wal: Bytes::from_static(b"x") },
            Response::Error { code: ErrorCode::Storage, message: "disk full".into() },
            Response::Error { code: ErrorCode::TermOutOfReach, message: "too high".into() },
        ];
        for response in responses {
            assert_eq!(Response::from_frame(&response.to_frame(1)).expect("valid"), response);
        }
    }

    #[test]
    fn the_bytes_of_an_append_are_those_of_the_document() {
        let (term, begin, commit, durable) = (Term(1), Lsn(2), Lsn(3), Lsn(4));
        let wal = Bytes::from_static(b"wal");
        let frame = Request::Append { term, begin, commit, durable, ends_record: true, wal }.to_frame(9);
        let expected: Vec<u8> = [1u64, 2, 3, 4].iter().flat_map(|field| field.to_le_bytes()).collect();
        assert_eq!((frame.kind, frame.request_id), (5, 9));
        assert_eq!(frame.payload, [&expected[..], &[1, 3, 0, 0, 0], b"wal"].concat());
    }

    #[test]
    fn a_history_out_of_order_is_refused() {
        let mut wrong = history();
        wrong.0.reverse();
        let request = Request::Elected { term: Term(5), stream_from: Lsn(1), history: wrong };
        assert!(Request::from_frame(&request.to_frame(0)).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(kind in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let frame = Frame { kind, request_id: 0, payload: payload.into() };
            let _ = Request::from_frame(&frame);
            let _ = Response::from_frame(&frame);
        }
    }
}
