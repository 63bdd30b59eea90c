//! Signal names, as images and pods write them.

/// Ends a process that does not listen.
pub(crate) const KILL: i32 = 9;
/// Asks a process to end.
pub(crate) const TERM: i32 = 15;

/// Linux's numbers on every architecture that has them so (all but alpha, mips and sparc).
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", KILL),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", TERM),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
    ("PWR", 30),
];
/// `SIGRTMAX` on Linux.
const LAST: i32 = 64;

/// The number of `SIGTERM`, `TERM` or `15`.
pub(crate) fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=LAST).contains(&number).then_some(number);
    }
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset.parse::<i32>().ok().filter(|o| (0..=LAST - 34).contains(o)).map(|o| 34 + o);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_and_numbers() {
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("QUIT"), Some(3));
        assert_eq!(number("9"), Some(9));
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!((number("0"), number("65"), number("SIGRTMIN+99"), number("nonsense"), number("")), (None, None, None, None, None));
    }
}
