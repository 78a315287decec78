//! What the clients of a volume asked and were told, and whether one disk could have said all of that.
//!
//! A [`History`] is filled by whoever plays the clients: the model tests, the simulator, the end-to-end tests, or somebody
//! else's load. [`check`] judges it, [`read`] and [`write()`] carry it through a file. Nothing here knows how Quoin
//! works: only what a disk is.
//!
//! It does not look at what clients were *not* told (errors, requests without an answer): what may fail, and how long
//! an answer may take, is for each test to say.
//!
//! As a file a history has one JSON object per line, for this checker (`cargo xtask history check FILE`) and for others:
//!
//! ```text
//! {"op":"write","client":0,"block":17,"value":"42","start_ns":1,"end_ns":2,"outcome":"ok"}
//! {"op":"write","client":1,"block":17,"value":"43","start_ns":1,"end_ns":null,"outcome":"unknown"}
//! {"op":"read","client":0,"block":17,"value":"43","start_ns":3,"end_ns":4,"outcome":"ok"}
//! {"op":"flush","client":0,"start_ns":3,"end_ns":4,"outcome":"ok"}
//! {"op":"lossy","epoch":3}
//! ```
//!
//! Values are text, since many readers of JSON have no whole numbers of 64 bits; 0 stands for zeroes, and a trim is a write of
//! 0. Writes may have `"durable":true`, and all may have the `"epoch"` of their attachment; both matter only beside
//! lossy attachments. `lossy` is no operation: it says that the attachment with this epoch was one.

mod check;
mod history;
mod json;

pub use check::{Before, Reason, Violation, check};
pub use history::{History, Operation, What};
pub use json::{ReadError, read, write};
