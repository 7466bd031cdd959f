#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("signal"), |data: &[u8]| vigie::fuzz::signal(data));
