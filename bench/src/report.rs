//! What was measured, for people at once and for scripts at the end.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::measure::median;

/// All reports of a run.
pub struct Reports {
    machine: Value,
    save: bool,
    done: Vec<Value>,
}

/// One case: ways to do the same work, side by side.
#[derive(Serialize)]
pub struct Report {
    case: String,
    about: Value,
    ways: Vec<Way>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    goals: Vec<Goal>,
}

/// A figure beside the most that it may be.
#[derive(Serialize)]
struct Goal {
    what: String,
    figure: f64,
    unit: &'static str,
    at_most: f64,
    is_met: bool,
}

#[derive(Serialize)]
struct Way {
    way: String,
    seconds: Vec<f64>,
    median: f64,
    #[serde(skip_serializing_if = "Value::is_null")]
    more: Value,
}

impl Reports {
    /// None yet.
    pub fn new(machine: Value, save: bool) -> Self {
        println!("{}", serde_json::to_string_pretty(&machine).unwrap_or_default());
        Self { machine, save, done: Vec::new() }
    }

    /// Prints a report and keeps it.
    ///
    /// # Errors
    /// It could not be saved.
    pub fn add(&mut self, report: Report) -> Result<()> {
        report.print();
        let name = report.case.clone();
        let document = json!({ "machine": self.machine, "report": report });
        if self.save {
            let dir = Path::new("bench/results");
            fs::create_dir_all(dir)?;
            let file = dir.join(format!("{name}.json"));
            let text = serde_json::to_string_pretty(&document)?;
            fs::write(&file, text + "\n").with_context(|| file.display().to_string())?;
        }
        self.done.push(serde_json::to_value(report)?);
        Ok(())
    }

    /// Prints everything as one document.
    ///
    /// # Errors
    /// Never in practice.
    pub fn finish(self) -> Result<()> {
        println!("{}", serde_json::to_string(&json!({ "machine": self.machine, "reports": self.done }))?);
        Ok(())
    }
}

impl Report {
    /// An empty report; `about` says what the work is.
    pub fn new(case: &str, about: Value) -> Self {
        println!("\n{case}: {about}");
        Self { case: case.to_owned(), about, ways: Vec::new(), goals: Vec::new() }
    }

    /// A figure and the most that it may be.
    pub fn goal(&mut self, what: &str, figure: f64, unit: &'static str, at_most: f64) {
        // Not a number is not met.
        let is_met = figure <= at_most;
        self.goals.push(Goal { what: what.to_owned(), figure, unit, at_most, is_met });
    }

    /// One more measurement of a way, shown at once.
    pub fn measured(&mut self, way: &str, seconds: f64, more: Value) {
        println!(
            "  {way:<28} {seconds:>9.3} s  {}",
            if more.is_null() { String::new() } else { more.to_string() }
        );
        self.take_in(way, seconds, more);
    }

    /// One more measurement of a way of which there are many.
    pub fn add_quietly(&mut self, way: &str, seconds: f64) {
        self.take_in(way, seconds, Value::Null);
    }

    fn take_in(&mut self, way: &str, seconds: f64, more: Value) {
        let known = self.ways.iter_mut().find(|known| known.way == way);
        match known {
            Some(known) => {
                known.seconds.push(seconds);
                known.median = median(&known.seconds);
                known.more = more;
            }
            None => {
                self.ways.push(Way { way: way.to_owned(), seconds: vec![seconds], median: seconds, more })
            }
        }
    }

    /// Medians, and how many times faster each way is than the first.
    fn print(&self) {
        self.print_ways();
        for Goal { what, figure, unit, at_most, is_met } in &self.goals {
            let verdict = if *is_met { "met" } else { "MISSED" };
            println!("  {what}: {figure:.3} {unit}, goal at most {at_most} {unit}: {verdict}");
        }
    }

    fn print_ways(&self) {
        let Some(first) = self.ways.first() else { return };
        println!("  median, and how many times as fast as {}:", first.way);
        for way in &self.ways {
            println!("  {:<28} {:>9.3} s  {:>7.2} ×", way.way, way.median, first.median / way.median);
        }
    }
}
