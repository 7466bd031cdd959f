#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("ids"), |data: &[u8]| vigie::fuzz::ids(data));
