#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("http"), |data: &[u8]| vigie::fuzz::http(data));
