#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| zerkalo_decoders::run("roots", bytes));
