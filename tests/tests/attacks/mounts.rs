//! A11: mounts inside the volume are not crossed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::faultfs::{FaultFs, Op};
use harness::gate::{Need, require};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::ExceptionClass;

use super::{Field, mkdir, write};

/// Unmounted when dropped, whatever happened.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn bind(from: &Path, at: &Path) -> Self {
        mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        Self(at.to_owned())
    }

    pub fn tmpfs(at: &Path) -> Self {
        mount(Some("attack"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        Self(at.to_owned())
    }

    pub fn proc(at: &Path) -> Self {
        mount(Some("proc"), at, Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

/// A11: procfs, a tmpfs and bind mounts of a directory, of a single file and of the volume itself.
///
/// Fails on a weakened build: `refuse` without its line for mounts and `Dir::open_as` without `NO_XDEV`.
#[test]
fn mounts_are_not_crossed() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    for dir in ["proc", "tmpfs", "bind", "again", "kept"] {
        mkdir(&field.at(dir));
        write(&field.at(dir).join("below"), "covered by the mount");
    }
    write(&field.at("file"), "covered by the mount");
    field.sync();
    {
        let mounted = [
            Mounted::proc(&field.at("proc")),
            Mounted::tmpfs(&field.at("tmpfs")),
            Mounted::bind(field.canary.dir(), &field.at("bind")),
            Mounted::bind(&field.canary.secret(), &field.at("file")),
            // The same file system, even the same tree: only the mount id tells.
            Mounted::bind(&field.site.volume, &field.at("again")),
        ];
        write(&field.at("tmpfs/inside"), "inside");
        write(&field.at("kept/new"), "new");
        for _ in 0..2 {
            let report = field.sync_within(Duration::from_secs(10));
            assert_eq!(report.totals.left_out, 5, "{:?}", field.exceptions());
        }
        for path in ["proc", "tmpfs", "bind", "file", "again"] {
            let (class, reason) = field.exception(path);
            assert_eq!(
                (class, reason.as_str()),
                (ExceptionClass::LeftOut, "another file system is mounted here")
            );
        }
        // What is covered still exists, so its copy stays.
        assert_eq!(std::fs::read(field.copy("bind/below")).unwrap(), b"covered by the mount");
        assert_eq!(std::fs::read(field.copy("kept/new")).unwrap(), b"new");
        assert!(!field.copy("tmpfs/inside").exists());
        drop(mounted);
    }
    field.assert_unharmed();
    assert_eq!(field.exceptions(), []);
}

/// A11 as a race: a bind mount of the canary comes and goes on a directory with the same names.
///
/// Fails on a weakened build: as `mounts_are_not_crossed`.
#[test]
fn a_mount_comes_and_goes() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut field = Field::with_names(&[b"a", b"b", b"c"]);
    let dir = field.at("dir");
    mkdir(&dir);
    for name in ["a", "b", "c"] {
        write(&dir.join(name), "harmless");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let from = field.canary.dir().to_owned();
    std::thread::scope(|scope| {
        let mounter = scope.spawn(|| {
            let mut mounts = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(Mounted::bind(&from, &dir));
                mounts += 1;
            }
            mounts
        });
        let stopping = super::races::Finally(&stop);
        field.sync_under_attack(|_, _| {});
        drop(stopping);
        assert!(mounter.join().unwrap() > 100);
    });
    field.assert_unharmed();
}

/// C4: a FUSE file system inside the volume answers nothing any more.
///
/// Fails on a weakened build: `LOOK` without what keeps `statx` from asking the server, `refuse` without its line
/// for mounts.
#[test]
fn a_fuse_mount_blocks() {
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let disk = FaultFs::start().unwrap();
    let field = Field::new();
    mkdir(&field.at("fuse"));
    write(&field.at("fuse-file"), "covered");
    write(&field.at("other"), "content");
    write(&disk.path().join("inside"), "inside");
    let _mounted = [
        Mounted::bind(disk.path(), &field.at("fuse")),
        Mounted::bind(&disk.path().join("inside"), &field.at("fuse-file")),
    ];
    // Every question, the attributes of the mount's own root among them, is held back.
    for op in Op::ALL {
        disk.inject(harness::faultfs::Rule::new(op, harness::faultfs::Action::Stall).every()).unwrap();
    }
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let field = &field;
        scope.spawn(move || {
            let report = field.site.sync().map_err(|e| super::common::crash::chain(&e));
            tell.send(Box::new(report)).is_ok()
        });
        let first = told.recv_timeout(Duration::from_secs(20));
        // Let go before judging: the thread must end in any case.
        let _ = disk.clear_faults();
        let _ = disk.release();
        let report = first.expect("the sync waits for a mount inside the volume").unwrap();
        assert_eq!(report.totals.left_out, 2, "{report:?}");
    });
    assert_eq!(std::fs::read(field.copy("other")).unwrap(), b"content");
    assert!(!field.copy("fuse/inside").exists());
}
