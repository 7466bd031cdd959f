#![no_main]

libfuzzer_sys::fuzz_target!(init: vigie::fuzz::prepare("onnx"), |data: &[u8]| vigie::fuzz::onnx(data));
