//! What computes say to pageservers.
//!
//! Requests may be sent without waiting; answers carry the request's id and come in any order.

use crate::frame::{Frame, FrameError};
use crate::page_version::{self, PageVersion};
use bytes::Bytes;
use quire_types::key::KEY_BYTES;
use quire_types::{BranchId, BranchKey, CodecError, Key, Lsn, PAGE_SIZE, ProjectId, Reader, ShardId, Term, Writer};

/// The version said in `Hello`; a pageserver refuses any other.
pub const PROTOCOL_VERSION: u32 = 1;

/// The most keys in one `GetPages`, entries in one `Scan` answer, pages in one `ImportValues` or `KeepPages`, files in
/// one `Files`.
pub const MAX_KEYS: usize = 1024;

/// The longest content of a small file: with its name it fits into a frame.
pub const SMALL_FILE_BYTES_MAX: usize = 15 << 20;

/// Begins the names of small files that put a relation under guard: `guard/<tablespace>/<database>/<relation>`. Their
/// LSN says from when on redo of the relation's pages is not trusted.
pub const GUARD_PREFIX: &str = "guard/";

/// A file that PostgreSQL keeps outside WAL, kept whole under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmallFile {
    /// What it is kept under.
    pub name: String,
    /// Which state of the branch it belongs to, if it is of use with no other; else invalid.
    pub lsn: Lsn,
    /// All of it.
    pub content: Bytes,
}

/// Which write of a small file this is. One of a lower term is refused, one that is not newer within its term changes
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct FileVersion {
    /// The compute's term.
    pub term: Term,
    /// Counted by the compute, from 1.
    pub sequence: u64,
}

/// The most bytes that the versions of one `Chain` take.
pub const MAX_CHAIN_BYTES: usize = 8 << 20;

/// A page as PostgreSQL wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenPage {
    /// Its key.
    pub key: Key,
    /// All of it, 8 KiB. Its LSN is the page's own.
    pub page: Bytes,
}

/// What became of a [`WrittenPage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Keeping {
    /// It is kept, durably.
    Kept = 0,
    /// Its relation does not exist any more, or has become shorter.
    Gone = 1,
    /// The page has no LSN, but the log describes it or has changed its relation since it was read: PostgreSQL writes
    /// it again, or it must be sent again.
    Logged = 2,
}

impl Keeping {
    fn from_number(number: u8) -> Result<Keeping, CodecError> {
        let known =
            [Keeping::Kept, Keeping::Gone, Keeping::Logged].into_iter().find(|keeping| *keeping as u8 == number);
        known.ok_or(CodecError::Invalid { field: "keeping", value: number.into() })
    }
}

/// What a compute asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The first message on a connection. Answer: [`Response::Welcome`], or `Error` and the end.
    Hello {
        /// The branch that all further messages are about.
        branch: BranchKey,
        /// The shard that is asked.
        shard: ShardId,
    },
    /// Pages as of `lsn`, once ingest has reached it. Answer: [`Response::Pages`], in the order asked.
    GetPages {
        /// The LSN to rebuild at.
        lsn: Lsn,
        /// Page keys, at most [`MAX_KEYS`].
        keys: Vec<Key>,
    },
    /// Values of all keys in `[from, to]` alive at `lsn` that are not pages. Answer: [`Response::Values`].
    Scan {
        /// The LSN to look at; waits until ingest has reached it.
        lsn: Lsn,
        /// First key.
        from: Key,
        /// Last key.
        to: Key,
    },
    /// Where ingest stands. Answer: [`Response::Position`].
    GetPosition,
    /// What a shutdown checkpoint at `lsn` has to say; `lsn` must be the end of the log, which ingest waits for.
    /// Answer: [`Response::Checkpoint`].
    GetCheckpoint {
        /// The end of the log.
        lsn: Lsn,
    },
    /// Creates the branch, empty, to be filled by `ImportValues`. An unfinished import is discarded. Answer: `Done`.
    ImportBegin {
        /// Everything imported is as of this LSN, and ingest will start here: a segment boundary.
        start: Lsn,
        /// Bytes in a WAL segment.
        segment_bytes: u32,
        /// PostgreSQL's major version, such as 15.
        postgres_version: u32,
    },
    /// Values of the import: page images, sizes, files. Answer: `Done`.
    ImportValues(Vec<(Key, Bytes)>),
    /// The import is complete; `Done` is sent once it is durable and ingest may start.
    ImportFinish,
    /// From now on only this term, or a higher one, may write small files. Answer: `Done`, once that is durable.
    FenceFiles {
        /// The compute's term.
        term: Term,
    },
    /// Small files whose names begin with `prefix`, in order. Answer: [`Response::Files`].
    GetFiles {
        /// What their names begin with.
        prefix: String,
        /// Only names after this one.
        after: String,
    },
    /// Keeps a small file in place of the one of its name. Answer: `Done`, once it is durable.
    PutFile {
        /// Which write this is.
        version: FileVersion,
        /// The file.
        file: SmallFile,
    },
    /// Forgets a small file; none of that name is as good. Answer: `Done`, once that is durable.
    RemoveFile {
        /// Which write this is.
        version: FileVersion,
        /// Its name.
        name: String,
    },
    /// What a page as of `lsn` is put together of, once ingest has reached it; also of a page that cannot be put
    /// together. Answer: [`Response::Chain`].
    GetChain {
        /// The LSN to look at.
        lsn: Lsn,
        /// A page key.
        key: Key,
    },
    /// Keeps pages as PostgreSQL wrote them, because the log does not hold all of their bytes. Answer:
    /// [`Response::KeptPages`], once they are durable.
    KeepPages {
        /// The compute's term, which must have fenced the small files.
        term: Term,
        /// Everything before was in the log when the pages were read. Ingest is waited for up to here and up to the
        /// pages' LSNs.
        upto: Lsn,
        /// The pages, at most [`MAX_KEYS`].
        pages: Vec<WrittenPage>,
    },
}

/// What a pageserver answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// The branch here, and how far it is; none if it was never imported.
    Welcome {
        /// Ingest position, if the branch exists.
        ingested: Option<Lsn>,
    },
    /// One 8 KiB page for each key asked.
    Pages(Vec<Bytes>),
    /// Live entries in key order. If `more`, ask again from the key after the last.
    Values {
        /// Keys and values.
        entries: Vec<(Key, Bytes)>,
        /// Whether the range holds more.
        more: bool,
    },
    /// LSNs of the branch.
    Position {
        /// Everything before is ingested.
        ingested: Lsn,
        /// Everything before is in layer files.
        durable: Lsn,
    },
    /// The state of counters at the end of the log.
    Checkpoint {
        /// Start of the last record before it, for the next record's `xl_prev`; invalid if there is none.
        last_record: Lsn,
        /// `quire_wal::CheckpointState`, encoded.
        state: Bytes,
        /// Whether that last record is a shutdown checkpoint.
        shut_down: bool,
    },
    /// It is done.
    Done,
    /// Small files in the order of their names. If `more`, ask again after the last of these.
    Files {
        /// The files.
        files: Vec<SmallFile>,
        /// Whether there are more.
        more: bool,
    },
    /// A base, where there is one, and the deltas after it, oldest first, of at most [`MAX_CHAIN_BYTES`].
    Chain(Vec<PageVersion>),
    /// What became of each page, in the order sent; what is kept is durable.
    KeptPages(Vec<Keeping>),
    /// The request cannot be answered.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// Why a pageserver refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ErrorCode {
    /// The branch is not here.
    NoSuchBranch = 1,
    /// The page does not exist at that LSN.
    NoSuchKey = 2,
    /// Ingest did not reach the LSN in time.
    Timeout = 3,
    /// A record could not be redone, or a small file is damaged: nothing wrong is ever served.
    Corrupt = 4,
    /// Ingest of the branch has stopped at a record it cannot take.
    IngestStopped = 5,
    /// The message does not fit the state of the conversation.
    Protocol = 6,
    /// The disk failed, or a file of the branch is damaged; the same request may succeed later.
    Storage = 7,
    /// A compute of a higher term writes the branch's small files.
    Fenced = 8,
    /// The page's relation is under guard, and storage does not have the page as PostgreSQL wrote it last.
    Guarded = 9,
}

impl ErrorCode {
    fn from_number(number: u8) -> Result<ErrorCode, CodecError> {
        use ErrorCode::{Corrupt, Fenced, Guarded, IngestStopped, NoSuchBranch, NoSuchKey, Protocol, Storage, Timeout};
        [NoSuchBranch, NoSuchKey, Timeout, Corrupt, IngestStopped, Protocol, Storage, Fenced, Guarded]
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
            Request::Hello { branch, shard } => {
                out.u32(PROTOCOL_VERSION).bytes(&branch.project.0).bytes(&branch.branch.0);
                out.u8(shard.number).u8(shard.count);
                1
            }
            Request::GetPages { lsn, keys } => {
                out.u64(lsn.0).u32(keys.len() as u32);
                keys.iter().for_each(|key| {
                    out.bytes(&key.encode());
                });
                2
            }
            Request::Scan { lsn, from, to } => {
                out.u64(lsn.0).bytes(&from.encode()).bytes(&to.encode());
                3
            }
            Request::GetPosition => 4,
            Request::GetCheckpoint { lsn } => {
                out.u64(lsn.0);
                5
            }
            Request::ImportBegin { start, segment_bytes, postgres_version } => {
                out.u64(start.0).u32(*segment_bytes).u32(*postgres_version);
                6
            }
            Request::ImportValues(entries) => {
                write_entries(&mut out, entries);
                7
            }
            Request::ImportFinish => 8,
            Request::FenceFiles { term } => {
                out.u64(term.0);
                9
            }
            Request::GetFiles { prefix, after } => {
                out.length_prefixed(prefix.as_bytes()).length_prefixed(after.as_bytes());
                10
            }
            Request::PutFile { version, file } => {
                write_version(&mut out, *version);
                write_file(&mut out, file);
                11
            }
            Request::RemoveFile { version, name } => {
                write_version(&mut out, *version);
                out.length_prefixed(name.as_bytes());
                12
            }
            Request::GetChain { lsn, key } => {
                out.u64(lsn.0).bytes(&key.encode());
                13
            }
            Request::KeepPages { term, upto, pages } => {
                out = Writer::with_capacity(20 + pages.len() * WRITTEN_PAGE_BYTES);
                out.u64(term.0).u64(upto.0).u32(pages.len() as u32);
                pages.iter().for_each(|written| {
                    out.bytes(&written.key.encode()).bytes(&written.page);
                });
                14
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
                let shard = ShardId { number: input.u8("shard number")?, count: input.u8("shard count")? };
                Request::Hello { branch: BranchKey { project, branch }, shard }
            }
            2 => {
                let lsn = Lsn(input.u64("lsn")?);
                let count = read_count(&mut input, KEY_BYTES)?;
                let keys = (0..count).map(|_| read_key(&mut input)).collect::<Result<_, _>>()?;
                Request::GetPages { lsn, keys }
            }
            3 => Request::Scan { lsn: Lsn(input.u64("lsn")?), from: read_key(&mut input)?, to: read_key(&mut input)? },
            4 => Request::GetPosition,
            5 => Request::GetCheckpoint { lsn: Lsn(input.u64("lsn")?) },
            6 => Request::ImportBegin {
                start: Lsn(input.u64("start")?),
                segment_bytes: input.u32("segment bytes")?,
                postgres_version: input.u32("postgres version")?,
            },
            7 => Request::ImportValues(read_entries(&mut input, frame)?),
            8 => Request::ImportFinish,
            9 => Request::FenceFiles { term: Term(input.u64("term")?) },
            10 => Request::GetFiles { prefix: read_text(&mut input)?, after: read_text(&mut input)? },
            11 => Request::PutFile { version: read_version(&mut input)?, file: read_file(&mut input, frame)? },
            12 => Request::RemoveFile { version: read_version(&mut input)?, name: read_text(&mut input)? },
            13 => Request::GetChain { lsn: Lsn(input.u64("lsn")?), key: read_key(&mut input)? },
            14 => Request::KeepPages {
                term: Term(input.u64("term")?),
                upto: Lsn(input.u64("upto")?),
                pages: read_written(&mut input, frame)?,
            },
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
            Response::Welcome { ingested } => {
                out.u64(ingested.unwrap_or(Lsn::INVALID).0);
                65
            }
            Response::Pages(pages) => {
                out = Writer::with_capacity(4 + pages.len() * PAGE_SIZE);
                out.u32(pages.len() as u32);
                pages.iter().for_each(|page| {
                    out.bytes(page);
                });
                66
            }
            Response::Values { entries, more } => {
                out.u8(u8::from(*more));
                write_entries(&mut out, entries);
                67
            }
            Response::Position { ingested, durable } => {
                out.u64(ingested.0).u64(durable.0);
                68
            }
            Response::Checkpoint { last_record, state, shut_down } => {
                out.u64(last_record.0).u8(u8::from(*shut_down)).length_prefixed(state);
                69
            }
            Response::Done => 70,
            Response::Error { code, message } => {
                out.u8(*code as u8).length_prefixed(message.as_bytes());
                71
            }
            Response::Files { files, more } => {
                out.u8(u8::from(*more)).u32(files.len() as u32);
                files.iter().for_each(|file| write_file(&mut out, file));
                72
            }
            Response::Chain(versions) => {
                page_version::write(&mut out, versions);
                73
            }
            Response::KeptPages(keepings) => {
                out.u32(keepings.len() as u32);
                keepings.iter().for_each(|keeping| {
                    out.u8(*keeping as u8);
                });
                74
            }
        };
        Frame { kind, request_id, payload: out.into_bytes() }
    }

    /// Reads a response out of a frame.
    pub fn from_frame(frame: &Frame) -> Result<Response, FrameError> {
        let mut input = Reader::new(&frame.payload);
        let response = match frame.kind {
            65 => Response::Welcome { ingested: Some(Lsn(input.u64("ingested")?)).filter(|lsn| lsn.is_valid()) },
            66 => {
                let count = read_count(&mut input, PAGE_SIZE)?;
                let page = |input: &mut Reader<'_>| Ok(frame.payload.slice_ref(input.bytes("page", PAGE_SIZE)?));
                Response::Pages((0..count).map(|_| page(&mut input)).collect::<Result<_, CodecError>>()?)
            }
            67 => {
                let more = input.u8("more")? != 0;
                Response::Values { entries: read_entries(&mut input, frame)?, more }
            }
            68 => Response::Position { ingested: Lsn(input.u64("ingested")?), durable: Lsn(input.u64("durable")?) },
            69 => Response::Checkpoint {
                last_record: Lsn(input.u64("last record")?),
                shut_down: input.u8("shut down")? != 0,
                state: frame.payload.slice_ref(input.length_prefixed("state")?),
            },
            70 => Response::Done,
            71 => Response::Error {
                code: ErrorCode::from_number(input.u8("error code")?)?,
                message: String::from_utf8_lossy(input.length_prefixed("message")?).into_owned(),
            },
            72 => {
                let more = input.u8("more")? != 0;
                let count = read_count(&mut input, SMALL_FILE_HEAD_BYTES)?;
                let files = (0..count).map(|_| read_file(&mut input, frame)).collect::<Result<_, _>>()?;
                Response::Files { files, more }
            }
            73 => Response::Chain(page_version::read(&mut input, &frame.payload)?),
            74 => {
                let count = read_count(&mut input, 1)?;
                let keeping = |input: &mut Reader<'_>| Keeping::from_number(input.u8("keeping")?);
                Response::KeptPages((0..count).map(|_| keeping(&mut input)).collect::<Result<_, CodecError>>()?)
            }
            other => return Err(FrameError::Unexpected(other)),
        };
        input.finish()?;
        Ok(response)
    }
}

fn read_key(input: &mut Reader<'_>) -> Result<Key, CodecError> {
    Key::decode(input.bytes("key", KEY_BYTES)?)
}

/// Reads a count of items of at least `item_bytes` each, and refuses one that the rest cannot hold.
fn read_count(input: &mut Reader<'_>, item_bytes: usize) -> Result<usize, CodecError> {
    let count = input.u32("count")? as usize;
    if count > MAX_KEYS || count * item_bytes > input.remaining() {
        Err(CodecError::Invalid { field: "count", value: count as u64 })
    } else {
        Ok(count)
    }
}

fn write_entries(out: &mut Writer, entries: &[(Key, Bytes)]) {
    out.u32(entries.len() as u32);
    for (key, value) in entries {
        out.bytes(&key.encode()).length_prefixed(value);
    }
}

fn read_entries(input: &mut Reader<'_>, frame: &Frame) -> Result<Vec<(Key, Bytes)>, CodecError> {
    let count = read_count(input, KEY_BYTES + 4)?;
    (0..count).map(|_| Ok((read_key(input)?, frame.payload.slice_ref(input.length_prefixed("value")?)))).collect()
}

/// Bytes of a written page in a message.
const WRITTEN_PAGE_BYTES: usize = KEY_BYTES + PAGE_SIZE;

fn read_written(input: &mut Reader<'_>, frame: &Frame) -> Result<Vec<WrittenPage>, CodecError> {
    let count = read_count(input, WRITTEN_PAGE_BYTES)?;
    let read_one = |input: &mut Reader<'_>| {
        let key = read_key(input)?;
        Ok(WrittenPage { key, page: frame.payload.slice_ref(input.bytes("written page", PAGE_SIZE)?) })
    };
    (0..count).map(|_| read_one(input)).collect()
}

/// Bytes of a small file beside its name and content: their lengths and the LSN.
const SMALL_FILE_HEAD_BYTES: usize = 16;

fn write_file(out: &mut Writer, file: &SmallFile) {
    out.length_prefixed(file.name.as_bytes()).u64(file.lsn.0).length_prefixed(&file.content);
}

fn read_file(input: &mut Reader<'_>, frame: &Frame) -> Result<SmallFile, CodecError> {
    let (name, lsn) = (read_text(input)?, Lsn(input.u64("lsn")?));
    Ok(SmallFile { name, lsn, content: frame.payload.slice_ref(input.length_prefixed("content")?) })
}

fn write_version(out: &mut Writer, version: FileVersion) {
    out.u64(version.term.0).u64(version.sequence);
}

fn read_version(input: &mut Reader<'_>) -> Result<FileVersion, CodecError> {
    Ok(FileVersion { term: Term(input.u64("term")?), sequence: input.u64("sequence")? })
}

fn read_text(input: &mut Reader<'_>) -> Result<String, CodecError> {
    let raw = input.length_prefixed("text")?;
    let text = str::from_utf8(raw);
    text.map(str::to_owned).map_err(|error| CodecError::Invalid { field: "text", value: error.valid_up_to() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_version::VersionKind;
    use proptest::prelude::*;

    const VERSION: FileVersion = FileVersion { term: Term(3), sequence: 7 };

    fn small_file() -> SmallFile {
        let content = Bytes::from_static(b"slot");
        SmallFile { name: "pgdata/pg_replslot/a/state".into(), lsn: Lsn(9), content }
    }

    fn written_page(byte: u8) -> WrittenPage {
        WrittenPage { key: Key::Checkpoint, page: Bytes::from(vec![byte; PAGE_SIZE]) }
    }

    #[test]
    fn every_request_reads_back() {
        let requests = [
            Request::Hello { branch: BranchKey::default(), shard: ShardId::UNSHARDED },
            Request::GetPages { lsn: Lsn(5), keys: vec![Key::Checkpoint, Key::ControlFile] },
            Request::Scan { lsn: Lsn(5), from: Key::ControlFile, to: Key::Checkpoint },
            Request::GetPosition,
            Request::GetCheckpoint { lsn: Lsn(9) },
            Request::ImportBegin { start: Lsn(16 << 20), segment_bytes: 16 << 20, postgres_version: 15 },
            Request::ImportValues(vec![(Key::ControlFile, Bytes::from_static(b"control"))]),
            Request::ImportFinish,
            Request::FenceFiles { term: Term(3) },
            Request::GetFiles { prefix: "pgdata/".into(), after: String::new() },
            Request::PutFile { version: VERSION, file: small_file() },
            Request::RemoveFile { version: VERSION, name: "pgdata/a".into() },
            Request::GetChain { lsn: Lsn(5), key: Key::Checkpoint },
            Request::KeepPages { term: Term(3), upto: Lsn(9), pages: vec![written_page(1), written_page(2)] },
        ];
        for request in requests {
            assert_eq!(Request::from_frame(&request.to_frame(1)).expect("valid"), request);
        }
    }

    #[test]
    fn every_response_reads_back() {
        let responses = [
            Response::Welcome { ingested: None },
            Response::Welcome { ingested: Some(Lsn(7)) },
            Response::Pages(vec![Bytes::from(vec![7; PAGE_SIZE])]),
            Response::Values { entries: vec![(Key::Checkpoint, Bytes::from_static(b"x"))], more: true },
            Response::Position { ingested: Lsn(2), durable: Lsn(1) },
            Response::Checkpoint { last_record: Lsn(1), state: Bytes::from_static(b"s"), shut_down: true },
            Response::Done,
            Response::Error { code: ErrorCode::Corrupt, message: "layer".into() },
            Response::Error { code: ErrorCode::Fenced, message: "term".into() },
            Response::Files { files: vec![small_file(), small_file()], more: true },
            Response::Chain(vec![PageVersion {
                lsn: Lsn(8),
                kind: VersionKind::Delta,
                payload: Bytes::from_static(b"delta"),
            }]),
            Response::KeptPages(vec![Keeping::Kept, Keeping::Gone, Keeping::Logged]),
        ];
        for response in responses {
            assert_eq!(Response::from_frame(&response.to_frame(1)).expect("valid"), response);
        }
    }

    #[test]
    fn a_written_page_that_is_cut_short_and_an_unknown_keeping_are_refused() {
        let request = Request::KeepPages { term: Term(3), upto: Lsn(9), pages: vec![written_page(1)] };
        let mut frame = request.to_frame(1);
        frame.payload.truncate(frame.payload.len() - 1);
        assert!(Request::from_frame(&frame).is_err());
        let payload = Bytes::from_static(&[1, 0, 0, 0, 3]);
        let unknown = Response::from_frame(&Frame { kind: 74, request_id: 0, payload });
        assert!(
            matches!(unknown, Err(FrameError::Malformed(CodecError::Invalid { field: "keeping", .. }))),
            "{unknown:?}"
        );
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
