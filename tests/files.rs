//! Pictures, through the service as its users ask it; and the same picture on every path.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use common::media::{ffmpeg, noise, pictures};
use common::process::{Reply, Service};
use common::{Lab, OBJECTS_SIZE};
use serde_json::Value;
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
    assert_eq!(report["models"].as_object().unwrap().len(), 3, "text is read where it is asked for only");
    let timings = &report["timings_ms"];
    let of = |stage: &str| timings[stage].as_f64().unwrap();
    assert!(of("decode") > 0.0 && of("infer") > 0.0, "{timings}");
    assert!(of("decode") + of("prepare") + of("infer") <= of("total") + 1.0, "{timings}");

    let raw = service.post("/predict", &[], &astronaut()).json();
    assert_eq!(raw["detections"], report["detections"], "as a raw body it is the same picture");

    let version = report["models"]["blazeface"].as_str().unwrap();
    let named = format!("/predict?tasks=faces&model=blazeface@{version},centernet");
    assert_eq!(service.post(&named, &[], &astronaut()).status, 200);
    let faces = service.post("/predict?tasks=faces", &[], &astronaut()).json();
    assert_eq!(kinds(&faces), [("face".to_owned(), "face".to_owned())]);
    assert!(faces["detections"][0]["attributes"].is_null(), "{faces}");
    let sure = service.post("/predict?tasks=objects&threshold=0.99", &[], &astronaut()).json();
    assert!(kinds(&sure).is_empty(), "{sure}");
    assert_eq!(service.metric("vigie_pictures_total{outcome=\"recognised\"}"), 5.0);
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

#[test]
fn an_avif_picture_is_read_upright() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.avif");
    let picture = common::data("pictures/coffee.jpg");
    let still = ["-c:v", "libaom-av1", "-still-picture", "1", "-cpu-used", "8", "-crf", "10"];
    let input = ["-i", picture.to_str().unwrap(), "-pix_fmt", "yuv420p"];
    ffmpeg(&[&input[..], &still, &[path.to_str().unwrap()]].concat(), &[]);
    let bytes = std::fs::read(&path).unwrap();
    let decoded = vigie::files::image::decode(&bytes).unwrap();
    let expected = vigie::files::image::decode(&std::fs::read(&picture).unwrap()).unwrap();
    assert_eq!((decoded.width, decoded.height), (expected.width, expected.height));
    let (ours, theirs) = (i420(&decoded), i420(&expected));
    let off = ours.data.iter().zip(&theirs.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
    assert!(off < ours.data.len() as u64 * 4, "off by {off} over {} bytes", ours.data.len());

    let service = Service::start(&[]);
    let report = service.post("/predict?tasks=objects", &[], &bytes).json();
    assert!(kinds(&report).iter().any(|(_, label)| label == "cup"), "{report}");
    let half = service.post("/predict", &[], &bytes[..bytes.len() / 2]);
    assert_eq!((half.status, half.json()["error"]["code"].as_str()), (422, Some("truncated")));
    // A few hundred bytes that decode to 114 MiB.
    let deep = ["-f", "lavfi", "-i", "color=red:size=5000x4000", "-frames:v", "1", "-pix_fmt", "yuv444p10le"];
    ffmpeg(&[&deep[..], &still, &[path.to_str().unwrap()]].concat(), &[]);
    let deep = service.post("/predict", &[], &std::fs::read(&path).unwrap());
    assert_eq!((deep.status, deep.json()["error"]["code"].as_str()), (413, Some("too_large")));
    let heic = service.post("/predict", &[], b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\0");
    assert_eq!((heic.status, heic.json()["error"]["code"].as_str()), (415, Some("unsupported_type")));
    assert!(heic.json()["error"]["message"].as_str().unwrap().contains("HEIC"));
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
        ("/predict?model=yolo", &[json], picture.clone(), 400, "invalid_option"),
        ("/predict?model=blazeface@9999", &[json], picture.clone(), 400, "invalid_option"),
        ("/predict?model=%26", &[json], picture.clone(), 400, "invalid_option"),
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
        lab.recogniser(1).detect(picture, &Tasks::USUAL, &MinScores::default()).unwrap().detections
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
