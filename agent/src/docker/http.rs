//! Shell: one request over a Unix socket, one answer of bounded size, one deadline for both.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::DockerError;

/// The longest answer that is read: a few thousand containers with all their labels.
const ANSWER_MAX: usize = 8 << 20;

/// An engine's socket, and the thread-less runtime that drives one exchange at a time.
#[derive(Debug)]
pub(super) struct Wire {
    socket: PathBuf,
    deadline: Duration,
    runtime: Runtime,
}

/// What is sent.
pub(super) struct Question {
    /// In words that follow "cannot".
    pub act: String,
    pub method: Method,
    /// Path and query, already escaped.
    pub target: String,
    /// JSON; empty for none.
    pub body: Vec<u8>,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Wire {
    pub fn new(socket: &Path, deadline: Duration) -> Result<Wire, DockerError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| DockerError::StartClient { socket: socket.to_owned(), source })?;
        Ok(Wire { socket: socket.to_owned(), deadline, runtime })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks on a connection of its own: a kept one would have to be mended whenever the engine restarts.
    pub fn ask(&self, question: Question) -> Result<Answer, DockerError> {
        let act = question.act.clone();
        let exchange = async { timeout(self.deadline, self.exchange(question)).await };
        self.runtime.block_on(exchange).unwrap_or_else(|_| {
            Err(DockerError::Timeout { act, socket: self.socket.clone(), waited: self.deadline })
        })
    }

    async fn exchange(&self, question: Question) -> Result<Answer, DockerError> {
        let Question { act, method, target, body } = question;
        let broke = |source: Box<dyn StdError + Send + Sync>| DockerError::Exchange {
            act: act.clone(),
            socket: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.cannot_connect(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(error.into()))?;
        // Ends with the sender; its error is reported to the sender too.
        let driver = tokio::spawn(connection);

        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "docker")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broke(error.into()))?;
        let response = sender.send_request(request).await.map_err(|error| broke(error.into()))?;
        let status = response.status().as_u16();
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| broke(error.into()))?;
            let Some(data) = frame.data_ref() else { continue };
            if body.len() + data.len() > ANSWER_MAX {
                let (act, socket) = (act.clone(), self.socket.clone());
                driver.abort();
                return Err(DockerError::AnswerTooLarge { act, socket, limit: ANSWER_MAX });
            }
            body.extend_from_slice(data);
        }
        driver.abort();
        Ok(Answer { status, body })
    }

    fn cannot_connect(&self, error: io::Error) -> DockerError {
        let socket = self.socket.clone();
        match error.kind() {
            // A socket file without a listener is what a stopped engine leaves behind.
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => DockerError::NoEngine { socket },
            ErrorKind::PermissionDenied => DockerError::PermissionDenied { socket },
            _ => DockerError::Connect { socket, source: error },
        }
    }
}

/// Escapes a text for the value of a query.
pub(super) fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
