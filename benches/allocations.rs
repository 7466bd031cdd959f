//! Allocations a frame on the live path after warm-up, by thread, counted by the allocator itself.
//!
//! One session of a service in this process, all three models, annotated track; the synthetic browser is not
//! counted. Needs the models. With `-- --sites`, names where vigie's own threads allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use vigie::cli::{Cli, Command};
use vigie::load::clip::Clip;
use vigie::load::publisher::{PublisherConfig, publish};

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

/// Beginnings of thread names, as the kernel has them, and what the threads do.
const THREADS: [(&[u8], &str); 5] = [
    (b"vigie-media", "media: decode, draw, encode"),
    (b"vigie-recogniti", "recognition: prepare, track, report"),
    (b"lane-", "lanes: ONNX Runtime's calls"),
    (b"tokio-", "tokio: WebRTC, packets in and out"),
    (b"", "others"),
];
const OURS: std::ops::RangeInclusive<usize> = 0..=1;

static COUNTS: [AtomicU64; THREADS.len()] = [const { AtomicU64::new(0) }; THREADS.len()];
static BYTES: [AtomicU64; THREADS.len()] = [const { AtomicU64::new(0) }; THREADS.len()];
static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static WANTS_SITES: AtomicBool = AtomicBool::new(false);
static SITES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn thread() -> usize {
    if let Some(known) = THREAD.get() {
        return known;
    }
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, the terminating zero included (prctl(2)).
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let found = THREADS.iter().position(|(beginning, _)| name.starts_with(beginning));
    let found = found.unwrap_or(THREADS.len() - 1);
    THREAD.set(Some(found));
    found
}

fn count(bytes: usize) {
    if !IS_COUNTING.load(Ordering::Relaxed) || IS_INSIDE.replace(true) {
        return;
    }
    let thread = thread();
    COUNTS[thread].fetch_add(1, Ordering::Relaxed);
    BYTES[thread].fetch_add(bytes as u64, Ordering::Relaxed);
    if WANTS_SITES.load(Ordering::Relaxed) && OURS.contains(&thread) {
        let site = site(&Backtrace::force_capture().to_string());
        *SITES.lock().expect("no code panics while it counts").entry(site).or_default() += 1;
    }
    IS_INSIDE.set(false);
}

/// The innermost functions of vigie's on the stack.
fn site(stack: &str) -> String {
    let functions =
        stack.lines().map(str::trim).filter_map(|line| line.split_once(": ")).map(|(_, name)| name);
    let own = functions.filter(|name| name.contains("vigie::") && !name.contains("allocations::"));
    own.take(3).collect::<Vec<_>>().join(" < ")
}

// SAFETY: everything is the system allocator's; counting happens beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: passed on as it came.
        unsafe { System.realloc(block, layout, size) }
    }
}

const WARM_UP: Duration = Duration::from_secs(8);
const COUNTED: Duration = Duration::from_secs(8);

fn main() {
    let wants_sites = std::env::args().any(|argument| argument == "--sites");
    WANTS_SITES.store(wants_sites, Ordering::Relaxed);
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let address = free.expect("a free port");
    let listen = format!("--listen={address}");
    let cli = Cli::parse_from(["vigie", "serve", &listen, "--media=127.0.0.1:0", "--admit=count"]);
    let Command::Serve(args) = cli.command else { unreachable!("serve was asked for") };
    std::thread::spawn(move || vigie::commands::serve::run(&args).expect("the service runs"));
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }

    let config = PublisherConfig {
        server: address.into(),
        clip: Arc::new(Clip::built_in()),
        rate: 30.0,
        duration: WARM_UP + COUNTED + Duration::from_secs(1),
        settings: json!({ "output": "both", "max_rate": 120 }),
        stop_at_first_report: false,
        reads_counter: false,
    };
    let counter = std::thread::spawn(|| {
        std::thread::sleep(WARM_UP);
        IS_COUNTING.store(true, Ordering::Relaxed);
        std::thread::sleep(COUNTED);
        IS_COUNTING.store(false, Ordering::Relaxed);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(publish(config)).expect("a session");
    counter.join().expect("the counter");

    let is_counted = |at: Duration| (WARM_UP..WARM_UP + COUNTED).contains(&at);
    let reports = outcome.reports.iter().filter(|report| is_counted(report.at)).count();
    let frames = outcome.sent_at.iter().filter(|at| is_counted(**at)).count();
    println!("{frames} frames sent, {reports} recognised in {COUNTED:?}");
    println!("{:<40} {:>12} {:>12}", "allocations a sent frame", "number", "bytes");
    for (index, (_, what)) in THREADS.iter().enumerate() {
        let a_frame = |of: &[AtomicU64]| of[index].load(Ordering::Relaxed) as f64 / frames.max(1) as f64;
        println!("{what:<40} {:>12.2} {:>12.0}", a_frame(&COUNTS), a_frame(&BYTES));
    }
    let sites = SITES.lock().expect("nobody counts any longer");
    let mut sites: Vec<_> = sites.iter().collect();
    sites.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (site, count) in sites {
        println!("{:>8.2}  {site}", *count as f64 / frames.max(1) as f64);
    }
}
