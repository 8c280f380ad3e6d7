#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_fuzz::client_hello::check(bytes));
