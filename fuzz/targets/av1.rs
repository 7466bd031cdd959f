#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("av1"), |data: &[u8]| vigie::fuzz::av1(data));
