//! Metadata contexts (proto.md, "Metadata querying"): which there are, and which a client's queries name.
//!
//! `base:allocation`, and `quoin:changed-since:<snapshot>` for each snapshot that the shell tells of. Knows nothing of what
//! they say of any block.

use crate::handshake::option::read_name;
use crate::limits::{STRING_BYTES_MAX, sendable};
use zerocopy::FromBytes;
use zerocopy::big_endian::U32;

const ALLOCATION: &str = "base:allocation";
const CHANGED_SINCE: &str = "quoin:changed-since:";
/// The most contexts that one connection may select: each costs a look at the storage nodes for every block status.
pub(crate) const CONTEXTS_MAX: usize = 16;

/// A metadata context that a client has selected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Context {
    /// Its number on this connection.
    pub id: u32,
    /// What it is about.
    pub kind: ContextKind,
}

/// What a metadata context is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ContextKind {
    /// `base:allocation`: holes and zeroes.
    Allocation,
    /// `quoin:changed-since:<snapshot>`: what may have changed since; the shell's key of the snapshot.
    ChangedSince(u64),
}

/// A snapshot of an export, which is a metadata context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportSnapshot {
    /// Its name, as it stands in the context's.
    pub name: String,
    /// Whatever the shell knows it by; comes back as [`ContextKind::ChangedSince`].
    pub key: u64,
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT`.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Queries {
    pub(crate) export: String,
    queries: Vec<String>,
    /// `NBD_OPT_SET_META_CONTEXT`: without wildcards.
    pub(crate) selects: bool,
}

impl Queries {
    /// Reads the option's data. The error is a message for the client.
    pub(crate) fn read(data: &[u8], selects: bool) -> Result<Self, &'static str> {
        const SHORT: &str = "the option's data is shorter than its own lengths say";
        let (export, rest) = take_string(data).ok_or(SHORT)?;
        let (count, mut rest) = U32::read_from_prefix(rest).map_err(|_| SHORT)?;
        let mut queries = Vec::new();
        for _ in 0..count.get() {
            // Each takes bytes of the data, so that a great count ends here.
            let (query, left) = take_string(rest).ok_or(SHORT)?;
            queries.push(read_query(query)?);
            rest = left;
        }
        if !rest.is_empty() {
            return Err("the number of queries does not fit the option's length");
        }
        Ok(Self { export: read_name(export)?, queries, selects })
    }

    /// Whether the export's snapshots matter to the answer.
    pub(crate) fn concern_snapshots(&self) -> bool {
        !self.selects && self.queries.is_empty()
            || self.queries.iter().any(|query| query.starts_with("quoin:"))
    }

    /// The contexts that the queries name, each once, with their names.
    pub(crate) fn matching(&self, snapshots: &[ExportSnapshot]) -> Vec<(String, ContextKind)> {
        let changed = snapshots.iter().map(|snapshot| {
            (format!("{CHANGED_SINCE}{}", snapshot.name), ContextKind::ChangedSince(snapshot.key))
        });
        std::iter::once((ALLOCATION.to_owned(), ContextKind::Allocation))
            .chain(changed)
            .filter(|(name, _)| sendable(name).len() == name.len() && self.name(name))
            .collect()
    }

    /// Whether a query names this context. A wildcard is an empty leaf-name, or an empty name of a snapshot; it selects
    /// nothing.
    fn name(&self, context: &str) -> bool {
        let is_wildcard = |query: &str| query.ends_with(':') && context.starts_with(query);
        let lists_all = !self.selects && self.queries.is_empty();
        lists_all || self.queries.iter().any(|query| query == context || !self.selects && is_wildcard(query))
    }
}

fn take_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = U32::read_from_prefix(data).ok()?;
    rest.split_at_checked(usize::try_from(len.get()).ok()?)
}

fn read_query(query: &[u8]) -> Result<String, &'static str> {
    let query = str::from_utf8(query).map_err(|_| "a query is not UTF-8")?;
    if query.len() > STRING_BYTES_MAX || query.contains('\0') {
        return Err("a query is longer than 4096 bytes, or holds NUL");
    }
    match query.split_once(':') {
        Some((namespace, _)) if !namespace.is_empty() => Ok(query.to_owned()),
        _ => Err("a query does not start with a namespace and a colon"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(export: &str, queries: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut string = |text: &str| {
            data.extend((text.len() as u32).to_be_bytes());
            data.extend(text.as_bytes());
        };
        string(export);
        let mut rest = Vec::new();
        for query in queries {
            rest.extend((query.len() as u32).to_be_bytes());
            rest.extend(query.as_bytes());
        }
        data.extend((queries.len() as u32).to_be_bytes());
        data.extend(rest);
        data
    }

    fn matching(queries: &[&str], selects: bool) -> Vec<String> {
        let snapshots = ["monday", "tuesday"].map(|name| ExportSnapshot { name: name.into(), key: 7 });
        let queries = Queries::read(&data("disk", queries), selects).unwrap();
        queries.matching(&snapshots).into_iter().map(|(name, _)| name).collect()
    }

    const ALL: [&str; 3] = ["base:allocation", "quoin:changed-since:monday", "quoin:changed-since:tuesday"];

    #[test]
    fn wildcards_list_and_select_nothing() {
        assert_eq!(matching(&[], false), ALL);
        assert_eq!(matching(&["base:"], false), ALL[..1]);
        assert_eq!(matching(&["quoin:"], false), ALL[1..]);
        assert_eq!(matching(&["quoin:changed-since:"], false), ALL[1..]);
        for queries in [&[][..], &["base:"], &["quoin:"], &["quoin:changed-since:"]] {
            assert!(matching(queries, true).is_empty(), "{queries:?}");
        }
    }

    #[test]
    fn a_context_is_named_once_and_only_by_its_whole_name() {
        for selects in [false, true] {
            assert_eq!(matching(&["base:allocation", "base:allocation"], selects), ALL[..1]);
            assert_eq!(matching(&[ALL[2], "x-other:thing", "base:other"], selects), ALL[2..]);
            assert!(matching(&["quoin:changed-since:mon", "base:allocatio"], selects).is_empty());
        }
    }

    #[test]
    fn what_is_cut_off_or_no_query_is_refused() {
        let good = data("disk", &["base:allocation", "x:"]);
        assert!(Queries::read(&good, true).is_ok());
        for cut in 0..good.len() {
            assert!(Queries::read(&good[..cut], true).is_err(), "cut to {cut}");
        }
        assert!(Queries::read(&[good, vec![0]].concat(), true).is_err(), "more than counted");
        for query in ["allocation", ":allocation", "", "base:\0"] {
            assert!(Queries::read(&data("disk", &[query]), false).is_err(), "{query:?}");
        }
        assert!(Queries::read(&[&b"\0\0\0\0"[..], &[0xff; 4]].concat(), false).is_err(), "a great count");
    }
}
