//! A real kernel: each test is root in a mount namespace of its own, which takes its mounts with it when it ends.
//!
//! The oracle is the kernel's answer to plain calls; the sick mounts are FUSE connections that nobody serves.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{env, thread};

use fsprobe::{FsKind, MirrorError, MirrorSpec, MountIdentity, PinnedMount};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, mount_remount, unmount};

/// Set in the copy of this program that runs inside the namespace.
const INSIDE: &str = "FSPROBE_TEST_INSIDE";

/// Runs `body` in a private mount namespace: by starting this test again under `unshare -m`.
fn in_own_mounts(name: &str, body: fn(&Path)) {
    if env::var_os(INSIDE).is_some() {
        let dir = tempfile::tempdir().unwrap();
        // A scratch filesystem, so that the mounts below sit on something that is known.
        mount("scratch", dir.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        body(dir.path());
        unmount(dir.path(), UnmountFlags::DETACH).unwrap();
        return;
    }
    let able = Command::new("unshare").args(["--mount", "true"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        skip(name, "needs root and unshare(1), for a mount namespace");
        return;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "the test was not found by its name: {text}");
    text.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| eprintln!("{line}"));
}

fn skip(name: &str, reason: &str) {
    assert!(
        env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{name} may not be skipped: {reason}"
    );
    eprintln!("SKIPPED {name}: {reason}");
}

macro_rules! mount_tests {
    ($($(#[$meta:meta])* fn $name:ident($base:ident) $body:block)*) => { $(
        $(#[$meta])*
        #[test]
        fn $name() {
            fn body($base: &Path) $body
            in_own_mounts(stringify!($name), body);
        }
    )* };
}

fn open(path: &Path) -> Result<PinnedMount, MirrorError> {
    MirrorSpec::new(path).fstab(Path::new("/does/not/exist")).open()
}

fn tmpfs(source: &str, at: &Path) {
    fs::create_dir_all(at).unwrap();
    mount(source, at, "tmpfs", MountFlags::empty(), None).unwrap();
}

/// A FUSE mount whose daemon is us, and never answers. Closing the connection is the daemon's death.
fn silent_fuse(at: &Path) -> File {
    fs::create_dir_all(at).unwrap();
    let connection = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", connection.as_raw_fd());
    let options = CString::new(options).unwrap();
    mount("vm1:/vol", at, "fuse.glusterfs", MountFlags::empty(), options.as_c_str()).unwrap();
    connection
}

/// A child that does not outlive its test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every file and directory below, to show that nothing was written.
fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

mount_tests! {
    fn a_mirror_that_is_not_there_yet_is_pinned_by_its_parent(base) {
        tmpfs("disk", &base.join("m"));
        fs::create_dir(base.join("m/team")).unwrap();

        let pinned = open(&base.join("m/team/blue")).unwrap();

        assert_eq!(pinned.name(), Some(OsStr::new("blue")));
        assert!(!pinned.is_mount_root());
        assert_eq!(pinned.kind(), &FsKind::Local("tmpfs".into()));
        assert_eq!(pinned.dir_path(), base.join("m/team"));
        assert_eq!(pinned.identity(), &MountIdentity {
            fstype: "tmpfs".into(), source: "disk".into(), mountpoint: base.join("m"), root: "/".into(),
        });
        let held = rustix::fs::fstat(pinned.dir()).unwrap();
        assert_eq!(held.st_ino, fs::metadata(base.join("m/team")).unwrap().ino());
        rustix::fs::mkdirat(pinned.dir(), "blue", rustix::fs::Mode::RWXU).unwrap();
        rustix::fs::fsync(pinned.dir()).unwrap();
        assert!(base.join("m/team/blue").is_dir());
        pinned.still_there().unwrap();

        let again = open(&base.join("m//team/./blue/")).unwrap();
        assert_eq!((again.name(), again.dir_path()), (pinned.name(), pinned.dir_path()));
    }

    fn a_mirror_that_is_the_root_of_its_mount_is_held_itself(base) {
        tmpfs("disk", &base.join("m"));
        let pinned = open(&base.join("m")).unwrap();
        assert!(pinned.is_mount_root());
        assert_eq!(pinned.name(), None);
        assert_eq!(pinned.dir_path(), base.join("m"));
        assert_eq!(pinned.identity().source, "disk");
    }

    fn a_bind_mount_is_known_by_its_root(base) {
        fs::create_dir_all(base.join("real/part")).unwrap();
        fs::create_dir(base.join("m")).unwrap();
        mount_bind(base.join("real/part"), base.join("m")).unwrap();
        let pinned = open(&base.join("m/blue")).unwrap();
        assert_eq!(pinned.identity().root, "/real/part");
        assert_eq!(pinned.identity().mountpoint, base.join("m"));
    }

    /// P4: the classic of cron and rsync. The mount is gone, and the bare directory below it has the same tree.
    fn a_missing_mount_is_named_and_nothing_lands_below_it(base) {
        let m = base.join("m");
        fs::create_dir_all(m.join("team/blue")).unwrap();
        tmpfs("vm1:/vol", &m);
        fs::create_dir_all(m.join("team/blue")).unwrap();
        let pinned = open(&m.join("team/blue")).unwrap();
        let identity = pinned.identity().clone();

        unmount(&m, UnmountFlags::DETACH).unwrap();

        let error = MirrorSpec::new(&m.join("team/blue")).expect(identity.clone()).open().unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, MirrorError::WrongMount { found, .. } if found.source == "scratch"), "{error:?}");
        assert!(text.starts_with(&format!("the mount is missing: {} is now a bare directory on scratch (tmpfs); \
            expected tmpfs vm1:/vol. Mount it: `mount {}`", m.display(), m.display())), "{text}");

        let error = pinned.still_there().unwrap_err();
        assert!(matches!(error, MirrorError::WrongMount { .. }), "{error:?}");
        // What is held still is the detached mount, not the directory below.
        rustix::fs::mkdirat(pinned.dir(), "late", rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(listing(&m.join("team")), [m.join("team/blue")]);

        // Also where the bare directory is empty, and the mirror's parent went away with the mount.
        fs::remove_dir_all(m.join("team")).unwrap();
        let error = MirrorSpec::new(&m.join("team/blue")).expect(identity).open().unwrap_err();
        assert!(matches!(error, MirrorError::WrongMount { .. }), "{error:?}");
        assert_eq!(listing(&m), Vec::<PathBuf>::new());
    }

    fn another_filesystem_on_the_same_mountpoint_is_refused(base) {
        let m = base.join("m");
        tmpfs("vm1:/vol", &m);
        let pinned = open(&m.join("blue")).unwrap();
        tmpfs("vm1:/other", &m);
        for error in [
            pinned.still_there().unwrap_err(),
            MirrorSpec::new(&m.join("blue")).expect(pinned.identity().clone()).open().unwrap_err(),
        ] {
            assert!(matches!(&error, MirrorError::WrongMount { found, .. } if found.source == "vm1:/other"));
            assert!(error.to_string().contains("another mount than before"), "{error}");
        }
    }

    fn a_mount_that_hides_the_mirror_is_refused(base) {
        let m = base.join("m");
        tmpfs("vm1:/vol", &m);
        fs::create_dir(m.join("team")).unwrap();
        let pinned = open(&m.join("team/blue")).unwrap();
        tmpfs("over", &m.join("team"));
        let error = pinned.still_there().unwrap_err();
        assert!(error.to_string().contains("hides the mount"), "{error}");
    }

    fn the_same_filesystem_mounted_anew_has_to_be_opened_anew(base) {
        let m = base.join("m");
        tmpfs("vm1:/vol", &m);
        let pinned = open(&m.join("blue")).unwrap();
        let identity = pinned.identity().clone();
        unmount(&m, UnmountFlags::DETACH).unwrap();
        tmpfs("vm1:/vol", &m);
        assert!(matches!(pinned.still_there(), Err(MirrorError::Remounted { .. })));
        let fresh = MirrorSpec::new(&m.join("blue")).expect(identity).open().unwrap();
        fresh.still_there().unwrap();
    }

    fn a_mount_that_was_moved_away_is_noticed(base) {
        let m = base.join("m");
        tmpfs("vm1:/vol", &m);
        fs::create_dir(base.join("elsewhere")).unwrap();
        let pinned = open(&m.join("blue")).unwrap();
        mount_move(&m, base.join("elsewhere")).unwrap();
        assert!(matches!(pinned.still_there(), Err(MirrorError::WrongMount { .. })));
    }

    fn a_read_only_mount_is_refused(base) {
        let m = base.join("m");
        tmpfs("disk", &m);
        let pinned = open(&m.join("blue")).unwrap();
        mount_remount(&m, MountFlags::RDONLY, "").unwrap();
        assert!(matches!(pinned.still_there(), Err(MirrorError::ReadOnly { .. })));
        let error = open(&m.join("blue")).unwrap_err();
        assert!(error.to_string().contains("mount -o remount,rw"), "{error}");
    }

    fn what_the_fstab_wants_mounted_must_be_mounted_the_first_time(base) {
        let m = base.join("m");
        fs::create_dir_all(m.join("team")).unwrap();
        fs::create_dir(base.join("links")).unwrap();
        symlink(&m, base.join("links/m")).unwrap();
        let fstab = base.join("fstab");
        let open = |path: PathBuf| MirrorSpec::new(&path).fstab(&fstab).open();

        for line in [m.clone(), m.join("team"), m.join("team/blue"), m.join("not/made")] {
            fs::write(&fstab, format!("/dev/sda1 / ext4 defaults 0 1\nvm1:/vol {} glusterfs _netdev 0 0\n", line.display()))
                .unwrap();
            let path = if line.ends_with("not/made") { line.join("blue") } else { m.join("team/blue") };
            let error = open(path).unwrap_err();
            assert!(matches!(&error, MirrorError::NotMounted { wanted, .. } if wanted.mountpoint == line), "{error:?}");
            assert!(error.to_string().contains(&format!("mount {}", line.display())), "{error}");
        }

        // By a symlink to it, or written in the fstab as a symlink.
        fs::write(&fstab, format!("vm1:/vol {} glusterfs\n", m.display())).unwrap();
        assert!(matches!(open(base.join("links/m/blue")), Err(MirrorError::NotMounted { .. })));
        fs::write(&fstab, format!("vm1:/vol {} glusterfs\n", base.join("links/m").display())).unwrap();
        assert!(matches!(open(base.join("links/m/blue")), Err(MirrorError::NotMounted { .. })));

        // Once mounted, and for lines about other places, there is nothing to say.
        fs::write(&fstab, format!("vm1:/vol {0} glusterfs\nx {0}/other y\nz {1} swap\n", m.display(), base.join("links/m").display()))
            .unwrap();
        tmpfs("vm1:/vol", &m);
        open(m.join("blue")).unwrap();
        open(base.join("links/m/blue")).unwrap();
    }

    fn the_path_given_must_make_sense(base) {
        fs::write(base.join("file"), "").unwrap();
        for path in ["/", "relative/blue", "/mnt/../etc"] {
            assert!(matches!(open(Path::new(path)), Err(MirrorError::InvalidPath { .. })), "{path}");
        }
        assert!(matches!(open(&base.join("no/blue")), Err(MirrorError::ParentMissing { parent, .. }) if parent == base.join("no")));
        assert!(matches!(open(&base.join("file")), Err(MirrorError::NotADirectory { .. })));
        assert!(matches!(open(&base.join("file/blue")), Err(MirrorError::NotADirectory { .. })));
    }

    /// A10: a symlink planted as a component is refused unless root planted it where nobody else could have.
    fn symlinks_are_followed_only_when_nobody_else_can_have_planted_them(base) {
        const NOBODY: u32 = 65534;
        tmpfs("disk", &base.join("m"));
        fs::create_dir_all(base.join("m/team")).unwrap();
        fs::create_dir(base.join("in")).unwrap();
        let link = base.join("in/link");

        for target in [base.join("m/team"), PathBuf::from("../m/./team/"), PathBuf::from("../in/../m/team")] {
            symlink(&target, &link).unwrap();
            let pinned = open(&link.join("blue")).unwrap();
            assert_eq!(pinned.dir_path(), base.join("m/team"), "{target:?}");
            // As the last component it is the mirror's place that it names, there or not yet.
            fs::remove_file(&link).unwrap();
            symlink(target.join("blue"), &link).unwrap();
            let pinned = open(&link).unwrap();
            assert_eq!((pinned.dir_path(), pinned.name()), (base.join("m/team").as_path(), Some(OsStr::new("blue"))));
            fs::remove_file(&link).unwrap();
        }

        symlink(base.join("m/team"), &link).unwrap();
        lchown(&link, Some(NOBODY), None).unwrap();
        assert!(matches!(open(&link.join("blue")), Err(MirrorError::ForeignSymlink { owner: NOBODY, .. })));
        assert!(matches!(open(&link), Err(MirrorError::ForeignSymlink { .. })));
        lchown(&link, Some(0), None).unwrap();

        chown(base.join("in"), Some(NOBODY), None).unwrap();
        assert!(matches!(open(&link.join("blue")), Err(MirrorError::ForeignSymlink { directory_owner: NOBODY, .. })));
        chown(base.join("in"), Some(0), None).unwrap();

        fs::set_permissions(base.join("in"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(open(&link.join("blue")), Err(MirrorError::ForeignSymlink { .. })));
        fs::set_permissions(base.join("in"), fs::Permissions::from_mode(0o1777)).unwrap();
        open(&link.join("blue")).unwrap();

        // Directories of other users are no symlinks: a container's own mirror directory is fine.
        chown(base.join("m/team"), Some(NOBODY), None).unwrap();
        open(&base.join("m/team/blue")).unwrap();

        fs::remove_file(&link).unwrap();
        symlink(&link, &link).unwrap();
        assert!(matches!(open(&link), Err(MirrorError::SymlinkLoop { .. })));
    }

    fn names_with_blanks_and_bytes_that_are_no_text(base) {
        use std::os::unix::ffi::OsStrExt;
        let odd = base.join(OsStr::from_bytes(b"m \t\\\xff\n"));
        tmpfs("vm1:/a b", &odd);
        let pinned = open(&odd.join("blue")).unwrap();
        assert_eq!(pinned.identity().mountpoint, odd);
        let text = serde_json::to_string(pinned.identity()).unwrap();
        let remembered: MountIdentity = serde_json::from_str(&text).unwrap();
        MirrorSpec::new(&odd.join("blue")).expect(remembered).open().unwrap();
    }

    /// P7: a FUSE client that never answers costs the deadline and no more, and the error names the mount.
    fn a_silent_mount_costs_its_deadline_and_no_more(base) {
        let m = base.join("m");
        let connection = silent_fuse(&m);
        let begin = Instant::now();
        for _ in 0..6 {
            let error = MirrorSpec::new(&m.join("team/blue"))
                .fstab(Path::new("/does/not/exist")).deadline(Duration::from_millis(200)).open().unwrap_err();
            assert!(matches!(&error, MirrorError::NotAnswering { mountpoint, .. } if *mountpoint == m), "{error:?}");
            assert!(error.to_string().contains("waited 0."), "{error}");
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        drop(connection);
    }

    fn a_mount_whose_daemon_died_is_disconnected(base) {
        let m = base.join("m");
        drop(silent_fuse(&m));
        assert_eq!(fs::read_dir(&m).unwrap_err().kind(), ErrorKind::NotConnected);
        for path in [m.clone(), m.join("blue"), m.join("team/blue")] {
            let error = open(&path).unwrap_err();
            assert!(matches!(&error, MirrorError::Disconnected { mountpoint, .. } if *mountpoint == m), "{error:?}");
            assert!(error.to_string().contains("umount -l"), "{error}");
        }
    }

    /// A real GlusterFS client, with one brick's storage in the same process: healthy, frozen, thawed, dead.
    fn a_gluster_client_in_health_and_sickness(base) {
        if !Command::new("glusterfs").arg("--version").output().is_ok_and(|output| output.status.success()) {
            return skip("a_gluster_client_in_health_and_sickness", "needs the program glusterfs");
        }
        let (m, volfile) = (base.join("m"), base.join("vol"));
        fs::create_dir(&m).unwrap();
        // Not on tmpfs, which had no user xattrs before 6.6: the storage wants some.
        let disk = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(disk.path().join("team")).unwrap();
        fs::write(&volfile, format!("volume p\ntype storage/posix\noption directory {}\nend-volume\n", disk.path().display()))
            .unwrap();
        let mut client = Command::new("glusterfs");
        client.arg("-N").arg("-f").arg(&volfile).arg("-l").arg(base.join("log")).arg(&m);
        let mut client = Daemon(client.spawn().unwrap());
        let signal = |signal| {
            let pid = rustix::process::Pid::from_raw(i32::try_from(client.0.id()).unwrap()).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
        };
        let begin = Instant::now();
        while fs::metadata(m.join("team")).is_err() {
            let log = || fs::read_to_string(base.join("log"));
            assert!(begin.elapsed() < Duration::from_secs(30), "not mounted: {:?}", log());
            thread::yield_now();
        }

        let pinned = open(&m.join("team/blue")).unwrap();
        assert_eq!(pinned.kind(), &FsKind::Gluster);
        assert_eq!(pinned.identity().fstype, "fuse.glusterfs");
        assert!(open(&m).unwrap().is_mount_root());
        rustix::fs::mkdirat(pinned.dir(), "blue", rustix::fs::Mode::RWXU).unwrap();
        assert!(disk.path().join("team/blue").is_dir());

        let sick = || {
            let spec = MirrorSpec::new(&m.join("team/blue")).expect(pinned.identity().clone());
            spec.deadline(Duration::from_millis(300)).open()
        };
        signal(rustix::process::Signal::STOP);
        let begin = Instant::now();
        let error = sick().unwrap_err();
        assert!(matches!(error, MirrorError::NotAnswering { .. }), "{error:?}");
        // Asked of the kernel alone, so that a frozen client does not matter.
        pinned.still_there().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        signal(rustix::process::Signal::CONT);
        MirrorSpec::new(&m.join("team/blue")).expect(pinned.identity().clone()).open().unwrap();

        signal(rustix::process::Signal::KILL);
        client.0.wait().unwrap();
        let error = sick().unwrap_err();
        assert!(matches!(error, MirrorError::Disconnected { .. }), "{error:?}");
        pinned.still_there().unwrap();
        unmount(&m, UnmountFlags::DETACH).unwrap();
        let error = sick().unwrap_err();
        assert!(error.to_string().contains("the mount is missing"), "{error}");
        assert!(matches!(pinned.still_there(), Err(MirrorError::WrongMount { .. })));
        assert_eq!(listing(&m), Vec::<PathBuf>::new());
    }

    /// The knock is a process: whatever it did, it holds nothing of the mount afterwards, and neither do we.
    fn a_dropped_mirror_lets_go_of_its_mount(base) {
        let m = base.join("m");
        tmpfs("disk", &m);
        drop(open(&m.join("blue")).unwrap());
        // The opening thread has sent its answer, and may not have ended yet.
        let begin = Instant::now();
        while unmount(&m, UnmountFlags::empty()).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "something still holds the mount");
            thread::yield_now();
        }
    }

    /// Mounts come and go while mirrors are opened: the answer is one of the two mounts or a refusal, and what is
    /// held is always on the mount that the identity names.
    fn opening_races_with_mounting(base) {
        let m = base.join("m");
        fs::create_dir(&m).unwrap();
        thread::scope(|scope| {
            let mounting = scope.spawn(|| for _ in 0..200 {
                mount("vm1:/vol", &m, "tmpfs", MountFlags::empty(), None).unwrap();
                unmount(&m, UnmountFlags::DETACH).unwrap();
            });
            let mut seen = 0;
            while !mounting.is_finished() || seen == 0 {
                match open(&m.join("blue")) {
                    Ok(pinned) => {
                        seen += 1;
                        let dev = rustix::fs::fstat(pinned.dir()).unwrap().st_dev;
                        let scratch = fs::metadata(base).unwrap().dev();
                        let expected = if dev == scratch { "scratch" } else { "vm1:/vol" };
                        assert_eq!(pinned.identity().source, expected);
                    }
                    Err(MirrorError::MountsMoved { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
}
