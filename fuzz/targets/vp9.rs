#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("vp9"), |data: &[u8]| vigie::fuzz::vp9(data));
