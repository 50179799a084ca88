//! What this process and host are: user, host name, boot, file creation mask.

/// Sets the file creation mask to zero: modes are given in full at creation, saving a chmod round trip each.
/// What is created lies below a ledger directory of mode 0700.
pub fn clear_umask() {
    rustix::process::umask(rustix::fs::Mode::empty());
}

/// Effective user and group: the owner that new files get.
pub fn effective_owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Name of this host as the kernel knows it (of this UTS namespace).
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Release of the kernel, as `uname -r` prints it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Random bytes from the kernel, for names that must be unique for ever.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        // getrandom fails only for bad flags or before the pool is ready, and then blocks instead.
        if let Ok(n) = rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty()) {
            done += n;
        }
    }
    bytes
}

/// Lets writing to a closed pipe end the process, as every command-line tool does; Rust ignores SIGPIPE.
/// Not for the agent.
pub fn restore_sigpipe() {
    // SAFETY: SIG_DFL installs no handler, and no other thread of this process has set one.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Lets this thread, and the threads that it starts from now on, give way to others of the same control group.
///
/// # Errors
/// The kernel's errno.
pub fn give_way() -> Result<(), crate::Errno> {
    const NICE: i32 = 10;
    // Without a pid it is the calling thread alone, whatever POSIX says of the process.
    rustix::process::setpriority_process(None, NICE)
}

/// Waits until `fd` can be read, `limit` at most; false when it cannot be by then.
pub fn wait_readable(fd: impl std::os::fd::AsFd, limit: std::time::Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).is_ok_and(|n| n > 0)
}

/// How long what is written to a file may stay in memory alone, with room to spare: twice what the kernel is told
/// (`vm.dirty_expire_centisecs`, `vm.dirty_writeback_centisecs`), 120 seconds at least.
pub fn write_back_seconds() -> i64 {
    let centiseconds = |name: &str| -> i64 {
        let text = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let all =
        centiseconds("dirty_expire_centisecs").saturating_add(centiseconds("dirty_writeback_centisecs"));
    (all / 50).clamp(120, 24 * 3600)
}

/// Identity of this start of the kernel; zeros where it cannot be read, which no other start has either.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    id
}

/// Waits until the kernel says that what `fd` shows has changed since it was read last, `limit` at most: for the files of
/// cgroups and others below `/sys`, which can always be read.
pub fn wait_changed(fd: impl std::os::fd::AsFd, limit: std::time::Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&limit)).is_ok_and(|n| n > 0)
}

/// A descriptor of a child that was not waited for; it can be read when the child has ended.
///
/// # Errors
/// `ESRCH`; `ENOSYS` before Linux 5.3.
pub fn pidfd(pid: u32) -> Result<std::os::fd::OwnedFd, crate::SysError> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let failed = |errno| crate::SysError::new("pidfd_open", pid.to_string().as_bytes(), errno);
    let pid_checked =
        i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| failed(crate::Errno::SRCH))?;
    pidfd_open(pid_checked, PidfdFlags::empty()).map_err(failed)
}

/// A copy of a descriptor that this process was started with, by its number: the one itself stays open for good.
///
/// # Errors
/// `EBADF`.
pub fn inherited(number: std::os::fd::RawFd) -> Result<std::os::fd::OwnedFd, crate::SysError> {
    use std::os::fd::FromRawFd;
    // SAFETY: F_DUPFD_CLOEXEC takes numbers and touches no memory; a number that is not open is refused.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EBADF);
        let errno = crate::Errno::from_raw_os_error(errno);
        return Err(crate::SysError::new("take over descriptor", number.to_string().as_bytes(), errno));
    }
    // SAFETY: the kernel made it for us a moment ago, and nobody else knows its number.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(copy) })
}

/// Has a command started with no signal blocked: what a process blocks for itself its children inherit, and would then not
/// end when they are told to.
pub fn unblock_signals(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec it makes two calls that are safe there (signal-safety(7)), on memory of its own.
    unsafe {
        command.pre_exec(|| {
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            match libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}
