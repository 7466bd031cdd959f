#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("sdp"), |data: &[u8]| vigie::fuzz::sdp(data));
