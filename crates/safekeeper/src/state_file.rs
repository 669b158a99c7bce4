//! The state file of a branch: what must survive apart from the WAL. `docs/format-safekeeper.md` has the bytes.

use crate::error::{BranchLogError, StateError};
use quire_consensus::AcceptorState;
use quire_files::{Durability, publish};
use quire_protocol::quorum::{LogIdentity, read_history, write_history};
use quire_types::{CodecError, Lsn, Reader, ShardId, Term, Writer};
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// Its name in the branch's directory.
pub(crate) const STATE_FILE: &str = "state";

const MAGIC: &[u8; 8] = b"QUIRESKB";
const VERSION: u32 = 1;

/// What the file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateFile {
    /// The acceptor's part.
    pub acceptor: AcceptorState,
    /// Each shard that ever followed, and what it said to have made durable.
    pub followers: BTreeMap<ShardId, Lsn>,
}

impl StateFile {
    /// Reads the state of the branch in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<StateFile, BranchLogError> {
        let path = folder.join(STATE_FILE);
        let unreadable =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()));
        Ok(StateFile::decode(&fs::read(&path).map_err(unreadable)?)?)
    }

    /// Makes this the state of the branch in `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), BranchLogError> {
        Ok(publish(&folder.join(STATE_FILE), &self.encode(), Durability::Machine).map_err(io::Error::from)?)
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        let AcceptorState { identity, term, history, commit, oldest } = &self.acceptor;
        body.u64(identity.system_id).u32(identity.segment_bytes).u64(identity.start.0);
        body.u64(term.0).u64(commit.0).u64(oldest.0);
        write_history(&mut body, history);
        body.u32(u32::try_from(self.followers.len()).expect("there are at most 65,536 shard numbers"));
        for (shard, durable) in &self.followers {
            body.u8(shard.number).u8(shard.count).u64(durable.0);
        }
        let mut file = Writer::with_capacity(16 + body.len());
        file.bytes(MAGIC).u32(VERSION).u32(crc32c::crc32c(body.as_slice())).bytes(body.as_slice());
        file.into_vec()
    }

    /// Reads back what [`StateFile::encode`] wrote.
    pub fn decode(file: &[u8]) -> Result<StateFile, StateError> {
        let mut input = Reader::new(file);
        if input.bytes("magic", MAGIC.len())? != MAGIC {
            return Err(StateError::Magic);
        }
        let (version, checksum) = (input.u32("version")?, input.u32("checksum")?);
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        if crc32c::crc32c(input.clone().rest()) != checksum {
            return Err(StateError::Checksum);
        }
        let state = StateFile { acceptor: read_acceptor(&mut input)?, followers: read_followers(&mut input)? };
        input.finish()?;
        Ok(state)
    }
}

fn read_acceptor(input: &mut Reader<'_>) -> Result<AcceptorState, CodecError> {
    let identity = LogIdentity {
        system_id: input.u64("system id")?,
        segment_bytes: input.u32("segment bytes")?,
        start: Lsn(input.u64("start")?),
    };
    if !identity.segment_bytes.is_power_of_two() {
        return Err(CodecError::Invalid { field: "segment bytes", value: identity.segment_bytes.into() });
    }
    Ok(AcceptorState {
        identity,
        term: Term(input.u64("term")?),
        commit: Lsn(input.u64("commit")?),
        oldest: Lsn(input.u64("oldest")?),
        history: read_history(input)?,
    })
}

fn read_followers(input: &mut Reader<'_>) -> Result<BTreeMap<ShardId, Lsn>, CodecError> {
    let count = input.u32("number of followers")?;
    let follower = |_| {
        let shard = ShardId { number: input.u8("shard number")?, count: input.u8("shard count")? };
        Ok((shard, Lsn(input.u64("durable")?)))
    };
    (0..count).map(follower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_protocol::quorum::{TermHistory, TermStart};

    fn state() -> StateFile {
        let identity = LogIdentity { system_id: 7, segment_bytes: 16 << 20, start: Lsn(16 << 20) };
        let history = TermHistory(vec![TermStart { term: Term(2), start: Lsn(16 << 20) }]);
        let (commit, oldest) = (Lsn(17 << 20), Lsn(16 << 20));
        StateFile {
            acceptor: AcceptorState { identity, term: Term(3), history, commit, oldest },
            followers: BTreeMap::from([(ShardId::UNSHARDED, Lsn(9))]),
        }
    }

    #[test]
    fn a_state_reads_back() {
        let folder = tempfile::tempdir().expect("folder");
        state().write(folder.path()).expect("write");
        assert_eq!(StateFile::read(folder.path()).expect("read"), state());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let file = state().encode();
        for position in 0..file.len() {
            let mut damaged = file.clone();
            damaged[position] ^= 0x20;
            assert!(StateFile::decode(&damaged).is_err(), "byte {position}");
            assert!(StateFile::decode(&file[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format_document() {
        let file = state().encode();
        assert_eq!(&file[..12], b"QUIRESKB\x01\0\0\0");
        assert_eq!(file[16..24], 7u64.to_le_bytes());
        assert_eq!(file[36..44], 3u64.to_le_bytes());
        assert_eq!(file.len(), 16 + 20 + 24 + 4 + 16 + 4 + 10);
    }
}
