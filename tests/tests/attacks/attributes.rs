//! D1–D7: modes, owners, attributes and ACLs as weapons.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::gate::{Need, require};
use harness::trees::sample_acl;
use proto::ExceptionClass;
use rustix::fs::{CWD, Gid, Uid, XattrFlags, chownat, lgetxattr, lsetxattr};

use super::{Field, mkdir, write};

fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let len = lgetxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

/// D1: the container leaves a setuid program of root in the volume; a user of the host finds no way to it, neither in
/// the mirror nor in the stage or trash beside it.
///
/// Fails on a weakened build: `close_tree` gives the mirror's root the mode of the volume's, or the ledger makes its
/// directories with 0755.
#[test]
fn a_setuid_program_cannot_be_reached() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    std::fs::set_permissions(&field.site.volume, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(field.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy("/usr/bin/id", field.at("root-shell")).unwrap();
    std::fs::set_permissions(field.at("root-shell"), PermissionsExt::from_mode(0o4755)).unwrap();
    for _ in 0..2 {
        field.sync();
        assert_eq!(field.copy("root-shell").metadata().unwrap().mode() & 0o7777, 0o4755, "the bits are kept");
        assert_eq!(field.site.mirror.metadata().unwrap().mode() & 0o7777, 0o700);
        // The user can run it where the volume is open to all …
        let run = |path: &Path| {
            use std::os::unix::process::CommandExt;
            Command::new(path).arg("-u").uid(65_534).gid(65_534).output()
        };
        let control = run(&field.at("root-shell")).unwrap();
        assert_eq!(control.stdout, b"0\n", "the control does not work: {control:?}");
        // … and not where the copy is.
        let refused = run(&field.copy("root-shell")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        // Beside the mirror nothing is open to others either.
        for entry in std::fs::read_dir(field.dir.path().join("store")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().mode() & 0o077, 0, "{:?}", entry.path());
        }
        assert_eq!(field.site.state.metadata().unwrap().mode() & 0o077, 0);
        // A changed root of the volume must not open the mirror's.
        std::fs::set_permissions(&field.site.volume, PermissionsExt::from_mode(0o1777)).unwrap();
    }
    field.assert_unharmed();
}

/// D2: file capabilities, of both versions, are dropped and listed.
///
/// Fails on a weakened build: `sys::meta::is_carried` says yes to `security.capability`.
#[test]
fn capabilities_are_dropped() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    // cap_dac_override and others, effective; version 3 has a root id as well.
    let v2: Vec<u8> =
        [0x0200_0001u32, 0xffff_ffff, 0, 0x1ff, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    let v3: Vec<u8> =
        [0x0300_0001u32, 0xffff_ffff, 0, 0x1ff, 0, 100_000].iter().flat_map(|w| w.to_le_bytes()).collect();
    for (name, value) in [("v2", &v2), ("v3", &v3)] {
        write(&field.at(name), "program");
        set(&field.at(name), "security.capability", value).unwrap();
    }
    let report = field.sync();
    assert_eq!(report.totals.left_out, 2, "{report:?}");
    for name in ["v2", "v3"] {
        assert_eq!(get(&field.copy(name), "security.capability"), Err(rustix::io::Errno::NODATA));
        let (class, reason) = field.exception(name);
        assert_eq!(class, ExceptionClass::LeftOut);
        assert!(reason.contains("security.capability"), "{reason}");
    }
    field.assert_unharmed();
}

/// D3: attributes of 64 KiB go to the quarantine whole, on new and known files and directories, and come back when
/// they shrink; many small ones are carried up to the limit.
///
/// Fails on a weakened build: `XATTR_BYTES_MAX` of 1 MiB (carried), or `dir_ops` dropping a directory that cannot be
/// read without a word.
#[test]
fn large_attributes_are_bounded() {
    let field = Field::new();
    let large = vec![b'x'; 64 << 10];
    if set(&field.site.volume, "user.probe", &large).is_err() {
        // tmpfs keeps none before Linux 6.6, and ext4 none of this size.
        let _ = require(&[Need::Kernel(6, 6)]);
        return;
    }
    rustix::fs::removexattr(&field.site.volume, "user.probe").unwrap();
    write(&field.at("known"), "file");
    mkdir(&field.at("known-dir"));
    write(&field.at("known-dir/inside"), "inside");
    write(&field.at("many"), "file");
    for i in 0..500 {
        set(&field.at("many"), &format!("user.attribute-{i}"), &[7; 64]).unwrap();
    }
    field.assert_unharmed();

    write(&field.at("new"), "file");
    mkdir(&field.at("new-dir"));
    let hostile = ["known", "known-dir", "new", "new-dir"];
    for name in hostile {
        set(&field.at(name), "user.large", &large).unwrap();
    }
    for i in 500..2000 {
        set(&field.at("many"), &format!("user.attribute-{i}"), &[7; 64]).unwrap();
    }
    for _ in 0..2 {
        let report = field.sync_within(Duration::from_secs(10));
        let told = field.exceptions();
        for name in hostile.into_iter().chain(["many"]) {
            assert!(told.iter().any(|(path, ..)| path == name), "{name} is not listed: {told:?}");
        }
        assert_eq!(report.totals.quarantined, 5, "{told:?}");
        // What was there stays.
        assert_eq!(std::fs::read(field.copy("known-dir/inside")).unwrap(), b"inside");
    }
    for name in hostile {
        rustix::fs::removexattr(field.at(name), "user.large").unwrap();
    }
    std::fs::remove_file(field.at("many")).unwrap();
    field.assert_unharmed();
}

/// D4: names that act on GlusterFS itself or belong to a privileged container are never written.
///
/// Fails on a weakened build: `is_carried` says yes to `trusted.`.
#[test]
fn privileged_attributes_are_never_written() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    let names =
        ["trusted.gfid", "trusted.afr.dirty", "trusted.glusterfs.volume-id", "trusted.overlay.opaque"];
    write(&field.at("file"), "file");
    mkdir(&field.at("dir"));
    for path in ["file", "dir"] {
        for name in names {
            set(&field.at(path), name, b"0123456789abcdef").unwrap();
        }
        set(&field.at(path), "user.kept", b"kept").unwrap();
    }
    field.sync();
    for path in ["file", "dir"] {
        for name in names {
            assert_eq!(get(&field.copy(path), name), Err(rustix::io::Errno::NODATA), "{path} {name}");
        }
        assert_eq!(get(&field.copy(path), "user.kept").unwrap(), b"kept");
        assert!(field.exception(path).1.contains("trusted.gfid"));
    }
    field.assert_unharmed();
}

/// D5, D7: ACLs that let others in, and owners beyond 31 bits, arrive exactly and on the right inode only.
///
/// Fails on a weakened build: ids pass through `i32`; `apply` sets the ACL before the owner or after the mode.
#[test]
fn acls_and_owners_are_exact() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    for (i, id) in [0, 65_534, 100_000, 1 << 31, 4_000_000_000, u32::MAX - 1].into_iter().enumerate() {
        for (path, is_dir) in [(field.at(&format!("file-{i}")), false), (field.at(&format!("dir-{i}")), true)]
        {
            if is_dir {
                mkdir(&path)
            } else {
                write(&path, "content")
            }
            let ids = (Some(Uid::from_raw(id)), Some(Gid::from_raw(u32::MAX - 1 - id)));
            chownat(CWD, &path, ids.0, ids.1, rustix::fs::AtFlags::empty()).unwrap();
            set(&path, "system.posix_acl_access", &sample_acl(id, 4_000_000_001)).unwrap();
            if is_dir {
                set(&path, "system.posix_acl_default", &sample_acl(4_000_000_002, id)).unwrap();
                write(&path.join("inside"), "inherits");
            }
        }
    }
    write(&field.at("plain"), "has none");
    field.sync();
    assert!(get(&field.copy("plain"), "system.posix_acl_access").is_err());
    assert_eq!(field.copy("file-4").metadata().unwrap().uid(), 4_000_000_000);
    // A malformed ACL the kernel itself refuses: there is none to copy.
    assert!(set(&field.at("plain"), "system.posix_acl_access", b"\x02\0\0\0junk").is_err());
    field.assert_unharmed();
}

/// D6: what nobody may read or change is copied, and stays changeable in the mirror.
///
/// Fails on a weakened build: the copy carries inode flags over, or a mode of 0000 is set before the content.
#[test]
fn unreadable_and_immutable_files_are_copied() {
    if !require(&[Need::Root, Need::Program("chattr")]) {
        return;
    }
    // In memory there are no inode flags.
    let dir = tempfile::tempdir().unwrap();
    let site = super::Site::below(dir.path());
    mkdir(&site.volume.join("closed"));
    write(&site.volume.join("closed/inside"), "inside");
    write(&site.volume.join("none"), "none");
    write(&site.volume.join("immutable"), "immutable");
    for path in ["closed/inside", "none", "closed"] {
        std::fs::set_permissions(site.volume.join(path), PermissionsExt::from_mode(0o000)).unwrap();
    }
    let chattr = |flag: &str| {
        let done = Command::new("chattr").arg(flag).arg(site.volume.join("immutable")).status().unwrap();
        assert!(done.success(), "chattr {flag}");
    };
    chattr("+i");
    let synced = site.sync();
    chattr("-i");
    assert_eq!(synced.unwrap().totals.quarantined, 0);
    // It can be changed and removed in the mirror.
    write(&site.volume.join("immutable"), "changed");
    site.sync().unwrap();
    harness::compare::assert_same(&site.volume, &site.mirror, &harness::compare::Options::default());
    std::fs::remove_file(site.mirror.join("immutable")).unwrap();
}
