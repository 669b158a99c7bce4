//! A bank whose clients keep books of their own.
//!
//! Each transfer takes from one account, gives to another and notes itself in a table, in one transaction. Whatever
//! happens to the server: the money in the bank stays the same, each balance is what the noted transfers make of it,
//! and a transfer whose commit was acknowledged is noted exactly once.

use crate::Ledger;
use crate::ledger::Clients;
use tokio_postgres::Client;

const ACCOUNTS: i32 = 500;
const FIRST_BALANCE: i64 = 1000;

/// The clients' books.
#[derive(Clone, Default)]
pub struct Bank {
    transfers: Ledger,
}

impl Bank {
    /// Opens the accounts.
    pub async fn create_tables(client: &Client) {
        let tables = format!(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL); \
             CREATE TABLE transfer (id bigint NOT NULL, giver int NOT NULL, taker int NOT NULL, amount bigint NOT NULL); \
             CREATE INDEX ON transfer (giver); \
             INSERT INTO account SELECT n, {FIRST_BALANCE} FROM generate_series(1, {ACCOUNTS}) n"
        );
        client.batch_execute(&tables).await.expect("tables created");
    }

    /// Starts clients that transfer until they are stopped.
    pub fn start_clients(&self, url: &str, count: usize) -> Clients {
        self.transfers.start_clients_of(url, count, transfer)
    }

    /// How many transfers were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.transfers.acknowledged()
    }

    /// Expects the money in the bank to be what it was.
    pub async fn expect_balanced(&self, client: &Client) {
        let row = client.query_one("SELECT count(*), sum(balance)::bigint FROM account", &[]).await.expect("readable");
        let (accounts, money): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!((accounts, money), (ACCOUNTS.into(), i64::from(ACCOUNTS) * FIRST_BALANCE));
    }

    /// Expects the server's books to agree with themselves and with the clients'. Nobody may be at work.
    pub async fn expect_kept(&self, client: &Client) {
        self.expect_balanced(client).await;
        self.transfers.expect_kept_in(client, "transfer").await;
        let wrong = format!(
            "SELECT a.id FROM account a WHERE balance <> {FIRST_BALANCE} \
             - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE giver = a.id) \
             + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE taker = a.id)"
        );
        let wrong = client.query(&wrong, &[]).await.expect("readable");
        let wrong: Vec<i32> = wrong.iter().map(|row| row.get(0)).collect();
        assert!(wrong.is_empty(), "balances that the transfers do not explain: {wrong:?}");
    }
}

/// Accounts are changed in the order of their numbers, so that no two transfers wait for each other.
fn transfer(id: i64) -> String {
    let giver = rand::random_range(1..=ACCOUNTS);
    let taker = (giver + rand::random_range(1..ACCOUNTS) - 1) % ACCOUNTS + 1;
    let amount = rand::random_range(1..=100);
    let change = |account: i32, by: i64| format!("UPDATE account SET balance = balance + {by} WHERE id = {account};");
    let mut changes = [(giver, -amount), (taker, amount)];
    changes.sort_unstable();
    let [first, second] = changes.map(|(account, by)| change(account, by));
    format!("BEGIN; {first} {second} INSERT INTO transfer VALUES ({id}, {giver}, {taker}, {amount}); COMMIT")
}
