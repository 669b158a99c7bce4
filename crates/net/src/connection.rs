//! A connection for tasks that wait.

use crate::blocking;
use crate::dial::DialError;
use quire_types::Endpoint;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A connection to another role. Small messages leave at once.
#[derive(Debug)]
pub struct Connection(TcpStream);

/// The half that is read.
#[derive(Debug)]
pub struct Reader(OwnedReadHalf);

/// The half that is written.
#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

impl Connection {
    /// Connects within `patience`, to the first address of the endpoint that answers.
    pub async fn dial(endpoint: &Endpoint, patience: Duration) -> Result<Connection, DialError> {
        let connect = async {
            let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
            Connection::new(stream)
        };
        let connected = tokio::time::timeout(patience, connect).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(DialError::to(endpoint))
    }

    /// Takes a stream that was made or accepted.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        Ok(Connection(stream))
    }

    /// Its halves, for two tasks.
    pub fn split(self) -> (Reader, Writer) {
        let (reader, writer) = self.0.into_split();
        (Reader(reader), Writer(writer))
    }

    /// The same for threads that block; a write fails if the peer takes nothing for `patience`.
    pub fn into_blocking(self, patience: Duration) -> io::Result<blocking::Connection> {
        let stream = self.0.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(patience))?;
        Ok(blocking::Connection::new(stream))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

/// Passes writes on to what is inside.
macro_rules! write_through {
    ($($name:ident),*) => {$(
        impl AsyncWrite for $name {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, bytes)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                pieces: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
            }

            fn is_write_vectored(&self) -> bool {
                self.0.is_write_vectored()
            }
        }
    )*};
}

write_through!(Connection, Writer);
