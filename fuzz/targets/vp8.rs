#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("vp8"), |data: &[u8]| vigie::fuzz::vp8(data));
