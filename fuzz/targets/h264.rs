#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("h264"), |data: &[u8]| vigie::fuzz::h264(data));
