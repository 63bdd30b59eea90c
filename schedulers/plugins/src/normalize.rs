//! Bringing scores to 0 up to 100.

use wharf_scheduler_framework::MAX_SCORE;

/// In proportion to the largest; `reverse` makes the smallest the best.
pub(crate) fn by_largest(scores: &mut [i64], reverse: bool) {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let share = if most <= 0 { 0 } else { score.saturating_mul(MAX_SCORE) / most };
        *score = if reverse { MAX_SCORE - share } else { share };
    }
}

/// From the smallest (0) to the largest (100); all 0 where they are the same.
pub(crate) fn by_range(scores: &mut [i64]) {
    let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
    for score in scores {
        let (part, whole) = (i128::from(*score) - i128::from(least), i128::from(most) - i128::from(least));
        // Between 0 and 100 by construction.
        *score = if whole == 0 { 0 } else { (part * i128::from(MAX_SCORE) / whole) as i64 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_come_into_range() {
        let mut scores = [0, 5, 10];
        by_largest(&mut scores, false);
        assert_eq!(scores, [0, 50, 100]);
        let mut scores = [0, 5, 10];
        by_largest(&mut scores, true);
        assert_eq!(scores, [100, 50, 0]);
        let mut scores = [0, 0];
        by_largest(&mut scores, true);
        assert_eq!(scores, [100, 100]);
        let mut scores = [i64::MIN, 0, i64::MAX];
        by_range(&mut scores);
        assert_eq!(scores, [0, 50, 100]);
    }
}
