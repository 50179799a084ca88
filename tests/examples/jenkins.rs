//! Makes the Jenkins home that the benchmarks copy: `jenkins DIR [1/N of its size]`.

use std::path::Path;

use harness::trees::{JenkinsSize, jenkins};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("jenkins DIR [N]");
    let scale = args.next().map_or(Ok(1), |n| n.parse())?;
    std::fs::create_dir_all(&dir)?;
    let made = jenkins(Path::new(&dir), JenkinsSize::one_in(scale))?;
    println!("{dir}: {} files", made.files);
    Ok(())
}
