//! The tests of whole sessions: conversations in text, properties against a dumb twin, and details.

mod client;
mod details;
mod golden;
mod properties;
mod shell;
