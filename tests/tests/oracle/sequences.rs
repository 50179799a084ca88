//! The bounded sequences: how many there are, and that model and kernel agree on them.

use harness::ops::{Model, Name, Op, Seed, Sequences, for_each_sequence};
use std::collections::HashSet;
use std::fs;

#[test]
fn sequences_are_counted_and_shards_are_a_partition() {
    let mut seen = HashSet::new();
    let counts = for_each_sequence(3, |seed, ops| {
        assert!(seen.insert((seed, ops.to_vec())), "visited twice: {seed:?} {ops:?}");
    });
    for (seed, lengths) in &counts.all {
        println!("{seed:?}: {lengths:?} sequences of 1, 2, 3 operations");
    }
    println!("{} in all", counts.total());
    assert_eq!(counts.total(), seen.len() as u64);
    let mut exact = 0;
    for shard in 0..7 {
        Sequences::exactly(3).shard(shard, 7).for_each(|seed, ops| {
            assert!(ops.len() == 3 && seen.contains(&(seed, ops.to_vec())));
            exact += 1;
        });
    }
    assert_eq!(exact, counts.all.iter().map(|(_, lengths)| lengths[2]).sum::<u64>());
    // Every kind of operation occurs.
    for op in Op::all() {
        let name = op.to_string();
        let impossible = matches!(op, Op::Swap(Name(2), Name(3)) | Op::RenameDir(Name(2), Name(3)));
        let used = seen.iter().any(|(_, ops)| ops.contains(&op));
        // Something renamed over its own parent, which is not empty while it is in it.
        let over_parent = matches!(op, Op::RenameDir(Name(3), Name(2)) | Op::RenameFile(Name(3), Name(2)));
        let into_itself = matches!(
            op,
            Op::RenameFile(Name(2), Name(3)) | Op::Link(Name(2), Name(3)) | Op::Link(Name(3), Name(2))
        );
        assert_eq!(used, !(impossible || over_parent || into_itself), "{name}");
    }
}

/// The model against the kernel itself, after every operation of one sequence in twenty (all in the nightly run).
#[test]
fn the_model_agrees_with_the_kernel() {
    let memory = std::path::Path::new("/dev/shm");
    let home = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let all = std::env::var_os("REQUIRE_ALL").is_some();
    let sequences = if all { Sequences::exactly(3) } else { Sequences::exactly(3).shard(3, 20) };
    let mut number = 0;
    let counts = sequences.for_each(|seed, ops| {
        number += 1;
        let dir = home.path().join(number.to_string());
        fs::create_dir(&dir).unwrap();
        seed.build_real(&dir).unwrap();
        let mut model = seed.model();
        for (stamp, op) in (1..).zip(ops) {
            op.apply_real(&dir, stamp).unwrap();
            model.apply(*op, stamp);
            model
                .check(&dir)
                .unwrap_or_else(|difference| panic!("{seed:?} {ops:?} at step {stamp}: {difference}"));
        }
        fs::remove_dir_all(&dir).unwrap();
    });
    println!("{} of {} sequences agree", counts.visited, counts.total());
}

/// What the model calls invalid the kernel refuses, or would mean something else; nothing valid is pruned by mistake.
#[test]
fn what_is_pruned_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut refused = 0;
    let mut number = 0;
    Sequences::up_to(1).for_each(|seed, ops| {
        let mut model = seed.model();
        model.apply(ops[0], 1);
        for op in Op::all().into_iter().filter(|op| !model.is_valid(*op)) {
            number += 1;
            let dir = home.path().join(number.to_string());
            fs::create_dir(&dir).unwrap();
            seed.build_real(&dir).unwrap();
            ops[0].apply_real(&dir, 1).unwrap();
            let outcome = op.apply_real(&dir, 2);
            match op {
                // Valid for the kernel, but no change, or the same operation under its other name.
                Op::Truncate(_) | Op::RenameFile(..) | Op::RenameDir(..) | Op::Swap(..) => {}
                // Through a symlink: another name's operation.
                Op::Chmod(_)
                | Op::Create(_)
                | Op::Mkdir(_)
                | Op::Symlink(_)
                | Op::Write(_)
                | Op::Append(_)
                | Op::Unlink(_)
                | Op::Rmdir(_)
                | Op::Link(..)
                    if goes_through_a_symlink(&dir, op) => {}
                _ => {
                    assert!(outcome.is_err(), "{seed:?}, {}, then {op} was pruned but works", ops[0]);
                    refused += 1;
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    });
    println!("{refused} pruned operations were refused by the kernel");
    assert!(refused > 1000);
}

fn goes_through_a_symlink(dir: &std::path::Path, op: Op) -> bool {
    let is_link = |name: &str| dir.join(name).symlink_metadata().is_ok_and(|stat| stat.is_symlink());
    is_link("d") || matches!(op, Op::Chmod(name) if is_link(name.path()))
}

/// Control: the check sees each kind of deviation from the model.
#[test]
fn the_model_check_can_fail() {
    let home = tempfile::tempdir().unwrap();
    type Deviation = (&'static str, fn(&std::path::Path), &'static str);
    let deviations: [Deviation; 8] = [
        ("content", |d| fs::write(d.join("a"), "other").unwrap(), "holds"),
        ("missing", |d| fs::remove_file(d.join("d/c")).unwrap(), "is missing"),
        ("extra", |d| fs::write(d.join("x"), "").unwrap(), "should not exist"),
        (
            "mode",
            |d| {
                fs::set_permissions(d.join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap()
            },
            "mode",
        ),
        (
            "type",
            |d| {
                fs::remove_file(d.join("a")).unwrap();
                fs::create_dir(d.join("a")).unwrap();
            },
            "is a FileType",
        ),
        (
            "target",
            |d| {
                fs::remove_file(d.join("d/c")).unwrap();
                std::os::unix::fs::symlink("x", d.join("d/c")).unwrap();
            },
            "points to",
        ),
        (
            "broken link",
            |d| {
                let a = fs::read(d.join("a")).unwrap();
                fs::remove_file(d.join("a")).unwrap();
                fs::write(d.join("a"), a).unwrap();
                fs::set_permissions(d.join("a"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
                    .unwrap();
            },
            "link",
        ),
        ("link outside", |d| fs::hard_link(d.join("a"), d.with_extension("outside")).unwrap(), "links"),
    ];
    for (i, (name, deviate, words)) in deviations.iter().enumerate() {
        let dir = home.path().join(i.to_string());
        fs::create_dir(&dir).unwrap();
        Seed::Linked.build_real(&dir).unwrap();
        let model: Model = Seed::Linked.model();
        model.check(&dir).unwrap();
        deviate(&dir);
        let seen = model.check(&dir).expect_err(name);
        assert!(seen.contains(words), "{name}: {seen}");
    }
}
