//! The frame around every message: length, checksum, kind, request id, payload.
//!
//! ```text
//! 0  u32  length of what follows the checksum, 9 to 9 + MAX_PAYLOAD_BYTES
//! 4  u32  CRC32C of what follows
//! 8  u8   kind of message
//! 9  u64  request id, echoed in the answer; 0 where there is no answer to match
//! 17 ...  payload
//! ```

use bytes::{Buf, Bytes, BytesMut};
use quire_types::{CodecError, Reader};
use std::io;

/// The longest payload that is sent or accepted: room for a WAL chunk or 1,000 pages, small enough to allocate blindly.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 17;

/// Bytes of length and checksum.
const HEAD_BYTES: usize = 8;

const CHECKED_BYTES_BEFORE_PAYLOAD: usize = 9;

/// One message as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What the payload is; numbers are given by [`crate::quorum`] and [`crate::page`].
    pub kind: u8,
    /// Chosen by the asker, echoed in the answer.
    pub request_id: u64,
    /// The message.
    pub payload: Bytes,
}

/// Why a connection cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket failed, or the peer closed it inside a frame.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The length says that this is not our protocol, or a frame that may not be sent.
    #[error("frame length {0} is out of bounds")]
    Length(u32),
    /// The bytes arrived changed.
    #[error("frame checksum mismatch")]
    Checksum,
    /// The payload is not the message its kind says.
    #[error("malformed message: {0}")]
    Malformed(#[from] CodecError),
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks protocol version {theirs}, this side speaks {ours}")]
    Version {
        /// What the peer said.
        theirs: u32,
        /// What this side speaks.
        ours: u32,
    },
    /// A message that has no place here.
    #[error("unexpected message kind {0}")]
    Unexpected(u8),
}

impl Frame {
    /// The bytes that travel.
    ///
    /// # Panics
    /// If the payload is longer than [`MAX_PAYLOAD_BYTES`]: senders cut their messages.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.payload.len() <= MAX_PAYLOAD_BYTES, "senders cut their messages");
        let length = (CHECKED_BYTES_BEFORE_PAYLOAD + self.payload.len()) as u32;
        let mut raw = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        raw.extend_from_slice(&length.to_le_bytes());
        raw.extend_from_slice(&[0; 4]);
        raw.push(self.kind);
        raw.extend_from_slice(&self.request_id.to_le_bytes());
        raw.extend_from_slice(&self.payload);
        let checksum = crc32c::crc32c(&raw[8..]);
        raw[4..8].copy_from_slice(&checksum.to_le_bytes());
        raw
    }

    fn from_body(checksum: u32, body: Bytes) -> Result<Frame, FrameError> {
        if crc32c::crc32c(&body) != checksum {
            return Err(FrameError::Checksum);
        }
        let mut reader = Reader::new(&body);
        let (kind, request_id) = (reader.u8("kind")?, reader.u64("request id")?);
        Ok(Frame { kind, request_id, payload: body.slice(CHECKED_BYTES_BEFORE_PAYLOAD..) })
    }

    /// Takes the first frame out of what has arrived, if all of it is there. A length that may not be sent is an error
    /// before there is room for it.
    pub fn split(arrived: &mut BytesMut) -> Result<Split, FrameError> {
        let Some(head) = arrived.first_chunk() else { return Ok(Split::Missing(HEAD_BYTES - arrived.len())) };
        let (length, checksum) = split_head(*head)?;
        let missing = (HEAD_BYTES + length).saturating_sub(arrived.len());
        if missing > 0 {
            return Ok(Split::Missing(missing));
        }
        arrived.advance(HEAD_BYTES);
        let body = arrived.split_to(length).freeze();
        Frame::from_body(checksum, body).map(Split::Frame)
    }

    /// Whether [`Frame::split`] has something to say of what has arrived: a whole frame, or that it is none.
    pub fn is_whole(arrived: &[u8]) -> bool {
        match arrived.first_chunk().map(|head| split_head(*head)) {
            Some(Ok((length, _))) => HEAD_BYTES + length <= arrived.len(),
            Some(Err(_)) => true,
            None => false,
        }
    }
}

/// What the beginning of what has arrived is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Split {
    /// A frame, which was taken out.
    Frame(Frame),
    /// Not a whole frame; at least so many bytes are to come.
    Missing(usize),
}

fn split_head(head: [u8; 8]) -> Result<(usize, u32), FrameError> {
    let mut reader = Reader::new(&head);
    let (length, checksum) = (reader.u32("length")?, reader.u32("checksum")?);
    let allowed = CHECKED_BYTES_BEFORE_PAYLOAD..=CHECKED_BYTES_BEFORE_PAYLOAD + MAX_PAYLOAD_BYTES;
    if allowed.contains(&(length as usize)) { Ok((length as usize, checksum)) } else { Err(FrameError::Length(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame { kind: 3, request_id: 77, payload: Bytes::from_static(b"hello") }
    }

    fn split(raw: &[u8]) -> Result<Split, FrameError> {
        Frame::split(&mut BytesMut::from(raw))
    }

    #[test]
    fn a_frame_is_split_off_and_what_comes_after_it_stays() {
        let mut arrived = BytesMut::from(&[&frame().encode()[..], b"more"].concat()[..]);
        assert!(Frame::is_whole(&arrived));
        assert_eq!(Frame::split(&mut arrived).expect("valid"), Split::Frame(frame()));
        assert_eq!((&arrived[..], Frame::is_whole(&arrived)), (&b"more"[..], false));
    }

    #[test]
    fn a_part_of_a_frame_says_how_much_is_missing() {
        let raw = frame().encode();
        for position in 0..raw.len() {
            let missing = if position < HEAD_BYTES { HEAD_BYTES - position } else { raw.len() - position };
            assert_eq!(split(&raw[..position]).expect("so far"), Split::Missing(missing), "cut at {position}");
            assert!(!Frame::is_whole(&raw[..position]));
        }
    }

    #[test]
    fn every_damage_is_an_error_or_a_frame_that_does_not_end() {
        let raw = frame().encode();
        for position in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[position] ^= 0x10;
            assert!(!matches!(split(&damaged), Ok(Split::Frame(_))), "byte {position}");
        }
    }

    #[test]
    fn an_oversized_length_is_refused() {
        let mut raw = frame().encode();
        raw[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(split(&raw), Err(FrameError::Length(u32::MAX))) && Frame::is_whole(&raw));
    }
}
