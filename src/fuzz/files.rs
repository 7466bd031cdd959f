//! What comes as files: pictures, videos, models.

use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use crate::codec::{MAX_PIXELS, Piece, VideoFile};
use crate::container::Container;
use crate::files::image::{self, MAX_PIXELS as MAX_STILL_PIXELS};
use crate::models::check;

/// Pieces of a video that are read: a mutated index may promise many.
const MAX_PIECES: usize = 64;
/// Bytes that are made a file of: what is longer says nothing new.
const MAX_BYTES: usize = 1 << 20;

/// A picture that is posted.
pub fn image(data: &[u8]) {
    let _ = image::is_picture(data);
    if let Ok(picture) = image::decode(data) {
        let pixels = picture.width as u64 * picture.height as u64;
        assert!((1..=MAX_STILL_PIXELS).contains(&pixels), "{}x{}", picture.width, picture.height);
    }
}

/// A video file, through its demuxer into its decoder.
pub fn container(data: &[u8]) {
    if data.len() > MAX_BYTES || Container::of(data).is_none() {
        return;
    }
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(data).and_then(|()| file.rewind()).expect("a file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let Ok(mut video) = VideoFile::open(&path, 1) else { return };
    let _ = video.audio();
    for _ in 0..MAX_PIECES {
        match video.read() {
            Ok(Some(Piece::Picture(picture, _))) => {
                assert!(picture.width * picture.height <= MAX_PIXELS);
            }
            Ok(Some(Piece::Audio(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let _ = (video.is_cut_off(), video.damaged(), video.rescaled());
    drop(video);
    let mut unchanged = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut unchanged)).expect("the file is read");
    assert!(unchanged == data, "an input is never written to");
}

/// A model, before any runtime sees it.
pub fn onnx(data: &[u8]) {
    match check::check(data) {
        Ok(summary) => assert_eq!(summary.bytes, data.len()),
        Err(error) => assert!(!error.code().is_empty() && !error.to_string().is_empty()),
    }
}
