//! Where copies go. Plans are functions of what they are told, and nothing else.

pub mod changes;
pub mod placement;
