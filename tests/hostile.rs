//! Hostile files on every way into the service. `tests/hostile/make.py` makes them and says what may be answered.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::process::{Reply, Service, vigie};
use serde::Deserialize;

/// MiB that a process may take at most while it meets every file of the corpus, models and their runtime included.
const MEMORY_LIMIT_MIB: u64 = 1200;
/// Long enough for a slow machine; what hangs is still found.
const PATIENCE: Duration = Duration::from_secs(900);

/// What playlists and references point to. Whoever looks at it is caught.
struct Bait {
    url: String,
    file: PathBuf,
    visits: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
}

impl Bait {
    /// A listener, and in `folder` a named pipe: opening it for writing waits until somebody opens it to read.
    fn set(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/bait.ts", listener.local_addr().unwrap());
        let file = folder.join("bait.ts");
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let (visits, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&visits);
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (count, path) = (Arc::clone(&opened), file.clone());
        std::thread::spawn(move || {
            OpenOptions::new().write(true).open(path).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        });
        Self { url, file, visits, opened }
    }

    /// Nobody came; and had somebody come, it would have been noticed.
    fn assert_untouched(self) {
        assert_eq!(self.visits.load(Ordering::SeqCst), 0, "an address in a file was connected to");
        assert_eq!(self.opened.load(Ordering::SeqCst), 0, "a file that another names was opened");
        let address = self.url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap();
        TcpStream::connect(address).unwrap();
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.file).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.visits.load(Ordering::SeqCst) == 0 || self.opened.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "the bait does not notice");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A file of the corpus, with the codes that may be answered; `ok` where it may succeed.
#[derive(Deserialize)]
struct Hostile {
    name: String,
    picture: BTreeSet<String>,
    video: BTreeSet<String>,
}

struct Corpus {
    folder: PathBuf,
    files: Vec<Hostile>,
}

impl Corpus {
    fn make(folder: &Path, bait: &Bait) -> Self {
        let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/make.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(generator).arg(folder).args(["--bait-url", &bait.url, "--bait-file"]);
        assert!(command.arg(&bait.file).stdout(Stdio::null()).status().unwrap().success());
        let manifest = folder.join("manifest.json");
        let files = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
        std::fs::remove_file(manifest).unwrap();
        Self { folder: folder.to_owned(), files }
    }

    fn bytes(&self, file: &Hostile) -> Vec<u8> {
        std::fs::read(self.folder.join(&file.name)).unwrap()
    }
}

/// The most memory that a process has had so far, MiB; `None` when it has ended.
fn peak_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Which files made the peak grow, for whoever has to find out why.
struct Memory {
    pid: u32,
    peak_mib: u64,
    growth: Vec<(String, u64)>,
}

impl Memory {
    fn of(pid: u32) -> Self {
        Self { pid, peak_mib: peak_mib(pid).unwrap(), growth: Vec::new() }
    }

    fn look(&mut self, name: &str) {
        let peak = peak_mib(self.pid).unwrap_or_else(|| panic!("the process died of {name}"));
        if peak > self.peak_mib + 16 {
            self.growth.push((name.to_owned(), peak));
        }
        self.peak_mib = self.peak_mib.max(peak);
        assert!(peak < MEMORY_LIMIT_MIB, "{name}: {peak} MiB; so far {:?}", self.growth);
    }
}

/// The code of an answer, or `ok`.
fn code_of(name: &str, reply: &Reply) -> String {
    if (200..300).contains(&reply.status) {
        return "ok".into();
    }
    let error = &reply.json()["error"];
    assert!((400..500).contains(&reply.status), "{name}: {} {error}", reply.status);
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{name}: {error}");
    error["code"].as_str().unwrap().to_owned()
}

/// Collects what was answered otherwise than the corpus allows, so that one run tells everything.
#[derive(Default)]
struct Answers {
    wrong: Vec<String>,
    counts: BTreeMap<String, usize>,
}

impl Answers {
    fn note(&mut self, name: &str, code: &str, allowed: &BTreeSet<String>) {
        *self.counts.entry(code.to_owned()).or_default() += 1;
        if !allowed.contains(code) {
            self.wrong.push(format!("{name}: {code}, not one of {allowed:?}"));
        }
    }

    fn are_as_expected(self) {
        assert!(self.wrong.is_empty(), "{}\n{:?}", self.wrong.join("\n"), self.counts);
        for code in ["ok", "unsupported_type", "corrupt", "empty"] {
            assert!(self.counts.contains_key(code), "nothing was {code}: {:?}", self.counts);
        }
    }
}

fn form(name: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let boundary = "8f1d2c6b0c5a4e3f";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: video/mp4\r\n\r\n"
    )
    .into_bytes();
    body.extend(bytes);
    body.extend(format!("\r\n--{boundary}--\r\n").bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

#[test]
fn posted_as_pictures_they_get_codes_and_harm_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    std::fs::create_dir(&inputs).unwrap();
    let bait = Bait::set(&inputs);
    let corpus = Corpus::make(&inputs, &bait);
    let service = Service::start(&[]);
    let pid = service.child.id();
    let mut memory = Memory::of(pid);
    let good = std::fs::read(common::data("pictures/astronaut.jpg")).unwrap();
    let mut answers = Answers::default();
    assert_eq!(service.post("/predict", &[], &good).status, 200);
    let files = open_files(pid);
    for (index, file) in corpus.files.iter().enumerate() {
        let bytes = corpus.bytes(file);
        let raw = code_of(&file.name, &service.post("/predict", &[], &bytes));
        let (content_type, body) = form(&file.name, &bytes);
        let headers = [("Content-Type", content_type.as_str()), ("Accept", "image/jpeg")];
        let formed = code_of(&file.name, &service.post("/predict", &headers, &body));
        assert_eq!(raw, formed, "{}: by form and by body", file.name);
        answers.note(&file.name, &raw, &file.picture);
        memory.look(&file.name);
        if index % 50 == 0 {
            assert_eq!(service.post("/predict", &[], &good).status, 200, "after {}", file.name);
        }
    }
    assert_eq!(service.post("/predict", &[], &good).status, 200);
    assert!(service.is_ready());
    assert!(!service.get("/metrics").contains("{outcome=\"failed\"}"), "a decoder panicked");
    // The front keeps some connections to its worker, and both ends of each are this process's.
    let now = open_files(pid);
    assert!(now <= files + 10, "files stay open: {files}, now {now}");
    eprintln!("the service took {} MiB at most, growing with {:?}", memory.peak_mib, memory.growth);
    answers.are_as_expected();
    bait.assert_untouched();
}

/// What `vigie annotate` says of a file it cannot use, as the code that the service would give.
const SAID: &[(&str, &str)] = &[
    ("is empty", "empty"),
    ("there are no bytes in it", "empty"),
    ("is no MP4, MOV", "unsupported_type"),
    ("is no JPEG, PNG", "unsupported_type"),
    ("has no video", "no_video"),
    ("in a format that cannot be decoded", "unsupported_codec"),
    ("pixels are more than", "too_large"),
    ("more than the", "too_large"),
    ("more memory than", "too_large"),
    ("before the picture does", "truncated"),
    ("is cut off before its index", "truncated"),
    ("damaged or cut off", "corrupt"),
    ("cannot be decoded", "corrupt"),
    ("not one picture in it could be decoded", "corrupt"),
    ("is longer than", "too_long"),
];

#[test]
fn annotated_from_the_terminal_they_are_told_apart_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, outputs) = (folder.path().join("in"), folder.path().join("out"));
    let scratch = folder.path().join("scratch");
    std::fs::create_dir(&inputs).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    let bait = Bait::set(&inputs);
    let corpus = Corpus::make(&inputs, &bait);
    let said = folder.path().join("said");
    let mut child = vigie()
        .args(["annotate", "--every", "4", "-o"])
        .args([&outputs, &inputs])
        .env("TMPDIR", &scratch)
        .stderr(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_mib(child.id()).unwrap_or_default());
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let is_stuck = started.elapsed() > PATIENCE;
        if is_stuck || peak > MEMORY_LIMIT_MIB {
            child.kill().unwrap();
            child.wait().unwrap();
            let text = std::fs::read_to_string(&said).unwrap();
            panic!("{peak} MiB after {:?}; the last words: {:?}", started.elapsed(), text.lines().last());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = std::fs::read_to_string(&said).unwrap();
    assert_eq!(status.code(), Some(1), "most could not be annotated, and it said so: {text}");

    let mut answers = Answers::default();
    let mut expected_outputs = 0;
    for file in &corpus.files {
        let path = inputs.join(&file.name);
        let refused =
            text.lines().find_map(|line| line.strip_prefix(&format!("vigie: {}: ", path.display())));
        let is_type_only = |codes: &BTreeSet<String>| codes.len() == 1 && codes.contains("unsupported_type");
        let allowed = if is_type_only(&file.video) { &file.picture } else { &file.video };
        let Some(refused) = refused else {
            expected_outputs += 1;
            answers.note(&file.name, "ok", allowed);
            continue;
        };
        // Other files have the same name but for what it ends with.
        if refused.contains("was written for another input already") {
            continue;
        }
        let code = SAID.iter().find(|(words, _)| refused.contains(words)).map(|(_, code)| *code);
        answers.note(&file.name, code.unwrap_or(refused), allowed);
    }
    eprintln!("vigie annotate took {peak} MiB at most");
    answers.are_as_expected();
    let left: Vec<PathBuf> =
        std::fs::read_dir(&outputs).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), expected_outputs, "an annotated file for each that could be, and nothing else");
    assert!(left.iter().all(|path| path.to_str().unwrap().contains("-annotated.")), "{left:?}");
    // ONNX Runtime keeps a file of its own there.
    let left = std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name != ".ses").collect();
    assert!(left.is_empty(), "left in the scratch folder: {left:?}");
    bait.assert_untouched();
}

/// Asks the service, and reads the whole answer.
fn ask(service: &Service, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(service.address).unwrap();
    let (host, length) = (service.address, body.len());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // One that is refused early may not be read to its end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_lowercase(), body: answer.split_off(end + 4) }
}

/// The id of the job that was made, or the code of the refusal.
type Sent = Result<String, String>;

fn post_video(service: &Service, name: &str, bytes: &[u8]) -> Sent {
    let (content_type, body) = form(name, bytes);
    let headers = format!("Content-Type: {content_type}\r\n");
    let reply = ask(service, "POST", "/api/videos?every=4", &headers, &body);
    match code_of(name, &reply).as_str() {
        "ok" => Ok(reply.json()["id"].as_str().unwrap().to_owned()),
        code => Err(code.to_owned()),
    }
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    reply.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
}

/// Sends a file by tus in three pieces.
fn upload_video(service: &Service, name: &str, bytes: &[u8]) -> Sent {
    const TUS: &str = "Tus-Resumable: 1.0.0\r\n";
    let length = bytes.len();
    let created = ask(
        service,
        "POST",
        "/api/uploads",
        &format!("{TUS}Upload-Length: {length}\r\nUpload-Metadata: every NA==\r\n"),
        b"",
    );
    let code = code_of(name, &created);
    if code != "ok" {
        return Err(code);
    }
    let location = header(&created, "location").unwrap().to_owned();
    let step = length.div_ceil(3);
    for (index, piece) in bytes.chunks(step).enumerate() {
        let headers = format!(
            "{TUS}Upload-Offset: {}\r\nContent-Type: application/offset+octet-stream\r\n",
            index * step
        );
        let reply = ask(service, "PATCH", &location, &headers, piece);
        let code = code_of(name, &reply);
        if code != "ok" {
            // What nobody finishes would stay until it expires.
            ask(service, "DELETE", &location, TUS, b"");
            return Err(code);
        }
        if let Some(job) = header(&reply, "vigie-job") {
            return Ok(job.to_owned());
        }
    }
    panic!("{name}: all of it was sent, and no job is there");
}

/// Waits until a job has ended: its code, or `ok`.
fn outcome(service: &Service, name: &str, id: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = service.get_json(&format!("/api/videos/{id}"));
        match job["state"].as_str().unwrap() {
            "done" => return "ok".into(),
            "failed" => {
                let error = &job["error"];
                assert!(
                    error["message"].as_str().is_some_and(|message| message.len() > 10),
                    "{name}: {error}"
                );
                return error["code"].as_str().unwrap().to_owned();
            }
            state => assert!(Instant::now() < deadline, "{name} is still {state}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn videos_get_codes_and_harm_nothing(send: fn(&Service, &str, &[u8]) -> Sent) {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, store) = (folder.path().join("in"), folder.path().join("store"));
    std::fs::create_dir(&inputs).unwrap();
    let bait = Bait::set(&inputs);
    let corpus = Corpus::make(&inputs, &bait);
    let service = Service::start(&["--store", store.to_str().unwrap()]);
    let mut memory = Memory::of(service.child.id());
    let mut answers = Answers::default();
    for file in &corpus.files {
        let code = match send(&service, &file.name, &corpus.bytes(file)) {
            Err(code) => code,
            Ok(id) => {
                let code = outcome(&service, &file.name, &id);
                let deleted = ask(&service, "DELETE", &format!("/api/videos/{id}"), "", b"");
                assert_eq!(deleted.status, 204, "{}", file.name);
                code
            }
        };
        answers.note(&file.name, &code, &file.video);
        memory.look(&file.name);
    }
    assert!(service.is_ready());
    eprintln!("the service took {} MiB at most, growing with {:?}", memory.peak_mib, memory.growth);
    answers.are_as_expected();
    // The folder itself is locked by whoever uses it.
    let is_lock = |path: &PathBuf| {
        path.parent() == Some(&store)
            && path.extension().is_none()
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    };
    let left: Vec<_> = files_below(&store).into_iter().filter(|path| !is_lock(path)).collect();
    assert!(left.is_empty(), "left in the store: {left:?}");
    bait.assert_untouched();
}

#[test]
fn posted_as_videos_they_get_codes_and_harm_nothing() {
    videos_get_codes_and_harm_nothing(post_video);
}

#[test]
fn uploaded_in_pieces_they_get_codes_and_harm_nothing() {
    videos_get_codes_and_harm_nothing(upload_video);
}
