//! Majorities.

/// The smallest number of voters out of `voters` such that any two such sets share a member.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The smallest number of voters out of `voters` that meets every majority.
pub const fn meets_every_majority(voters: usize) -> usize {
    voters - majority(voters) + 1
}

/// The greatest value that a majority of `positions` has reached; `None` for no voters. Reorders its argument.
pub fn majority_position<T: Ord + Copy>(positions: &mut [T]) -> Option<T> {
    positions.sort_unstable_by(|a, b| b.cmp(a));
    positions.get(majority(positions.len()) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majorities_share_a_member() {
        for voters in 1..=9 {
            assert!(2 * majority(voters) > voters);
            assert!(majority(voters) + meets_every_majority(voters) > voters);
            assert!(majority(voters) + meets_every_majority(voters) - 1 == voters);
        }
    }

    #[test]
    fn a_majority_has_reached_the_position() {
        assert_eq!(majority_position::<u64>(&mut []), None);
        assert_eq!(majority_position(&mut [7]), Some(7));
        assert_eq!(majority_position(&mut [7, 3]), Some(3));
        assert_eq!(majority_position(&mut [1, 9, 5]), Some(5));
        assert_eq!(majority_position(&mut [1, 2, 3, 4, 5]), Some(3));
    }
}
