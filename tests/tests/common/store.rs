//! What systemd does for the agent: keeps the descriptors that it is sent, and gives them back at the next start.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::product::program;

use super::solo::{Host, WAIT};

/// The socket where the agent says what is to be kept. It is read all the time: an agent whose words nobody takes waits.
pub struct Store {
    said: std::sync::mpsc::Receiver<(String, Option<OwnedFd>)>,
}

/// Descriptors by their names, in the order they came.
pub type Kept = Vec<(String, OwnedFd)>;

impl Store {
    /// Listens, and has the agent of `host` know where.
    pub fn of(host: &mut Host) -> Self {
        let path = host.at("notify");
        host.product.env.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (say, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            loop {
                let is_over = match next(&socket) {
                    Some(word) => say.send(word).is_err(),
                    // Whoever listened is gone, and so is the directory.
                    None => !path.exists(),
                };
                if is_over {
                    return;
                }
            }
        });
        Self { said }
    }

    /// All that was sent until the agent says that it is ready.
    pub fn kept(&self) -> Kept {
        let end = Instant::now() + WAIT;
        let mut kept = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (text, fd) = self.said.recv_timeout(left).expect("the agent says that it is ready");
            if let (true, Some(fd)) = (text.contains("FDSTORE=1"), fd) {
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
                kept.push((name.to_owned(), fd));
            }
            if text.contains("READY=1") {
                return kept;
            }
        }
    }

    /// Starts the agent anew with what was kept, and with nothing else.
    pub fn restart(&self, host: &mut Host, kept: &Kept) {
        assert!(kept.len() <= 2, "no more can be handed over here");
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        // They come as standard input and output, and no other child of this process gets them.
        let script = format!(
            "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"",
            kept.len(),
            names.join(":")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(program()).arg("run").arg("--config").arg(host.config());
        let stdio = |n: usize| kept.get(n).map_or_else(Stdio::null, |(_, fd)| fd.try_clone().unwrap().into());
        command.stdin(stdio(0)).stdout(stdio(1));
        command.env("TIDEGATE_STATE_DIR", &host.product.state);
        command.envs(host.product.env.iter().map(|(name, value)| (name, value)));
        host.start_as(command);
    }
}

/// What is said next; nothing when nothing is said for a while.
fn next(socket: &std::os::unix::net::UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 4096];
    let mut slices = [std::io::IoSliceMut::new(&mut text)];
    let message = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((String::from_utf8_lossy(&text[..message.bytes]).into_owned(), fd))
}

/// A copy of some of it.
pub fn only(kept: &Kept, wanted: impl Fn(&str) -> bool) -> Kept {
    let wanted = kept.iter().filter(|(name, _)| wanted(name));
    wanted.map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect()
}

/// When a directory was read last; on a file system that is mounted with `strictatime`.
pub fn atime(path: &Path) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    let stat = std::fs::symlink_metadata(path).unwrap();
    (stat.atime(), stat.atime_nsec())
}
