//! WAL segments: what is written is noted, and a flush is the quorum's.

use crate::errno::{self, Errno};
use crate::shim::{Shim, say};
use crate::{agent, process, real};
use libc::{c_int, off_t, ssize_t};
use quire_cache::{AgentState, Answer, FlushOutcome, Request};
use quire_types::Lsn;
use std::sync::atomic::Ordering;

/// Notes that `written` bytes at `offset` of a segment are in the local file, if they are.
pub fn wrote(shim: &Shim, segment_number: u64, offset: off_t, written: ssize_t) {
    let (Ok(offset), Ok(written)) = (u64::try_from(offset), u64::try_from(written)) else { return };
    let start = segment_number.saturating_mul(shim.control().segment_bytes());
    shim.control().raise_wal_written(Lsn(start).add(offset).add(written));
}

/// Has the quorum flush everything written so far; what `fdatasync` returns.
pub fn flush(shim: &Shim) -> c_int {
    let control = shim.control();
    let ticket = control.request_flush();
    if control.is_flushed(ticket) {
        return 0;
    }
    let begun = real::monotonic_ns();
    let outcome = errno::preserved(|| control.wait_flushed(ticket, || agent::lives(shim)));
    let counters = control.counters();
    counters.flush_waits.fetch_add(1, Ordering::Relaxed);
    counters.flush_wait_ns.fetch_add(real::monotonic_ns().saturating_sub(begun), Ordering::Relaxed);
    match outcome {
        FlushOutcome::Flushed => 0,
        FlushOutcome::AgentDead => process::die(),
        FlushOutcome::Refused => {
            counters.flush_errors.fetch_add(1, Ordering::Relaxed);
            say(format_args!("WAL flush refused: {}", reason_of(control.state())));
            Errno(libc::EIO).fail()
        }
    }
}

fn reason_of(state: AgentState) -> &'static str {
    match state {
        AgentState::Fenced => "this compute was fenced by a newer one",
        _ => "this compute has failed, see the agent's log",
    }
}

/// A WAL flush on a timeline that is not shipped: refused, since nothing would make it durable.
pub fn refuse_timeline(shim: &Shim) -> c_int {
    say(format_args!("only WAL of timeline {} can be made durable", shim.control().timeline()));
    Errno(libc::EIO).fail()
}

/// Has the agent bring back a segment that was committed and removed earlier; false if there is none.
pub fn fetch_segment(shim: &Shim, timeline: u32, segment_number: u64) -> Result<bool, Errno> {
    let control = shim.control();
    let end = segment_number.saturating_add(1).saturating_mul(control.segment_bytes());
    if timeline != control.timeline() || Lsn(end) > control.commit_lsn() {
        return Ok(false);
    }
    let request = Request::WalSegment { timeline, segment_number };
    match errno::preserved(|| agent::call(shim, &request))? {
        Answer::Ok => Ok(true),
        Answer::NotFound => Ok(false),
        _ => Err(Errno(libc::EIO)),
    }
}
