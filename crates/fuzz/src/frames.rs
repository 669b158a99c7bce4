//! What comes over a socket: frames, and the messages of every role in them.
//!
//! The first byte of the input says how the rest is read:
//! - a stream of frames, the lengths and checksums of which are put right if the second byte is odd;
//! - one frame: its kind, its request id, its payload;
//! - one message of a compute's own socket.
//!
//! A message that is understood must encode to one that is understood the same.

use crate::input::Input;
use bytes::Bytes;
use quire_cache::request;
use quire_net::frames;
use quire_protocol::frame::{HEADER_BYTES, MAX_PAYLOAD_BYTES};
use quire_protocol::{Frame, FrameError, page, quorum};
use quire_types::Writer;
use std::fmt::Debug;
use std::mem::discriminant;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

const STREAM: u8 = 0;
const FRAME: u8 = 1;

/// Reads the input as what its first byte says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() {
        STREAM => {
            let is_repaired = input.u8() & 1 == 1;
            let stream = input.rest();
            read_stream(&if is_repaired { repaired(stream) } else { stream.to_vec() });
        }
        FRAME => {
            let (kind, request_id) = (input.u8(), input.u64());
            read_messages(&Frame { kind, request_id, payload: Bytes::copy_from_slice(input.rest()) });
        }
        _ => read_local(&mut input),
    }
}

/// A seed: one frame.
pub fn frame_seed(frame: &Frame) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(FRAME).u8(frame.kind).u64(frame.request_id).bytes(&frame.payload);
    out.into_vec()
}

/// A seed: frames as they travel.
pub fn stream_seed(frames: &[Frame]) -> Vec<u8> {
    let travelling = frames.iter().flat_map(Frame::encode);
    [STREAM, 1].into_iter().chain(travelling).collect()
}

/// A seed: a message of a compute's own socket.
pub fn local_seed(message: &[u8]) -> Vec<u8> {
    [&[FRAME + 1], message].concat()
}

/// Reads frames until the stream ends or cannot be read on. Both ways to read must find the same.
fn read_stream(stream: &[u8]) {
    let (mut blocking, mut polled) = (stream, stream);
    loop {
        let frame = frames::read_blocking(&mut blocking);
        let again = read_polled(&mut polled);
        match (frame, again) {
            (Ok(frame), Ok(again)) => {
                assert_eq!(frame, again);
                read_messages(&frame);
            }
            (Err(error), Err(again)) => return assert_eq!(discriminant(&error), discriminant(&again)),
            (frame, again) => panic!("read as {frame:?} and as {again:?}"),
        }
    }
}

/// A slice is always ready, so reading it never waits.
fn read_polled(stream: &mut &[u8]) -> Result<Frame, FrameError> {
    match pin!(frames::read(stream)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame,
        Poll::Pending => panic!("a slice is always ready"),
    }
}

/// Puts lengths, cut to what is there, and checksums right.
fn repaired(stream: &[u8]) -> Vec<u8> {
    let mut input = Input::new(stream);
    let mut out = Vec::new();
    while !input.is_empty() {
        let length = u32::from_le_bytes(input.array());
        let _checksum: [u8; 4] = input.array();
        let (kind, request_id) = (input.u8(), input.u64());
        let payload_bytes = (length as usize).saturating_sub(HEADER_BYTES - 8).min(MAX_PAYLOAD_BYTES);
        let payload = Bytes::copy_from_slice(input.take(payload_bytes));
        out.extend(Frame { kind, request_id, payload }.encode());
    }
    out
}

/// Reads a frame as a message of every role.
fn read_messages(frame: &Frame) {
    let id = frame.request_id;
    round_trip(frame, page::Request::from_frame, |message| message.to_frame(id));
    round_trip(frame, page::Response::from_frame, |message| message.to_frame(id));
    round_trip(frame, quorum::Request::from_frame, |message| message.to_frame(id));
    round_trip(frame, quorum::Response::from_frame, |message| message.to_frame(id));
}

fn round_trip<M: PartialEq + Debug>(
    frame: &Frame,
    decode: impl Fn(&Frame) -> Result<M, FrameError>,
    encode: impl Fn(&M) -> Frame,
) {
    if let Ok(message) = decode(frame) {
        let again = decode(&encode(&message)).expect("an encoded message is understood");
        assert_eq!(message, again);
    }
}

fn read_local(input: &mut Input<'_>) {
    let (mut hello, mut request, mut answer) = (*input, *input, *input);
    if let Ok(hello) = request::Hello::decode(&hello.array()) {
        assert_eq!(request::Hello::decode(&hello.encode()).expect("understood"), hello);
    }
    if let Ok(request) = request::Request::decode(&request.array()) {
        assert_eq!(request::Request::decode(&request.encode()).expect("understood"), request);
    }
    if let Ok(answer) = request::Answer::decode(&answer.array()) {
        assert_eq!(request::Answer::decode(&answer.encode()).expect("understood"), answer);
    }
}
