//! Random reads of the accounts, each block once, by clients of the compute or of the pageserver.

use super::target::Target;
use crate::deployment::{Branch, Deployment};
use crate::roles::Role;
use anyhow::{Context as _, Result, bail, ensure};
use quire_api::STATUS;
use quire_api::compute::Status;
use quire_compute::page_client::PageClient;
use quire_types::{BranchKey, Endpoint, Fork, Key, Lsn, RelTag, ShardId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement};

const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks that one statement reads: enough that its round trip and its plan cost little beside them.
const STATEMENT_BLOCKS: usize = 200;

/// Reads one row of each block, in the order given.
const READ: &str = "SELECT count(a.abalance) FROM unnest($1::text::tid[]) AS wanted (id) \
                    JOIN pgbench_accounts a ON a.ctid = wanted.id";
/// Leaves no other plan than one look-up after the other.
const PLAN: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off";

/// The table whose blocks are read.
pub struct Accounts {
    rel: RelTag,
    blocks: u32,
}

impl Accounts {
    /// Finds it in the workload's database.
    pub fn find(quire: &Target) -> Result<Accounts> {
        let session = quire.session()?;
        let number = |expression: &str| Ok::<u32, anyhow::Error>(u32::try_from(session.number(expression)?)?);
        let database = number("(SELECT oid FROM pg_database WHERE datname = current_database())")?;
        let relation = number("pg_relation_filenode('pgbench_accounts')")?;
        let rel = RelTag { tablespace: RelTag::DEFAULT_TABLESPACE, database, relation, fork: Fork::Main };
        Ok(Accounts { rel, blocks: number("pg_relation_size('pgbench_accounts') / 8192")? })
    }

    /// All its blocks in an order that looks random, another for each `seed`, dealt out to so many clients.
    pub fn dealt(&self, seed: u32, clients: u32) -> Vec<Vec<u32>> {
        let shuffled = shuffled(self.blocks, seed);
        let clients = clients as usize;
        (0..clients).map(|client| shuffled.iter().copied().skip(client).step_by(clients).collect()).collect()
    }
}

/// Fisher and Yates' shuffle.
fn shuffled(count: u32, seed: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    for index in (1..numbers.len()).rev() {
        let random = scattered(u64::from(seed) << 32 | index as u64);
        numbers.swap(index, (random % (index as u64 + 1)) as usize);
    }
    numbers
}

/// A number that looks random, always the same for the same input. Source: the finaliser of SplitMix64 (Steele, Lea and
/// Flood, 2014).
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What clients have read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    /// Blocks.
    pub blocks: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Waits for clients that count what they have read; the user may end it.
async fn all_of(mut clients: JoinSet<Result<u64>>) -> Result<Read> {
    let begun = Instant::now();
    let mut blocks = 0;
    loop {
        let joined = tokio::select! {
            joined = clients.join_next() => joined,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        };
        match joined {
            Some(read) => blocks += read??,
            None => return Ok(Read { blocks, seconds: begun.elapsed().as_secs_f64() }),
        }
    }
}

/// Clients of the compute, which have looked the table up already. Their sessions last as long as this.
pub struct ComputeClients(Vec<(Arc<Client>, Statement)>);

impl ComputeClients {
    /// Connects so many.
    pub async fn connect(url: &str, count: u32) -> Result<ComputeClients> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect")?;
            tokio::spawn(connection);
            client.batch_execute(PLAN).await?;
            let statement = client.prepare(READ).await?;
            client.query_one(&statement, &[&rows(&[0])]).await?;
            clients.push((Arc::new(client), statement));
        }
        Ok(ComputeClients(clients))
    }

    /// Each reads its share of the blocks, until `length` has passed or there are no more.
    pub async fn read(&self, dealt: Vec<Vec<u32>>, length: Duration) -> Result<Read> {
        let end = Instant::now() + length;
        let mut reading = JoinSet::new();
        for ((client, statement), blocks) in self.0.iter().cloned().zip(dealt) {
            reading.spawn(async move { read_by_statements(&client, &statement, &blocks, end).await });
        }
        all_of(reading).await
    }
}

async fn read_by_statements(client: &Client, statement: &Statement, blocks: &[u32], end: Instant) -> Result<u64> {
    let mut read = 0;
    for some in blocks.chunks(STATEMENT_BLOCKS).take_while(|_| Instant::now() < end) {
        let found: i64 = client.query_one(statement, &[&rows(some)]).await?.try_get(0)?;
        ensure!(usize::try_from(found) == Ok(some.len()), "{found} rows came of {} blocks", some.len());
        read += some.len() as u64;
    }
    Ok(read)
}

/// The first row of each block, as PostgreSQL writes an array of them.
fn rows(blocks: &[u32]) -> String {
    let rows: Vec<String> = blocks.iter().map(|block| format!("\"({block},1)\"")).collect();
    format!("{{{}}}", rows.join(","))
}

/// Where the pageserver is, and what it is to be asked.
#[derive(Clone)]
pub struct Storage {
    address: Endpoint,
    branch: BranchKey,
    rel: RelTag,
    lsn: Lsn,
}

impl Storage {
    /// Of the accounts as they are now.
    pub fn find(deployment: &Deployment, branch: &Branch, accounts: &Accounts) -> Result<Storage> {
        let address = deployment.pageservers.first().context("there is no pageserver")?.endpoint();
        let status: Status = Role::Compute(branch.clone()).peer().get(STATUS)?;
        let lsn = status.lsn.committed.context("the compute does not say what is committed")?;
        Ok(Storage { address, branch: branch.key(), rel: accounts.rel, lsn })
    }

    /// Clients with a connection each ask for one block after the other of their share, until `length` has passed.
    pub async fn read(self, dealt: Vec<Vec<u32>>, length: Duration) -> Result<Read> {
        let end = Instant::now() + length;
        let mut reading = JoinSet::new();
        for blocks in dealt {
            reading.spawn(self.clone().read_by_requests(blocks, end));
        }
        all_of(reading).await
    }

    async fn read_by_requests(self, blocks: Vec<u32>, end: Instant) -> Result<u64> {
        let client = PageClient::new(self.address.clone(), self.branch, ShardId::UNSHARDED);
        let mut read = 0;
        for block in blocks.into_iter().take_while(|_| Instant::now() < end) {
            client.get_pages(self.lsn, vec![Key::RelBlock { rel: self.rel, block }], PATIENCE).await?;
            read += 1;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_dealt_once_and_few_beside_their_neighbours() {
        let rel = RelTag { tablespace: 1663, database: 5, relation: 16_384, fork: Fork::Main };
        let dealt = Accounts { rel, blocks: 10_000 }.dealt(1, 3);
        let beside = |pair: &[u32]| pair[0].abs_diff(pair[1]) <= 5;
        let neighbours: usize = dealt.iter().map(|blocks| blocks.windows(2).filter(|pair| beside(pair)).count()).sum();
        assert!(neighbours < 50, "{neighbours} blocks are read after their neighbours");
        let mut all: Vec<u32> = dealt.concat();
        assert_ne!(all, Accounts { rel, blocks: 10_000 }.dealt(2, 3).concat());
        all.sort_unstable();
        assert!(all.into_iter().eq(0..10_000));
    }

    #[test]
    fn rows_are_written_as_postgresql_reads_them() {
        assert_eq!(rows(&[0, 77]), r#"{"(0,1)","(77,1)"}"#);
    }
}
