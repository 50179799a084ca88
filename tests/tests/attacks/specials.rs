//! C1–C3: things whose opening waits or acts.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::gate::{Need, require};
use proto::ExceptionClass;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::{Field, mkdir, write};

/// C1: FIFOs without a writer, old and new, are made and never opened.
///
/// Fails on a weakened build: `Dir::open_file` opens by name without `O_PATH` and `NONBLOCK`, with
/// `content` taking a FIFO for a file.
#[test]
fn fifos_without_a_writer() {
    let field = Field::new();
    for i in 0..10 {
        mknodat(CWD, field.at(&format!("fifo-{i}")), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
    }
    write(&field.at("becomes"), "a file");
    field.sync_within(Duration::from_secs(5));
    std::fs::remove_file(field.at("becomes")).unwrap();
    mknodat(CWD, field.at("becomes"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    field.sync_within(Duration::from_secs(5));
    field.assert_unharmed();
}

/// C2: device nodes and sockets. `/dev/zero` never ends and the watchdog, the console and a tape act when they
/// are opened; all are left out and said to be.
///
/// Fails on a weakened build: `refuse` without its line for devices, with `make_special` copying what is no symlink.
#[test]
fn devices_and_sockets() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    mkdir(&field.at("dev"));
    // zero, random, kmsg, tty, console, watchdog, a tape, and block devices that do not exist.
    let characters = [(1, 5), (1, 8), (1, 11), (5, 0), (5, 1), (10, 130), (9, 0)];
    for (i, (major, minor)) in characters.iter().enumerate() {
        let path = field.at(&format!("dev/char-{i}"));
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(*major, *minor)).unwrap();
        let path = field.at(&format!("dev/block-{i}"));
        mknodat(CWD, &path, FileType::BlockDevice, mode, makedev(200 + *major, *minor)).unwrap();
    }
    let _listener = UnixListener::bind(field.at("dev/socket")).unwrap();
    write(&field.at("dev/file"), "beside them");
    let report = field.sync_within(Duration::from_secs(5));
    assert_eq!(report.totals.left_out, 2 * characters.len() as u64 + 1, "{report:?}");
    assert_eq!(field.exception("dev/char-0"), (ExceptionClass::LeftOut, "device node".to_owned()));
    assert_eq!(field.exception("dev/socket").0, ExceptionClass::LeftOut);

    // A file that turns into a device takes its old copy out of the mirror.
    std::fs::remove_file(field.at("dev/file")).unwrap();
    mknodat(CWD, field.at("dev/file"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5))
        .unwrap();
    field.sync_within(Duration::from_secs(5));
    assert!(!field.copy("dev/file").exists());
    field.assert_unharmed();
}

/// C3: somebody holds a lease on a file and does not answer; the kernel would make a plain `open` wait for
/// `/proc/sys/fs/lease-break-time`, 45 s.
///
/// Fails on a weakened build: `Dir::open_file` without `NONBLOCK`.
#[test]
fn a_lease_is_held() {
    if !require(&[Need::Root, Need::Program("python3")]) {
        return;
    }
    let field = Field::new();
    write(&field.at("leased"), "content");
    write(&field.at("other"), "content");
    let program = "import fcntl, os, signal, sys, time\n\
                   signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                   fd = os.open(sys.argv[1], os.O_RDWR)\n\
                   fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                   print('held', flush=True)\n\
                   time.sleep(600)\n";
    let mut holder = Command::new("python3")
        .args(["-c", program])
        .arg(field.at("leased"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_eq!(line.trim(), "held");
        let report = field.sync_within(Duration::from_secs(10));
        assert_eq!(std::fs::read(field.copy("other")).unwrap(), b"content");
        assert_eq!(report.totals.quarantined, 1, "{report:?}");
        assert_eq!(field.exception("leased").0, ExceptionClass::Quarantined);
    }));
    holder.kill().unwrap();
    holder.wait().unwrap();
    tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    field.assert_unharmed();
}
