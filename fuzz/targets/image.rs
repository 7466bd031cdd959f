#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("image"), |data: &[u8]| vigie::fuzz::image(data));
