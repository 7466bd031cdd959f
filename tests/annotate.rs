//! Video files: `vigie annotate` as its users run it, and what it is made of.

#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::media::{clip, ffmpeg, noise, pictures};
use common::process::vigie;
use common::{Lab, OBJECTS_SIZE};
use serde_json::Value;
use vigie::codec::VideoFile;
use vigie::files::video::{Engines, Summary, VideoError, VideoOptions, annotate};

fn astronaut() -> Vec<u8> {
    std::fs::read(common::data("pictures/astronaut.jpg")).unwrap()
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
    clip(&inputs, "raw.avi", &["-vf", "scale=256:256", "-c:v", "rawvideo", "-pix_fmt", "bgr24", "-an"]);
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
        ("raw.avi", "none"),
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
    assert_eq!(std::fs::read_dir(&outputs).unwrap().count(), 8, "nothing half-written is left");
}

#[test]
fn bad_files_are_clear_errors_and_keep_no_other_from_being_annotated() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    std::fs::create_dir(&inputs).unwrap();
    let small = ["-vf", "scale=192:192", "-c:v", "libx264", "-preset", "ultrafast", "-an"];
    let whole = clip(folder.path(), "whole.mp4", &small);
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    let whole = read(whole);
    let live = read(clip(folder.path(), "live.mkv", &small));
    let broadcast = read(clip(folder.path(), "broadcast.ts", &small));
    let old = read(clip(folder.path(), "old.avi", &["-vf", "scale=192:192", "-c:v", "mpeg4", "-an"]));
    let fast = [&small[..], &["-movflags", "+faststart"]].concat();
    let fast = read(clip(folder.path(), "fast.mp4", &fast));
    let sound = inputs.join("sound.m4a");
    ffmpeg(&["-f", "lavfi", "-i", "sine=440", "-t", "1", "-c:a", "aac", sound.to_str().unwrap()], &[]);
    let album = inputs.join("album.m4a");
    let cover = common::data("pictures/astronaut.jpg");
    let cover = ["-i", sound.to_str().unwrap(), "-i", cover.to_str().unwrap(), "-map", "0", "-map", "1"];
    let attached = ["-c:a", "copy", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic"];
    ffmpeg(&[&cover[..], &attached[..], &[album.to_str().unwrap()]].concat(), &[]);
    let playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nlive.mkv\n#EXT-X-ENDLIST\n";
    for (name, bytes) in [
        ("nothing.mp4", Vec::new()),
        ("playlist.mp4", playlist.into()),
        ("concat.mp4", b"ffconcat version 1.0\nfile live.mkv\n".to_vec()),
        ("noise.mp4", noise(10_000)),
        ("named.mp4", [b"\0\0\0\x20ftypisom".to_vec(), noise(10_000)].concat()),
        ("headless.mp4", whole[..whole.len() / 2].to_vec()),
        ("half.mkv", live[..live.len() / 2].to_vec()),
        ("half-broadcast.ts", broadcast[..broadcast.len() / 2 / 188 * 188 + 100].to_vec()),
        ("half-old.avi", old[..old.len() / 2].to_vec()),
        ("half-fast.mp4", fast[..fast.len() * 2 / 3].to_vec()),
    ] {
        std::fs::write(inputs.join(name), bytes).unwrap();
    }
    let outputs = folder.path().join("out");
    let output = vigie().args(["annotate", "--every", "4", "-o"]).args([&outputs, &inputs]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    for (name, expected) in [
        ("nothing.mp4", "it is empty"),
        ("playlist.mp4", "is no MP4, MOV, WebM"),
        ("concat.mp4", "is no MP4, MOV, WebM"),
        ("noise.mp4", "is no MP4, MOV, WebM"),
        ("named.mp4", "damaged or cut off"),
        ("headless.mp4", "is cut off before its index"),
        ("album.m4a", "has no video, only audio"),
        ("sound.m4a", "has no video, only audio"),
    ] {
        let line = said.lines().find(|line| line.starts_with("vigie: ") && line.contains(name));
        assert!(line.is_some_and(|line| line.contains(expected)), "{name}: {said}");
    }
    let cut_off = ["half", "half-broadcast", "half-fast", "half-old"];
    assert_eq!(said.matches("the file is cut off").count(), cut_off.len(), "{said}");
    let entries = std::fs::read_dir(&outputs).unwrap();
    let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, cut_off.map(|name| format!("{name}-annotated.mp4")));
    for name in left {
        let (annotated, _) = pictures(&outputs.join(&name));
        assert!((2..20).contains(&annotated.len()), "{name}: {} pictures", annotated.len());
    }
}

const SMALL: [&str; 7] = ["-vf", "scale=192:192", "-c:v", "libx264", "-preset", "ultrafast", "-an"];

fn engines(lab: &Lab) -> Engines {
    Engines { handle: lab.service.handle(), models: lab.models.clone(), lanes: 2 }
}

/// Annotates with every fourth picture recognised, and without a word in between.
fn annotated(lab: &Lab, source: &Path, target: &Path) -> Summary {
    let options = VideoOptions { every: 4, ..VideoOptions::default() };
    annotate(source, target, &engines(lab), &options, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_picture_that_changes_its_size_is_brought_to_the_first_ones() {
    let lab = Lab::start(2, OBJECTS_SIZE);
    let folder = tempfile::tempdir().unwrap();
    let sized = |name: &str, size: &str| {
        let scale = format!("scale={size},setsar=1");
        std::fs::read(clip(folder.path(), name, &[&["-vf", &scale], &SMALL[2..]].concat())).unwrap()
    };
    let source = folder.path().join("changes.ts");
    let parts = [sized("a.ts", "256:192"), sized("b.ts", "128:256"), sized("c.ts", "256:192")];
    std::fs::write(&source, parts.concat()).unwrap();
    let target = folder.path().join("annotated.mp4");
    let summary = annotated(&lab, &source, &target);
    assert_eq!((summary.width, summary.height), (256, 192));
    assert_eq!((summary.frames, summary.rescaled_frames), (60, 20), "{summary:?}");
    assert_eq!(summary.stopped, None);
    let (after, _) = pictures(&target);
    assert_eq!(after.len(), 60);
    let luma = |index: usize, x: usize| {
        let plane = after[index].0.planes.plane(0);
        plane.data[plane.stride * 20 + x]
    };
    // 128x256 becomes 96x192 in the middle; beside it is black.
    for (index, is_black) in [(5, false), (30, true), (55, false)] {
        assert_eq!([10, 70, 190, 250].iter().all(|x| luma(index, *x) < 24), is_black, "picture {index}");
        assert!(luma(index, 128) > 24, "picture {index}");
    }
}

#[test]
fn times_are_kept_however_a_file_begins() {
    let lab = Lab::start(2, OBJECTS_SIZE);
    let folder = tempfile::tempdir().unwrap();
    let sound = ["-vf", "scale=192:192", "-c:v", "libx264", "-g", "10", "-bf", "2", "-c:a", "aac"];
    let whole = clip(folder.path(), "whole.mp4", &sound);
    let whole = whole.to_str().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Cut before the second key frame without encoding anew: an edit list hides the beginning.
    let edited = path("edited.mp4");
    ffmpeg(&["-ss", "0.75", "-i", whole, "-c", "copy", edited.to_str().unwrap()], &[]);
    // The sound begins a second before the pictures.
    let late = path("late.mkv");
    let shifted = ["-i", whole, "-itsoffset", "1", "-i", whole, "-map", "0:a", "-map", "1:v", "-c", "copy"];
    ffmpeg(&[&shifted[..], &[late.to_str().unwrap()]].concat(), &[]);
    let broadcast = path("later.ts");
    ffmpeg(&["-i", whole, "-c", "copy", "-output_ts_offset", "5000", broadcast.to_str().unwrap()], &[]);
    for (source, first_ms, count) in
        [(&edited, 0..150, 10..17), (&late, 980..1100, 20..21), (&broadcast, 0..250, 20..21)]
    {
        let target = source.with_extension("annotated.mp4");
        let summary = annotated(&lab, source, &target);
        let ((before, _), (after, _)) = (pictures(source), pictures(&target));
        assert!(count.contains(&before.len()), "{source:?}: {} pictures", before.len());
        assert_eq!(after.len(), before.len(), "{source:?}");
        assert!(!summary.cut_off, "{source:?}");
        assert!(first_ms.contains(&before[0].1.as_millis()), "{source:?} begins at {:?}", before[0].1);
        for ((_, at), (_, expected)) in after.iter().zip(&before) {
            assert!(
                at.abs_diff(*expected) < Duration::from_millis(30),
                "{source:?}: {at:?} was {expected:?}"
            );
        }
    }
}

#[test]
fn one_picture_of_ten_hours_is_one_picture() {
    let lab = Lab::start(2, OBJECTS_SIZE);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("long.mp4");
    let picture = common::data("pictures/astronaut.jpg");
    let input = ["-r", "1/36000", "-i", picture.to_str().unwrap(), "-vf", "scale=192:192"];
    let codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", source.to_str().unwrap()];
    ffmpeg(&[&input[..], &codec[..]].concat(), &[]);
    let target = folder.path().join("annotated.mp4");
    assert_eq!(VideoFile::open(&source, 1).unwrap().info().duration, Some(Duration::from_secs(36_000)));
    let summary = annotated(&lab, &source, &target);
    assert_eq!((summary.frames, summary.cut_off), (1, false));
    assert!(std::fs::metadata(&target).unwrap().len() < 100_000);

    let limit = Duration::from_secs(3600);
    let limited = VideoOptions { max_duration: Some(limit), ..VideoOptions::default() };
    let small = VideoOptions { max_pixels: 10_000, ..VideoOptions::default() };
    std::fs::remove_file(&target).unwrap();
    for (options, code) in [(limited, "too_long"), (small, "too_large")] {
        let outcome =
            annotate(&source, &target, &engines(&lab), &options, &mut |_| ControlFlow::Continue(()));
        assert_eq!(outcome.unwrap_err().code(), code);
    }
    assert_eq!(names(folder.path()), ["long.mp4"]);
}

#[test]
fn a_longer_video_than_it_says_is_refused_too() {
    let lab = Lab::start(2, OBJECTS_SIZE);
    let folder = tempfile::tempdir().unwrap();
    // Written to a pipe, so that no duration is declared.
    let source = folder.path().join("endless.mkv");
    let recording = clip(folder.path(), "whole.mkv", &[&SMALL[..], &["-live", "1"]].concat());
    std::fs::rename(recording, &source).unwrap();
    assert_eq!(VideoFile::open(&source, 1).unwrap().info().duration, None);
    let target = folder.path().join("annotated.mp4");
    let options =
        VideoOptions { every: 4, max_duration: Some(Duration::from_secs(1)), ..VideoOptions::default() };
    let outcome = annotate(&source, &target, &engines(&lab), &options, &mut |_| ControlFlow::Continue(()));
    assert_eq!(outcome.unwrap_err().code(), "too_long");
    assert_eq!(names(folder.path()), ["endless.mkv"]);
}

#[test]
fn who_is_told_may_end_it_and_nothing_is_left() {
    let lab = Lab::start(2, OBJECTS_SIZE);
    let folder = tempfile::tempdir().unwrap();
    let source = clip(folder.path(), "whole.mp4", &SMALL);
    let target = folder.path().join("annotated.mp4");
    // SAFETY: a plain query of the calling thread.
    let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t) };
    let before = niceness();
    for background in [false, true] {
        let options = VideoOptions { background, ..VideoOptions::default() };
        let mut told = 0;
        let outcome = annotate(&source, &target, &engines(&lab), &options, &mut |progress| {
            told = progress.frames;
            assert_eq!(niceness() > before, background, "its threads alone are lowered");
            if progress.frames == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(outcome, Err(VideoError::Cancelled)), "{outcome:?}");
        assert_eq!(told, 3);
        assert_eq!(names(folder.path()), ["whole.mp4"]);
    }
    assert_eq!(niceness(), before);
}

#[test]
fn a_full_disk_is_one_clear_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    std::fs::create_dir(&inputs).unwrap();
    // Noise cannot be made small.
    for name in ["a.mp4", "b.mp4"] {
        clip(&inputs, name, &["-vf", "scale=192:192,noise=alls=90:allf=t", "-c:v", "libx264", "-an"]);
    }
    let outputs = folder.path().join("out");
    let json = folder.path().join("found.jsonl");
    // No file may grow beyond 64 KiB: what a write says then is what it says on a full disk.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_vigie")])
        .args(["annotate", "--every", "20", "--json"])
        .args([&json, Path::new("-o"), &outputs, &inputs])
        .envs(vigie().get_envs().filter_map(|(name, value)| Some((name, value?))))
        // Where coverage is measured, its own file would not fit either.
        .env("LLVM_PROFILE_FILE", "/dev/null")
        .output()
        .unwrap();
    let said = String::from_utf8(limited.stderr).unwrap();
    assert_eq!(limited.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("File too large").count(), 1, "{said}");
    assert!(said.contains("a.mp4"), "{said}");
    assert!(names(&outputs).is_empty());
    assert_eq!(names(folder.path()), ["in", "out"]);
}

#[test]
fn an_interrupt_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let source = clip(folder.path(), "long.mp4", &[&SMALL[..], &["-t", "60"]].concat());
    let (outputs, json) = (folder.path().join("out"), folder.path().join("found.jsonl"));
    std::fs::create_dir(&outputs).unwrap();
    let child = vigie()
        .args(["annotate", "--json"])
        .args([&json, Path::new("-o"), &outputs, &source])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let waited = Instant::now();
    while names(&outputs).is_empty() {
        assert!(waited.elapsed() < Duration::from_secs(60), "nothing was begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: the child is ours, and has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(130), None), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(names(&outputs).is_empty());
    assert_eq!(names(folder.path()), ["long.mp4", "out"]);
}
