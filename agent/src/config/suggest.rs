//! Pure decision: which known word was meant by an unknown one?

/// Longer words are nobody's typing slip.
const WORD_MAX: usize = 48;

/// The known word that is most like `typed`, if one is like it at all.
pub fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > WORD_MAX {
        return None;
    }
    let typed: Vec<char> = typed.to_lowercase().replace('-', "_").chars().collect();
    let allowed = (typed.len() / 3).max(1);
    known
        .into_iter()
        .map(|word| (distance(&typed, &word.chars().collect::<Vec<_>>()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Characters to insert, remove, replace or swap with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let known = ["quiet", "max_age", "max_delete", "exclude"];
        for (typed, meant) in [
            ("quite", Some("quiet")),
            ("Quiet", Some("quiet")),
            ("max-age", Some("max_age")),
            ("maxdelete", Some("max_delete")),
            ("excludes", Some("exclude")),
            ("volume", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, known), meant, "{typed}");
        }
        assert_eq!(closest(&"q".repeat(1 << 20), known), None);
    }
}
