//! One connection to a safekeeper, never waited for: what the socket does not take now is kept until it does.
//!
//! What may be under way to an acceptor is bounded by the proposer's window, hence so is what is kept here.

use bytes::{Buf, Bytes, BytesMut};
use quire_net::polled::{Connection, Dialing};
use quire_protocol::frame::{HEADER_BYTES, MAX_PAYLOAD_BYTES, Split};
use quire_protocol::quorum::Response;
use quire_protocol::{Frame, FrameError};
use quire_types::{Backoff, Endpoint};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether a host's name was looked up.
const LOOK_UP_INTERVAL: Duration = Duration::from_millis(10);
/// Answers are short.
const READ_BYTES: usize = 4 << 10;

/// The connection to one safekeeper, or the wish for one.
#[derive(Debug)]
pub struct SafekeeperLink {
    endpoint: Endpoint,
    state: LinkState,
    backoff: Backoff,
    /// Why the last connection ended, for people.
    trouble: Option<String>,
}

#[derive(Debug)]
enum LinkState {
    Down {
        retry: Instant,
    },
    Connecting {
        dialing: Dialing,
        since: Instant,
    },
    Open(Conversation),
    /// Found broken by a thread that may not close it, because another may be polling it.
    Broken,
}

#[derive(Debug)]
struct Conversation {
    connection: Connection,
    incoming: BytesMut,
    outgoing: VecDeque<Bytes>,
    heard: Instant,
}

/// What became of an attempt to connect.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkProgress {
    /// Nothing yet.
    Pending,
    /// The connection is open, nothing was said on it.
    Opened,
}

impl SafekeeperLink {
    /// A link that will connect at once.
    pub fn new(endpoint: Endpoint, now: Instant) -> SafekeeperLink {
        SafekeeperLink { endpoint, state: LinkState::Down { retry: now }, backoff: BACKOFF, trouble: None }
    }

    /// Where the safekeeper is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Why there is no connection, or why the last one ended.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether a conversation ended that the proposer was not told about.
    pub fn is_broken(&self) -> bool {
        matches!(self.state, LinkState::Broken)
    }

    /// The connection to wait on, and whether to wait until it takes bytes too.
    pub fn interest(&self) -> Option<(Connection, bool)> {
        match &self.state {
            LinkState::Connecting { dialing, .. } => Some((dialing.connection()?.clone(), true)),
            LinkState::Open(conversation) => Some((conversation.connection.clone(), !conversation.outgoing.is_empty())),
            LinkState::Down { .. } | LinkState::Broken => None,
        }
    }

    /// When to look at the link even if nothing happens on its socket.
    pub fn wake_up(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            LinkState::Down { retry } => Some(*retry),
            LinkState::Connecting { dialing, .. } if dialing.connection().is_none() => Some(now + LOOK_UP_INTERVAL),
            LinkState::Connecting { since, .. } => Some(*since + CONNECT_PATIENCE),
            LinkState::Open(_) | LinkState::Broken => None,
        }
    }

    /// When the safekeeper was last heard from.
    pub fn heard(&self) -> Option<Instant> {
        match &self.state {
            LinkState::Open(conversation) => Some(conversation.heard),
            _ => None,
        }
    }

    /// Continues with connecting where that is due.
    pub fn advance(&mut self, now: Instant) -> LinkProgress {
        match &self.state {
            LinkState::Down { retry } if *retry <= now => self.begin(now),
            LinkState::Connecting { .. } => return self.finish_connecting(now),
            _ => {}
        }
        LinkProgress::Pending
    }

    fn begin(&mut self, now: Instant) {
        match Dialing::begin(&self.endpoint) {
            Ok(dialing) => self.state = LinkState::Connecting { dialing, since: now },
            Err(error) => self.close(&error.to_string(), now),
        }
    }

    fn finish_connecting(&mut self, now: Instant) -> LinkProgress {
        let LinkState::Connecting { dialing, since } = &mut self.state else { return LinkProgress::Pending };
        let late = now.duration_since(*since) > CONNECT_PATIENCE;
        match dialing.advance() {
            Ok(Some(connection)) => {
                self.state = LinkState::Open(Conversation::new(connection, now));
                LinkProgress::Opened
            }
            Ok(None) if !late => LinkProgress::Pending,
            Ok(None) => {
                self.close("no answer to the attempt to connect", now);
                LinkProgress::Pending
            }
            Err(error) => {
                self.close(&error.to_string(), now);
                LinkProgress::Pending
            }
        }
    }

    /// Closes the connection; the next attempt comes after a growing delay.
    pub fn close(&mut self, trouble: &str, now: Instant) {
        self.trouble = Some(trouble.to_owned());
        self.state = LinkState::Down { retry: now + self.backoff.after_failure() };
    }

    /// Sends a frame, or keeps what the socket does not take; whether something was kept or broke, so that the thread
    /// that waits on the sockets has to look at this one anew.
    pub fn send(&mut self, frame: &Bytes) -> bool {
        let LinkState::Open(conversation) = &mut self.state else { return false };
        conversation.outgoing.push_back(frame.clone());
        self.flush() || self.is_broken()
    }

    /// Sends what was kept; whether something is left.
    pub fn flush(&mut self) -> bool {
        let LinkState::Open(conversation) = &mut self.state else { return false };
        match conversation.write() {
            Ok(()) => !conversation.outgoing.is_empty(),
            Err(error) => {
                self.trouble = Some(error.to_string());
                self.state = LinkState::Broken;
                false
            }
        }
    }

    /// Takes what the safekeeper sent.
    pub fn receive(&mut self, now: Instant) -> Result<Vec<Response>, FrameError> {
        let LinkState::Open(conversation) = &mut self.state else { return Ok(Vec::new()) };
        conversation.read()?;
        let mut responses = Vec::new();
        while let Split::Frame(frame) = Frame::split(&mut conversation.incoming)? {
            responses.push(Response::from_frame(&frame)?);
        }
        if !responses.is_empty() {
            conversation.heard = now;
            self.backoff.reset();
            self.trouble = None;
        }
        Ok(responses)
    }
}

impl Conversation {
    fn new(connection: Connection, now: Instant) -> Conversation {
        Conversation { connection, incoming: BytesMut::new(), outgoing: VecDeque::new(), heard: now }
    }

    fn write(&mut self) -> io::Result<()> {
        while let Some(front) = self.outgoing.front_mut() {
            match self.connection.try_write(front)? {
                Some(0) => return Err(ErrorKind::WriteZero.into()),
                Some(written) => front.advance(written),
                None => return Ok(()),
            }
            if front.is_empty() {
                self.outgoing.pop_front();
            }
        }
        Ok(())
    }

    /// Reads what is there, up to a little more than a frame of the greatest length.
    fn read(&mut self) -> Result<(), FrameError> {
        let mut chunk = [0; READ_BYTES];
        while self.incoming.len() <= HEADER_BYTES + MAX_PAYLOAD_BYTES {
            match self.connection.try_read(&mut chunk)? {
                None => return Ok(()),
                Some(0) => return Err(FrameError::Closed),
                Some(count) => {
                    self.incoming.extend_from_slice(&chunk[..count]);
                    if count < chunk.len() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Lsn, NodeId, Term};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn connected() -> (SafekeeperLink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut link = SafekeeperLink::new(listener.local_addr().expect("bound").into(), Instant::now());
        let mut progress = link.advance(Instant::now());
        let (server, _) = listener.accept().expect("a client");
        while progress != LinkProgress::Opened {
            progress = link.advance(Instant::now());
        }
        (link, server)
    }

    fn receive_some(link: &mut SafekeeperLink) -> Vec<Response> {
        loop {
            let responses = link.receive(Instant::now()).expect("valid");
            if !responses.is_empty() {
                return responses;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_full_socket_keeps_the_rest_until_it_drains() {
        let (mut link, mut server) = connected();
        let frame = Bytes::from(vec![7; 1 << 20]);
        let mut sent = 0;
        while !link.send(&frame) {
            sent += 1;
        }
        sent += 1;
        let reader = std::thread::spawn(move || {
            let mut total = vec![0; sent << 20];
            server.read_exact(&mut total).map(|()| total.iter().all(|byte| *byte == 7))
        });
        while link.flush() {
            std::thread::yield_now();
        }
        assert!(reader.join().expect("no panic").expect("all arrived"));
    }

    #[test]
    fn answers_are_cut_out_of_the_stream_wherever_it_is_split() {
        let (mut link, mut server) = connected();
        let answer = Response::Appended { term: Term(1), flush: Lsn(2), commit: Lsn(3) };
        let welcome = Response::Welcome { node: NodeId(1), term: Term(1), identity: None };
        let mut raw = answer.to_frame(0).encode();
        raw.extend(welcome.to_frame(0).encode());
        server.write_all(&raw[..30]).expect("sent");
        assert!(link.receive(Instant::now()).expect("valid").is_empty());
        server.write_all(&raw[30..]).expect("sent");
        let mut got = receive_some(&mut link);
        while got.len() < 2 {
            got.extend(receive_some(&mut link));
        }
        assert_eq!(got, [answer, welcome]);
    }

    #[test]
    fn nobody_listening_leads_to_another_attempt_later() {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let mut link = SafekeeperLink::new(gone.into(), Instant::now());
        while link.trouble().is_none() {
            assert_eq!(link.advance(Instant::now()), LinkProgress::Pending);
        }
        assert!(link.wake_up(Instant::now()).is_some_and(|retry| retry > Instant::now()));
    }
}
