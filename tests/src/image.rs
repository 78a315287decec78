//! Real data: an ext4 image made from a real directory tree.

use crate::command::{program, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much of the tree is taken.
const TREE_BYTES_MAX: u64 = 96 << 20;
/// The image's size: room for the tree and the filesystem's own blocks.
const IMAGE_BYTES: u64 = 256 << 20;
/// A tree smaller than this is not worth the name.
const TREE_BYTES_MIN: u64 = 1 << 20;

/// An ext4 image.
pub struct Image {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size, which is also the least size of a volume for it.
    pub size: u64,
    /// How many bytes of files it holds.
    pub files_bytes: u64,
}

/// Makes an ext4 image in `dir` from the Rust toolchain's `share` directory; where that is small (a minimal toolchain has
/// no documentation), the system's documentation and the toolchain's libraries are added.
///
/// # Panics
/// If no tree is found or `mkfs.ext4` fails.
pub fn ext4(dir: &Path) -> Image {
    let tree = dir.join("tree");
    let mut taken = 0;
    for (n, source) in sources().iter().enumerate() {
        copy(source, &tree.join(n.to_string()), &mut taken);
    }
    assert!(taken >= TREE_BYTES_MIN, "only {taken} bytes in {:?}", sources());
    let path = dir.join("image.ext4");
    let image = fs::File::create(&path).expect("an image file");
    image.set_len(IMAGE_BYTES).expect("room for an image");
    let (tree_name, path_name) = (tree.display().to_string(), path.display().to_string());
    let arguments = ["-q", "-F", "-d", &tree_name, &path_name];
    run(&mut program("mkfs.ext4", &arguments), Duration::from_secs(60)).ok();
    fs::remove_dir_all(&tree).expect("the copy of the tree can be removed");
    Image { path, size: IMAGE_BYTES, files_bytes: taken }
}

fn sources() -> Vec<PathBuf> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let sysroot = run(&mut program(&rustc, &["--print", "sysroot"]), Duration::from_secs(60)).ok().stdout;
    let sysroot = Path::new(sysroot.trim());
    vec![sysroot.join("share"), PathBuf::from("/usr/share/doc"), sysroot.join("lib")]
}

/// Copies files and directories in the order of their names until enough is taken.
fn copy(from: &Path, to: &Path, taken: &mut u64) {
    let mut entries: Vec<_> = fs::read_dir(from).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    fs::create_dir_all(to).expect("a directory");
    for entry in entries {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let Ok(metadata) = fs::symlink_metadata(&source) else { continue };
        if metadata.is_dir() {
            copy(&source, &target, taken);
        } else if metadata.is_file() && *taken + metadata.len() <= TREE_BYTES_MAX {
            fs::copy(&source, &target).expect("a file can be copied");
            *taken += metadata.len();
        }
        if *taken + 65536 > TREE_BYTES_MAX {
            return;
        }
    }
}
