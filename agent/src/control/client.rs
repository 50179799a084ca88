//! Asking the agent of this host.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Answer, Request};
use crate::error::{Error, Result};

/// Asks the agent at `socket` and waits up to `limit` for the answer.
///
/// # Errors
/// [`Error::Agent`] with what to do: it does not run, does not answer in time, or refuses.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Result<Answer> {
    let failed = |what: &str, e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                ": no agent runs here (systemctl status tidegate; or is TIDEGATE_RUNTIME_DIR another?)"
            }
            std::io::ErrorKind::PermissionDenied => {
                ": be root, or in the group that `status_group` of the configuration names"
            }
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                ": no answer in time; it goes on with it all the same"
            }
            _ => "",
        };
        Error::Agent(format!("{what} the agent at {}: {e}{hint}", socket.display()))
    };
    let mut stream = UnixStream::connect(socket).map_err(|e| failed("reach", e))?;
    stream.set_read_timeout(Some(limit)).map_err(|e| failed("ask", e))?;
    stream.set_write_timeout(Some(Duration::from_secs(5))).map_err(|e| failed("ask", e))?;
    let mut line = serde_json::to_vec(request).map_err(|e| Error::Agent(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| failed("ask", e))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|e| failed("hear", e))?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Refused(why)) => Err(Error::Agent(why)),
        Ok(answer) => Ok(answer),
        Err(e) => Err(Error::Agent(format!(
            "the agent's answer is not understood ({e}): is it of another version? It was {} bytes long",
            answer.len()
        ))),
    }
}
