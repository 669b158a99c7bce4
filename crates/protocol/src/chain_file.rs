//! `chain.bin`: the versions of one page.
//!
//! ```text
//! 0    8 bytes  "QuireChn"
//! 8    u32      version of the format, 1
//! 12   18 bytes key of the page
//! 30   ...      versions, as in the message `Chain`
//! end  u32      CRC32C of all before
//! ```

use crate::page_version::{self, PageVersion};
use bytes::Bytes;
use quire_types::key::KEY_BYTES;
use quire_types::{CodecError, Key, Reader, Writer};

const MAGIC: [u8; 8] = *b"QuireChn";
const FORMAT: u32 = 1;
const CHECKSUM_BYTES: usize = 4;

/// The versions of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainFile {
    /// The page.
    pub key: Key,
    /// Oldest first.
    pub versions: Vec<PageVersion>,
}

/// Why a file is no chain.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainFileError {
    /// It begins with something else.
    #[error("not a chain")]
    Magic,
    /// It is of another version.
    #[error("a chain in format {0}, which this program does not know")]
    Format(u32),
    /// Its checksum does not fit.
    #[error("the checksum does not fit")]
    Checksum,
    /// A field is wrong.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl ChainFile {
    /// The bytes as the module's documentation gives them.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        out.bytes(&MAGIC).u32(FORMAT).bytes(&self.key.encode());
        page_version::write(&mut out, &self.versions);
        let checksum = crc32c::crc32c(out.as_slice());
        out.u32(checksum);
        out.into_bytes()
    }

    /// Reads back what [`ChainFile::encode`] gave.
    pub fn decode(raw: &Bytes) -> Result<ChainFile, ChainFileError> {
        if !raw.starts_with(&MAGIC) {
            return Err(ChainFileError::Magic);
        }
        let content = raw.slice(..raw.len().saturating_sub(CHECKSUM_BYTES));
        let checksum = Reader::new(&raw[content.len()..]).u32("checksum")?;
        if crc32c::crc32c(&content) != checksum {
            return Err(ChainFileError::Checksum);
        }
        let mut input = Reader::new(&content);
        input.bytes("magic", MAGIC.len())?;
        match input.u32("format")? {
            FORMAT => {}
            other => return Err(ChainFileError::Format(other)),
        }
        let key = Key::decode(input.bytes("key", KEY_BYTES)?)?;
        let versions = page_version::read(&mut input, &content)?;
        input.finish()?;
        Ok(ChainFile { key, versions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_version::VersionKind;
    use quire_types::{Lsn, Slru};

    #[test]
    fn a_chain_reads_back_and_any_damaged_byte_is_noticed() {
        let version = PageVersion { lsn: Lsn(9), kind: VersionKind::Delta, payload: Bytes::from_static(b"delta") };
        let chain = ChainFile { key: Key::SlruBlock { slru: Slru::Clog, page: 3 }, versions: vec![version] };
        let raw = chain.encode();
        assert_eq!(ChainFile::decode(&raw), Ok(chain));
        for at in 0..raw.len() {
            let mut damaged = raw.to_vec();
            damaged[at] ^= 1;
            assert!(ChainFile::decode(&damaged.into()).is_err(), "byte {at}");
            assert!(ChainFile::decode(&raw.slice(..at)).is_err(), "{at} bytes");
        }
    }
}
