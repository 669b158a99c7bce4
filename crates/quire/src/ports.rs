//! Ports for roles of this machine.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;

/// From which ports a deployment takes its own. As text, `15000-31999`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl Default for PortRange {
    /// Below the range from which Linux takes the ports of outgoing connections: one of those could otherwise be on
    /// the port of a role just when it is started again.
    fn default() -> PortRange {
        PortRange { first: 15_000, last: 31_999 }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<PortRange, String> {
        let parse = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0);
        let range = text.split_once('-').and_then(|(first, last)| Some((parse(first)?, parse(last)?)));
        match range {
            Some((first, last)) if first <= last => Ok(PortRange { first, last }),
            _ => Err(format!("{text:?} is not FIRST-LAST, such as 15000-31999")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<PortRange, String> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> String {
        range.to_string()
    }
}

/// Hands out ports that are free, none twice.
#[derive(Debug)]
pub struct Ports {
    range: PortRange,
    taken: Vec<u16>,
}

impl Ports {
    /// Those of a range, but for those that are taken.
    pub fn new(range: PortRange, taken: Vec<u16>) -> Ports {
        Ports { range, taken }
    }

    /// A port that is free at this moment. It is looked for from a random place on, so that deployments that are made
    /// at the same time seldom meet.
    pub fn free(&mut self) -> Result<u16> {
        let PortRange { first, last } = self.range;
        let count = u32::from(last - first) + 1;
        let start = rand::random::<u32>() % count;
        let all = (0..count).map(|step| first + u16::try_from((start + step) % count).expect("within the range"));
        for port in all {
            if !self.taken.contains(&port) && is_free(port) {
                self.taken.push(port);
                return Ok(port);
            }
        }
        bail!("no port of {} is free; name other ports with --ports", self.range)
    }
}

/// Whether no program listens on a port of this machine.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_reads_back_as_written_and_has_a_first_and_a_last() {
        for text in ["1-1", "15000-31999", "65535-65535"] {
            assert_eq!(text.parse::<PortRange>().expect(text).to_string(), text);
        }
        for text in ["", "5", "0-7", "8-7", "1-65536", "a-b", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_is_used_up_and_then_said_to_be() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let range = PortRange { first: port, last: port };
        let error = Ports::new(range, Vec::new()).free().expect_err("somebody listens there");
        assert!(error.to_string().contains("--ports"), "{error}");
        drop(listener);
        let mut ports = Ports::new(range, Vec::new());
        assert_eq!(ports.free().expect("free again"), port);
        assert!(ports.free().is_err(), "none is handed out twice");
    }
}
