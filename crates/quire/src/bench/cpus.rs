//! Giving processes processors of their own for a while, and how busy those are.
//!
//! Where everything shares all processors, all of them are busy and what waits for what cannot be told. So for a
//! measurement the pageserver gets one half of the processors and whatever else takes part the other.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use std::collections::HashMap;
use std::fs;

/// How often the threads of a process are gone through, as long as new ones turn up.
const PASSES_MAX: usize = 20;

/// The processors of this process, divided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Halves {
    /// For the pageserver; the smaller half.
    pub pageserver: Vec<usize>,
    /// For all else.
    pub others: Vec<usize>,
}

impl Halves {
    /// None where there is but one processor.
    pub fn here() -> Result<Option<Halves>> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot learn which processors there are")?;
        Ok(Halves::of((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect()))
    }

    fn of(mut pageserver: Vec<usize>) -> Option<Halves> {
        let others = pageserver.split_off(pageserver.len() / 2);
        (!pageserver.is_empty()).then_some(Halves { pageserver, others })
    }
}

/// A process, and where it is to run.
pub type Placed<'a> = (i32, &'a [usize]);

/// Processes that run where they were told to, until this is dropped; then they run where they did before.
pub struct Confined<L: Fn() -> Vec<i32>> {
    before: HashMap<i32, CpuSet>,
    /// Where this process ran; those that come to be meanwhile get that.
    usual: CpuSet,
    list: L,
}

impl<L: Fn() -> Vec<i32>> Confined<L> {
    /// Confines processes with all their threads; `list` says later which processes there are then.
    pub fn new(processes: &[Placed<'_>], list: L) -> Result<Confined<L>> {
        let usual = sched_getaffinity(Pid::from_raw(0)).context("cannot learn which processors there are")?;
        // Made first: if a process cannot be confined, those that were are freed.
        let mut confined = Confined { before: HashMap::new(), usual, list };
        for (pid, cpus) in processes {
            let Some(before) = affinity(*pid)? else { continue };
            confined.before.insert(*pid, before);
            move_threads(*pid, &set_of(cpus)?)?;
        }
        Ok(confined)
    }
}

impl<L: Fn() -> Vec<i32>> Drop for Confined<L> {
    fn drop(&mut self) {
        for pid in (self.list)() {
            let to = self.before.get(&pid).unwrap_or(&self.usual);
            if let Err(error) = move_threads(pid, to) {
                eprintln!("quire: process {pid} stays on a part of the processors until it is restarted: {error:#}");
            }
        }
    }
}

fn set_of(cpus: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).with_context(|| format!("there is no processor {cpu}"))?;
    }
    Ok(set)
}

/// Where a thread may run; none if it has ended.
fn affinity(thread: i32) -> Result<Option<CpuSet>> {
    match sched_getaffinity(Pid::from_raw(thread)) {
        Ok(set) => Ok(Some(set)),
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot learn where process {thread} may run")),
    }
}

/// Moves all threads of a process. Threads begin where the one that starts them is, so that no pass finds a new one in
/// the end.
fn move_threads(pid: i32, to: &CpuSet) -> Result<()> {
    for _ in 0..PASSES_MAX {
        let mut moved = false;
        for thread in threads(pid) {
            moved |= move_thread(thread, to)?;
        }
        if !moved {
            return Ok(());
        }
    }
    bail!("process {pid} starts threads all the time")
}

fn move_thread(thread: i32, to: &CpuSet) -> Result<bool> {
    if affinity(thread)?.is_none_or(|at| at == *to) {
        return Ok(false);
    }
    match sched_setaffinity(Pid::from_raw(thread), to) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot move process {thread} to other processors")),
    }
}

/// The threads of a process; none if it has ended.
fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What processors have done since the machine started, for all processes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct CpuTime {
    busy: f64,
    idle: f64,
}

impl CpuTime {
    /// As of now.
    pub fn of(cpus: &[usize]) -> Result<CpuTime> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        parse(&stat, cpus).context("/proc/stat says nothing that can be used")
    }

    /// The part of the time since `earlier` in which they were busy.
    pub fn busy_since(&self, earlier: &CpuTime) -> f64 {
        let (busy, idle) = (self.busy - earlier.busy, self.idle - earlier.idle);
        busy / (busy + idle).max(f64::MIN_POSITIVE)
    }
}

/// Source: proc(5), `/proc/stat`; the fourth and fifth number of a line are idle and waiting for a disk.
fn parse(stat: &str, cpus: &[usize]) -> Option<CpuTime> {
    let mut sum = CpuTime::default();
    for cpu in cpus {
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")))?;
        let numbers: Vec<f64> = line.split_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
        let idle = numbers.get(3)? + numbers.get(4)?;
        sum.idle += idle;
        sum.busy += numbers.iter().sum::<f64>() - idle;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    #[test]
    fn one_processor_cannot_be_divided_and_the_pageserver_gets_the_smaller_half() {
        assert_eq!(Halves::of(vec![3]), None);
        assert_eq!(Halves::of(vec![0, 1]), Some(Halves { pageserver: vec![0], others: vec![1] }));
        assert_eq!(Halves::of(vec![0, 2, 4]), Some(Halves { pageserver: vec![0], others: vec![2, 4] }));
    }

    #[test]
    fn busy_is_what_is_neither_idle_nor_waiting() {
        let before = parse("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 1 1 1 1 1 1 1 1 7 7\n", &[1]);
        let after = parse("cpu1 11 11 31 91 11 1 1 1 9 9\n", &[1]);
        assert_eq!(after.expect("read").busy_since(&before.expect("read")), 0.3333333333333333);
        assert_eq!(parse("cpu1 1 1 1 1 1 1 1 1\n", &[0]), None);
    }

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> (Sleeper, i32) {
            let child = Command::new("sleep").arg("60").spawn().expect("spawned");
            let pid = i32::try_from(child.id()).expect("a pid");
            (Sleeper(child), pid)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }

    #[test]
    fn processes_go_back_to_where_they_were() {
        let ((_one, pid), (_other, later)) = (Sleeper::start(), Sleeper::start());
        let before = affinity(pid).expect("known").expect("alive");
        let first = (0..CpuSet::count()).find(|cpu| before.is_set(*cpu) == Ok(true)).expect("a processor");
        let alone = set_of(&[first]).expect("a set");
        let confined = Confined::new(&[(pid, &[first])], || vec![pid, later]).expect("confined");
        assert_eq!(affinity(pid).expect("known"), Some(alone));
        move_threads(later, &alone).expect("as if it had been started by a process that is confined");
        drop(confined);
        assert_eq!(affinity(pid).expect("known"), Some(before));
        assert_eq!(affinity(later).expect("known"), Some(before));
    }
}
