//! What is no message of ours, on every port: the connection ends, the process continues, and its memory stays as it
//! was.

use quire_tests::{Quire, wait_for};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const ROUNDS: usize = 60;
/// More than a process may grow by what it was sent, whatever lengths that claimed.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Nonsense {
    /// Random bytes.
    Garbage,
    /// The beginning of a frame that says it is longer, and an end.
    Truncated,
    /// A frame that says to be longer than any may be.
    Oversized,
}

impl Nonsense {
    fn bytes(self, random: &mut StdRng) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..4096).map(|_| random.random()).collect();
        match self {
            Nonsense::Garbage => bytes[0] |= 1,
            Nonsense::Truncated => bytes[..4].copy_from_slice(&(16u32 << 20).to_le_bytes()),
            Nonsense::Oversized => bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes()),
        }
        bytes
    }
}

/// Sends the bytes and an end, and expects the other side to end the connection, too.
fn expect_ended<Stream: Read + Write>(mut stream: Stream, bytes: &[u8], finish: impl FnOnce(&Stream), to: &impl Debug) {
    // It may be ended while this is under way.
    let _ = stream.write_all(bytes);
    finish(&stream);
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("{to:?} keeps the connection open")
            }
            Err(_) => return,
        }
    }
}

fn send(address: &str, bytes: &[u8]) {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    expect_ended(stream, bytes, |stream| drop(stream.shutdown(std::net::Shutdown::Write)), &address);
}

fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_every_port_ends_the_connection_and_nothing_else() {
    let quire = Quire::start();
    let client = quire.connect().await;
    let status = quire.status();
    let address = |value: &serde_json::Value| value.as_str().expect("an address").to_owned();
    let (safekeeper, pageserver) = (&status["safekeepers"][0], &status["pageservers"][0]);
    let ports = [&safekeeper["address"], &safekeeper["http"], &pageserver["address"], &pageserver["http"]];
    let compute = &status["branches"][0]["compute"]["http"];
    let ports: Vec<String> = ports.into_iter().chain([compute]).map(address).collect();
    let socket = quire.dir().join("compute/main/agent.sock");
    let roles = ["safekeeper-1", "pageserver-1", "compute-main"].map(|role| (role, quire.role(role)));
    let sizes = roles.map(|(_, pid)| resident_bytes(pid));
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..ROUNDS {
        for nonsense in [Nonsense::Garbage, Nonsense::Truncated, Nonsense::Oversized] {
            let bytes = nonsense.bytes(&mut random);
            ports.iter().for_each(|port| send(port, &bytes));
            let stream = UnixStream::connect(&socket).expect("the agent listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            expect_ended(stream, &bytes, |stream| drop(stream.shutdown(std::net::Shutdown::Write)), &socket);
        }
    }
    for ((role, pid), before) in roles.into_iter().zip(sizes) {
        assert_eq!(quire.role(role), pid, "{role} is the process it was");
        let growth = resident_bytes(pid).saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "{role} grew by {growth} bytes");
    }
    for (role, words) in [
        ("safekeeper-1", "is out of bounds"),
        ("pageserver-1", "is out of bounds"),
        ("compute-main", "a connection on agent.sock is refused"),
    ] {
        wait_for(words, 10, async || quire.log(role).contains(words).then_some(())).await;
    }
    client.batch_execute("CREATE TABLE still_there AS SELECT 1 n").await.expect("all goes on");
    quire.verify();
    quire.expect_no_panic();
}
