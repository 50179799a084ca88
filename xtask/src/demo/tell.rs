//! How the demo speaks.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static STEP: Cell<u32> = const { Cell::new(0) };
}

/// A numbered step.
pub fn heading(text: &str) {
    let step = STEP.get() + 1;
    STEP.set(step);
    println!("\n{step}. {text}");
}

/// One line of narration.
pub fn text(text: &str) {
    println!("   {text}");
}

/// What a user would type.
pub fn typed(host: &str, command: &str) {
    println!("   {host}# {command}");
}

/// What a command printed.
pub fn printed(output: &str) {
    for line in output.lines() {
        println!("     {line}");
    }
}

/// How long a command took, and how it ended if not well.
pub fn took(time: Duration, code: i32) {
    let exit = if code == 0 { String::new() } else { format!(", exit code {code}") };
    println!("     [{:.2} s{exit}]", time.as_secs_f64());
}

/// Something that was proven.
pub fn proven(text: &str) {
    println!("   proven: {text}");
}

/// Progress that is no part of the story.
pub fn remark(text: &str) {
    eprintln!("{text}");
}
