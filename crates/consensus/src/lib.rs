//! The WAL quorum as pure state machines: a [`Proposer`] in the compute, an [`Acceptor`] in each safekeeper.
//!
//! No I/O, no clock, no randomness: calls go in, [`Output`]s and [`Action`]s come out, and the same code runs in
//! production and in the simulation that is part of this crate's tests. It is multi-Paxos over a byte log addressed by
//! LSN.
//!
//! # What a user sees
//!
//! A client sends COMMIT; PostgreSQL calls fdatasync on its WAL; the call returns once a majority of safekeepers has
//! the bytes on disk. Whatever then happens to the compute, the next one finds that transaction. Should the old compute
//! still be running somewhere, its next fdatasync fails: it can neither commit nor disturb.
//!
//! # The path of a term
//!
//! 1. The proposer asks all acceptors for their vote in a term above all it has heard of (`RequestVote`). An acceptor
//!    grants a term at most once, and from then on takes nothing from a lower one. With the vote goes the state of its
//!    log.
//! 2. With a majority, the log to continue is that of the voter with the highest *last term*, and among these the
//!    longest: the *donor*. The *history* of the new term is the donor's, up to its end, and the new term from there
//!    on.
//! 3. The proposer announces itself to each acceptor (`Elected`). The acceptor compares histories, cuts its log back to
//!    the *common point*, adopts the history, and from there on takes WAL in order (`Append`).
//! 4. WAL is committed up to the highest position that a majority of the acceptors *that adopted this term* has
//!    flushed, provided that this is not before the term's start.
//!
//! # Invariants
//!
//! - **One proposer per term.** Granting a term is persisted before it is said, and a term is granted once, so two
//!   candidates that pick the same number cannot both have a majority. An acceptor refuses the term it already has even
//!   to the candidate it granted it to; a vote whose answer was lost costs a new campaign, never a second grant.
//! - **One value per position and term.** A proposer writes each position of its term once (the caller of
//!   [`Proposer::extend`] sees to it), and an acceptor takes bytes of a term only where its log ends, repetitions
//!   aside.
//! - **Log matching.** A term is announced with one history, ever. So two histories that share a term agree on
//!   everything before it, and two logs that share a term agree on all bytes up to where the first of them left that
//!   term. The common point is where cutting makes an acceptor's log a prefix of the proposer's.
//! - **What is committed stays.** Say `L` was committed in term `t`: a majority had adopted `t` and flushed up to `L`.
//!   Any later winner of a vote hears from one of these, whose last term at its flush position is `t` or higher; by
//!   induction over terms every log with a last term of at least `t` contains everything up to `L`, hence the donor's
//!   does, and no acceptor is ever told to cut below. Both sides check it: an acceptor refuses to cut below its commit
//!   position, a proposer to start below one it was told of.
//! - **Flush is a record boundary.** A record longer than a message arrives in pieces; its bytes count only when the
//!   last of them is flushed. Logs therefore always end between records, and so does a new term's start. After a crash
//!   the end is found by decoding, and can only be the flush position last reported or a later record's end.
//! - **Order on disk.** An acceptor persists its term before the vote, cuts its log before it adopts the history that
//!   made the cut necessary (a crash in between leaves a shorter log of the old history, which is true; the other order
//!   would leave bytes that the new history gives to another term), and flushes before it answers.
//!
//! # Acceptors that come later
//!
//! An acceptor that was away during the election, or lost its connection, joins the running term without a new
//! election. The proposer asks it for its vote all the same, because the answer tells the state of its log *whether or
//! not* it grants:
//!
//! - its term was lower: it grants, which binds it to this term;
//! - its term is this one: it refuses, but it is either bound to this very proposer, or granted the number to a rival
//!   who can no longer win it, since this proposer has a majority for it. Either way it may adopt this proposer's
//!   history: having granted a term promises to take nothing from *lower* ones, and nothing else;
//! - its term is higher: this proposer is deposed.
//!
//! Only votes *granted* before the election count towards the majority.
//!
//! # Reading for others
//!
//! To bring an acceptor up to date the proposer needs WAL from before its time. It reads it from the donor, naming its
//! term: an acceptor gives out WAL that is not known to be committed only to the term it is in, for in a higher term
//! the bytes at that position may already be others. A read that was overtaken by a new term is refused even if it had
//! begun before.
//!
//! # An acceptor that forgets
//!
//! An acceptor that lost its disk must not come back as an empty one: a commit may rest on it. So a proposer never
//! creates logs; that is done once for all acceptors, with the branch, before it has a proposer.
//!
//! # Example
//!
//! Three acceptors without disks, and a proposer that loses nothing on the way:
//!
//! ```
//! use bytes::Bytes;
//! use quire_consensus::{Acceptor, Action, Output, Proposer, proposer};
//! use quire_protocol::quorum::{LogIdentity, Request};
//! use quire_types::{Lsn, NodeId, BranchKey};
//!
//! let identity = LogIdentity { system_id: 1, segment_bytes: 16 << 20, start: Lsn(16 << 20) };
//! let mut acceptors: Vec<Acceptor> = (1..=3).map(|node| Acceptor::create(NodeId(node), identity)).collect();
//! let config = proposer::Config {
//!     branch: BranchKey::default(),
//!     node: NodeId(100),
//!     acceptors: 3,
//!     identity: Some(identity),
//! };
//! let mut proposer = Proposer::new(config);
//! (0..3).for_each(|acceptor| proposer.connected(acceptor));
//! proposer.campaign();
//!
//! let mut committed = Lsn::INVALID;
//! while let Some(output) = proposer.poll() {
//!     match output {
//!         Output::Send { to, request } => {
//!             for acceptor in to.iter() {
//!                 let actions = match &request {
//!                     Request::Hello { .. } => vec![Action::Reply(acceptors[acceptor].welcome())],
//!                     request => acceptors[acceptor].handle(request),
//!                 };
//!                 // A safekeeper persists, truncates, writes and flushes here, in order.
//!                 for action in actions {
//!                     if let Action::Reply(response) = action {
//!                         proposer.received(acceptor, response);
//!                     }
//!                 }
//!             }
//!         }
//!         Output::Elected { end_of_log, .. } => {
//!             proposer.extend(end_of_log, Bytes::from_static(b"a record")).expect("elected");
//!         }
//!         Output::Committed(lsn) => committed = lsn,
//!         Output::ReadWal { acceptor, begin, .. } => {
//!             proposer.wal_read(acceptor, begin, Bytes::from_static(b"a record"));
//!         }
//!         other => panic!("nobody else is here: {other:?}"),
//!     }
//! }
//! assert_eq!(committed, identity.start.add(8));
//! ```

#![forbid(unsafe_code)]

pub mod acceptor;
pub mod history;
pub mod proposer;

pub use acceptor::{Acceptor, AcceptorState, Action};
pub use proposer::{AcceptorSet, Output, Proposer};
