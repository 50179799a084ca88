//! Faults: each does what it promises, and nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::faultfs::{Action, FaultFs, Match, Op, Rule, Survive, When};
use harness::gate::{Need, require};
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::{errno, names, start, write_synced};

/// The n-th, every one, only on a path, only mutating ones: exactly these fail, and with that errno.
#[test]
fn chosen_requests_fail_with_the_chosen_errno() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    let mkdir = |name: &str| errno(fs::create_dir(at(name)));
    fs.fail(Op::Mkdir, 2, libc::EDQUOT).unwrap();
    assert_eq!(["a", "b", "c"].map(mkdir), [0, libc::EDQUOT, 0]);
    assert_eq!(names(fs.path()), ["a", "c"].map(String::from).into());
    assert_eq!(fs.status().unwrap().struck, 1);
    assert_eq!(fs.trace().unwrap()[1].errno, libc::EDQUOT);

    fs.inject(Rule::new(Op::Mkdir, Action::Fail(libc::EROFS)).path("stage").nth(2).every()).unwrap();
    assert_eq!(
        ["d", "stage1", "e", "stage2", "f", "stage3"].map(mkdir),
        [0, 0, 0, libc::EROFS, 0, libc::EROFS]
    );
    fs.clear_faults().unwrap();
    assert_eq!(mkdir("stage4"), 0);

    fs.fail(Match::Mutating, 1, libc::EIO).unwrap();
    fs::metadata(at("a")).unwrap();
    assert_eq!(errno(fs::rename(at("a"), at("z"))), libc::EIO);
    assert!(at("a").exists() && !at("z").exists());

    for number in
        [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::ENOTCONN, libc::ESTALE, libc::EROFS, libc::ENOMEM]
    {
        fs.inject(Rule::new(Op::Create, Action::Fail(number)).every()).unwrap();
        assert_eq!(errno(File::create(at("new"))), number);
        fs.clear_faults().unwrap();
    }

    // The kernel itself tries once more after an ESTALE.
    fs.fail(Op::Create, 1, libc::ESTALE).unwrap();
    File::create(at("new")).unwrap();
    assert_eq!(fs.status().unwrap().struck, 1);
}

/// Each kind of request that the kernel sends for a call can be failed, so no rule is a dead letter.
#[test]
fn every_kind_of_request_can_fail() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("f"), "x").unwrap();
    symlink("t", at("s")).unwrap();
    rustix::fs::setxattr(at("f"), "user.a", b"1", XattrFlags::empty()).unwrap();
    fs.snapshot("start").unwrap();
    let io = |error: Errno| io::Error::from(error);
    let open = || File::options().read(true).write(true).open(at("f"));
    for op in Op::ALL {
        fs.restore("start").unwrap();
        let file = open().unwrap();
        fs.inject(Rule::new(op, Action::Fail(libc::EUCLEAN)).every()).unwrap();
        let result = match op {
            Op::Lookup | Op::Getattr => fs::metadata(at("f")).map(drop),
            Op::Setattr => fs::set_permissions(at("f"), fs::Permissions::from_mode(0o600)),
            Op::Readlink => fs::read_link(at("s")).map(drop),
            Op::Mknod => {
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(CWD, at("fifo"), kind, Mode::RUSR, 0).map_err(io)
            }
            Op::Mkdir => fs::create_dir(at("new")),
            Op::Unlink => fs::remove_file(at("f")),
            Op::Rmdir => fs::remove_dir(at("empty")),
            Op::Symlink => symlink("x", at("new")),
            Op::Rename => fs::rename(at("f"), at("g")),
            Op::Link => fs::hard_link(at("f"), at("g")),
            Op::Open => open().map(drop),
            Op::Read => file.read_at(&mut [0], 0).map(drop),
            Op::Write => file.write_at(b"y", 0).map(drop),
            // The standard library hides what close says.
            Op::Flush => nix::unistd::close(open().unwrap()).map_err(io::Error::from),
            Op::Fsync => file.sync_all(),
            Op::Fsyncdir => File::open(at("d")).unwrap().sync_all(),
            Op::Opendir => fs::read_dir(at("d")).map(drop),
            Op::Readdir => fs::read_dir(at("d")).and_then(|mut dir| dir.next().transpose()).map(drop),
            Op::Statfs => rustix::fs::statfs(at("f")).map(drop).map_err(io),
            Op::Setxattr => rustix::fs::setxattr(at("f"), "user.b", b"1", XattrFlags::empty()).map_err(io),
            Op::Getxattr => rustix::fs::getxattr(at("f"), "user.a", &mut [0; 10]).map(drop).map_err(io),
            Op::Listxattr => rustix::fs::listxattr(at("f"), &mut [0; 100]).map(drop).map_err(io),
            Op::Removexattr => rustix::fs::removexattr(at("f"), "user.a").map_err(io),
            Op::Access => rustix::fs::access(at("f"), rustix::fs::Access::READ_OK).map_err(io),
            Op::Create => File::create(at("new")).map(drop),
            Op::Fallocate => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 10).map_err(io),
            Op::Lseek => rustix::fs::seek(&file, SeekFrom::Data(0)).map(drop).map_err(io),
            Op::CopyFileRange => {
                let (mut from, mut to) = (0, 10);
                rustix::fs::copy_file_range(&file, Some(&mut from), open().unwrap(), Some(&mut to), 1)
                    .map(drop)
                    .map_err(io)
            }
        };
        assert_eq!(errno(result), libc::EUCLEAN, "{op:?}");
    }
}

/// Short reads and writes arrive as such and end where they say.
#[test]
fn short_reads_and_writes() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs.short(Op::Write, 2, 3).unwrap();
    assert_eq!(file.write_at(b"abcdef", 0).unwrap(), 6);
    assert_eq!(file.write_at(b"ABCDEF", 0).unwrap(), 3);
    fs.short(Op::Read, 1, 4).unwrap();
    let mut found = [0; 6];
    assert_eq!(file.read_at(&mut found, 0).unwrap(), 4);
    assert_eq!(file.read_at(&mut found, 0).unwrap(), 6);
    assert_eq!(&found, b"ABCdef");
}

/// A stalled request waits for its release, alone; one that dies waiting says so.
#[test]
fn a_stalled_request_waits_alone() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs.stall(Op::Mkdir, 1).unwrap();
    thread::scope(|scope| {
        let stalled = scope.spawn(|| fs::create_dir(at("d/stalled")));
        fs.await_stalled(1).unwrap();
        fs::write(at("meanwhile"), "works").unwrap();
        assert!(!stalled.is_finished());
        assert_eq!(fs.status().unwrap().stalled, 1);
        assert!(!fs.trace().unwrap().iter().any(|entry| entry.paths == ["d/stalled"]));
        fs.release().unwrap();
        stalled.join().unwrap().unwrap();
    });
    assert!(at("d/stalled").is_dir());

    fs.stall(Op::Unlink, 1).unwrap();
    thread::scope(|scope| {
        let stalled = scope.spawn(|| fs::remove_file(at("meanwhile")));
        fs.await_stalled(1).unwrap();
        fs.reboot(Survive::Everything).unwrap();
        assert_eq!(errno(stalled.join().unwrap()), libc::ENOTCONN);
    });
    assert!(at("meanwhile").exists(), "a request of an earlier life was carried out");
}

/// Dropping the filesystem frees whoever is stuck in it.
#[test]
fn dropping_frees_stalled_callers() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("d");
    fs.stall(Op::Mkdir, 1).unwrap();
    let stalled = thread::spawn(move || fs::create_dir(path));
    fs.await_stalled(1).unwrap();
    drop(fs);
    assert_ne!(errno(stalled.join().unwrap()), 0);
}

/// A test process that is killed while one of its threads waits in the mount ends all the same, the mount with it.
#[test]
fn a_killed_test_process_ends() {
    if std::env::var_os("FAULTFS_TEST_VICTIM").is_some() {
        let fs = FaultFs::start().expect("start faultfs");
        fs.stall(Op::Mkdir, 1).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| fs::create_dir(fs.path().join("stuck")));
            fs.await_stalled(1).unwrap();
            // Past the capture of the test runner.
            writeln!(io::stderr(), "stuck {}", fs.path().display()).unwrap();
            thread::park();
        });
    }
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::a_killed_test_process_ends", "--nocapture"])
        .env("FAULTFS_TEST_VICTIM", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stderr.take().unwrap()).lines().map_while(Result::ok);
    let path = lines.filter_map(|line| line.strip_prefix("stuck ").map(PathBuf::from)).next().unwrap();
    victim.kill().unwrap();
    let killed = Instant::now();
    victim.wait().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(30), "it took {:?}", killed.elapsed());
    // Only the directories are left soon: a mountpoint cannot be removed, and the abort comes before the unmount.
    while errno(fs::remove_dir(&path)) != 0 {
        assert!(killed.elapsed() < Duration::from_secs(30), "the mount is still there");
        thread::yield_now();
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// A delayed request takes its time and then does its work, while others do not wait for it.
#[test]
fn a_delayed_request_is_late() {
    let Some(fs) = start() else { return };
    // On a busy machine the others may be slow for reasons of their own; a longer delay tells the two apart.
    let overtaken = [100, 400, 1600, 6400].map(Duration::from_millis).into_iter().any(|time| {
        fs.reset().unwrap();
        fs.delay(Op::Mkdir, 1, time).unwrap();
        let began = Instant::now();
        let overtaken = thread::scope(|scope| {
            let late = scope.spawn(|| fs::create_dir(fs.path().join("late")));
            while !fs.counts().unwrap().contains_key(&Op::Mkdir) {
                thread::yield_now();
            }
            fs::metadata(fs.path()).unwrap();
            // An answer from a server that slept meanwhile comes after the delay.
            let overtaken = began.elapsed() < time && !late.is_finished();
            late.join().unwrap().unwrap();
            overtaken
        });
        assert!(began.elapsed() >= time);
        assert!(fs.path().join("late").is_dir());
        overtaken
    });
    assert!(overtaken, "others waited for the delayed request");
}

/// A full disk refuses bytes, not names, and has room again after a removal.
#[test]
fn a_full_disk() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs.full(Some(8192)).unwrap();
    fs::write(at("a"), [1; 8000]).unwrap();
    assert_eq!(errno(fs::write(at("b"), [1])), libc::ENOSPC);
    assert_eq!(fs::metadata(at("b")).unwrap().len(), 0);
    assert_eq!(rustix::fs::statfs(fs.path()).unwrap().f_bavail, 0);
    fs::write(at("a"), [2; 4000]).unwrap();
    fs::write(at("b"), [1]).unwrap();
    assert_eq!(errno(fs::write(at("c"), [1])), libc::ENOSPC);
    fs.full(None).unwrap();
    fs::write(at("c"), [1]).unwrap();
}

/// A lying fsync reports success and a crash finds out.
#[test]
fn a_lying_fsync() {
    let Some(fs) = start() else { return };
    fs.lie_fsync().unwrap();
    write_synced(&fs.path().join("file"), b"bytes").unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(names(fs.path()), BTreeSet::new());
    write_synced(&fs.path().join("file"), b"bytes").unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(fs::read(fs.path().join("file")).unwrap(), b"bytes", "the lie outlived the reboot");
}

/// After a failed fsync the next one succeeds and the bytes are lost all the same; only writing them again helps.
#[test]
fn retrying_a_failed_fsync_does_not_help() {
    let Some(fs) = start() else { return };
    let (retried, rewritten) = (fs.path().join("retried"), fs.path().join("rewritten"));
    for path in [&retried, &rewritten] {
        let mut file = File::create(path).unwrap();
        file.write_all(b"bytes").unwrap();
        fs.fail(Op::Fsync, 1, libc::EIO).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EIO);
        if path == &rewritten {
            file.write_all_at(b"bytes", 0).unwrap();
        }
        file.sync_all().unwrap();
    }
    assert_eq!(fs::read(&retried).unwrap(), b"bytes", "readable until the crash");
    fs.reboot(Survive::Everything).unwrap();
    assert_eq!(fs::read(&retried).unwrap(), b"");
    assert_eq!(fs::read(&rewritten).unwrap(), b"bytes");
}

/// One bit of one read is wrong, the file is not.
#[test]
fn a_corrupt_read() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    fs::write(&path, [7; 100]).unwrap();
    let file = File::open(&path).unwrap();
    fs.corrupt_read(2).unwrap();
    let mut reads = [[0; 100]; 3];
    for found in &mut reads {
        file.read_exact_at(found, 0).unwrap();
    }
    assert_eq!((reads[0], reads[2]), ([7; 100], [7; 100]));
    let flipped: u32 = reads[1].iter().map(|byte| (byte ^ 7).count_ones()).sum();
    assert_eq!(flipped, 1);
}

/// A stage that another client removed fails the way it was measured on GlusterFS.
#[test]
fn removed_behind_our_back() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir_all(at("stage.1/dir")).unwrap();
    fs::create_dir(at("data")).unwrap();
    fs::write(at("data/p"), "p").unwrap();
    let held = File::create(at("stage.1/x")).unwrap();
    let stage = rustix::fs::open(at("stage.1"), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    let data = rustix::fs::open(at("data"), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    fs.remove_behind("stage.1").unwrap();
    assert_eq!(names(fs.path()), ["data"].map(String::from).into());
    assert_eq!(rustix::fs::renameat(&stage, "x", &data, "p"), Err(Errno::NOENT));
    assert_eq!(rustix::fs::renameat(&data, "p", &stage, "y"), Err(Errno::NOENT));
    assert_eq!(rustix::fs::renameat(&stage, "dir", &data, "dir"), Err(Errno::NOENT));
    let create = rustix::fs::openat(&stage, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
    assert_eq!(create.err(), Some(Errno::STALE));
    assert_eq!(rustix::fs::mkdirat(&stage, "new", Mode::RWXU), Err(Errno::STALE));
    assert_eq!(errno(held.write_at(b"late", 0)), libc::ESTALE);
    assert_eq!(errno(held.sync_all()), libc::ESTALE);
    assert_eq!(fs::read(at("data/p")).unwrap(), b"p");
    assert!(fs.remove_behind("stage.1").is_err());
}

/// A killed server is the kernel's ENOTCONN, and the guard still cleans up.
#[test]
fn a_killed_server() {
    let Some(mut fs) = start() else { return };
    fs::write(fs.path().join("file"), "x").unwrap();
    fs.kill().unwrap();
    assert_eq!(errno(fs::metadata(fs.path().join("file"))), libc::ENOTCONN);
    assert!(fs.status().is_err());
    let path = fs.path().to_owned();
    drop(fs);
    assert!(!path.exists(), "the mount was left behind");
}

/// Many threads at once: nothing is lost and every request has its own number.
#[test]
fn many_threads() {
    let Some(fs) = start() else { return };
    thread::scope(|scope| {
        for worker in 0..6 {
            let dir = fs.path().join(worker.to_string());
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                for i in 0..50 {
                    write_synced(&dir.join("tmp"), &[worker; 5000]).unwrap();
                    fs::rename(dir.join("tmp"), dir.join(i.to_string())).unwrap();
                }
            });
        }
    });
    fs.reboot(Survive::OnlySynced).unwrap();
    for worker in 0..6 {
        let dir = fs.path().join(worker.to_string());
        assert!(names(&dir).len() >= 50);
        assert_eq!(fs::read(dir.join("0")).unwrap(), [worker; 5000]);
    }
}

/// A round of a crash test is cheap: restore, some hundred calls, crash, reboot, look.
#[test]
fn a_round_is_cheap() {
    let Some(fs) = start() else { return };
    const ROUNDS: u32 = 100;
    for dir in 0..20 {
        fs::create_dir(fs.path().join(format!("{dir}"))).unwrap();
        for file in 0..20 {
            fs::write(fs.path().join(format!("{dir}/{file}")), [1; 6000]).unwrap();
        }
    }
    fs.snapshot("prepared").unwrap();
    let (mut restore, mut reboot) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    for round in 0..ROUNDS {
        let mark = Instant::now();
        fs.restore("prepared").unwrap();
        restore += mark.elapsed();
        fs.crash_at(u64::from(100 + round), When::After).unwrap();
        let mut crashed = false;
        for i in 0..100 {
            let (tmp, place) = (fs.path().join("tmp"), fs.path().join(format!("{}/{i}", i % 20)));
            crashed |= write_synced(&tmp, &[2; 6000]).and_then(|()| fs::rename(&tmp, &place)).is_err();
            if crashed {
                break;
            }
        }
        assert!(crashed);
        let mark = Instant::now();
        fs.reboot(Survive::Seeded(round.into())).unwrap();
        reboot += mark.elapsed();
        assert_eq!(names(fs.path()).len() - usize::from(fs.path().join("tmp").exists()), 20);
    }
    let each = |total: Duration| total / ROUNDS;
    eprintln!(
        "round {:?}, of which restore {:?}, reboot {:?}",
        each(began.elapsed()),
        each(restore),
        each(reboot)
    );
    assert!(each(restore) + each(reboot) < Duration::from_millis(50), "restore and reboot have become slow");
}

/// Opened for appending and synchronously: each write is durable without an fsync.
#[test]
fn synchronous_writes_are_durable() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("log");
    let mut log =
        OpenOptions::new().append(true).create(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    log.write_all(b"one").unwrap();
    log.write_all(b"two").unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"onetwo");
}
