//! How fast a file in the page cache is read and hashed: `hash FILE`.
//!
//! One line for each number of threads and size of piece; what staging an append is bound by.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use blake3::hazmat::HasherExt;

fn main() {
    let path = std::env::args().nth(1).expect("hash FILE");
    let file = File::open(&path).expect("open");
    let size = file.metadata().expect("stat").len();
    for threads in [1, 2] {
        for piece in [64 << 10, 128 << 10, 256 << 10, 1 << 20_u64] {
            for hashes in [false, true] {
                let begun = Instant::now();
                let next = AtomicU64::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            let mut buffer = vec![0; piece as usize];
                            loop {
                                let at = next.fetch_add(piece, Ordering::Relaxed);
                                if at >= size {
                                    return;
                                }
                                let n = file.read_at(&mut buffer, at).expect("read");
                                if hashes {
                                    let mut hasher = blake3::Hasher::new();
                                    hasher.set_input_offset(at);
                                    std::hint::black_box(hasher.update(&buffer[..n]).finalize_non_root());
                                }
                            }
                        });
                    }
                });
                let seconds = begun.elapsed().as_secs_f64();
                let what = if hashes { "read and hash" } else { "read" };
                println!(
                    "{threads} threads, {:>4} KiB, {what}: {seconds:.3} s, {:.2} GB/s",
                    piece >> 10,
                    size as f64 / seconds / 1e9
                );
            }
        }
    }
}
