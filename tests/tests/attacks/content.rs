//! F1–F3: sizes and times that lie.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use proto::ExceptionClass;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{Field, write};

fn sparse(path: &Path, size: u64) -> File {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    file.set_len(size).unwrap();
    file
}

fn set_mtime(path: &Path, sec: i64, nsec: i64) -> rustix::io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: Timespec { tv_sec: sec, tv_nsec: nsec } };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// F1: a file of nearly 8 EiB without data takes no time, no space and no memory; smaller sparse files are copied as
/// such.
///
/// Fails on a weakened build: `HOLES_MAX = u64::MAX`, or holes are written as zeros.
#[test]
fn huge_sparse_files() {
    let field = Field::new();
    for (name, size) in [("eight-exbi", i64::MAX as u64 - 4096), ("one-tebi", 1 << 40)] {
        let file = sparse(&field.at(name), size);
        file.write_all_at(b"the only data", size - 100_000).unwrap();
    }
    // 3 GiB with two islands.
    let file = sparse(&field.at("islands"), 3 << 30);
    file.write_all_at(&[1; 4096], 1 << 30).unwrap();
    file.write_all_at(&[2; 100], (2 << 30) + 12_345).unwrap();
    let report = field.sync_within(Duration::from_secs(30));
    assert_eq!(report.totals.quarantined, 2, "{report:?}");
    assert!(report.bytes_sent < 10 << 20, "{report:?}");
    for name in ["eight-exbi", "one-tebi"] {
        let (class, reason) = field.exception(name);
        assert_eq!(class, ExceptionClass::Quarantined);
        assert!(reason.contains("holes"), "{reason}");
        assert!(!field.copy(name).exists());
        std::fs::remove_file(field.at(name)).unwrap();
    }
    assert!(field.copy("islands").metadata().unwrap().blocks() * 512 < 1 << 20, "holes are filled");
    // A known file becomes huge: what the mirror has does not grow with it.
    write(&field.at("grows"), "small");
    field.sync();
    OpenOptions::new().write(true).open(field.at("grows")).unwrap().set_len(1 << 50).unwrap();
    let report = field.sync_within(Duration::from_secs(10));
    assert_eq!(report.totals.quarantined, 1, "{report:?}");
    write(&field.at("grows"), "small again");
    field.assert_unharmed();
}

/// F3: other content under the same size and modification time, in place and by a new inode: the change time, which
/// nobody can set, tells.
///
/// Fails on a weakened build: `RowFacts::compare` ignores ctime and inode (calls them `Same`).
#[test]
fn the_same_size_and_time() {
    let field = Field::new();
    for name in ["in-place", "replaced", "linked"] {
        write(&field.at(name), "content one");
        set_mtime(&field.at(name), 1_600_000_000, 5).unwrap();
    }
    std::fs::hard_link(field.at("linked"), field.at("linked-too")).unwrap();
    field.sync();
    // Old enough for its change time to be trusted.
    std::thread::sleep(Duration::from_millis(150));
    field.sync();
    for name in ["in-place", "linked"] {
        OpenOptions::new().write(true).open(field.at(name)).unwrap().write_all_at(b"content TWO", 0).unwrap();
    }
    write(&field.at("new"), "content TWO");
    std::fs::rename(field.at("new"), field.at("replaced")).unwrap();
    for name in ["in-place", "replaced", "linked"] {
        set_mtime(&field.at(name), 1_600_000_000, 5).unwrap();
    }
    field.sync();
    for name in ["in-place", "replaced", "linked", "linked-too"] {
        assert_eq!(std::fs::read(field.copy(name)).unwrap(), b"content TWO", "{name}");
    }
    field.assert_unharmed();
}

/// F3 within one tick of the clock: written, synced and written again at once, each time with the old times.
///
/// Fails on a weakened build: `RACY_NANOS = 0` with a kernel whose change times have the grain of a tick.
#[test]
fn the_same_tick() {
    let field = Field::new();
    for round in 0..40u32 {
        write(&field.at("file"), format!("{round:08}"));
        set_mtime(&field.at("file"), 1_600_000_000, 5).unwrap();
        field.sync();
        write(&field.at("file"), format!("{:08}", round + 1_000_000));
        set_mtime(&field.at("file"), 1_600_000_000, 5).unwrap();
        field.sync();
        assert_eq!(
            std::fs::read(field.copy("file")).unwrap(),
            format!("{:08}", round + 1_000_000).as_bytes()
        );
    }
    field.assert_unharmed();
}

/// F3: modification times before the year 0, in 1901, in 2446 and beyond are kept, or what the file system made of
/// them is.
///
/// Fails on a weakened build: seconds pass through `u32` or `u64`, or nanoseconds of a negative time change sign.
#[test]
fn times_out_of_this_world() {
    let field = Field::new();
    let times =
        [-62_198_755_200, -2_147_483_649, -1, 0, 4_294_967_296, 15_032_385_535, 253_402_300_800, i64::MAX];
    let mut set = 0;
    for (i, sec) in times.into_iter().enumerate() {
        for (name, is_dir) in [(format!("file-{i}"), false), (format!("dir-{i}"), true)] {
            let path = field.at(&name);
            if is_dir {
                super::mkdir(&path)
            } else {
                write(&path, "content")
            }
            set += u32::from(set_mtime(&path, sec, 999_999_999).is_ok());
        }
    }
    assert!(set >= 12, "only {set} times could be set");
    field.sync();
    field.assert_unharmed();
    let again = field.sync();
    assert!(!again.published, "{again:?}");
}
