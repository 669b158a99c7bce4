//! What goes over `agent.sock`: fixed-size messages, one connection per PostgreSQL process.
//!
//! A connection opens with a [`Hello`], which is answered; then come [`Request`]s, each answered in turn but for
//! [`Request::Prefetch`] and [`Request::Reached`], which never are. Both ends are on one machine and of one build, but
//! lengths and kinds are checked all the same. All numbers are little-endian `u32`; wider ones are two, the low half
//! first.

use crate::BUILD_ID;
use crate::error::CacheError;
use crate::file_area::FileArea;
use crate::file_id::{FILE_ID_WORDS, FileId};
use quire_types::RELATION_SEGMENT_BLOCKS;

/// Most blocks one request may ask for (1 MiB of pages).
pub const FILL_BLOCKS_MAX: u32 = 128;

/// Bytes in a [`Hello`].
pub const HELLO_BYTES: usize = 24;

/// Bytes in a [`Request`].
pub const REQUEST_BYTES: usize = REQUEST_WORDS * 4;

/// Bytes in an [`Answer`].
pub const ANSWER_BYTES: usize = 8;

const REQUEST_WORDS: usize = 10;

/// `QrSk` as a little-endian number.
const HELLO_MAGIC: u32 = 0x6B53_7251;

/// `QrAn` as a little-endian number.
const ANSWER_MAGIC: u32 = 0x6E41_7251;

fn to_bytes<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut raw = [0; BYTES];
    for (slot, word) in raw.chunks_exact_mut(4).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    raw
}

fn to_words<const WORDS: usize>(raw: &[u8]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(raw.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

fn halves(value: u64) -> [u32; 2] {
    [(value & 0xFFFF_FFFF) as u32, (value >> 32) as u32]
}

fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn wrong(field: &'static str, value: impl Into<u64>) -> CacheError {
    CacheError::Invalid { field, value: value.into() }
}

/// The first message on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Build of the shim.
    pub build_id: u64,
    /// The process that connects.
    pub pid: u32,
}

impl Hello {
    /// What this build says.
    pub fn new(pid: u32) -> Hello {
        Hello { build_id: BUILD_ID, pid }
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let [low, high] = halves(self.build_id);
        to_bytes([HELLO_MAGIC, low, high, self.pid, 0, 0])
    }

    /// From bytes; refuses another build (answer [`Answer::WrongBuild`] then, and close).
    pub fn decode(raw: &[u8; HELLO_BYTES]) -> Result<Hello, CacheError> {
        let [magic, low, high, pid, _, _] = to_words(raw);
        if magic != HELLO_MAGIC {
            return Err(CacheError::WrongMagic("a greeting on agent.sock"));
        }
        match joined(low, high) {
            BUILD_ID => Ok(Hello { build_id: BUILD_ID, pid }),
            found => Err(CacheError::WrongBuild { found, expected: BUILD_ID }),
        }
    }
}

/// What a PostgreSQL process asks of the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Make a database's directory complete: every file storage has in it exists in its right size, beside its meta
    /// file. Answered `Ok` for a complete one, `NotFound` for a database storage does not have (one made since the
    /// start).
    MaterialiseDatabase {
        /// The tablespace.
        tablespace: u32,
        /// The database.
        database: u32,
    },
    /// Make a relation complete: every file of it that storage has exists in its right size, beside its meta file.
    /// Answered `Ok` for a complete one and for one that storage does not have, `Complete` if all of the database is,
    /// `NotFound` for a database that storage does not have.
    MaterialiseRelation {
        /// The tablespace.
        tablespace: u32,
        /// The database.
        database: u32,
        /// The number in the names of its files.
        relation: u32,
    },
    /// Bring in those of these blocks that are absent. Answered when none of them is `Absent` or `Filling` any more.
    Fill {
        /// The file.
        file: FileId,
        /// First block, counted in the file.
        first_block: u32,
        /// 1 to [`FILL_BLOCKS_MAX`].
        count: u32,
    },
    /// The same, but the caller does not wait, and there is no answer.
    Prefetch {
        /// The file.
        file: FileId,
        /// First block, counted in the file.
        first_block: u32,
        /// 1 to [`FILL_BLOCKS_MAX`].
        count: u32,
    },
    /// A reader has come to a mark of read-ahead: whatever is behind is wanted next. There is no answer.
    Reached {
        /// The file.
        file: FileId,
        /// Where the reader is, counted in the file.
        block: u32,
    },
    /// Put a WAL segment that was committed earlier into `pg_wal/`. Answered when the complete file is there.
    WalSegment {
        /// Its timeline.
        timeline: u32,
        /// Its number.
        segment_number: u64,
    },
    /// A file of pages is to be made durable, and some of it WAL does not describe: make storage have those pages as
    /// they are. Answered when it durably has.
    KeepPages {
        /// The file.
        file: FileId,
    },
    /// Make storage have the files of an area as they are in the data directory now. Answered when it durably has.
    KeepFiles {
        /// The area.
        area: FileArea,
    },
    /// The disk is full where a page is to go back into the hole that it left: let other pages leave. Answered `Ok`
    /// once that has begun, `NotFound` where no page may leave.
    MakeRoom,
}

impl Request {
    /// Whether the agent answers this one.
    pub fn is_answered(&self) -> bool {
        !matches!(self, Request::Prefetch { .. } | Request::Reached { .. })
    }

    /// As bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        to_bytes(match *self {
            Request::MaterialiseDatabase { tablespace, database } => [1, tablespace, database, 0, 0, 0, 0, 0, 0, 0],
            Request::MaterialiseRelation { tablespace, database, relation } => {
                [8, tablespace, database, relation, 0, 0, 0, 0, 0, 0]
            }
            Request::Fill { file, first_block, count } => blocks_words(2, file, first_block, count),
            Request::Prefetch { file, first_block, count } => blocks_words(3, file, first_block, count),
            Request::WalSegment { timeline, segment_number } => {
                let [low, high] = halves(segment_number);
                [4, timeline, low, high, 0, 0, 0, 0, 0, 0]
            }
            Request::Reached { file, block } => blocks_words(5, file, block, 1),
            Request::KeepFiles { area } => [6, area as u32, 0, 0, 0, 0, 0, 0, 0, 0],
            Request::KeepPages { file } => blocks_words(7, file, 0, 1),
            Request::MakeRoom => [9, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        })
    }

    /// From bytes.
    pub fn decode(raw: &[u8; REQUEST_BYTES]) -> Result<Request, CacheError> {
        let words: [u32; REQUEST_WORDS] = to_words(raw);
        let [kind, a, b, c, ..] = words;
        match kind {
            1 => Ok(Request::MaterialiseDatabase { tablespace: a, database: b }),
            2 => blocks_from(words).map(|(file, first_block, count)| Request::Fill { file, first_block, count }),
            3 => blocks_from(words).map(|(file, first_block, count)| Request::Prefetch { file, first_block, count }),
            4 => Ok(Request::WalSegment { timeline: a, segment_number: joined(b, c) }),
            5 => blocks_from(words).map(|(file, block, _)| Request::Reached { file, block }),
            6 => FileArea::from_number(a).map(|area| Request::KeepFiles { area }).ok_or_else(|| wrong("file area", a)),
            7 => blocks_from(words).map(|(file, ..)| Request::KeepPages { file }),
            8 => Ok(Request::MaterialiseRelation { tablespace: a, database: b, relation: c }),
            9 => Ok(Request::MakeRoom),
            other => Err(wrong("request kind", other)),
        }
    }
}

fn blocks_words(kind: u32, file: FileId, first_block: u32, count: u32) -> [u32; REQUEST_WORDS] {
    let [file_kind, tablespace, database, relation, small, segment] = file.to_words();
    [kind, file_kind, tablespace, database, relation, small, segment, first_block, count, 0]
}

fn blocks_from(words: [u32; REQUEST_WORDS]) -> Result<(FileId, u32, u32), CacheError> {
    let [_, a, b, c, d, e, f, first_block, count, _] = words;
    let id: [u32; FILE_ID_WORDS] = [a, b, c, d, e, f];
    let file = FileId::from_words(id)?;
    if !(1..=FILL_BLOCKS_MAX).contains(&count) {
        return Err(wrong("block count", count));
    }
    if first_block > RELATION_SEGMENT_BLOCKS - count {
        return Err(wrong("first block", first_block));
    }
    Ok((file, first_block, count))
}

/// How a request went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Answer {
    /// Done.
    Ok = 0,
    /// Storage does not have it.
    NotFound = 1,
    /// It could not be done; an I/O error for PostgreSQL.
    IoError = 2,
    /// A newer compute was elected; an I/O error for PostgreSQL.
    Fenced = 3,
    /// The shim and the agent are of different builds.
    WrongBuild = 4,
    /// Done, and all of the database, too.
    Complete = 5,
}

impl Answer {
    /// As bytes.
    pub fn encode(self) -> [u8; ANSWER_BYTES] {
        to_bytes([ANSWER_MAGIC, self as u32])
    }

    /// From bytes.
    pub fn decode(raw: &[u8; ANSWER_BYTES]) -> Result<Answer, CacheError> {
        let [magic, status] = to_words(raw);
        if magic != ANSWER_MAGIC {
            return Err(CacheError::WrongMagic("an answer on agent.sock"));
        }
        match status {
            0 => Ok(Answer::Ok),
            1 => Ok(Answer::NotFound),
            2 => Ok(Answer::IoError),
            3 => Ok(Answer::Fenced),
            4 => Ok(Answer::WrongBuild),
            5 => Ok(Answer::Complete),
            other => Err(wrong("status", other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, RelTag, Slru};

    const HEAP: FileId = FileId::Relation {
        rel: RelTag { tablespace: 1663, database: 5, relation: 16_384, fork: Fork::Main },
        segment: 3,
    };
    const CLOG: FileId = FileId::Slru { slru: Slru::MultixactMembers, segment: 0x12_3456 };

    #[test]
    fn messages_round_trip() {
        let requests = [
            Request::MaterialiseDatabase { tablespace: 1663, database: u32::MAX },
            Request::MaterialiseRelation { tablespace: 1663, database: u32::MAX, relation: 16_384 },
            Request::Fill {
                file: HEAP,
                first_block: RELATION_SEGMENT_BLOCKS - FILL_BLOCKS_MAX,
                count: FILL_BLOCKS_MAX,
            },
            Request::Prefetch { file: CLOG, first_block: 31, count: 1 },
            Request::WalSegment { timeline: 1, segment_number: 0x0012_3456_789A_BCDE },
            Request::Reached { file: HEAP, block: 77 },
            Request::KeepFiles { area: FileArea::Settings },
            Request::KeepPages { file: HEAP },
            Request::MakeRoom,
        ];
        for request in requests {
            assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }
        assert_eq!(Hello::decode(&Hello::new(42).encode()).unwrap().pid, 42);
        for number in 0..6 {
            let answer = Answer::decode(&to_bytes([ANSWER_MAGIC, number])).unwrap();
            assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
        }
    }

    #[test]
    fn a_request_out_of_bounds_is_refused() {
        let with = |at: usize, word: u32| {
            let mut raw = Request::Fill { file: HEAP, first_block: 7, count: 1 }.encode();
            raw[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
            Request::decode(&raw)
        };
        assert!(with(0, 2).is_ok());
        for (word, value) in [(0, 0), (0, 10), (1, 0), (1, 3), (5, 4), (7, RELATION_SEGMENT_BLOCKS), (8, 0), (8, 129)] {
            assert!(with(word, value).is_err(), "word {word} = {value}");
        }
    }

    #[test]
    fn an_unknown_file_area_is_refused() {
        let mut raw = Request::KeepFiles { area: FileArea::Slots }.encode();
        raw[4] = FileArea::ALL.len() as u8;
        assert!(Request::decode(&raw).is_err());
    }

    #[test]
    fn a_greeting_of_another_build_is_refused() {
        let other = Hello { build_id: BUILD_ID ^ 1, pid: 1 };
        assert!(matches!(Hello::decode(&other.encode()), Err(CacheError::WrongBuild { .. })));
        assert!(matches!(Hello::decode(&[0; HELLO_BYTES]), Err(CacheError::WrongMagic(_))));
        assert!(Answer::decode(&[0; ANSWER_BYTES]).is_err());
    }
}
