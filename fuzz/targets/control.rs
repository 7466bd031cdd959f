#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("control"), |data: &[u8]| vigie::fuzz::control(data));
