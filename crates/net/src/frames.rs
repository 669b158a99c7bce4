//! Reading frames, from sources that block and from such that are waited for.

use bytes::BytesMut;
use quire_protocol::frame::{Frame, FrameError, Split};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How many bytes [`FrameReader`] makes room for at a time: several answers with a page each.
const READ_BYTES: usize = 64 << 10;

/// With less room than this left, [`FrameReader`] makes new room before it reads.
const READ_BYTES_MIN: usize = 16 << 10;

/// Reads one frame from a blocking source, and nothing after it.
pub fn read_blocking(source: &mut impl io::Read) -> Result<Frame, FrameError> {
    let mut arrived = BytesMut::new();
    loop {
        let missing = match Frame::split(&mut arrived)? {
            Split::Frame(frame) => return Ok(frame),
            Split::Missing(bytes) => bytes,
        };
        let begin = arrived.len();
        arrived.resize(begin + missing, 0);
        // Only before its first byte may a source end.
        if begin == 0 && !read_first(source, &mut arrived)? {
            return Err(FrameError::Closed);
        }
        source.read_exact(&mut arrived[begin.max(1)..])?;
    }
}

/// Reads the first byte; false if the source has ended.
fn read_first(source: &mut impl io::Read, room: &mut [u8]) -> io::Result<bool> {
    loop {
        match source.read(&mut room[..1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map(|count| count > 0),
        }
    }
}

/// Reads one frame, and nothing after it. Not cancel-safe: a dropped read loses the connection's place.
pub async fn read(source: &mut (impl AsyncRead + Unpin)) -> Result<Frame, FrameError> {
    let mut arrived = BytesMut::new();
    loop {
        let missing = match Frame::split(&mut arrived)? {
            Split::Frame(frame) => return Ok(frame),
            Split::Missing(bytes) => bytes,
        };
        let begin = arrived.len();
        arrived.resize(begin + missing, 0);
        if begin == 0 && source.read(&mut arrived[..1]).await? == 0 {
            return Err(FrameError::Closed);
        }
        source.read_exact(&mut arrived[begin.max(1)..]).await?;
    }
}

/// Reads frames that come thick and fast: one call to the source brings as many as have arrived, and payloads share the
/// memory that they were read into.
#[derive(Debug)]
pub struct FrameReader<S> {
    source: S,
    /// Bytes that came and are in no frame yet.
    buffer: BytesMut,
}

impl<S: AsyncRead + Unpin> FrameReader<S> {
    /// Reads from `source`, beginning with a frame.
    pub fn new(source: S) -> FrameReader<S> {
        FrameReader { source, buffer: BytesMut::new() }
    }

    /// The next frame. Cancel-safe: what has come of it stays.
    pub async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            match Frame::split(&mut self.buffer)? {
                Split::Frame(frame) => return Ok(frame),
                Split::Missing(bytes) => self.make_room(bytes),
            }
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Err(self.ended());
            }
        }
    }

    fn make_room(&mut self, missing: usize) {
        if self.buffer.capacity() - self.buffer.len() < missing.max(READ_BYTES_MIN) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
    }

    fn ended(&self) -> FrameError {
        if self.buffer.is_empty() { FrameError::Closed } else { FrameError::Io(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    fn frame() -> Frame {
        Frame { kind: 3, request_id: 77, payload: Bytes::from_static(b"hello") }
    }

    #[test]
    fn a_frame_reads_back_and_what_comes_after_it_is_left() {
        let raw = [frame().encode(), vec![7; 3]].concat();
        let (mut blocking, mut waited_for) = (&raw[..], &raw[..]);
        assert_eq!(read_blocking(&mut blocking).expect("valid"), frame());
        assert_eq!(now(read(&mut waited_for)).expect("valid"), frame());
        assert_eq!((blocking, waited_for), (&[7; 3][..], &[7; 3][..]));
    }

    #[test]
    fn every_damage_is_an_error() {
        let raw = frame().encode();
        for position in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[position] ^= 0x10;
            assert!(read_blocking(&mut &damaged[..]).is_err(), "byte {position}");
            for cut in [read_blocking(&mut &raw[..position]), now(read(&mut &raw[..position]))] {
                assert_eq!(matches!(cut, Err(FrameError::Closed)), position == 0, "cut at {position}");
                assert!(cut.is_err(), "cut at {position}");
            }
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_allocating() {
        let mut raw = frame().encode();
        raw[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read_blocking(&mut &raw[..]), Err(FrameError::Length(u32::MAX))));
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
