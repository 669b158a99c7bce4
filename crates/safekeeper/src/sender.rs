//! Sends frames to a peer, from the threads that have something for it.

use parking_lot::Mutex;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// The sending half, shared by a connection's thread and its follower's.
#[derive(Clone, Debug)]
pub(crate) struct Sender(Arc<Mutex<TcpStream>>);

impl Sender {
    /// Sends on a stream.
    pub fn new(stream: TcpStream) -> Sender {
        Sender(Arc::new(Mutex::new(stream)))
    }

    /// Sends bytes whole.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().write_all(bytes)
    }
}
