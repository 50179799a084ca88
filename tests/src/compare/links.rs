//! Compares how two trees link names together: the partition of the common names into inodes must be the same.

use super::report::{Aspect, Difference, escape};
use std::collections::HashMap;

/// (device, inode number).
pub(super) type Inode = (u64, u64);

/// A common name that has more than one link in either tree.
pub(super) struct Linked {
    pub(super) path: Vec<u8>,
    pub(super) a: Inode,
    pub(super) b: Inode,
    pub(super) b_nlink: u64,
}

/// Judges all linked names of a comparison; returns differences and the number of groups in `a`.
///
/// Each name is represented by the first name of its group. Names missing in one tree are not in `linked`, so a missing
/// name does not make its siblings look broken too.
pub(super) fn judge(mut linked: Vec<Linked>, b_closed: bool) -> (Vec<Difference>, u64) {
    linked.sort_unstable_by(|x, y| x.path.cmp(&y.path));
    let mut first_a: HashMap<Inode, usize> = HashMap::new();
    let mut first_b: HashMap<Inode, usize> = HashMap::new();
    let mut size_a: HashMap<Inode, u64> = HashMap::new();
    let mut size_b: HashMap<Inode, u64> = HashMap::new();
    let mut differences = Vec::new();
    for (i, name) in linked.iter().enumerate() {
        *size_a.entry(name.a).or_default() += 1;
        *size_b.entry(name.b).or_default() += 1;
        let in_a = *first_a.entry(name.a).or_insert(i);
        let in_b = *first_b.entry(name.b).or_insert(i);
        if in_a != in_b {
            let tell = |first: usize| {
                if first == i { "no earlier name".to_owned() } else { escape(&linked[first].path) }
            };
            differences.push(Difference {
                path: name.path.clone(),
                aspect: Aspect::Links,
                detail: format!("linked with {} in a, with {} in b", tell(in_a), tell(in_b)),
            });
        }
    }
    if b_closed {
        for (inode, &i) in &first_b {
            let (inside, all) = (size_b[inode], linked[i].b_nlink);
            if all > inside {
                differences.push(Difference {
                    path: linked[i].path.clone(),
                    aspect: Aspect::OutsideLink,
                    detail: format!("{all} links, of which {inside} are common names of the trees"),
                });
            }
        }
    }
    let groups = size_a.values().filter(|n| **n > 1).count() as u64;
    (differences, groups)
}
