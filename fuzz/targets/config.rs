#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("config"), |data: &[u8]| vigie::fuzz::config(data));
