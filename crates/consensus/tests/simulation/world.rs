//! Acceptors, computes and the network between them, moved by one random event at a time.
//!
//! A connection keeps order but may break at any moment, losing what is under way. What the acceptor's side has already
//! received may still be acted upon afterwards, even behind a newer connection, with no connection for the answer.

mod computes;
mod network;

use crate::checker::{Checker, Violation};
use crate::disk::Disk;
use crate::random::Random;
use quire_consensus::{Acceptor, Proposer};
use quire_protocol::quorum::{LogIdentity, Request, Response};
use quire_types::{Lsn, NodeId, Term};
use std::collections::VecDeque;

/// A rule that is broken on purpose, to see that the checker notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    None,
    /// Acceptors answer before their WAL is flushed.
    AnswerBeforeFlush,
    /// Acceptors do not persist their term before they vote.
    ForgetVotes,
    /// Acceptors do not remove the divergent tail.
    KeepDivergentTail,
    /// A deposed proposer counts answers of acceptors that are in a higher term.
    CountAnyTerm,
}

pub struct SimAcceptor {
    pub disk: Disk,
    /// None while it is down.
    pub acceptor: Option<Acceptor>,
}

pub type Acceptors = Vec<SimAcceptor>;

struct Compute {
    proposer: Proposer,
    /// The proposer's whole log, known to the checker only up to `local_from`.
    log: Vec<u8>,
    /// Where its local WAL begins.
    local_from: Lsn,
    term: Term,
    donor: usize,
    links: Vec<Option<usize>>,
    reads: Vec<(usize, Lsn, Lsn)>,
    fenced: bool,
}

#[derive(Default)]
struct Connection {
    compute: usize,
    acceptor: usize,
    requests: VecDeque<Request>,
    responses: VecDeque<Response>,
    /// The compute's side is gone.
    orphaned: bool,
}

pub struct World {
    pub random: Random,
    pub checker: Checker,
    pub acceptors: Acceptors,
    sabotage: Sabotage,
    computes: Vec<Option<Compute>>,
    connections: Vec<Option<Connection>>,
    weights: Vec<usize>,
    long_records: bool,
    /// Nothing breaks any more.
    calm: bool,
    trace: u64,
    pub elections: u64,
}

const COMPUTES_MAX: usize = 3;
const IDENTITY: LogIdentity = LogIdentity { system_id: 42, segment_bytes: 16 << 20, start: Lsn(16 << 20) };

type Event = fn(&mut World) -> Result<(), Violation>;

/// What may happen, and how often it does on average.
const EVENTS: [(usize, Event); 11] = [
    (240, World::deliver),
    (40, World::write),
    (30, World::tick),
    (40, World::serve_read),
    (60, World::connect),
    (10, World::campaign),
    (8, World::break_connection),
    (5, World::crash_acceptor),
    (10, World::restart_acceptor),
    (4, World::crash_compute),
    (20, World::start_compute),
];

/// How often things happen in one life: each life has its own kind of trouble.
fn weights(random: &mut Random) -> Vec<usize> {
    let weight = |(average, _): &(usize, _)| match random.below(4) {
        0 => *average,
        1 => average * 2,
        2 => average.div_ceil(3),
        _ => average.div_ceil(10),
    };
    EVENTS.iter().map(weight).collect()
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random::new(seed);
        let count = random.pick(&[1, 2, 3, 3, 3, 3, 5, 5]).expect("there are several");
        let acceptors = (1..=count).map(|node| {
            let acceptor = Acceptor::create(NodeId(node), IDENTITY);
            SimAcceptor { disk: Disk::new(acceptor.state().clone()), acceptor: Some(acceptor) }
        });
        World {
            checker: Checker::new(IDENTITY.start),
            acceptors: acceptors.collect(),
            sabotage,
            computes: Vec::new(),
            connections: Vec::new(),
            weights: weights(&mut random),
            long_records: random.percent(2),
            random,
            calm: false,
            trace: 0xCBF2_9CE4_8422_2325,
            elections: 0,
        }
    }

    /// A number that two runs have in common only if the same things happened in them.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn note(&mut self, event: u64, a: u64, b: u64) {
        for word in [event, a, b] {
            self.trace = (self.trace ^ word).wrapping_mul(0x100_0000_01B3);
        }
    }

    /// One random event, faults included.
    pub fn step(&mut self) -> Result<(), Violation> {
        let mut ticket = self.random.below(self.weights.iter().sum());
        let mut event = 0;
        while ticket >= self.weights[event] {
            ticket -= self.weights[event];
            event += 1;
        }
        EVENTS[event].1(self)
    }

    /// One event of a world in which nothing breaks any more.
    pub fn calm_step(&mut self) -> Result<(), Violation> {
        if self.living().is_empty() {
            // The last one met an acceptor that had a higher term from a campaign that failed.
            return self.start_compute();
        }
        match self.random.below(100) {
            0..60 => self.deliver(),
            60..70 => self.write_once(),
            70..78 => self.tick(),
            78..88 => self.serve_read(),
            88..99 => self.connect(),
            _ => self.campaign(),
        }
    }

    /// Brings everybody back, ends all computes, and starts one.
    pub fn calm_down(&mut self) -> Result<(), Violation> {
        self.calm = true;
        (0..self.computes.len()).for_each(|compute| self.end_compute(compute));
        for _ in 0..64 {
            self.restart_acceptor()?;
        }
        self.start_compute()
    }

    /// Whether all acceptors have the one compute's whole log, and it is committed.
    pub fn is_settled(&self) -> bool {
        let settled = |compute: &Compute| {
            let end = compute.proposer.end_of_log();
            end > Some(compute.local_from) && compute.proposer.committed() == end && self.all_have(&compute.log)
        };
        self.computes.iter().flatten().any(settled)
    }

    fn all_have(&self, log: &[u8]) -> bool {
        self.acceptors.iter().all(|acceptor| acceptor.disk.durable() == log)
    }
}
