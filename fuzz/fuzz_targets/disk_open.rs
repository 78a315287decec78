#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| quoin_fuzz_bodies::run("disk_open", input));
