//! The same promises, kept by every kind of directory.

use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, OpenMode, Operation, OsDir};
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

fn on_each(test: impl Fn(Arc<dyn Dir>)) {
    let temporary = tempfile::tempdir().unwrap();
    test(Arc::new(OsDir::open(temporary.path()).unwrap()));
    test(Arc::new(MemDir::new()));
    test(Arc::new(FaultyDir::new(Arc::new(MemDir::new()))));
}

#[test]
fn files_hold_what_was_written() {
    on_each(|dir| {
        assert_eq!(dir.open("a", OpenMode::Existing).err().unwrap().kind(), ErrorKind::NotFound);
        let file = dir.open("a", OpenMode::CreateNew).unwrap();
        assert_eq!(dir.open("a", OpenMode::CreateNew).err().unwrap().kind(), ErrorKind::AlreadyExists);
        file.write_at(&[7; 10_000], 5000).unwrap();
        assert_eq!(file.len().unwrap(), 15_000);
        let mut buffer = [1; 100];
        file.read_at(&mut buffer, 4950).unwrap();
        assert_eq!((&buffer[..50], &buffer[50..]), (&[0; 50][..], &[7; 50][..]));
        assert_eq!(file.read_at(&mut buffer, 14_950).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        file.sync().unwrap();
        assert!(file.read_cached_at(&mut buffer, 5000).is_ok());
        file.drop_cached(0, 15_000).unwrap();
        file.allocate(15_000, 85_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        file.punch(4096, 8192).unwrap();
        file.read_at(&mut buffer, 12_238).unwrap();
        assert_eq!((&buffer[..50], &buffer[50..]), (&[0; 50][..], &[7; 50][..]));
        file.set_len(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        dir.rename("a", "b").unwrap();
        dir.sync().unwrap();
        assert_eq!(dir.list().unwrap(), ["b"]);
        dir.remove("b").unwrap();
        assert!(dir.list().unwrap().is_empty());
    });
}

#[test]
fn vectored_writes_take_any_number_of_slices() {
    on_each(|dir| {
        let file = dir.open("a", OpenMode::OpenOrCreate).unwrap();
        let bytes: Vec<u8> = (0..30_000u32).map(|i| (i % 251) as u8).collect();
        let slices: Vec<IoSlice<'_>> = bytes.chunks(7).map(IoSlice::new).collect();
        assert!(slices.len() > 4096);
        file.write_vectored_at(&slices, 13).unwrap();
        let mut back = vec![0; bytes.len()];
        file.read_at(&mut back, 13).unwrap();
        assert!(back == bytes);
    });
}

/// Direct writes of any number of slices, of more than a buffer, and mixed with writes through the cache.
#[test]
fn direct_writes_are_seen_by_reads() {
    on_each(|dir| {
        let file = dir.open("a", OpenMode::OpenOrCreate).unwrap();
        let bytes: Vec<u8> = (0..5 << 20).map(|i: u32| (i % 251) as u8).collect();
        file.write_at(&vec![1; 6 << 20], 0).unwrap();
        let mut back = vec![0; bytes.len()];
        file.read_at(&mut back, 4096).unwrap();
        let slices: Vec<IoSlice<'_>> = bytes.chunks(7001).map(IoSlice::new).collect();
        file.write_direct_at(&slices, 4096).unwrap();
        file.write_at(&[9; 4096], 8192).unwrap();
        file.sync().unwrap();
        file.read_at(&mut back, 4096).unwrap();
        assert!(
            back[..4096] == bytes[..4096] && back[8192..] == bytes[8192..] && back[4096..8192] == [9; 4096]
        );
        file.write_direct_at(&[], 0).unwrap();
        file.write_direct_at(&[IoSlice::new(&[3; 4096])], 8192).unwrap();
        file.read_at(&mut back[..4096], 8192).unwrap();
        assert!(back[..4096] == [3; 4096]);
        file.write_direct_at(&[IoSlice::new(&[4; 8192])], 8 << 20).unwrap();
        assert_eq!(file.len().unwrap(), (8 << 20) + 8192);
    });
}

/// Around the cache where the filesystem can do that, and through it where it cannot.
#[test]
fn durable_writes_are_seen_by_reads() {
    let through_the_cache = tempfile::tempdir_in("/dev/shm").ok();
    let in_memory =
        through_the_cache.iter().map(|dir| Arc::new(OsDir::open(dir.path()).unwrap()) as Arc<dyn Dir>);
    let test = |dir: Arc<dyn Dir>| {
        let file = dir.open("a", OpenMode::OpenOrCreate).unwrap();
        file.write_at(&[1; 20_000], 0).unwrap();
        let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
        let slices: Vec<IoSlice<'_>> = bytes.chunks(5003).map(IoSlice::new).collect();
        file.write_durably_at(&slices, 4096).unwrap();
        file.write_at(&[9; 4096], 8192).unwrap();
        let mut back = vec![0; 4096 + bytes.len()];
        file.read_at(&mut back, 0).unwrap();
        assert!(
            back[..4096] == [1; 4096] && back[4096..8192] == bytes[..4096] && back[8192..12_288] == [9; 4096]
        );
        assert!(back[12_288..] == bytes[8192..]);
    };
    in_memory.for_each(test);
    on_each(test);
}

#[test]
fn a_read_without_readahead_brings_only_its_own_pages() {
    // Not in memory, as the usual place may be.
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = OsDir::open(temporary.path()).unwrap();
    let file = dir.open("a", OpenMode::CreateNew).unwrap();
    file.write_at(&vec![7; 4 << 20], 0).unwrap();
    file.sync().unwrap();
    file.drop_cached(0, 4 << 20).unwrap();
    file.expect_random_reads().unwrap();
    let mut page = [0; 4096];
    let mut from_the_device = 0;
    for number in [0, 1, 2, 500, 501, 900, 10, 11] {
        let before = bytes_read_from_devices();
        file.read_at(&mut page, number * 4096).unwrap();
        assert_eq!(page, [7; 4096]);
        // Not all that was to be dropped is: a page that a processor has not put on the kernel's lists yet stays.
        let read = bytes_read_from_devices() - before;
        assert!(read <= 4096, "page {number} brought {read} bytes");
        from_the_device += read;
    }
    assert!(from_the_device > 0, "nothing was dropped");
}

/// By this thread, ever (proc_pid_io(5)).
fn bytes_read_from_devices() -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counts.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.expect("the kernel counts them").parse().unwrap()
}

/// A filesystem in memory: whether it takes direct writes depends on the kernel, and nobody may notice.
#[test]
fn direct_writes_fall_back_to_the_cache() {
    let Ok(temporary) = tempfile::tempdir_in("/dev/shm") else { return };
    let file = OsDir::open(temporary.path()).unwrap().open("a", OpenMode::CreateNew).unwrap();
    for offset in [0, 8192] {
        file.write_direct_at(&[IoSlice::new(&[7; 8192])], offset).unwrap();
    }
    let mut back = [0; 16384];
    file.read_at(&mut back, 0).unwrap();
    assert_eq!(back, [7; 16384]);
}

#[test]
#[should_panic(expected = "is not aligned")]
fn a_direct_write_is_aligned() {
    let file = MemDir::new().open("a", OpenMode::CreateNew).unwrap();
    let _ = file.write_direct_at(&[IoSlice::new(&[0; 4096])], 512);
}

#[test]
fn maps_grow_and_keep_their_content() {
    on_each(|dir| {
        let map = dir.open_map("m").unwrap();
        assert!(map.is_empty());
        map.flush().unwrap();
        map.grow(8192).unwrap();
        map.allocate(0, 8192).unwrap();
        map.store(100, b"hello");
        map.grow(1 << 20).unwrap();
        assert_eq!(map.len(), 1 << 20);
        let mut buffer = [0; 5];
        map.load(100, &mut buffer);
        assert_eq!(&buffer, b"hello");
        map.load((1 << 20) - 5, &mut buffer);
        assert_eq!(&buffer, &[0; 5]);
        map.flush().unwrap();
        drop(map);
        let again = dir.open_map("m").unwrap();
        again.load(100, &mut buffer);
        assert_eq!((&buffer, again.len()), (b"hello", 1 << 20));
    });
}

#[test]
#[should_panic(expected = "past the end of a map")]
fn a_map_is_not_read_past_its_end() {
    let temporary = tempfile::tempdir().unwrap();
    let map = OsDir::open(temporary.path()).unwrap().open_map("m").unwrap();
    map.grow(4096).unwrap();
    map.load(4090, &mut [0; 7]);
}

#[test]
fn a_directory_has_one_owner() {
    let temporary = tempfile::tempdir().unwrap();
    let first = OsDir::open(temporary.path()).unwrap();
    let second = OsDir::open(temporary.path()).unwrap();
    let lock = first.lock().unwrap();
    assert_eq!(second.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(lock);
    drop(second.lock().unwrap());
    let memory = MemDir::new();
    let lock = memory.lock().unwrap();
    assert_eq!(memory.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(lock);
    assert!(memory.lock().is_ok());
}

#[test]
fn power_loss_keeps_what_was_synced_and_may_tear_the_rest() {
    let dir = MemDir::new();
    let file = dir.open("a", OpenMode::CreateNew).unwrap();
    dir.sync().unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    file.sync().unwrap();
    file.write_at(&[2; 4096], 0).unwrap();
    dir.open("b", OpenMode::CreateNew).unwrap();
    let (mut old, mut new, mut torn, mut named) = (0, 0, 0, 0);
    for seed in 0..200 {
        let after = dir.crash(seed);
        let mut content = [0; 4096];
        after.open("a", OpenMode::Existing).unwrap().read_at(&mut content, 0).unwrap();
        assert!(content.chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]));
        match content {
            _ if content == [1; 4096] => old += 1,
            _ if content == [2; 4096] => new += 1,
            _ => torn += 1,
        }
        named += usize::from(after.list().unwrap().len() == 2);
    }
    assert!(old > 10 && new > 10 && torn > 10 && named > 10 && named < 190, "{old} {new} {torn} {named}");
    let mut content = [0; 4096];
    let survived = dir.process_crash();
    survived.open("a", OpenMode::Existing).unwrap().read_at(&mut content, 0).unwrap();
    assert_eq!(content, [2; 4096]);
}

/// It makes nothing else durable, and what was written before it does not come back over it.
#[test]
fn power_loss_keeps_a_durable_write() {
    let dir = MemDir::new();
    let file = dir.open("a", OpenMode::CreateNew).unwrap();
    dir.sync().unwrap();
    let durable = |value: u8, offset| file.write_durably_at(&[IoSlice::new(&[value; 4096])], offset).unwrap();
    durable(1, 0);
    file.write_at(&[2; 8192], 0).unwrap();
    durable(3, 4096);
    let (mut old, mut new) = (0, 0);
    for seed in 0..200 {
        let after = dir.crash(seed).open("a", OpenMode::Existing).unwrap();
        let mut content = [0; 8192];
        after.read_at(&mut content, 0).unwrap();
        assert_eq!(content[4096..], [3; 4096]);
        assert!(content[..4096].chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]));
        old += u32::from(content[..4096] == [1; 4096]);
        new += u32::from(content[..4096] == [2; 4096]);
    }
    assert!(old > 10 && new > 10, "{old} {new}");
    file.sync().unwrap();
    let mut content = [0; 4096];
    dir.crash(0).open("a", OpenMode::Existing).unwrap().read_at(&mut content, 0).unwrap();
    assert_eq!(content, [2; 4096]);
}

#[test]
fn faults_happen_where_they_were_asked_for() {
    let dir = FaultyDir::new(Arc::new(MemDir::new()));
    let file = dir.open("data", OpenMode::CreateNew).unwrap();
    let fault =
        |operation, after, effect| Fault { operation, name_prefix: "da".into(), after, times: 1, effect };
    dir.inject(fault(Operation::Write, 1, Effect::Half));
    file.write_at(&[1; 8], 0).unwrap();
    assert!(file.write_at(&[2; 8], 0).is_err());
    let mut buffer = [0; 8];
    file.read_at(&mut buffer, 0).unwrap();
    assert_eq!(buffer, [2, 2, 2, 2, 1, 1, 1, 1]);
    dir.inject(fault(Operation::Write, 0, Effect::Half));
    assert!(file.write_direct_at(&[IoSlice::new(&[5; 4096])], 4096).is_err());
    assert_eq!(file.len().unwrap(), 4096 + 2048 + 512);
    dir.inject(fault(Operation::Write, 0, Effect::InputOutput));
    assert!(file.write_direct_at(&[IoSlice::new(&[5; 4096])], 4096).is_err());
    dir.inject(fault(Operation::Read, 0, Effect::FlipBit(3)));
    file.read_at(&mut buffer, 0).unwrap();
    assert_eq!(buffer[0], 2 ^ 8);
    dir.inject(fault(Operation::Sync, 0, Effect::InputOutput));
    assert!(file.sync().is_err());
    file.sync().unwrap();
    for operation in [Operation::Write, Operation::Sync] {
        dir.inject(fault(operation, 0, Effect::InputOutput));
        assert!(file.write_durably_at(&[IoSlice::new(&[6; 4096])], 8192).is_err());
    }
    assert_eq!(file.len().unwrap(), 12_288, "written, and not durable");
    dir.inject(fault(Operation::Allocate, 0, Effect::NoSpace));
    assert_eq!(file.allocate(0, 1).unwrap_err().kind(), ErrorKind::StorageFull);
    dir.inject(fault(Operation::Write, 0, Effect::InputOutput));
    dir.heal();
    file.write_at(&[1; 8], 0).unwrap();
}
