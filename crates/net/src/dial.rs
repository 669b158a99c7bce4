//! From an endpoint to addresses, and why a role could not be reached.

use quire_types::Endpoint;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {endpoint}: {source}")]
pub struct DialError {
    /// Where to.
    pub endpoint: Endpoint,
    /// Why not.
    pub source: io::Error,
}

impl DialError {
    /// Makes one of the reason.
    pub(crate) fn to(endpoint: &Endpoint) -> impl FnOnce(io::Error) -> DialError {
        let endpoint = endpoint.clone();
        move |source| DialError { endpoint, source }
    }
}

/// All addresses of an endpoint. Blocks while a name is looked up; an error if there is none.
pub(crate) fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = endpoint.address() {
        return Ok(vec![address]);
    }
    let found: Vec<SocketAddr> = (endpoint.host(), endpoint.port()).to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", endpoint.host())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_lookup_and_a_name_is_looked_up() {
        let address: SocketAddr = ([127, 0, 0, 1], 9).into();
        assert_eq!(resolve(&Endpoint::from(address)).expect("no lookup"), [address]);
        let found = resolve(&Endpoint::new("localhost", 9)).expect("every machine has it");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 9), "{found:?}");
    }
}
