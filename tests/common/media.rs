//! Video files for tests: written by FFmpeg's own program, read back by ours.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use vigie::codec::{Piece, VideoFile};
use vigie::frame::Picture;

/// Bytes that are no file of any kind, the same each time.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Runs FFmpeg's own program, an independent writer of files.
pub fn ffmpeg(arguments: &[&str], input: &[u8]) {
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
pub fn pictures(path: &Path) -> (Vec<(Picture, Duration)>, bool) {
    let mut file = VideoFile::open(path, 2).unwrap();
    let mut pictures = Vec::new();
    while let Some(piece) = file.read().unwrap() {
        if let Piece::Picture(picture, at) = piece {
            pictures.push((picture, at));
        }
    }
    (pictures, file.is_cut_off())
}

/// A video of the astronaut, moving, in `folder`; `arguments` say how it is written.
pub fn clip(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let picture = super::data("pictures/astronaut.jpg");
    let source = ["-loop", "1", "-r", "10", "-i", picture.to_str().unwrap()];
    let sound = ["-f", "lavfi", "-i", "sine=440"];
    ffmpeg(&[&source[..], &sound, &["-t", "2"], arguments, &[path.to_str().unwrap()]].concat(), &[]);
    path
}
