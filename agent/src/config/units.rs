//! Lengths of time and amounts of bytes as people write them: a whole number and a unit, no space between.

use std::fmt;
use std::time::Duration;

/// Units of time in milliseconds, smallest first.
const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Units of bytes, smallest first.
const BYTES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// An amount of bytes; prints as it is written in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Bytes in a second; prints as it is written in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BytesPerSecond(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&say(self.0, &BYTES))
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

/// Reads `300ms`, `5m`, `6h`.
///
/// # Errors
/// What is wrong with the text, to be put behind its name.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &TIMES, "300ms").map(Duration::from_millis)
}

/// Reads `50MiB`.
///
/// # Errors
/// As [`parse_duration`].
pub fn parse_bytes(text: &str) -> Result<Bytes, String> {
    parse(text, &BYTES, "50MiB").map(Bytes)
}

/// Reads `50MiB/s`.
///
/// # Errors
/// As [`parse_duration`].
pub fn parse_rate(text: &str) -> Result<BytesPerSecond, String> {
    match text.strip_suffix("/s") {
        Some(amount) => parse(amount, &BYTES, "50MiB").map(BytesPerSecond),
        None => Err("a rate is an amount in a second, as \"50MiB/s\"".to_owned()),
    }
}

/// Prints what [`parse_duration`] reads, in the largest unit that keeps it whole.
pub fn say_duration(time: Duration) -> String {
    say(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), &TIMES)
}

fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if number.is_empty() {
        return Err(match unit.strip_prefix('-') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => "negative".to_owned(),
            _ => format!("no number and unit, as {example:?}; units are {}", names()),
        });
    }
    if unit.is_empty() {
        return Err(format!("a number without a unit; units are {}, as {example:?}", names()));
    }
    if unit.starts_with(['.', ',']) {
        return Err("not a whole number; take a smaller unit".to_owned());
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let alike = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
        let meant = alike.map_or_else(String::new, |(name, _)| format!(": did you mean \"{number}{name}\"?"));
        return Err(format!("of an unknown unit {unit:?}; units are {}{meant}", names()));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| "more than can be counted".to_owned())
}

fn say(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount.is_multiple_of(*factor);
    // Zero is whole in every unit: the smallest will do.
    let found = if amount == 0 { None } else { units.iter().rev().find(fits) };
    let (name, factor) = found.unwrap_or(&units[0]);
    format!("{}{name}", amount / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        for text in ["0ms", "300ms", "2s", "5m", "6h", "30d", "1500ms", "90s"] {
            assert_eq!(say_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0B", "1B", "1025B", "64KiB", "50MiB", "3GiB", "1TiB", "50MB", "2kB"] {
            assert_eq!(parse_bytes(text).unwrap().to_string(), text);
            assert_eq!(parse_rate(&format!("{text}/s")).unwrap().to_string(), format!("{text}/s"));
        }
    }

    #[test]
    fn anything_else_says_what_is_wrong() {
        for (text, says) in [
            ("", "no number"),
            ("ms", "no number"),
            ("+5s", "no number"),
            (" 5s", "no number"),
            ("-5s", "negative"),
            ("5", "without a unit"),
            ("1.5s", "not a whole number"),
            ("5 s", "did you mean \"5s\""),
            ("5S", "did you mean \"5s\""),
            ("5min", "unknown unit \"min\""),
            ("1h30m", "unknown unit \"h30m\""),
            ("99999999999999999999s", "more than can be counted"),
            ("18446744073709551615d", "more than can be counted"),
        ] {
            let said = parse_duration(text).unwrap_err();
            assert!(said.contains(says), "{text:?}: {said}");
        }
        assert!(parse_rate("50MiB").unwrap_err().contains("in a second"));
        assert!(parse_bytes("5mib").unwrap_err().contains("did you mean \"5MiB\""));
    }
}
