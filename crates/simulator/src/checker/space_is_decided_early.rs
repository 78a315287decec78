//! W5: lack of space is decided before a write gets its number. Who is told that there is none may rely on it that nothing was
//! written; and it is said only when space is lacking.

use super::Observer;

/// What is known when a client is told that there is no space.
pub(crate) struct Refused<'a> {
    /// It asked for something that may take space.
    pub(crate) may_take_space: bool,
    /// Space may be lacking: more is wanted in this run than there is.
    pub(crate) may_lack: bool,
    /// Registers with what it would have written, if that is one write.
    pub(crate) values: &'a [(u64, u64)],
    pub(crate) observer: &'a Observer,
}

/// Checks one such answer.
pub(crate) fn refused(told: &Refused<'_>) -> Result<(), String> {
    if !told.may_take_space {
        return Err("there is no space, it is told, and asked for none".into());
    }
    if !told.may_lack {
        return Err("there is no space, it is told, on disks that hold more than there is".into());
    }
    let whole = told.values.iter().filter(|(register, value)| *value != 0 && *register < 1 << 32);
    for (_, value) in whole {
        if told.observer.was_sent(*value) {
            return Err(format!("there is no space, it is told, and {value} was given a number and sent"));
        }
    }
    Ok(())
}
