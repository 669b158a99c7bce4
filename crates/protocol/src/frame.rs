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
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest payload that is sent or accepted: room for a WAL chunk or 1,000 pages, small enough to allocate blindly.
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 17;

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

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket failed, or the peer closed it inside a frame.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The length says that this is not our protocol, or a frame nobody may send.
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

    /// Reads one frame from a blocking source.
    pub fn read_blocking(source: &mut impl io::Read) -> Result<Frame, FrameError> {
        let mut head = [0; 8];
        match source.read(&mut head[..1]) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(_) => source.read_exact(&mut head[1..])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => source.read_exact(&mut head)?,
            Err(error) => return Err(error.into()),
        }
        let (length, checksum) = split_head(head)?;
        let mut body = vec![0; length];
        source.read_exact(&mut body)?;
        Frame::from_body(checksum, body.into())
    }

    /// Reads one frame from an asynchronous source. Not cancel-safe: a dropped read loses the connection's place.
    pub async fn read(source: &mut (impl AsyncRead + Unpin)) -> Result<Frame, FrameError> {
        let mut head = [0; 8];
        if source.read(&mut head[..1]).await? == 0 {
            return Err(FrameError::Closed);
        }
        source.read_exact(&mut head[1..]).await?;
        let (length, checksum) = split_head(head)?;
        let mut body = BytesMut::zeroed(length);
        source.read_exact(&mut body).await?;
        Frame::from_body(checksum, body.freeze())
    }
}

/// How many bytes [`FrameReader`] makes room for at a time: several answers with a page each.
const READ_BYTES: usize = 64 << 10;

/// With less room than this left, [`FrameReader`] makes new room before it reads.
const READ_BYTES_MIN: usize = 16 << 10;

/// Reads frames that come thick and fast: one call to the source brings as many as have arrived, and payloads share the
/// memory that they were read into.
#[derive(Debug)]
pub struct FrameReader<S> {
    source: S,
    /// Bytes that came and are in no frame yet.
    buffer: BytesMut,
}

/// What the beginning of a buffer is.
enum Split {
    Frame(Frame),
    /// Not a whole frame; at least so many bytes are to come.
    Missing(usize),
}

impl<S: AsyncRead + Unpin> FrameReader<S> {
    /// Reads from `source`, beginning with a frame.
    pub fn new(source: S) -> FrameReader<S> {
        FrameReader { source, buffer: BytesMut::new() }
    }

    /// The next frame. Cancel-safe: what has come of it stays.
    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            match self.split()? {
                Split::Frame(frame) => return Ok(frame),
                Split::Missing(bytes) => self.make_room(bytes),
            }
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Err(self.ended());
            }
        }
    }

    /// Takes the first frame out of the buffer if all of it is there.
    fn split(&mut self) -> Result<Split, FrameError> {
        let Some(head) = self.buffer.first_chunk() else { return Ok(Split::Missing(8 - self.buffer.len())) };
        let (length, checksum) = split_head(*head)?;
        let missing = (8 + length).saturating_sub(self.buffer.len());
        if missing > 0 {
            return Ok(Split::Missing(missing));
        }
        self.buffer.advance(8);
        let body = self.buffer.split_to(length).freeze();
        Frame::from_body(checksum, body).map(Split::Frame)
    }

    fn make_room(&mut self, missing: usize) {
        if self.buffer.capacity() - self.buffer.len() < missing.max(READ_BYTES_MIN) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
    }

    fn ended(&self) -> FrameError {
        match self.buffer.is_empty() {
            true => FrameError::Closed,
            false => FrameError::Io(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn split_head(head: [u8; 8]) -> Result<(usize, u32), FrameError> {
    let mut reader = Reader::new(&head);
    let (length, checksum) = (reader.u32("length")?, reader.u32("checksum")?);
    let allowed = CHECKED_BYTES_BEFORE_PAYLOAD..=CHECKED_BYTES_BEFORE_PAYLOAD + MAX_PAYLOAD_BYTES;
    match allowed.contains(&(length as usize)) {
        true => Ok((length as usize, checksum)),
        false => Err(FrameError::Length(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    fn frame() -> Frame {
        Frame { kind: 3, request_id: 77, payload: Bytes::from_static(b"hello") }
    }

    #[test]
    fn a_frame_reads_back() {
        let raw = frame().encode();
        assert_eq!(Frame::read_blocking(&mut &raw[..]).expect("valid"), frame());
    }

    #[test]
    fn every_damage_is_an_error() {
        let raw = frame().encode();
        for position in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[position] ^= 0x10;
            assert!(Frame::read_blocking(&mut &damaged[..]).is_err(), "byte {position}");
            assert!(Frame::read_blocking(&mut &raw[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_allocating() {
        let mut raw = frame().encode();
        raw[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Frame::read_blocking(&mut &raw[..]), Err(FrameError::Length(u32::MAX))));
        let mut reader = FrameReader::new(&raw[..]);
        assert!(matches!(now(reader.next()), Err(FrameError::Length(u32::MAX))));
        assert!(reader.buffer.capacity() <= READ_BYTES);
    }

    /// What a future that never waits comes to.
    fn now<R>(future: impl Future<Output = R>) -> R {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    /// Gives its bytes in pieces of a length, and counts them.
    struct Pieces<'a> {
        left: &'a [u8],
        length: usize,
        reads: usize,
    }

    impl AsyncRead for Pieces<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let (piece, rest) = self.left.split_at(self.length.min(room.remaining()).min(self.left.len()));
            room.put_slice(piece);
            self.left = rest;
            self.reads += 1;
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn frames_are_found_however_their_bytes_arrive() {
        let long = Frame { kind: 4, request_id: 78, payload: vec![9; 3 * READ_BYTES].into() };
        let frames = [frame(), long, frame()];
        let raw = frames.each_ref().map(Frame::encode).concat();
        for length in [1, 7, 8, 9, 1000, usize::MAX] {
            let mut reader = FrameReader::new(Pieces { left: &raw, length, reads: 0 });
            for frame in &frames {
                assert_eq!(now(reader.next()).as_ref().ok(), Some(frame), "pieces of {length}");
            }
            assert!(matches!(now(reader.next()), Err(FrameError::Closed)));
        }
    }

    #[test]
    fn frames_that_came_together_take_one_read() {
        let raw = frame().encode().repeat(100);
        let mut reader = FrameReader::new(Pieces { left: &raw, length: usize::MAX, reads: 0 });
        for _ in 0..100 {
            assert_eq!(now(reader.next()).ok(), Some(frame()));
        }
        assert_eq!(reader.source.reads, 1);
    }

    #[test]
    fn an_end_inside_a_frame_and_every_damage_are_errors() {
        let raw = frame().encode();
        for position in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[position] ^= 0x10;
            assert!(now(FrameReader::new(&damaged[..]).next()).is_err(), "byte {position}");
            let cut = now(FrameReader::new(&raw[..position]).next());
            assert_eq!(matches!(cut, Err(FrameError::Closed)), position == 0, "cut at {position}");
            assert!(cut.is_err(), "cut at {position}");
        }
    }
}
