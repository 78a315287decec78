//! A copy of the workspace with every mutant in it as a switch. What has not changed since the last copy is left alone, so
//! that cargo builds anew only what has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is not the project's source.
const SKIPPED: [&str; 3] = [".git", "target", "quoin-dev"];
/// The module that the copy has besides: which mutant is switched on.
const SWITCH_FILE: &str = "crates/types/src/mutant.rs";
const SWITCH: &str = "\
//! Which deliberate bug is switched on.

use std::sync::OnceLock;

static NAME: OnceLock<String> = OnceLock::new();

/// Whether the mutant of this name is.
pub fn is(name: &str) -> bool {
    NAME.get_or_init(|| std::env::var(\"QUOIN_MUTANT\").unwrap_or_default()) == name
}
";
const TYPES: &str = "crates/types/src/lib.rs";
const TYPES_FROM: &str = "pub mod limits;\n";
/// The switch has one name everywhere, in its own crate too.
const TYPES_TO: &str = "extern crate self as quoin_types;\n\npub mod limits;\npub mod mutant;\n";

/// Makes the copy, or brings it up to date.
pub(super) fn make(root: &Path, to: &Path, mut changed: BTreeMap<String, String>) -> Result<(), String> {
    let types = match changed.remove(TYPES) {
        Some(text) => text,
        None => fs::read_to_string(root.join(TYPES)).map_err(|error| format!("{TYPES}: {error}"))?,
    };
    if types.matches(TYPES_FROM).count() != 1 {
        return Err(format!("{TYPES} does not have {TYPES_FROM:?} once"));
    }
    changed.insert(TYPES.into(), types.replacen(TYPES_FROM, TYPES_TO, 1));
    changed.insert(SWITCH_FILE.into(), SWITCH.into());
    mirror(root, to, &changed).map_err(|error| format!("the copy in {}: {error}", to.display()))
}

fn mirror(root: &Path, to: &Path, changed: &BTreeMap<String, String>) -> io::Result<()> {
    let wanted: BTreeSet<PathBuf> =
        list(root)?.into_iter().chain(changed.keys().map(PathBuf::from)).collect();
    if to.exists() {
        for gone in list(to)?.difference(&wanted) {
            fs::remove_file(to.join(gone))?;
        }
    }
    for file in &wanted {
        let content = match file.to_str().and_then(|name| changed.get(name)) {
            Some(text) => text.clone().into_bytes(),
            None => fs::read(root.join(file))?,
        };
        let place = to.join(file);
        if fs::read(&place).ok().as_ref() != Some(&content) {
            fs::create_dir_all(place.parent().unwrap_or(to))?;
            fs::write(&place, content)?;
        }
    }
    Ok(())
}

/// The files of a directory and of those in it, by their names within it.
fn list(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let name = entry.file_name();
            let kind = entry.file_type()?;
            if SKIPPED.iter().any(|skipped| name == *skipped) {
                continue;
            }
            if kind.is_dir() {
                dirs.push(dir.join(name));
            } else if kind.is_file() {
                files.insert(dir.join(name));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_has_its_place() {
        let types = fs::read_to_string(crate::workspace::root().join(TYPES)).unwrap();
        assert_eq!(types.matches(TYPES_FROM).count(), 1);
    }
}
