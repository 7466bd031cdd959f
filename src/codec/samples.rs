//! How many samples an MP4 file says it has, counted before FFmpeg makes an index of them.
//!
//! FFmpeg takes memory for each, whether or not the file could hold them: sixty tracks of four million made ten
//! gigabytes of a file of seventy kilobytes. Boxes are looked for by their names alone, wherever they stand
//! outside the media data, as FFmpeg does.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// Bytes of a box's size and name.
const HEAD: u64 = 8;
/// Bytes from a table's name to the end of its count, at most: version and flags, size, count.
const TABLE: usize = 16;
const WINDOW: usize = 64 << 10;

/// Whether the file declares no more samples than it has bytes; a table of more than `max_indexed` is left out,
/// because FFmpeg has no memory to index it (or need not, as with raw sound).
///
/// # Errors
/// The operating system's, when the file cannot be read.
pub fn are_possible(path: &Path, max_indexed: u32) -> io::Result<bool> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let samples = declared(&mut BufReader::with_capacity(WINDOW, file), length, max_indexed)?;
    Ok(samples <= length)
}

/// The samples of all tables and fragments outside the media data (ISO/IEC 14496-12 §4.2).
fn declared(file: &mut (impl Read + Seek), length: u64, max_indexed: u32) -> io::Result<u64> {
    let (mut samples, mut at) = (0_u64, 0);
    while at + HEAD <= length {
        let mut head = [0; HEAD as usize];
        file.read_exact(&mut head)?;
        let [a, b, c, d, name @ ..] = head;
        let (mut read, mut size) = (HEAD, u64::from(u32::from_be_bytes([a, b, c, d])));
        if size == 1 && at + 2 * HEAD <= length {
            file.read_exact(&mut head)?;
            (read, size) = (2 * HEAD, u64::from_be_bytes(head));
        }
        // To the end of the file, or nothing that makes sense: whatever follows is looked through.
        let size = if size < read { length - at } else { size.min(length - at) };
        let rest = size - read;
        if name == *b"mdat" {
            file.seek_relative(i64::try_from(rest).unwrap_or(i64::MAX))?;
        } else {
            samples = samples.saturating_add(in_tables(&mut file.by_ref().take(rest), max_indexed)?);
        }
        at += size;
    }
    Ok(samples)
}

/// The samples of the tables that stand somewhere in `bytes`.
fn in_tables(bytes: &mut impl Read, max_indexed: u32) -> io::Result<u64> {
    let (mut samples, mut window) = (0_u64, Vec::new());
    loop {
        let more = bytes.by_ref().take(WINDOW as u64).read_to_end(&mut window)?;
        // A table that is cut by the window's end is found in the next one.
        let whole = if more == 0 { window.len() } else { window.len().saturating_sub(TABLE) };
        for at in 0..whole {
            let count = Some(count(&window[at..])).filter(|&count| count <= max_indexed);
            samples = samples.saturating_add(count.unwrap_or_default().into());
        }
        if more == 0 {
            return Ok(samples);
        }
        window.drain(..whole);
    }
}

/// The count of a table that begins with its name here; 0 where none does.
fn count(bytes: &[u8]) -> u32 {
    let at = match bytes {
        [b's', b't', b's', b'z', ..] | [b's', b't', b'z', b'2', ..] => 12,
        [b't', b'r', b'u', b'n', ..] => 8,
        _ => return 0,
    };
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn boxed(name: &[u8; 4], contents: &[u8]) -> Vec<u8> {
        [&(contents.len() as u32 + 8).to_be_bytes(), &name[..], contents].concat()
    }

    fn samples(bytes: &[u8]) -> u64 {
        declared(&mut Cursor::new(bytes), bytes.len() as u64, 5000).unwrap()
    }

    #[test]
    fn tables_are_counted_wherever_they_stand() {
        let sizes = boxed(b"stsz", &[&[0; 4][..], &1_u32.to_be_bytes(), &4000_u32.to_be_bytes()].concat());
        let run = boxed(b"trun", &[&[0; 4][..], &700_u32.to_be_bytes()].concat());
        let movie = boxed(b"moov", &boxed(b"trak", &sizes));
        assert_eq!(samples(&movie), 4000);
        assert_eq!(samples(&[movie.clone(), boxed(b"moof", &run), movie.clone()].concat()), 8700);
        let larger = boxed(b"stsz", &[&[0; 4][..], &1_u32.to_be_bytes(), &5001_u32.to_be_bytes()].concat());
        assert_eq!(samples(&boxed(b"moov", &larger)), 0, "nobody would index it");
        assert_eq!(samples(&boxed(b"mdat", &sizes)), 0, "media may look like anything");
        // Where one window ends and the next begins.
        for filling in WINDOW - 40..WINDOW + 8 {
            let moved = boxed(b"moov", &[vec![0; filling], sizes.clone()].concat());
            assert_eq!(samples(&moved), 4000, "after {filling} bytes");
        }
        let mut endless = movie.clone();
        endless[..4].fill(0);
        assert_eq!(samples(&endless), 4000);
        let long =
            [&1_u32.to_be_bytes(), &b"moov"[..], &(16 + sizes.len() as u64).to_be_bytes(), &sizes].concat();
        assert_eq!(samples(&long), 4000);
        for end in 0..movie.len() {
            samples(&movie[..end]);
        }
    }
}
