//! Short conversations with a PostgreSQL, for commands that do nothing else meanwhile.

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

/// One connection, with an executor of its own.
pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    /// Connects.
    pub fn connect(url: &str) -> Result<Session> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connected = runtime.block_on(tokio_postgres::connect(url, NoTls));
        let (client, connection) =
            connected.map_err(in_words).with_context(|| format!("cannot connect to {url}; see `quire status`"))?;
        runtime.spawn(connection);
        Ok(Session { runtime, client })
    }

    /// Runs statements for their effect.
    pub fn run(&self, statements: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(statements)).map_err(in_words)
    }

    /// The first column of the first row, which must be text; none if there is no row or it is null.
    pub fn text(&self, query: &str, parameters: &[&str]) -> Result<Option<String>> {
        let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|text| text as _).collect();
        let rows = self.runtime.block_on(self.client.query(query, &parameters)).map_err(in_words)?;
        rows.first().map_or(Ok(None), |row| row.try_get(0).map_err(in_words))
    }

    /// A number, told as text so that its type does not matter.
    pub fn number(&self, expression: &str) -> Result<u64> {
        let text = self.text(&format!("SELECT ({expression})::bigint::text"), &[])?;
        text.and_then(|text| text.parse().ok()).with_context(|| format!("{expression} is no number"))
    }
}

/// What the server says, without the client's "db error".
fn in_words(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(told) => anyhow::anyhow!("{}", told.message()),
        None => error.into(),
    }
}
