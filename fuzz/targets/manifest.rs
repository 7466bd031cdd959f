#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("manifest"), |data: &[u8]| vigie::fuzz::manifest(data));
