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

/// Waits until `fd` can be read, `limit` at most; false when it cannot be by then.
pub fn wait_readable(fd: impl std::os::fd::AsFd, limit: std::time::Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).is_ok_and(|n| n > 0)
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
