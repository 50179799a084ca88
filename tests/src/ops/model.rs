//! What a directory must hold after a sequence of operations: a tree of nodes in memory, with link identity.

use super::op::{
    APPEND_LEN, CREATE_LEN, DIR_MODE, FILE_MODE, Name, Op, overwritten_len, stamped, stamped_mode,
};
use crate::compare::escape;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A tree in memory. Nodes are numbered; two names with the same number are hard links of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    nodes: BTreeMap<usize, Node>,
    next: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<String, usize>),
    Symlink(String),
}

const ROOT: usize = 0;

impl Default for Model {
    fn default() -> Self {
        let root = Node { mode: DIR_MODE, body: Body::Dir(BTreeMap::new()) };
        Model { nodes: BTreeMap::from([(ROOT, root)]), next: 1 }
    }
}

impl Model {
    /// Whether the system would accept the operation and it would not be a contradiction to its name.
    pub fn is_valid(&self, op: Op) -> bool {
        match op {
            Op::Create(x) | Op::Mkdir(x) | Op::Symlink(x) => self.is_free(x),
            Op::Write(x) | Op::Append(x) => self.file(x).is_some(),
            Op::Truncate(x) => self.file(x).is_some_and(|content| !content.is_empty()),
            Op::Unlink(x) => self.is_leaf(x),
            Op::Rmdir(x) => self.is_empty_dir(x),
            Op::RenameFile(x, y) => self.is_leaf(x) && (self.is_free(y) || self.is_leaf(y)),
            Op::RenameDir(x, y) => {
                self.is_dir(x) && !is_below(y, x) && (self.is_free(y) || self.is_empty_dir(y))
            }
            Op::Link(x, y) => self.is_leaf(x) && self.is_free(y),
            Op::Chmod(x) => self.file(x).is_some() || self.is_dir(x),
            Op::Swap(x, y) => {
                let one_dir = (self.is_dir(x) && self.is_leaf(y)) || (self.is_leaf(x) && self.is_dir(y));
                one_dir && !is_below(x, y) && !is_below(y, x)
            }
        }
    }

    /// Every operation that is valid now, in a fixed order.
    pub fn valid_ops(&self) -> Vec<Op> {
        Op::all().into_iter().filter(|op| self.is_valid(*op)).collect()
    }

    /// Does a valid operation.
    ///
    /// # Panics
    /// When it is not valid.
    pub fn apply(&mut self, op: Op, stamp: u64) {
        assert!(self.is_valid(op), "{op} is not valid here");
        match op {
            Op::Create(x) => self.add(x, FILE_MODE, Body::File(stamped(stamp, CREATE_LEN))),
            Op::Mkdir(x) => self.add(x, DIR_MODE, Body::Dir(BTreeMap::new())),
            Op::Symlink(x) => self.add(x, 0o777, Body::Symlink(x.target().to_owned())),
            Op::Write(x) => self.edit(x, |content| *content = stamped(stamp, overwritten_len(content.len()))),
            Op::Append(x) => self.edit(x, |content| content.extend(stamped(stamp, APPEND_LEN))),
            Op::Truncate(x) => self.edit(x, |content| content.truncate(content.len() / 2)),
            Op::Unlink(x) | Op::Rmdir(x) => drop(self.detach(x)),
            Op::RenameFile(x, y) => {
                // POSIX: two names of one inode both stay.
                if self.find(x) != self.find(y) {
                    self.shift(x, y);
                }
            }
            Op::RenameDir(x, y) => self.shift(x, y),
            Op::Link(x, y) => {
                let node = self.find(x).expect("checked");
                self.attach(y, node);
            }
            Op::Chmod(x) => {
                let node = self.find(x).expect("checked");
                self.node_mut(node).mode = stamped_mode(stamp);
            }
            Op::Swap(x, y) => {
                let (node_x, node_y) = (self.detach(x), self.detach(y));
                self.attach(x, node_y);
                self.attach(y, node_x);
            }
        }
    }

    /// Compares a real directory with the model: names, types, contents, modes, targets and link groups.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check(&self, dir: &Path) -> Result<(), String> {
        let mut inode_of: HashMap<usize, (u64, u64)> = HashMap::new();
        let mut node_of: HashMap<(u64, u64), usize> = HashMap::new();
        let mut links: HashMap<usize, (u64, u64)> = HashMap::new();
        let mut todo = vec![(ROOT, dir.to_path_buf())];
        while let Some((node, path)) = todo.pop() {
            let stat = path.symlink_metadata().map_err(|error| format!("{}: {error}", told(&path)))?;
            self.check_node(node, &path, &stat)?;
            let inode = (stat.dev(), stat.ino());
            if *inode_of.entry(node).or_insert(inode) != inode {
                return Err(format!("{}: its hard link is broken", told(&path)));
            }
            if *node_of.entry(inode).or_insert(node) != node {
                return Err(format!("{}: is linked with a name it should not be", told(&path)));
            }
            let Body::Dir(children) = &self.nodes[&node].body else {
                links.entry(node).or_insert((0, stat.nlink())).0 += 1;
                continue;
            };
            let mut real = BTreeSet::new();
            for entry in std::fs::read_dir(&path).map_err(|error| format!("{}: {error}", told(&path)))? {
                let entry = entry.map_err(|error| format!("{}: {error}", told(&path)))?;
                real.insert(entry.file_name().as_bytes().to_vec());
            }
            let wanted: BTreeSet<Vec<u8>> = children.keys().map(|name| name.clone().into_bytes()).collect();
            if let Some(name) = real.symmetric_difference(&wanted).next() {
                let which = if real.contains(name) { "should not exist" } else { "is missing" };
                return Err(format!("{}/{}: {which}", told(&path), escape(name)));
            }
            todo.extend(children.iter().map(|(name, child)| (*child, path.join(name))));
        }
        match links.values().find(|(names, nlink)| names != nlink) {
            Some((names, nlink)) => Err(format!("an inode with {names} names has {nlink} links")),
            None => Ok(()),
        }
    }

    fn check_node(&self, node: usize, path: &Path, stat: &std::fs::Metadata) -> Result<(), String> {
        let Node { mode, body } = &self.nodes[&node];
        let right_type = match body {
            Body::File(_) => stat.is_file(),
            Body::Dir(_) => stat.is_dir(),
            Body::Symlink(_) => stat.is_symlink(),
        };
        if !right_type {
            return Err(format!("{}: is a {:?}, expected {body:?}", told(path), stat.file_type()));
        }
        // The root belongs to whoever runs the test.
        if node != ROOT && stat.mode() & 0o7777 != *mode {
            return Err(format!("{}: mode {:04o}, expected {mode:04o}", told(path), stat.mode() & 0o7777));
        }
        match body {
            Body::File(content) => {
                let real = std::fs::read(path).map_err(|error| format!("{}: {error}", told(path)))?;
                if real != *content {
                    let (real, content) = (escape(&real), escape(content));
                    return Err(format!("{}: holds \"{real}\", expected \"{content}\"", told(path)));
                }
            }
            Body::Symlink(target) => {
                let real = std::fs::read_link(path).map_err(|error| format!("{}: {error}", told(path)))?;
                if real.as_os_str() != target.as_str() {
                    return Err(format!("{}: points to {}, expected {target}", told(path), told(&real)));
                }
            }
            Body::Dir(_) => {}
        }
        Ok(())
    }

    fn find(&self, name: Name) -> Option<usize> {
        let (parent, leaf) = self.parent(name)?;
        self.children(parent)?.get(leaf).copied()
    }

    /// The directory a name lies in, if that is a directory now, and its last part.
    fn parent(&self, name: Name) -> Option<(usize, &'static str)> {
        let mut at = ROOT;
        let mut parts = name.path().split('/').peekable();
        loop {
            let part = parts.next()?;
            if parts.peek().is_none() {
                return self.children(at).map(|_| (at, part));
            }
            at = *self.children(at)?.get(part)?;
        }
    }

    fn children(&self, node: usize) -> Option<&BTreeMap<String, usize>> {
        match &self.nodes[&node].body {
            Body::Dir(children) => Some(children),
            _ => None,
        }
    }

    fn is_free(&self, name: Name) -> bool {
        self.parent(name).is_some() && self.find(name).is_none()
    }

    fn is_dir(&self, name: Name) -> bool {
        self.find(name).is_some_and(|node| self.children(node).is_some())
    }

    fn is_empty_dir(&self, name: Name) -> bool {
        self.find(name).and_then(|node| self.children(node)).is_some_and(BTreeMap::is_empty)
    }

    fn is_leaf(&self, name: Name) -> bool {
        self.find(name).is_some_and(|node| self.children(node).is_none())
    }

    fn file(&self, name: Name) -> Option<&Vec<u8>> {
        match &self.nodes[&self.find(name)?].body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        self.nodes.get_mut(&node).expect("a node that a name led to")
    }

    fn add(&mut self, name: Name, mode: u32, body: Body) {
        let node = self.next;
        self.next += 1;
        self.nodes.insert(node, Node { mode, body });
        self.attach(name, node);
    }

    fn edit(&mut self, name: Name, change: impl FnOnce(&mut Vec<u8>)) {
        let node = self.find(name).expect("checked");
        if let Body::File(content) = &mut self.node_mut(node).body {
            change(content);
        }
    }

    /// Puts a node at a name; what was there loses that name.
    fn attach(&mut self, name: Name, node: usize) {
        let (parent, leaf) = self.parent(name).expect("checked");
        if let Body::Dir(children) = &mut self.node_mut(parent).body {
            children.insert(leaf.to_owned(), node);
        }
    }

    fn detach(&mut self, name: Name) -> usize {
        let (parent, leaf) = self.parent(name).expect("checked");
        match &mut self.node_mut(parent).body {
            Body::Dir(children) => children.remove(leaf).expect("checked"),
            _ => unreachable!("a parent is a directory"),
        }
    }

    fn shift(&mut self, x: Name, y: Name) {
        // The target's parent is looked up while the source still has its name: renaming never moves that parent.
        let node = self.detach(x);
        self.attach(y, node);
    }
}

/// Whether name `x` lies below name `y`.
fn is_below(x: Name, y: Name) -> bool {
    x.path().strip_prefix(y.path()).is_some_and(|rest| rest.starts_with('/'))
}

fn told(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
