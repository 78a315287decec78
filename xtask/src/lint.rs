//! The house rules that no other tool checks.
//!
//! - `unsafe` stands only in `crates/disk`, and so does the permission for it.
//! - No file tells where it lay on the machine where it was written.
//! - No file is longer than a thousand lines.
//! - Every deliberate bug of the simulator's table still fits the sources.

use crate::{mutants, workspace};
use std::fs;
use std::path::{Path, PathBuf};

/// The only place of `unsafe`.
const UNSAFE_HOME: &str = "crates/disk/";
/// A file that is longer has too much to say.
const LINES_MAX: usize = 1000;
/// What is not the project's own text.
const SKIPPED: [&str; 3] = [".git", "target", "quoin-dev"];
/// Written by tools.
const GENERATED: [&str; 1] = ["Cargo.lock"];

/// Checks all rules; `Err` lists each breach as `file:line: what`.
pub(crate) fn run() -> Result<(), String> {
    let root = workspace::root();
    let mut files = Vec::new();
    list(&root, &mut files).map_err(|error| format!("cannot list {}: {error}", root.display()))?;
    files.sort();
    let mut breaches = Vec::new();
    let mut count = 0;
    for path in &files {
        // What is no text (or has just gone) has no lines to check.
        let Ok(text) = fs::read_to_string(path) else { continue };
        count += 1;
        let name = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        breaches.extend(check(&name, &text, &root));
    }
    breaches.extend(mutants::check(&root).err());
    println!("{count} files");
    if breaches.is_empty() { Ok(()) } else { Err(breaches.join("\n")) }
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        match entry.file_type()? {
            kind if kind.is_dir() => list(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

fn check(name: &str, text: &str, root: &Path) -> Vec<String> {
    let mut breaches = Vec::new();
    let is_rust = name.ends_with(".rs");
    if is_rust && !name.starts_with(UNSAFE_HOME) {
        for (number, code) in (1..).zip(code_lines(text)) {
            if words(&code).any(|word| word == "unsafe" || word == "unsafe_code") {
                breaches.push(format!("{name}:{number}: `unsafe` belongs to {UNSAFE_HOME}"));
            }
        }
    }
    let places = [root.display().to_string(), std::env::var("HOME").unwrap_or_default()];
    for (number, line) in (1..).zip(text.lines()) {
        if places.iter().any(|place| place.len() > 1 && names_path(line, place)) {
            breaches.push(format!("{name}:{number}: a path of this machine"));
        }
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !GENERATED.contains(&name) {
        breaches.push(format!("{name}: {lines} lines, and {LINES_MAX} are the most"));
    }
    breaches
}

/// Whether a line names this very directory or something in it.
fn names_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + place.len()..].chars().next();
        let goes_on = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        before.is_none_or(|c| !goes_on(c) && c != '.') && after.is_none_or(|c| !goes_on(c))
    })
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The lines without comments and without what stands in quotes: what the compiler takes as code.
fn code_lines(text: &str) -> Vec<String> {
    let mut scanner = Scanner::Code;
    text.lines().map(|line| scanner.code_of(line)).collect()
}

/// Where a scan of Rust code stands at the end of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scanner {
    Code,
    /// In a block comment, so many deep.
    Comment(u32),
    Text,
    /// In a raw string with so many `#`.
    RawText(usize),
}

impl Scanner {
    fn code_of(&mut self, line: &str) -> String {
        let mut code = String::new();
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let step = match *self {
                Scanner::Code => match self.begin(rest) {
                    Some(0) => break,
                    Some(step) => {
                        code.push(' ');
                        step
                    }
                    None => {
                        code.push(c);
                        c.len_utf8()
                    }
                },
                Scanner::Comment(depth) if rest.starts_with("*/") => {
                    *self = if depth == 1 { Scanner::Code } else { Scanner::Comment(depth - 1) };
                    2
                }
                Scanner::Comment(depth) if rest.starts_with("/*") => {
                    *self = Scanner::Comment(depth + 1);
                    2
                }
                Scanner::Text if c == '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                Scanner::Text if c == '"' => {
                    *self = Scanner::Code;
                    1
                }
                Scanner::RawText(hashes) if c == '"' && rest[1..].starts_with(&"#".repeat(hashes)) => {
                    *self = Scanner::Code;
                    1 + hashes
                }
                Scanner::Comment(_) | Scanner::Text | Scanner::RawText(_) => c.len_utf8(),
            };
            rest = &rest[step..];
        }
        code
    }

    /// What begins here that is no code: how many bytes its beginning has, or 0 for a comment to the line's end.
    fn begin(&mut self, rest: &str) -> Option<usize> {
        if rest.starts_with("//") {
            return Some(0);
        }
        if rest.starts_with("/*") {
            *self = Scanner::Comment(1);
            return Some(2);
        }
        if rest.starts_with('"') {
            *self = Scanner::Text;
            return Some(1);
        }
        // A quote as a character must not begin a text.
        if let Some(quote) = ["'\"'", "'\\\"'"].into_iter().find(|quote| rest.starts_with(quote)) {
            return Some(quote.len());
        }
        let hashes = rest.strip_prefix('r')?.bytes().take_while(|byte| *byte == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            *self = Scanner::RawText(hashes);
            return Some(2 + hashes);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        let text = "// unsafe\nlet a = \"unsafe\"; /* unsafe\nunsafe */ let c = '\"'; unsafe_cell();\nr#\"\"unsafe\"# ;\nunsafe { }\n";
        let found: Vec<usize> = (1..)
            .zip(code_lines(text))
            .filter(|(_, code)| words(code).any(|word| word == "unsafe"))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(found, [5]);
        let root = Path::new("/home/someone/project");
        assert_eq!(check("crates/x/src/lib.rs", "#![allow(unsafe_code)]\n", root).len(), 1);
        assert!(check("crates/disk/src/os.rs", "unsafe {}\n", root).is_empty());
    }

    #[test]
    fn paths_and_long_files_are_found() {
        let root = Path::new("/home/someone/project");
        assert_eq!(check("a.md", "see /home/someone/project/target\n", root).len(), 1);
        assert!(check("a.md", "see /home/someone/project-two and x/home/someone/project\n", root).is_empty());
        assert_eq!(check("a.md", &"x\n".repeat(LINES_MAX + 1), root).len(), 1);
        assert!(check("Cargo.lock", &"x\n".repeat(LINES_MAX + 1), root).is_empty());
    }
}
