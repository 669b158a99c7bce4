//! The compute agent: supervises a stock PostgreSQL and keeps its two promises.
//!
//! PostgreSQL trusts its disk for two things: that `fdatasync` on WAL makes it durable, and that `pread` on a relation
//! gives back the page as last written. A shim inside PostgreSQL hands both to this process, one for each compute:
//!
//! ```text
//! COMMIT:       backend -> fdatasync -> control.shm -> [`quorum`] -> safekeepers, a majority -> backend goes on
//! first SELECT: backend -> pread     -> agent.sock  -> [`fill`]   -> pageserver -> cache file -> backend goes on
//! ```
//!
//! A *session* ([`session`], begun by [`start`]) is one term of the quorum: it begins with a won election and an empty
//! data directory, and ends with a crash, a fence or a cold restart. Nothing that PostgreSQL wrote locally outlives it
//! but configuration files, and what [`kept`] has sent to storage. The [`agent`] begins sessions, runs `postgres` in
//! them ([`postgres`]), and is what people and programs talk to ([`http`]).
//!
//! ```no_run
//! # async fn example(config: quire_compute::Config) -> Result<(), quire_compute::Error> {
//! quire_compute::bootstrap(&config).await?;
//! let agent = quire_compute::Agent::open(config).await?;
//! agent.run(std::future::pending()).await
//! # }
//! ```

mod admission;
pub mod agent;
pub mod as_written;
pub mod bootstrap;
pub mod bound;
pub mod cache_dir;
pub mod cached_files;
pub mod conf;
pub mod config;
pub mod covered;
pub mod descriptors;
pub mod difference;
pub mod error;
pub mod evidence;
pub mod fill;
pub mod fullness;
pub mod guard;
pub mod handle;
pub mod http;
pub mod import;
pub mod kept;
pub mod last_checkpoint;
pub mod layout;
pub mod log_end;
pub mod materialise;
pub mod metrics;
pub mod orphans;
pub mod outdated;
pub mod owner;
pub mod page_client;
mod place;
pub mod postgres;
pub mod pushdown;
pub mod quorum;
pub mod sample;
pub mod server;
pub mod session;
pub mod setting;
pub mod start;
mod stopped;
pub mod storage_position;
mod supervisor;
mod tablespaces;
pub mod throttle;
pub mod upgrade;
mod users_files;
pub mod verify;
pub mod warm_up;

pub use agent::Agent;
pub use bootstrap::bootstrap;
pub use config::Config;
pub use error::Error;
pub use handle::Handle;
