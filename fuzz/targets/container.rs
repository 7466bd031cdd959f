#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("container"), |data: &[u8]| vigie::fuzz::container(data));
