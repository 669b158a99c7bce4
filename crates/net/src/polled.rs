//! A connection for a thread that polls many: nothing here waits.

use crate::dial::resolve;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, socket};
use quire_types::Endpoint;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

/// A connection that is open. A clone is the same connection.
#[derive(Clone, Debug)]
pub struct Connection(Arc<TcpStream>);

/// A connection that is being made.
#[derive(Debug)]
pub struct Dialing(Step);

#[derive(Debug)]
enum Step {
    /// A thread looks the host's name up.
    LookingUp(Receiver<io::Result<Vec<SocketAddr>>>),
    Connecting(Connection),
}

impl Dialing {
    /// Begins to connect, to the first address of the endpoint.
    pub fn begin(endpoint: &Endpoint) -> io::Result<Dialing> {
        match endpoint.address() {
            Some(address) => Ok(Dialing(Step::Connecting(Connection::begin(address)?))),
            None => Ok(Dialing(Step::LookingUp(look_up(endpoint)?))),
        }
    }

    /// What to poll until it takes bytes; none while the name is looked up.
    pub fn connection(&self) -> Option<&Connection> {
        match &self.0 {
            Step::LookingUp(_) => None,
            Step::Connecting(connection) => Some(connection),
        }
    }

    /// The connection, once it is open.
    pub fn advance(&mut self) -> io::Result<Option<Connection>> {
        if let Step::LookingUp(answer) = &self.0 {
            let addresses = match answer.try_recv() {
                Ok(found) => found?,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(ErrorKind::NotFound.into()),
            };
            let address = addresses.first().ok_or(ErrorKind::NotFound)?;
            self.0 = Step::Connecting(Connection::begin(*address)?);
        }
        match &self.0 {
            Step::Connecting(connection) if connection.is_open()? => Ok(Some(connection.clone())),
            _ => Ok(None),
        }
    }
}

/// Asks for a host's addresses in a thread of its own, which ends with the answer.
fn look_up(endpoint: &Endpoint) -> io::Result<Receiver<io::Result<Vec<SocketAddr>>>> {
    let (answer, found) = sync_channel(1);
    let endpoint = endpoint.clone();
    // There may be no waiting thread any more.
    let ask = move || drop(answer.send(resolve(&endpoint)));
    thread::Builder::new().name("look-up".into()).spawn(ask)?;
    Ok(found)
}

impl Connection {
    fn begin(address: SocketAddr) -> io::Result<Connection> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = TcpStream::from(socket(family, SockType::Stream, flags, None)?);
        stream.set_nodelay(true)?;
        let begun = match address {
            SocketAddr::V4(address) => connect(stream.as_raw_fd(), &SockaddrIn::from(address)),
            SocketAddr::V6(address) => connect(stream.as_raw_fd(), &SockaddrIn6::from(address)),
        };
        match begun {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Connection(Arc::new(stream))),
            Err(error) => Err(error.into()),
        }
    }

    fn is_open(&self) -> io::Result<bool> {
        if let Some(error) = self.0.take_error()? {
            return Err(error);
        }
        match self.0.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes what has arrived; none if nothing has, 0 at the end.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(|| (&*self.0).read(into))
    }

    /// Gives bytes to be sent; how many were taken, none if there is no room.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_blocked(|| (&*self.0).write(bytes))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unless_blocked(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match operation() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_name_is_looked_up_beside_the_thread_that_polls() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mut dialing = Dialing::begin(&Endpoint::new("localhost", port)).expect("begun");
        assert!(dialing.connection().is_none(), "the name is not known yet");
        let connection = loop {
            match dialing.advance() {
                Ok(Some(connection)) => break connection,
                Ok(None) => thread::yield_now(),
                // Where the name means ::1 first, nobody listens there.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                    return;
                }
            }
        };
        let (mut server, _) = listener.accept().expect("a client");
        server.write_all(b"x").expect("sent");
        let mut got = [0; 8];
        while connection.try_read(&mut got).expect("open").is_none() {
            thread::yield_now();
        }
        assert_eq!(got[0], b'x');
    }
}
