//! Asking the agent of this host.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{ANSWER_MAX, Answer, Request};
use super::until::Until;
use crate::error::{Error, Result};

/// Asks the agent at `socket` and waits up to `limit` for the answer.
///
/// # Errors
/// [`Error::NoAgent`] when none runs; [`Error::Agent`] with what to do when it does not answer in time, or refuses.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Result<Answer> {
    let failed = |what: &str, e: std::io::Error| {
        let hint = match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                ": no agent runs here (systemctl status tidegate; or is TIDEGATE_RUNTIME_DIR another?)"
            }
            ErrorKind::PermissionDenied => {
                ": be root, or in the group that `status_group` of the configuration names"
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                ": no answer in time; it goes on with it all the same"
            }
            _ => "",
        };
        Error::Agent(format!("{what} the agent at {}: {e}{hint}", socket.display()))
    };
    let mut stream = UnixStream::connect(socket).map_err(|e| {
        let is_absent = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        match failed("reach", e) {
            Error::Agent(why) if is_absent => Error::NoAgent(why),
            other => other,
        }
    })?;
    stream.set_write_timeout(Some(Duration::from_secs(5))).map_err(|e| failed("ask", e))?;
    let mut line = serde_json::to_vec(request).map_err(|e| Error::Agent(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| failed("ask", e))?;
    let mut answer = Vec::new();
    let mut limited = BufReader::new(Until::new(&stream, limit).take(ANSWER_MAX));
    limited.read_until(b'\n', &mut answer).map_err(|e| failed("hear", e))?;
    match understand(&answer)? {
        Answer::Refused(why) => Err(Error::Agent(why)),
        answer => Ok(answer),
    }
}

/// Understands an answer.
///
/// # Errors
/// [`Error::Agent`]: it is not whole, or not one of this program's version.
pub fn understand(line: &[u8]) -> Result<Answer> {
    if line.last() != Some(&b'\n') {
        return Err(Error::Agent(format!(
            "the agent's answer ended after {} bytes; did it end itself? (tidegate status)",
            line.len()
        )));
    }
    serde_json::from_slice(line).map_err(|e| {
        Error::Agent(format!(
            "the agent's answer is not understood ({e}): is it of another version? It was {} bytes long",
            line.len()
        ))
    })
}
