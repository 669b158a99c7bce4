//! Asking roles over HTTP.

use anyhow::{Context, Result, bail};
use quire_api::Refusal;
use quire_types::Endpoint;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a question about a role's state may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a role's HTTP interface is, and what it is called in errors.
#[derive(Clone, Debug)]
pub struct Peer {
    name: String,
    endpoint: Endpoint,
}

impl Peer {
    /// A role called `name` at `endpoint`.
    pub fn new(name: impl Into<String>, endpoint: Endpoint) -> Peer {
        Peer { name: name.into(), endpoint }
    }

    /// Asks for a document.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = client(QUESTION_TIMEOUT).get(self.url(path));
        self.read(request.call())
    }

    /// Asks for something that changes the role, and waits up to `timeout` for it.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, timeout: Duration) -> Result<T> {
        let request = client(timeout).post(self.url(path));
        self.read(request.send_json(body))
    }

    /// Replaces a setting.
    pub fn put(&self, path: &str, body: &impl Serialize) -> Result<()> {
        let request = client(QUESTION_TIMEOUT).put(self.url(path));
        self.read(request.send_json(body))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.endpoint)
    }

    fn read<T: DeserializeOwned>(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<T> {
        let mut answer = answer.with_context(|| format!("{} does not answer; see `quire status`", self.name))?;
        let status = answer.status();
        let body =
            answer.body_mut().read_to_vec().with_context(|| format!("{} closed the connection early", self.name))?;
        if !status.is_success() {
            bail!("{}: {}", self.name, error_text(&body, status.as_u16()));
        }
        // An empty body stands for "done" and reads as null.
        let document: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(document).with_context(|| format!("{} sent an unexpected response", self.name))
    }
}

/// Roles tell errors as `{"error": "..."}` or as plain text.
fn error_text(body: &[u8], status: u16) -> String {
    match serde_json::from_slice::<Refusal>(body).ok() {
        Some(refusal) => refusal.error,
        None if body.is_empty() => format!("HTTP status {status}"),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

fn client(timeout: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
    config.build().new_agent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_the_role_s_own_words() {
        assert_eq!(error_text(b"{\"error\": \"fenced\"}", 409), "fenced");
        assert_eq!(error_text(b"plain\n", 400), "plain");
        assert_eq!(error_text(b"", 503), "HTTP status 503");
    }
}
