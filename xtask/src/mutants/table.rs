//! The table of deliberate bugs, and what they do to a file.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where the table is.
const FOLDER: &str = "crates/simulator/mutants";
/// Its parts.
const PARTS: [&str; 6] = ["stream", "attach", "resync", "configuration", "snapshots", "disk"];
/// What stands in a new text for "this mutant is switched on".
const SWITCH: &str = "MUTANT";

/// All deliberate bugs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    #[serde(rename = "mutant")]
    pub(super) mutants: Vec<Mutant>,
}

/// A deliberate bug.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mutant {
    pub(super) name: String,
    /// The rule that it breaks, by its number.
    pub(super) rule: String,
    /// How it breaks it.
    pub(super) breaks: String,
    /// The simulator's scenario that has the faults for it.
    #[serde(default = "default_scenario")]
    pub(super) scenario: String,
    #[serde(rename = "edit")]
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    from: String,
    to: String,
}

fn default_scenario() -> String {
    "default".into()
}

impl Table {
    /// Reads it.
    pub(super) fn read(root: &Path) -> Result<Self, String> {
        let mut mutants = Vec::new();
        for part in PARTS {
            let file = format!("{FOLDER}/{part}.toml");
            let text = fs::read_to_string(root.join(&file)).map_err(|error| format!("{file}: {error}"))?;
            let part: Self = toml::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
            mutants.extend(part.mutants);
        }
        Ok(Self { mutants })
    }

    /// The changed files, by name, with every mutant in them as a switch. `Err` lists the edits that no longer fit.
    pub(super) fn apply(&self, root: &Path) -> Result<BTreeMap<String, String>, String> {
        let mut files = BTreeMap::new();
        let mut breaches = Vec::new();
        for mutant in &self.mutants {
            for edit in &mutant.edits {
                if let Err(problem) = edit.apply(root, &mutant.name, &mut files) {
                    breaches.push(format!("{FOLDER}: {}: {}: {problem}", mutant.name, edit.file));
                }
            }
        }
        if breaches.is_empty() { Ok(files) } else { Err(breaches.join("\n")) }
    }
}

impl Edit {
    fn apply(&self, root: &Path, name: &str, files: &mut BTreeMap<String, String>) -> Result<(), String> {
        if !files.contains_key(&self.file) {
            let text = fs::read_to_string(root.join(&self.file)).map_err(|error| error.to_string())?;
            files.insert(self.file.clone(), text);
        }
        let text = files.get_mut(&self.file).expect("just read");
        *text = replaced(text, &self.from, &switched(&self.to, name))?;
        Ok(())
    }
}

fn replaced(text: &str, from: &str, to: &str) -> Result<String, String> {
    match text.matches(from).count() {
        1 => Ok(text.replacen(from, to, 1)),
        count => Err(format!("its text occurs {count} times, and once is needed:\n{from}")),
    }
}

fn switched(to: &str, name: &str) -> String {
    to.replace(SWITCH, &format!("quoin_types::mutant::is({name:?})"))
}

/// Whether every edit still fits the sources.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let table = Table::read(root)?;
    for (at, mutant) in table.mutants.iter().enumerate() {
        if table.mutants[..at].iter().any(|other| other.name == mutant.name) {
            return Err(format!("{FOLDER}: {} is there twice", mutant.name));
        }
    }
    table.apply(root).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_must_occur_once() {
        assert_eq!(replaced("a b c", "b", "d"), Ok("a d c".into()));
        assert!(replaced("a b b", "b", "d").is_err());
        assert!(replaced("a", "b", "d").is_err());
    }

    #[test]
    fn the_switch_names_its_mutant() {
        assert_eq!(switched("x || MUTANT", "y"), "x || quoin_types::mutant::is(\"y\")");
    }

    #[test]
    fn every_edit_fits_the_sources() {
        check(&crate::workspace::root()).unwrap();
    }
}
