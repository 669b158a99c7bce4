//! A connection for threads that block.
//!
//! One thread reads, any number write, each message whole. What a write needs is behind one lock, so that a stream that
//! cannot be cloned, such as one that encrypts, can take the socket's place here without a change to its users.

use crate::dial::{DialError, resolve};
use parking_lot::Mutex;
use quire_types::Endpoint;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A connection to another role. Small messages leave at once.
#[derive(Debug)]
pub struct Connection(TcpStream);

/// The half that is read.
#[derive(Debug)]
pub struct Reader(TcpStream);

/// The half that is written, shared by all that have something to send.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Mutex<TcpStream>>);

/// Ends a connection from outside.
#[derive(Debug)]
pub struct Closer(TcpStream);

impl Connection {
    /// Connects, to the first address of the endpoint that answers. `patience` bounds each attempt, and each later read
    /// and write.
    pub fn dial(endpoint: &Endpoint, patience: Duration) -> Result<Connection, DialError> {
        connect(endpoint, patience).map(Connection).map_err(DialError::to(endpoint))
    }

    /// Takes a stream that was accepted.
    pub(crate) fn new(stream: TcpStream) -> Connection {
        Connection(stream)
    }

    /// Its halves.
    pub fn split(self) -> io::Result<(Reader, Writer)> {
        let writer = Writer(Arc::new(Mutex::new(self.0.try_clone()?)));
        Ok((Reader(self.0), writer))
    }

    /// What ends it.
    pub fn closer(&self) -> io::Result<Closer> {
        Ok(Closer(self.0.try_clone()?))
    }
}

fn connect(endpoint: &Endpoint, patience: Duration) -> io::Result<TcpStream> {
    let mut failed = None;
    for address in resolve(endpoint)? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                return Ok(stream);
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Writer {
    /// Sends bytes whole.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().write_all(bytes)
    }
}

impl Closer {
    /// Ends the connection in both directions, whatever is under way on it.
    pub fn close(&self) {
        // It fails when the peer has ended it already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
