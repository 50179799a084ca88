//! The agent's side of the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::protocol::{Answer, REQUEST_MAX, Request, VERSION};
use super::until::Until;
use crate::error::{Error, Result};

/// Connections answered at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers requests. `may_act` tells whether the peer may change something.
pub trait Server: Send + Sync + 'static {
    /// The answer to one request; may take as long as a flush does.
    fn answer(&self, request: Request, may_act: bool) -> Answer;
}

/// A socket that is being served; removed when dropped.
pub struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves the socket at `path` on threads of its own. `group` may read it, beside root and this user.
///
/// # Errors
/// [`Error::Agent`] when another agent serves it, or it cannot be made.
pub fn serve(path: &Path, group: Option<u32>, server: Arc<impl Server>) -> Result<Socket> {
    let failed = |act: &str, e: std::io::Error| {
        Error::Agent(format!("{act} the control socket {}: {e}", path.display()))
    };
    if let Some(dir) = path.parent() {
        let made = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755)
            .recursive(true)
            .create(dir);
        made.map_err(|e| failed("make the directory of", e))?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(Error::Agent(format!(
            "another agent runs already (control socket {}); a second one needs TIDEGATE_RUNTIME_DIR and \
             TIDEGATE_STATE_DIR of its own",
            path.display()
        )));
    }
    // What nobody answers at was left by an agent that was killed.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace", e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| failed("make", e))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::os::unix::fs::chown(path, None, group).map_err(|e| failed("give the group", e))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .map_err(|e| failed("set the mode of", e))?;
    let accept = move || {
        let busy = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            if busy.load(Ordering::Acquire) >= CONNECTIONS_MAX {
                let full = Answer::Refused("too many ask at the same time; ask again".to_owned());
                let _ = send(&stream, &full);
                continue;
            }
            busy.fetch_add(1, Ordering::AcqRel);
            let (server, guard) = (server.clone(), Busy(busy.clone()));
            let spawned = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
                let _guard = guard;
                let answer = hear(&stream).map_or_else(Answer::Refused, |request| {
                    let may_act = is_trusted(&stream);
                    server.answer(request, may_act)
                });
                let _ = send(&stream, &answer);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "a request is not answered: no thread for it");
            }
        }
    };
    let spawned = std::thread::Builder::new().name("control".to_owned()).spawn(accept);
    spawned.map_err(|e| failed("serve", e))?;
    Ok(Socket { path: path.to_owned() })
}

struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// True for root and for whom the agent runs as. The kernel says who it is, not the peer.
fn is_trusted(stream: &UnixStream) -> bool {
    getsockopt(&stream.as_fd(), PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == sys::host::effective_owner().0)
}

fn hear(stream: &UnixStream) -> std::result::Result<Request, String> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(Until::new(stream, PATIENCE).take(REQUEST_MAX));
    limited.read_until(b'\n', &mut line).map_err(|e| format!("the request did not arrive: {e}"))?;
    parse(&line)
}

/// Understands a request.
///
/// # Errors
/// What is wrong with it, in words for whoever wrote it.
pub fn parse(line: &[u8]) -> std::result::Result<Request, String> {
    if line.last() != Some(&b'\n') {
        return Err(format!("a request is one line of at most {REQUEST_MAX} bytes"));
    }
    /// Only the version: so that another one is told by its name, whatever else it says.
    #[derive(serde::Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<Head>(line) {
        Ok(head) if head.version != VERSION => Err(format!(
            "this agent speaks version {VERSION} of the control protocol, not {}; are program and agent of one version?",
            head.version
        )),
        _ => serde_json::from_slice(line).map_err(|e| format!("the request is not understood: {e}")),
    }
}

fn send(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::control::{Ask, Request};

    #[test]
    fn another_version_is_called_by_its_name() {
        let good = b"{\"version\":1,\"ask\":\"status\"}\n";
        assert_eq!(parse(good), Ok(Request::new(Ask::Status, None)));
        assert!(parse(&good[..good.len() - 1]).unwrap_err().contains("one line"));
        assert!(parse(b"{\"version\":7,\"ask\":{\"new\":1}}\n").unwrap_err().contains("not 7"));
        assert!(parse(b"nonsense\n").unwrap_err().contains("not understood"));
    }
}
