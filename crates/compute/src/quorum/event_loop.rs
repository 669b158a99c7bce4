//! The thread that waits on all sockets to safekeepers, and on the clock.

use super::Shared;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs until the quorum is shut down.
pub fn run(shared: &Arc<Shared>) {
    while !shared.is_stopping() {
        let (sockets, wake_up) = shared.with_core(|core| {
            let sockets: Vec<_> = core.links().iter().map(super::link::Link::interest).collect();
            (sockets, core.next_wake_up())
        });
        if let Err(error) = wait(shared, &sockets, wake_up) {
            tracing::error!(%error, "cannot wait on the sockets to the safekeepers");
            std::thread::sleep(Duration::from_millis(100));
        }
        shared.drain_waker();
        serve(shared, sockets.len());
    }
}

/// Every link is looked at: there are few, and a look at a quiet one is one system call.
fn serve(shared: &Shared, links: usize) {
    let now = Instant::now();
    shared.with_core(|core| {
        (0..links).for_each(|acceptor| core.serve_link(acceptor, now));
        core.tick(now);
    });
}

fn wait(shared: &Shared, sockets: &[Option<(Arc<TcpStream>, bool)>], wake_up: Instant) -> Result<(), Errno> {
    let mut polled = vec![PollFd::new(shared.waker_fd(), PollFlags::POLLIN)];
    for (socket, writing) in sockets.iter().flatten() {
        let write = if *writing { PollFlags::POLLOUT } else { PollFlags::empty() };
        polled.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN | write));
    }
    match poll(&mut polled, timeout_until(wake_up)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Rounded up to a millisecond, so that the moment has come when the wait is over.
fn timeout_until(wake_up: Instant) -> PollTimeout {
    let left = wake_up.saturating_duration_since(Instant::now());
    let rounded = if left.is_zero() { left } else { left + Duration::from_millis(1) };
    PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
}
