//! The control socket of the server process, and the process itself.

use std::io::{self, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::gate::Gate;
use super::protocol::{Reply, Request, receive, send};
use super::server::Server;
use super::world::World;

/// What the server is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to mount: more than one shows the same tree as several clients of one volume see it.
    pub mountpoints: Vec<PathBuf>,
    /// Path of the control socket, created here.
    pub control: PathBuf,
    /// FUSE workers; each stalled or delayed request occupies one.
    pub threads: usize,
    /// Keep ACLs.
    pub acl: bool,
}

/// Serves until told to quit, unmounted, or left alone: the process ends with its first control connection, so that
/// a test process that dies takes its filesystem along.
///
/// Prints `ready` once the mount answers and the socket listens.
///
/// # Errors
/// When the mount or the socket cannot be made.
pub fn serve(options: &Options) -> anyhow::Result<()> {
    abort_on_panic();
    let gate = Arc::new(Gate::new(World::new(options.acl)));
    let listener = UnixListener::bind(&options.control).context("bind the control socket")?;
    let mut sessions = Vec::new();
    for mountpoint in &options.mountpoints {
        sessions.push(Server::mount(gate.clone(), mountpoint, options.threads).context("mount faultfs")?);
    }
    let first = sessions.swap_remove(0);
    for session in sessions {
        std::thread::spawn(move || session.run());
    }
    let mountpoints: Arc<[PathBuf]> = options.mountpoints.clone().into();
    std::thread::spawn(move || accept(&listener, &gate, &mountpoints));
    let mut out = io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush())?;
    first.run().context("serve faultfs")
}

/// A worker that panics would leave its request unanswered and the caller hanging.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

fn accept(listener: &UnixListener, gate: &Arc<Gate>, mountpoints: &Arc<[PathBuf]>) {
    let mut owner = true;
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        if let (true, Ok(peer)) = (owner, getsockopt(&stream, PeerCredentials)) {
            let (gate, mountpoints) = (gate.clone(), mountpoints.clone());
            std::thread::spawn(move || watch(peer.pid(), &gate, &mountpoints));
        }
        let gate = gate.clone();
        let mountpoints = mountpoints.clone();
        std::thread::spawn(move || {
            let quit = converse(&stream, &gate).unwrap_or(false);
            if owner || quit {
                leave(&mountpoints);
            }
        });
        owner = false;
    }
}

/// Leaves when the owner is killed: one of its threads may be waiting for us in the kernel, and then neither does the
/// process end nor the connection close.
fn watch(owner: i32, gate: &Gate, mountpoints: &[PathBuf]) -> ! {
    loop {
        // Never that many: a pause that needs no clock of its own.
        gate.await_stalled(u32::MAX, Duration::from_secs(1));
        if is_dying(owner) {
            leave(mountpoints);
        }
    }
}

/// Whether a process is gone or has a thread with SIGKILL pending, which only one stuck in the kernel has for long.
fn is_dying(pid: i32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    tasks.flatten().any(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
        let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        pending.is_some_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
    })
}

fn leave(mountpoints: &[PathBuf]) -> ! {
    for mountpoint in mountpoints {
        // Abort first: requests that are stalled would otherwise keep their callers in the kernel.
        let _already_gone = umount2(mountpoint, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
    std::process::exit(0)
}

/// Answers requests until the other side hangs up; true when it asked to quit.
fn converse(stream: &UnixStream, gate: &Gate) -> io::Result<bool> {
    let mut input = BufReader::new(stream);
    let mut out = stream;
    while let Some(request) = receive(&mut input)? {
        if matches!(request, Request::Quit) {
            send(&mut out, &Reply::Done)?;
            return Ok(true);
        }
        send(&mut out, &answer(gate, request))?;
    }
    Ok(false)
}

fn answer(gate: &Gate, request: Request) -> Reply {
    if let Request::AwaitStalled { count, timeout_ms } = request {
        return match gate.await_stalled(count, Duration::from_millis(timeout_ms)) {
            true => Reply::Done,
            false => Reply::Refused(format!("fewer than {count} requests stalled in time")),
        };
    }
    let mut world = gate.lock();
    match request {
        Request::CrashAt { point, when } => world.faults.crash_at(point, when),
        Request::Crash => world.dead = true,
        Request::Reboot { survive } => world.reboot(survive),
        Request::Inject(rule) => world.faults.inject(rule),
        Request::Release => world.releases += 1,
        Request::Full { bytes } => world.faults.full = bytes,
        Request::Acl { on } => world.acl = on,
        Request::ClearFaults => world.faults.clear(),
        Request::ClearTrace => world.faults.clear_trace(),
        Request::RemoveBehind { path } => {
            if let Err(errno) = world.remove_behind(path.as_bytes()) {
                return Reply::Refused(format!("remove {path}: errno {}", errno.code()));
            }
        }
        Request::Trace => return Reply::Trace(world.faults.trace().to_vec()),
        Request::Counts => return Reply::Counts(world.faults.counts().clone()),
        Request::Status => return Reply::Status(world.status()),
        Request::Reset => world.reset(),
        Request::Snapshot { name } => world.snapshot(name),
        Request::Restore { name } => {
            if !world.restore(&name) {
                return Reply::Refused(format!("no snapshot {name}"));
            }
        }
        Request::Quit | Request::AwaitStalled { .. } => unreachable!("answered above"),
    }
    drop(world);
    gate.announce();
    Reply::Done
}
