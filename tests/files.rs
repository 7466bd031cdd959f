//! Pictures and video files, through the program as its users run it.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::process::{Reply, Service, vigie};
use common::{Lab, OBJECTS_SIZE};
use serde_json::Value;
use vigie::codec::{Piece, VideoFile};
use vigie::frame::{Detection, I420Buffer, Picture};
use vigie::pipeline::recognise::{MinScores, Tasks};

fn astronaut() -> Vec<u8> {
    std::fs::read(common::data("pictures/astronaut.jpg")).unwrap()
}

/// A form with one file, as `requests.post(url, files={'file': ...})` writes it.
fn form(field: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let boundary = "5c0f2a6e6bd9b0a1";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"a.jpg\"\r\n\r\n"
    )
    .into_bytes();
    body.extend(bytes);
    body.extend(format!("\r\n--{boundary}--\r\n").bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

fn post_form(service: &Service, path: &str, accept: &str, bytes: &[u8]) -> Reply {
    let (content_type, body) = form("file", bytes);
    service.post(path, &[("Content-Type", &content_type), ("Accept", accept)], &body)
}

fn kinds(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let detections = report["detections"].as_array().unwrap();
    detections.iter().map(|found| (text(&found["kind"]), text(&found["label"]))).collect()
}

#[test]
fn a_posted_picture_is_recognised() {
    let service = Service::start(&[]);
    let reply = post_form(&service, "/predict", "*/*", &astronaut());
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    assert!(reply.head.contains("content-type: application/json"), "{}", reply.head);
    let report = reply.json();
    assert_eq!((report["width"].as_u64(), report["height"].as_u64()), (Some(512), Some(512)));
    let found = kinds(&report);
    assert!(found.contains(&("face".into(), "face".into())), "{found:?}");
    assert!(found.contains(&("object".into(), "person".into())), "{found:?}");
    let face = &report["detections"][0];
    assert_eq!(face["attributes"]["apparent_gender"]["label"], "female", "{face}");
    assert_eq!(report["models"].as_object().unwrap().len(), 3);
    let timings = &report["timings_ms"];
    let of = |stage: &str| timings[stage].as_f64().unwrap();
    assert!(of("decode") > 0.0 && of("infer") > 0.0, "{timings}");
    assert!(of("decode") + of("prepare") + of("infer") <= of("total") + 1.0, "{timings}");

    let raw = service.post("/predict", &[], &astronaut()).json();
    assert_eq!(raw["detections"], report["detections"], "as a raw body it is the same picture");

    let faces = service.post("/predict?tasks=faces", &[], &astronaut()).json();
    assert_eq!(kinds(&faces), [("face".to_owned(), "face".to_owned())]);
    assert!(faces["detections"][0]["attributes"].is_null(), "{faces}");
    let sure = service.post("/predict?tasks=objects&threshold=0.99", &[], &astronaut()).json();
    assert!(kinds(&sure).is_empty(), "{sure}");
    assert_eq!(service.metric("vigie_pictures_total{outcome=\"recognised\"}"), 4.0);
}

#[test]
fn an_annotated_picture_shows_what_was_found() {
    let service = Service::start(&[]);
    let original = common::read_rgb("pictures/astronaut.jpg");
    for (path, accept, content_type) in [
        ("/predict", "image/jpeg", "image/jpeg"),
        ("/predict", "image/png", "image/png"),
        ("/predict?annotate=1", "*/*", "image/jpeg"),
    ] {
        let reply = post_form(&service, path, accept, &astronaut());
        assert_eq!(reply.status, 200);
        assert!(reply.head.contains(&format!("content-type: {content_type}\r\n")), "{}", reply.head);
        let annotated = image::load_from_memory(&reply.body).unwrap().into_rgb8();
        assert_eq!(annotated.dimensions(), original.dimensions());
        let changed = annotated
            .pixels()
            .zip(original.pixels())
            .filter(|(ours, theirs)| ours.0.iter().zip(theirs.0).any(|(&a, b)| a.abs_diff(b) > 60));
        let changed = changed.count();
        assert!((1000..60_000).contains(&changed), "{changed} pixels changed for {path} {accept}");
    }
}

/// The header of a PNG that says it is 65,535 pixels high and wide.
fn bomb() -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend([0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 8, 2, 0, 0, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\x0d".as_slice(),
        &chunk,
        &crc.sum().to_be_bytes(),
        b"\0\0\0\0IDAT\x35\xaf\x06\x1e",
    ]
    .concat()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn bad_input_gets_its_status_and_code_and_harms_nobody() {
    let service = Service::start(&[]);
    let picture = astronaut();
    let playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n".to_vec();
    let concat = b"ffconcat version 1.0\nfile /etc/passwd\n".to_vec();
    let mut corrupt = picture.clone();
    corrupt[2..200].fill(0xff);
    for (name, bytes, status, code) in [
        ("nothing", Vec::new(), 422, "empty"),
        ("half a JPEG", picture[..picture.len() / 2].to_vec(), 422, "truncated"),
        ("a JPEG of fill bytes", corrupt, 422, "corrupt"),
        ("a text", b"hello, world".to_vec(), 415, "unsupported_type"),
        ("an HLS playlist", playlist, 415, "unsupported_type"),
        ("a concat list", concat, 415, "unsupported_type"),
        ("a video", b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41".to_vec(), 415, "unsupported_type"),
        ("noise", noise(100_000), 415, "unsupported_type"),
        (
            "noise called a JPEG",
            [b"\xff\xd8\xff\xe0\0\x04??".to_vec(), noise(50_000)].concat(),
            422,
            "corrupt",
        ),
        ("a bomb", bomb(), 413, "too_large"),
        ("33 MiB", vec![0; 33 << 20], 413, "too_large"),
    ] {
        for reply in [service.post("/predict", &[], &bytes), post_form(&service, "/predict", "*/*", &bytes)] {
            let error = &reply.json()["error"];
            assert_eq!((reply.status, error["code"].as_str()), (status, Some(code)), "{name}: {error}");
            assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{name}: {error}");
        }
    }
    let json = ("Content-Type", "application/json");
    let (content_type, unnamed) = form("picture", &picture);
    for (path, headers, body, status, code) in [
        ("/predict?tasks=ears", &[json][..], picture.clone(), 400, "invalid_option"),
        ("/predict?threshold=2", &[json], picture.clone(), 400, "invalid_option"),
        ("/predict?threshold=much", &[json], picture.clone(), 400, "invalid_option"),
        ("/predict?nonsense=1", &[json], picture.clone(), 400, "invalid_option"),
        ("/predict", &[("Content-Type", "multipart/form-data")], picture.clone(), 400, "body_unreadable"),
        ("/predict", &[("Content-Type", &content_type)], unnamed, 400, "body_unreadable"),
        ("/predict", &[("Content-Type", &content_type)], noise(5000), 400, "body_unreadable"),
        ("/predict", &[("Origin", "https://stranger.example")], picture.clone(), 403, "origin_refused"),
        ("/predict", &[("Content-Length", "10000000000")], Vec::new(), 413, "too_large"),
    ] {
        let reply = service.post(path, headers, &body);
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, error["code"].as_str()),
            (status, Some(code)),
            "{path} {headers:?}: {error}"
        );
    }
    assert!(service.get("/health").contains("200 OK"));
    assert_eq!(service.post("/predict", &[], &picture).status, 200, "and it still recognises pictures");
}

#[test]
fn many_at_once_are_answered_or_told_to_come_back() {
    // So slow that the queue fills.
    let service = Service::start(&["--lanes", "1", "--slowdown", "3"]);
    let picture = astronaut();
    let statuses: Vec<(u16, bool)> = std::thread::scope(|scope| {
        let ask = || {
            let reply = service.post("/predict?tasks=objects", &[], &picture);
            (reply.status, reply.head.contains("retry-after: "))
        };
        let askers: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|answer| matches!(answer, (200, false) | (503, true))), "{statuses:?}");
    let done = statuses.iter().filter(|(status, _)| *status == 200).count();
    assert!((64..100).contains(&done), "{done} of 100 were recognised");
}

/// Runs FFmpeg's own program, an independent writer of files.
fn ffmpeg(arguments: &[&str], input: &[u8]) {
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the ffmpeg program is there");
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success(), "{arguments:?}");
}

/// Every picture of a file with its media time, and whether the file was cut off.
fn pictures(path: &Path) -> (Vec<(Picture, Duration)>, bool) {
    let mut file = VideoFile::open(path, 2).unwrap();
    let mut pictures = Vec::new();
    while let Some(piece) = file.read().unwrap() {
        if let Piece::Picture(picture, at) = piece {
            pictures.push((picture, at));
        }
    }
    (pictures, file.is_cut_off())
}

fn i420(picture: &Picture) -> I420Buffer {
    let mut buffer = I420Buffer::black(picture.width, picture.height);
    buffer.copy_from(picture);
    buffer
}

#[test]
fn a_picture_gives_the_same_detections_wherever_it_comes_from() {
    let service = Service::start(&[]);
    let lab = Lab::start(2, OBJECTS_SIZE);
    let detect = |picture: &Picture| -> Vec<Detection> {
        lab.recogniser(1).detect(picture, &Tasks::ALL, &MinScores::default()).unwrap().detections
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["astronaut", "chelsea", "coffee"] {
        let bytes = std::fs::read(common::data(&format!("pictures/{name}.jpg"))).unwrap();
        let picture = vigie::files::image::decode(&bytes).unwrap();
        let expected = detect(&picture);
        assert!(!expected.is_empty(), "{name}");

        let raw = i420(&picture);
        let size = format!("{}x{}", picture.width, picture.height);
        // x264 has no odd sizes; FFV1 takes any.
        let even = picture.width.is_multiple_of(2) && picture.height.is_multiple_of(2);
        let files = [("mkv", &["-c:v", "ffv1"][..]), ("mp4", &["-c:v", "libx264", "-qp", "0", "-bf", "2"])];
        for (extension, codec) in files.into_iter().filter(|(extension, _)| even || *extension == "mkv") {
            let path = folder.path().join(format!("{name}.{extension}"));
            let source = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", "5", "-i", "pipe:0"];
            ffmpeg(&[&source[..], codec, &[path.to_str().unwrap()]].concat(), &raw.data.repeat(3));
            let (decoded, _) = pictures(&path);
            assert_eq!(decoded.len(), 3, "{name}.{extension}");
            for (decoded, _) in &decoded {
                assert!(i420(decoded) == raw, "{name}.{extension} is another picture");
                assert_eq!(detect(decoded), expected, "{name}.{extension}");
            }
        }

        let report = service.post("/predict", &[], &bytes).json();
        let answered = report["detections"].as_array().unwrap();
        assert_eq!(answered.len(), expected.len(), "{name}: {report}");
        for (ours, theirs) in answered.iter().zip(&expected) {
            let near =
                |value: &Value, expected: f32| (value.as_f64().unwrap() - f64::from(expected)).abs() < 1e-3;
            let bbox = [theirs.bbox.x, theirs.bbox.y, theirs.bbox.w, theirs.bbox.h];
            assert!(near(&ours["score"], theirs.score), "{name}: {ours} is not {theirs:?}");
            assert!(
                (0..4).all(|side| near(&ours["box"][side], bbox[side])),
                "{name}: {ours} is not {theirs:?}"
            );
        }
    }
}

/// A video of the astronaut, moving, in `folder`; `arguments` say how it is written.
fn clip(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let picture = common::data("pictures/astronaut.jpg");
    let source = ["-loop", "1", "-r", "10", "-i", picture.to_str().unwrap()];
    let sound = ["-f", "lavfi", "-i", "sine=440"];
    ffmpeg(&[&source[..], &sound, &["-t", "2"], arguments, &[path.to_str().unwrap()]].concat(), &[]);
    path
}

#[test]
fn every_kind_of_video_is_annotated_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, outputs) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::create_dir(&inputs).unwrap();
    let x264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
    let b_frames =
        ["-vf", "scale=320:320", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    clip(&inputs, "b-frames.mp4", &b_frames);
    clip(
        &inputs,
        "odd.webm",
        &["-vf", "crop=301:257:100:40", "-c:v", "libvpx", "-an", "-pix_fmt", "yuv420p"],
    );
    clip(&inputs, "old.avi", &["-vf", "scale=256:256", "-c:v", "mpeg4", "-q:v", "2", "-c:a", "libmp3lame"]);
    let broadcast = [&["-vf", "scale=256:256"], &x264[..], &["-c:a", "aac"]].concat();
    clip(&inputs, "broadcast.ts", &broadcast);
    // Every third picture is left out: times are uneven.
    let uneven = ["-vf", "scale=256:256,select='mod(n,3)'", "-vsync", "vfr", "-an"];
    clip(&inputs, "uneven.mkv", &[&uneven, &x264[..]].concat());
    let upright = clip(folder.path(), "upright.mp4", &[&["-vf", "scale=320:240", "-an"], &x264[..]].concat());
    let held = inputs.join("held.mov");
    let turn = ["-i", upright.to_str().unwrap(), "-c", "copy", "-metadata:s:v:0", "rotate=90"];
    ffmpeg(&[&turn[..], &[held.to_str().unwrap()]].concat(), &[]);
    std::fs::write(inputs.join("still.jpg"), astronaut()).unwrap();

    let json = folder.path().join("found.jsonl");
    let csv = folder.path().join("found.csv");
    let status = vigie()
        .args(["annotate", "--json", json.to_str().unwrap(), "--csv", csv.to_str().unwrap(), "-o"])
        .args([&outputs, &inputs])
        .status()
        .unwrap();
    assert!(status.success());

    let lines = std::fs::read_to_string(&json).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (name, sound) in [
        ("b-frames.mp4", "copied"),
        ("odd.webm", "none"),
        ("old.avi", "copied"),
        ("broadcast.ts", "copied"),
        ("uneven.mkv", "none"),
        ("held.mov", "none"),
    ] {
        let source = inputs.join(name);
        let target = outputs.join(name).with_extension("").to_str().unwrap().to_owned() + "-annotated.mp4";
        let ((before, _), (after, _)) = (pictures(&source), pictures(Path::new(&target)));
        assert!(before.len() > 10, "{name}");
        assert_eq!(after.len(), before.len(), "{name}: every picture is there");
        for ((ours, at), (theirs, expected)) in after.iter().zip(&before) {
            assert!(at.abs_diff(*expected) < Duration::from_millis(2), "{name}: {at:?} was {expected:?}");
            let even = |side: usize| side.next_multiple_of(2);
            assert_eq!((ours.width, ours.height), (even(theirs.width), even(theirs.height)), "{name}");
        }
        let of_file = |line: &&Value| line["file"].as_str().unwrap().ends_with(name);
        let reports: Vec<&Value> = lines.iter().filter(of_file).collect();
        assert_eq!(reports.len(), before.len() + 1, "{name}");
        let summary = &reports.last().unwrap()["summary"];
        assert_eq!(summary["frames"].as_u64(), Some(before.len() as u64), "{name}: {summary}");
        assert_eq!(
            (summary["cut_off"].as_bool(), summary["audio"].as_str()),
            (Some(false), Some(sound)),
            "{name}"
        );
        let is_turned = name == "held.mov";
        assert!(is_turned || !summary["tracks"].as_array().unwrap().is_empty(), "{name}: {summary}");
        // The index comes first, so that a browser plays while it loads.
        let bytes = std::fs::read(&target).unwrap();
        let place = |kind: &[u8]| bytes.windows(4).position(|four| four == kind).unwrap();
        assert!(place(b"moov") < place(b"mdat"), "{name}");
        let has_sound = VideoFile::open(Path::new(&target), 1).unwrap().info().has_audio;
        assert_eq!(has_sound, sound == "copied", "{name}");
    }
    let (held, _) = pictures(&held);
    assert_eq!((held[0].0.width, held[0].0.height), (240, 320));
    assert!(outputs.join("still-annotated.jpg").exists());
    assert!(std::fs::read_to_string(&csv).unwrap().lines().count() > 50);
    assert_eq!(std::fs::read_dir(&outputs).unwrap().count(), 7, "nothing half-written is left");
}

#[test]
fn bad_files_are_clear_errors_and_keep_no_other_from_being_annotated() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    std::fs::create_dir(&inputs).unwrap();
    let small = ["-vf", "scale=192:192", "-c:v", "libx264", "-preset", "ultrafast", "-an"];
    let whole = clip(folder.path(), "whole.mp4", &small);
    let live = clip(folder.path(), "live.mkv", &small);
    let whole = std::fs::read(&whole).unwrap();
    let live = std::fs::read(&live).unwrap();
    let sound = inputs.join("sound.m4a");
    ffmpeg(&["-f", "lavfi", "-i", "sine=440", "-t", "1", "-c:a", "aac", sound.to_str().unwrap()], &[]);
    let playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nlive.mkv\n#EXT-X-ENDLIST\n";
    for (name, bytes) in [
        ("nothing.mp4", Vec::new()),
        ("playlist.mp4", playlist.into()),
        ("concat.mp4", b"ffconcat version 1.0\nfile live.mkv\n".to_vec()),
        ("noise.mp4", noise(10_000)),
        ("named.mp4", [b"\0\0\0\x20ftypisom".to_vec(), noise(10_000)].concat()),
        ("headless.mp4", whole[..whole.len() / 2].to_vec()),
        ("half.mkv", live[..live.len() / 2].to_vec()),
    ] {
        std::fs::write(inputs.join(name), bytes).unwrap();
    }
    let outputs = folder.path().join("out");
    let output = vigie().args(["annotate", "--every", "4", "-o"]).args([&outputs, &inputs]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    for (name, expected) in [
        ("nothing.mp4", "is empty"),
        ("playlist.mp4", "is no MP4, MOV, WebM"),
        ("concat.mp4", "is no MP4, MOV, WebM"),
        ("noise.mp4", "is no MP4, MOV, WebM"),
        ("named.mp4", "damaged or cut off"),
        ("headless.mp4", "damaged or cut off"),
        ("sound.m4a", "has no video, only audio"),
    ] {
        let line = said.lines().find(|line| line.starts_with("vigie: ") && line.contains(name));
        assert!(line.is_some_and(|line| line.contains(expected)), "{name}: {said}");
    }
    assert!(said.contains("the file is cut off"), "{said}");
    let left: Vec<_> = std::fs::read_dir(&outputs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["half-annotated.mp4"]);
    let (annotated, _) = pictures(&outputs.join("half-annotated.mp4"));
    assert!((3..18).contains(&annotated.len()), "{} pictures", annotated.len());
}
