//! The typed client of the REST interface: blocking, no database, no rings.
//!
//! Every answer is one of the shapes of [`crate::types`] or a [`ClientError`]; a client never
//! guesses from a status alone.

mod calls;
mod error;
mod settings;

use std::io::Read;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use calls::BackupQuery;
pub use error::ClientError;
pub use settings::{DEFAULT_URL, default_data_dir, find_token};

use crate::types::Problem;

/// A result of this module.
pub type Result<T> = std::result::Result<T, ClientError>;

/// The longest answer that is read.
const MAX_ANSWER: u64 = 256 << 20;

/// A daemon, as seen over HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<Token>,
}

/// A secret that `Debug` does not show.
#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Client {
    /// A client of the daemon at `url`, such as `http://127.0.0.1:8082`.
    pub fn new(url: &str, token: Option<String>) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(120)))
            .user_agent(concat!("sendense/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self {
            agent,
            base: url.trim_end_matches('/').to_owned(),
            token: token.map(Token),
        }
    }

    /// The daemon's address.
    pub fn url(&self) -> &str {
        &self.base
    }

    fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T> {
        let mut request = self.agent.get(self.at(path));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let answer = self.authorise(request).call();
        self.read(answer)
    }

    fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: &B,
    ) -> Result<T> {
        let mut request = self.agent.post(self.at(path));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let answer = self.authorise(request).send_json(body);
        self.read(answer)
    }

    fn put_file<T: DeserializeOwned>(&self, path: &str, file: std::fs::File) -> Result<T> {
        let request = self
            .agent
            .put(self.at(path))
            .header("content-type", "application/json");
        let answer = self.authorise(request).send(file);
        self.read(answer)
    }

    fn delete<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T> {
        let mut request = self.agent.delete(self.at(path));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let answer = self.authorise(request).call();
        self.read(answer)
    }

    fn at(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.base)
    }

    fn authorise<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(Token(token)) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T> {
        let mut answer = answer.map_err(|e| ClientError::from_transport(&self.base, e))?;
        let status = answer.status().as_u16();
        let mut bytes = Vec::new();
        answer
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .reader()
            .read_to_end(&mut bytes)
            .map_err(|e| {
                ClientError::Broken(format!("the answer of {} broke off: {e}", self.base))
            })?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes)
                .map_err(|e| self.strange(status, format!("it cannot be read: {e}")));
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) => Err(self.strange(status, "it carries no problem".to_owned())),
        }
    }

    fn strange(&self, status: u16, why: String) -> ClientError {
        ClientError::Broken(format!(
            "{} answered {status}, but not as a Sendense daemon would: {why}",
            self.base
        ))
    }
}

/// One part of a path, with everything escaped that is not plainly a name.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && text.len() > 2)
        {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
