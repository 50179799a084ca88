//! Which names are one inode, here and in the generation. No I/O.
//!
//! Judged at the end, when all names are known: of the names that should be one inode, those that are with the
//! most others are right, whatever order the walk met them in.

use std::collections::HashMap;
use std::hash::Hash;

use proto::{Entry, RelPath};
use sys::Stat;

use crate::recover::{LinkKey, link_key};

/// Collects the names of inodes that have, or should have, several. Memory grows with those alone.
#[derive(Default)]
pub struct Links {
    /// Of each inode of the generation: its names, and the inode that each has here.
    groups: HashMap<LinkKey, Vec<(RelPath, u64)>>,
    /// Of each inode here: its names, and the inode that each has in the generation.
    inodes: HashMap<u64, Vec<(RelPath, Option<LinkKey>)>>,
}

impl Links {
    /// Takes in a name.
    pub fn add(&mut self, path: &RelPath, entry: &Entry, stat: &Stat) {
        let key = link_key(entry);
        if let Some(key) = key {
            self.groups.entry(key).or_default().push((path.clone(), stat.ino));
        }
        if stat.nlink > 1 {
            self.inodes.entry(stat.ino).or_default().push((path.clone(), key));
        }
    }

    /// What is wrong with which name.
    pub fn judge(self) -> Vec<(RelPath, String)> {
        let mut wrong = Vec::new();
        for names in self.groups.into_values() {
            let (right, others) = split(names, Some);
            wrong.extend(others.into_iter().map(|path| (path, format!("is not the same file as {right}"))));
        }
        for names in self.inodes.into_values() {
            // A name that is an inode of its own in the generation is no other's, not even of a second such.
            let (right, others) = split(names, |key| key);
            wrong.extend(
                others
                    .into_iter()
                    .map(|path| (path, format!("is the same file as {right}, and should not be"))),
            );
        }
        wrong
    }
}

/// The first name of the largest class of equal values, and all names that are not in it. Values without a class
/// are classes of their own.
fn split<V: Copy, C: Eq + Hash>(
    mut names: Vec<(RelPath, V)>,
    class: impl Fn(V) -> Option<C>,
) -> (RelPath, Vec<RelPath>) {
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut sizes: HashMap<C, usize> = HashMap::new();
    for (_, value) in &names {
        if let Some(class) = class(*value) {
            *sizes.entry(class).or_default() += 1;
        }
    }
    let size = |value: V| class(value).map_or(1, |class| sizes[&class]);
    // The first of the largest: a later one has to be larger to win.
    let best = (0..names.len()).rev().max_by_key(|at| size(names[*at].1)).unwrap_or(0);
    let right = names.get(best).map(|(path, value)| (path.clone(), class(*value))).unwrap_or_default();
    let others = names
        .into_iter()
        .enumerate()
        .filter(|(at, (_, value))| *at != best && (right.1.is_none() || class(*value) != right.1));
    (right.0, others.map(|(_, (path, _))| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_of(names: &[(&str, Option<u8>)]) -> (String, Vec<String>) {
        let names = names.iter().map(|(name, class)| (RelPath::new(name.as_bytes()).unwrap(), *class));
        let (right, others) = split(names.collect(), |class| class);
        (right.to_string(), others.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_majority_is_right_and_of_equals_the_first() {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(split_of(&[("c", Some(1)), ("b", Some(2)), ("a", Some(1))]), ("a".into(), owned(&["b"])));
        assert_eq!(split_of(&[("a", Some(1)), ("b", Some(2)), ("c", Some(2))]), ("b".into(), owned(&["a"])));
        assert_eq!(split_of(&[("b", Some(2)), ("a", Some(1))]), ("a".into(), owned(&["b"])));
        assert_eq!(split_of(&[("a", None), ("b", None), ("c", None)]), ("a".into(), owned(&["b", "c"])));
        assert_eq!(split_of(&[("a", None), ("b", Some(1)), ("c", Some(1))]), ("b".into(), owned(&["a"])));
        assert_eq!(split_of(&[("a", Some(1)), ("b", Some(1))]), ("a".into(), owned(&[])));
    }
}
