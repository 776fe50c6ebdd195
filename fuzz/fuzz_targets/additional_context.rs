#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kasbah_kas::fuzzing::additional_context(text));
