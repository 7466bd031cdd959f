#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("peer"), |data: &[u8]| vigie::fuzz::peer(data));
