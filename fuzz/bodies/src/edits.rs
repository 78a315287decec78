//! A fuzzer's bytes as edits of a disk's files.

use crate::layout::{anchors, read, replace};
use crate::source::Source;
use crate::template::Template;
use quoin_disk::{Dir, MemDir};
use std::collections::BTreeMap;

/// The most edits of one input.
const FORGED_MAX: usize = 24;
/// As many as chance may bring, and too few to guess a checksum (of 4 bytes) and what it covers.
const DAMAGE_MAX: usize = 8;

/// Files while they are edited.
struct Files {
    contents: BTreeMap<String, Vec<u8>>,
    names: Vec<String>,
}

impl Files {
    fn of(image: &MemDir, is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut names = image.list().expect("memory can be listed");
        names.retain(|name| name != "lock" && is_wanted(name));
        let contents = names.iter().map(|name| (name.clone(), read(image, name))).collect();
        Self { contents, names }
    }

    fn put_back(self, image: &MemDir) {
        for name in self.names {
            match self.contents.get(&name) {
                Some(content) => replace(image, &name, content),
                None => drop(image.remove(&name)),
            }
        }
    }

    /// A file, and a place in it that is counted from where some structure begins.
    fn place(&self, source: &mut Source<'_>) -> Option<(String, usize)> {
        let name = self.names[source.pick(self.names.len())?].clone();
        let content = self.contents.get(&name).map_or(&[][..], Vec::as_slice);
        let anchors = anchors(&name, content);
        let anchor = anchors[source.pick(anchors.len())?];
        let delta = match source.u8()? {
            far @ 248.. => usize::from(source.u16()?) << (far - 248),
            near => usize::from(near),
        };
        Some((name, (anchor + delta) % content.len().max(1)))
    }

    /// The bytes of a file from a place on, at most so many.
    fn range(&mut self, name: &str, at: usize, length: usize) -> &mut [u8] {
        let content = self.contents.get_mut(name).map_or(&mut [][..], Vec::as_mut_slice);
        let end = content.len().min(at.saturating_add(length));
        &mut content[at.min(end)..end]
    }

    fn copy(&mut self, source: &mut Source<'_>, to: &str, at: usize, unit: usize) -> Option<()> {
        let (from, from_at) = self.place(source)?;
        let length = usize::from(source.u8()?) * unit;
        let copied = self.range(&from, from_at, length).to_vec();
        let target = self.range(to, at, copied.len());
        let length = target.len();
        target.copy_from_slice(&copied[..length]);
        Some(())
    }
}

/// Edits as an enemy makes them: any bytes at any place. Checksums are left to the caller.
pub(crate) fn forge(image: &MemDir, is_wanted: impl Fn(&str) -> bool, source: &mut Source<'_>) {
    let mut files = Files::of(image, is_wanted);
    for _ in 0..FORGED_MAX {
        if files.names.is_empty() || forge_once(&mut files, source).is_none() {
            break;
        }
    }
    files.put_back(image);
}

fn forge_once(files: &mut Files, source: &mut Source<'_>) -> Option<()> {
    let operation = source.u8()?;
    let (name, at) = files.place(source)?;
    match operation % 16 {
        0 | 1 => {
            let mask = source.u8()?;
            files.range(&name, at, 1).iter_mut().for_each(|byte| *byte ^= mask);
        }
        width @ 2..10 => {
            let bytes = source.number()?.to_le_bytes();
            let width = [1, 2, 4, 8][usize::from(width) % 4];
            files.range(&name, at, width).iter_mut().zip(bytes).for_each(|(byte, new)| *byte = new);
        }
        10 | 11 => {
            let added = source.u8()? as i8;
            let target = files.range(&name, at, 8);
            if let Ok(word) = <[u8; 8]>::try_from(&*target) {
                let sum = u64::from_le_bytes(word).wrapping_add_signed(i64::from(added));
                target.copy_from_slice(&sum.to_le_bytes());
            }
        }
        12 => {
            let length = usize::from(source.u16()?);
            files.range(&name, at, length).fill(0);
        }
        13 | 14 => files.copy(source, &name, at, 8)?,
        _ => {
            let length = source.u16()?;
            files.contents.get_mut(&name)?.resize(usize::from(length) * 4, 0);
        }
    }
    Some(())
}

/// Edits as a failing disk makes them: bits that flip, sectors that are lost, zeroed, misplaced or as they were before,
/// files that are cut, gone or as they were before. No content is made up.
pub(crate) fn damage(image: &MemDir, template: &Template, source: &mut Source<'_>) {
    let mut files = Files::of(image, |_| true);
    for _ in 0..DAMAGE_MAX {
        if damage_once(&mut files, template, source).is_none() {
            break;
        }
    }
    files.put_back(image);
}

fn damage_once(files: &mut Files, template: &Template, source: &mut Source<'_>) -> Option<()> {
    let operation = source.u8()?;
    let (name, at) = files.place(source)?;
    let sector = at / 512 * 512;
    match operation % 8 {
        0 | 1 => {
            let bit = source.u8()? % 8;
            files.range(&name, at, 1).iter_mut().for_each(|byte| *byte ^= 1 << bit);
        }
        2 => {
            let length = usize::from(source.u8()?) * 512;
            files.range(&name, sector, length).fill(0);
        }
        3 => files.copy(source, &name, sector, 512)?,
        4 | 5 => {
            let before = &template.earlier[source.pick(template.earlier.len())?];
            let old = read(before, &name);
            let length = usize::from(source.u8()?) * 512;
            let old = old.get(sector..).unwrap_or_default();
            let target = files.range(&name, sector, length.min(old.len()));
            let length = target.len();
            target.copy_from_slice(&old[..length]);
        }
        6 => {
            let before = &template.earlier[source.pick(template.earlier.len())?];
            let old = read(before, &name);
            files.contents.insert(name, old);
        }
        _ if source.u8()? % 4 == 0 => drop(files.contents.remove(&name)),
        _ => files.contents.get_mut(&name)?.truncate(at),
    }
    Some(())
}
