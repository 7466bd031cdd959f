//! Runs every target over its seeds, the kept inputs of `tests/data/fuzz`, and seeded mutations of both.
//!
//! `VIGIE_FUZZ_TIMES=100 cargo test --release --lib fuzz::` runs a hundred times as many.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{TARGETS, Target};

/// Bytes that a mutated input may grow to.
const MAX_BYTES: usize = 256 << 10;

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Counts panics of this thread, those too that a runtime catches.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            told(info);
        }));
    });
}

/// The inputs that are kept for a target, in the order of their names.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder is read").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a kept input")).collect()
}

/// Changes a few things about `input`, as a hostile or broken sender might.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    const TELLING: [&[u8]; 12] = [
        b"\0",
        b"\xff",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"-1",
        b"99999999999999999999",
        b"1e999",
        b"\xe2\x80\xae",
        b"\r\n",
    ];
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=input.len());
        let length = random.random_range(0..=(input.len() - at).min(64));
        match random.random_range(0..9) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => input.truncate(at),
            3 => drop(input.drain(at..at + length)),
            4 => {
                let piece = input[at..at + length].to_vec();
                let to = random.random_range(0..=input.len());
                input.splice(to..to, piece);
            }
            5 => drop(input.splice(at..at, TELLING[random.random_range(0..TELLING.len())].iter().copied())),
            6 => {
                let telling = TELLING[random.random_range(0..TELLING.len())];
                let end = (at + telling.len()).min(input.len());
                input[at..end].copy_from_slice(&telling[..end - at]);
            }
            7 => {
                let other = &others[random.random_range(0..others.len())];
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len());
                input.splice(at..at + length, other[from..to].iter().copied());
            }
            _ => {
                let step = random.random_range(-8..=8_i8);
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add_signed(step);
                }
            }
        }
    }
    input.truncate(MAX_BYTES);
}

fn attack(target: &Target) {
    watch_panics();
    let mut inputs = (target.seeds)();
    inputs.extend(kept(target.name));
    assert!(!inputs.is_empty(), "{} has nothing to begin with", target.name);
    let times = std::env::var("VIGIE_FUZZ_TIMES").map_or(1, |times| times.parse().expect("a number"));
    // Each target is another stream of chances, and the same one each time.
    let mut random =
        StdRng::seed_from_u64(0x5eed ^ target.name.bytes().fold(0, |sum, b| sum * 31 + u64::from(b)));
    for input in &inputs {
        check(target, input);
    }
    for _ in 0..target.short_run * times {
        let mut input = inputs[random.random_range(0..inputs.len())].clone();
        mutate(&mut input, &inputs, &mut random);
        check(target, &input);
    }
}

/// Runs one input; where it fails, the input is kept for whoever has to look.
fn check(target: &Target, input: &[u8]) {
    let before = PANICS.get();
    let ended = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if ended.is_err() || PANICS.get() != before {
        let file = tempfile::Builder::new().prefix(&format!("vigie-fuzz-{}-", target.name)).tempfile();
        let mut file = file.expect("a file").keep().expect("a file");
        std::io::Write::write_all(&mut file.0, input).expect("a file");
        panic!("{} fell over; the input is in {}", target.name, file.1.display());
    }
}

fn named(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of that name")
}

macro_rules! short_runs {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            attack(named(stringify!($name)));
        })*

        #[test]
        fn every_target_is_run_here_and_by_libfuzzer() {
            let names = [$(stringify!($name)),*];
            assert_eq!(TARGETS.map(|target| target.name), names);
            let manifest = include_str!("../../fuzz/Cargo.toml");
            for name in names {
                assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name}");
            }
        }
    };
}

short_runs!(
    sdp, peer, signal, http, control, ids, config, manifest, onnx, image, container, vp8, vp9, h264, av1
);

#[test]
fn a_panic_on_this_thread_is_noticed_even_if_it_is_caught() {
    watch_panics();
    let before = PANICS.get();
    let _ = panic::catch_unwind(|| panic!("as a runtime catches a task's"));
    assert_eq!(PANICS.get(), before + 1);
}
