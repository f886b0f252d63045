//! Did you mean: the known word nearest to one that was mistyped. Pure.

/// The candidate with the fewest typing errors away, if they are few enough to be a slip.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    let ranked = candidates.into_iter().map(|candidate| {
        (
            distance(&word.to_lowercase(), &candidate.to_lowercase()),
            candidate,
        )
    });
    let best = ranked.min_by_key(|(distance, _)| *distance);
    best.filter(|(distance, _)| *distance <= most)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements, and swaps of two neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_finds_its_word() {
        let words = ["routes", "purge", "upstream", "ttl", "limits"];
        assert_eq!(nearest("rotues", words), Some("routes"));
        assert_eq!(nearest("upstrem", words), Some("upstream"));
        assert_eq!(nearest("tttl", words), Some("ttl"));
        assert_eq!(nearest("Purge", words), Some("purge"));
    }

    #[test]
    fn another_word_finds_none() {
        assert_eq!(nearest("banana", ["routes", "purge"]), None);
        assert_eq!(nearest("x", ["id"]), None);
    }
}
