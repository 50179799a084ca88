//! `writer silent WAY FILE` or `writer chaos SEED VOLUME BESIDE`: see `harness::writers`.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    harness::writers::serve(std::env::args_os().skip(1))
}
