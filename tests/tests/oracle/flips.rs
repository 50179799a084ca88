//! The attack helpers: flips are fast, end where they began, and the canary notices everything.

use harness::flip::{Canary, FlipMaker};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// In memory where possible: exchanges there are as fast as the kernel can do them.
fn home() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

#[test]
fn a_leaf_flips_between_file_and_symlink() {
    let home = home();
    let canary = Canary::plant(&home.path().join("outside")).unwrap();
    let leaf = home.path().join("leaf");
    fs::write(&leaf, "harmless").unwrap();
    let flipper = FlipMaker::of(&leaf).symlink_to(&canary.secret()).unwrap().start().unwrap();
    let (mut files, mut links) = (0u64, 0u64);
    let start = Instant::now();
    while flipper.flips() < 100_000 || files == 0 || links == 0 {
        let stat = leaf.symlink_metadata().expect("there is no instant without the name");
        if stat.is_symlink() {
            links += 1
        } else {
            files += 1
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{} flips", flipper.flips());
    }
    let rate = flipper.flips() as f64 / start.elapsed().as_secs_f64();
    let flips = flipper.stop().unwrap();
    println!("{flips} flips, {rate:.0} per second; seen as file {files} times, as symlink {links} times");
    assert!(flips.is_multiple_of(2));
    assert_eq!(fs::read(&leaf).unwrap(), b"harmless");
    assert!(leaf.symlink_metadata().unwrap().is_file());
    canary.assert_untouched();
}

/// Control: a reader that checks first and opens later does leak, so an attack that finds nothing proves something.
#[test]
fn a_careless_reader_is_caught() {
    let home = home();
    let canary = Canary::plant(&home.path().join("outside")).unwrap();
    let (leaf, mirror) = (home.path().join("leaf"), home.path().join("mirror"));
    fs::write(&leaf, "harmless").unwrap();
    fs::create_dir(&mirror).unwrap();
    let flipper = FlipMaker::of(&leaf).symlink_to(&canary.secret()).unwrap().start().unwrap();
    let start = Instant::now();
    while canary.find_in(&mirror).unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "not leaked after {} flips", flipper.flips());
        if leaf.symlink_metadata().unwrap().is_file() {
            fs::write(mirror.join("leaf"), fs::read(&leaf).unwrap()).unwrap();
        }
    }
    println!("leaked after {} flips", flipper.stop().unwrap());
    canary.assert_untouched();
}

#[test]
fn a_parent_flips_to_a_directory_outside() {
    let home = home();
    let names: Vec<Vec<u8>> = (0..64).map(|i| format!("f{i}").into_bytes()).collect();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let canary = Canary::plant_names(&home.path().join("outside"), &names).unwrap();
    let parent = home.path().join("parent");
    fs::create_dir(&parent).unwrap();
    for i in 0..64 {
        fs::write(parent.join(format!("f{i}")), "inside").unwrap();
    }
    let hidden = home.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    let flipper =
        FlipMaker::of(&parent).hidden_in(&hidden).symlink_to(canary.dir()).unwrap().start().unwrap();
    let start = Instant::now();
    let (mut inside, mut outside) = (0, 0);
    while inside == 0 || outside == 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        if fs::read(parent.join("f63")).unwrap() == b"inside" { inside += 1 } else { outside += 1 }
    }
    drop(flipper);
    assert!(parent.symlink_metadata().unwrap().is_dir());
    canary.assert_untouched();
    canary.assert_not_in(&parent);
}

#[test]
fn one_name_is_file_directory_fifo_and_symlink_in_turn() {
    let home = home();
    let name = home.path().join("name");
    fs::write(&name, "first").unwrap();
    let maker = FlipMaker::of(&name)
        .directory()
        .unwrap()
        .fifo()
        .unwrap()
        .symlink_to(Path::new("/etc/shadow"))
        .unwrap();
    let flipper = maker.start().unwrap();
    let mut seen = std::collections::HashSet::new();
    let start = Instant::now();
    while seen.len() < 4 {
        seen.insert(name.symlink_metadata().unwrap().file_type());
        assert!(start.elapsed() < Duration::from_secs(60), "{seen:?}");
    }
    flipper.wait_for(1000, Duration::from_secs(60));
    assert!(flipper.stop().unwrap() >= 1000);
    assert_eq!(fs::read(&name).unwrap(), b"first");
}

/// Each touch is one that a wrong copier could make; every one must be noticed.
#[test]
fn the_canary_notices_every_touch() {
    type Touch = (&'static str, fn(&Canary));
    let touches: [Touch; 10] = [
        ("content", |c| fs::write(c.secret(), "x").unwrap()),
        ("same mode", |c| fs::set_permissions(c.secret(), fs::Permissions::from_mode(0o600)).unwrap()),
        ("same owner", |c| std::os::unix::fs::lchown(c.secret(), None, Some(0)).unwrap()),
        ("mtime", |c| harness::trees::set_mtime(&c.secret(), (1, 1)).unwrap()),
        ("xattr", |c| {
            rustix::fs::lsetxattr(c.secret(), "user.x", b"", rustix::fs::XattrFlags::empty()).unwrap()
        }),
        ("link", |c| fs::hard_link(c.secret(), c.dir().with_extension("link")).unwrap()),
        ("extra", |c| fs::write(c.dir().join("new"), "").unwrap()),
        ("removed", |c| fs::remove_file(c.secret()).unwrap()),
        ("replaced", |c| {
            let old = fs::read(c.secret()).unwrap();
            fs::remove_file(c.secret()).unwrap();
            fs::write(c.secret(), old).unwrap();
        }),
        ("mode of the directory", |c| {
            fs::set_permissions(c.dir(), fs::Permissions::from_mode(0o700)).unwrap()
        }),
    ];
    for (what, touch) in touches {
        let home = TempDir::new().unwrap();
        let canary = Canary::plant(&home.path().join("outside")).unwrap();
        fs::read(canary.secret()).unwrap();
        canary.assert_untouched();
        touch(&canary);
        assert!(canary.check().is_err(), "{what} went unnoticed");
    }
}

#[test]
fn the_marker_is_found_wherever_it_is() {
    let home = home();
    let canary = Canary::plant(&home.path().join("outside")).unwrap();
    let tree = home.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    std::os::unix::fs::symlink(canary.secret(), tree.join("a/link")).unwrap();
    fs::write(tree.join("a/half"), &canary.marker()[..canary.marker().len() - 1]).unwrap();
    canary.assert_not_in(&tree);
    // Across the border of what is read at once.
    let mut large = vec![b'c'; (1 << 20) - 7];
    large.extend_from_slice(canary.marker());
    large.extend_from_slice(&[0; 5000]);
    fs::write(tree.join("a/b/large"), large).unwrap();
    fs::write(tree.join("a/attr"), "").unwrap();
    rustix::fs::lsetxattr(tree.join("a/attr"), "user.y", canary.marker(), rustix::fs::XattrFlags::empty())
        .unwrap();
    fs::create_dir(tree.join(format!("only-{}", String::from_utf8_lossy(canary.marker())))).unwrap();
    let found = canary.find_in(&tree).unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
}
