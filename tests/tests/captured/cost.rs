//! What it costs to look who has what open.

use std::process::{Child, Command, Stdio};

use agent::capture::Scan;
use harness::gate::{Need, require};
use sys::procfs::Scanner;

/// Processes on the host beside what runs there anyway, and files that each has open for writing.
const PROCESSES: usize = 200;
const FILES: usize = 25;

/// Killed when dropped.
struct Holders(Vec<Child>);

impl Drop for Holders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Prints the cost of a scan. Its bound is ten times what it takes on a slow machine: one that asks each file of each
/// process for a path, say, is found.
#[test]
fn a_scan_of_two_hundred_processes_takes_milliseconds() {
    if !require(&[Need::Root, Need::Program("bash")]) {
        return;
    }
    let at = tempfile::tempdir().unwrap();
    // Opens its files, says so, and waits.
    let script = format!(
        "for i in $(seq {FILES}); do exec {{fd}}>{}/$1.$i; done; echo; exec sleep 600",
        at.path().display()
    );
    let mut holders = Holders(Vec::new());
    for n in 0..PROCESSES {
        let mut child = Command::new("bash")
            .args(["-c", &script, "holder", &n.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        holders.0.push(child);
    }
    let mut scanner = Scanner::default();
    let mut scans: Vec<Scan> = (0..20).map(|_| Scan::now(&mut scanner).unwrap()).collect();
    scans.sort_by_key(|scan| scan.took);
    let median = &scans[scans.len() / 2];
    println!("a scan of {} files in {PROCESSES} processes and more: {:?}", median.len(), median.took);
    assert!(scans.iter().all(|scan| scan.len() >= PROCESSES * FILES), "files were missed");
    assert!(median.took.as_millis() < 200, "{:?}", median.took);
}
