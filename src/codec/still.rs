//! AVIF pictures, which are AV1 in the boxes of an MP4 file.
//!
//! FFmpeg's demuxer finds the picture; how it is to be turned is read here, because FFmpeg 5 does not.
//! Pictures made of tiles, and HEIC, it does not read.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;

use super::demux::MAX_ALLOCATION;
use super::rotate::Turn;
use super::{CodecError, FileError, Piece, VideoFile};
use crate::frame::Picture;

/// Bytes at a file's beginning in which the boxes are that describe its picture.
const DESCRIPTION_BYTES: usize = 64 << 10;

/// What a file of the High Efficiency Image File Format holds (ISO/IEC 23008-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heif {
    /// AV1: it can be read.
    Avif,
    /// HEVC, or another codec.
    Other,
}

/// Tells such a picture by the brands that it begins with.
pub fn heif(start: &[u8]) -> Option<Heif> {
    let (size, rest) = start.split_first_chunk::<4>()?;
    let brands = rest.strip_prefix(b"ftyp")?;
    let length = (u32::from_be_bytes(*size) as usize).saturating_sub(8).min(brands.len());
    let brands: Vec<&[u8]> = brands[..length].chunks_exact(4).collect();
    // The second word is the major brand's version.
    let has = |wanted: &[&[u8; 4]]| {
        brands.iter().enumerate().any(|(at, brand)| at != 1 && wanted.iter().any(|w| w.as_slice() == *brand))
    };
    let is_picture = brands.first().is_some_and(|major| {
        [b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"]
            .iter()
            .any(|brand| brand.as_slice() == *major)
    });
    match (is_picture, has(&[b"avif", b"avis"])) {
        (false, _) => None,
        (true, true) => Some(Heif::Avif),
        (true, false) => Some(Heif::Other),
    }
}

/// Decodes an AVIF picture, or the first of several, upright.
///
/// # Errors
/// [`FileError`]; sizes are refused from the header, before memory is taken for pixels.
pub fn decode_avif(bytes: &[u8], max_pixels: usize) -> Result<Picture, FileError> {
    decode(bytes, max_pixels).map_err(|error| match error {
        // FFmpeg only says that there is nothing to be seen.
        FileError::Headers(_) | FileError::NoVideo if decoded_bytes(bytes) > MAX_ALLOCATION as u64 => {
            CodecError::OutOfMemory { what: "a picture of this size and depth" }.into()
        }
        error => error,
    })
}

fn decode(bytes: &[u8], max_pixels: usize) -> Result<Picture, FileError> {
    let file = in_memory(bytes).map_err(FileError::Read)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut file = VideoFile::open_limited(&path, 1, max_pixels, turn(bytes))?;
    loop {
        match file.read()? {
            Some(Piece::Picture(picture, _)) => return Ok(picture),
            Some(Piece::Audio(_)) => {}
            None if file.is_cut_off() => return Err(FileError::Truncated),
            None => return Err(FileError::NoVideo),
        }
    }
}

/// A file without a name or a place on a disk.
fn in_memory(bytes: &[u8]) -> std::io::Result<File> {
    // SAFETY: the name is a C string; the descriptor that is returned is ours alone.
    let mut file = unsafe {
        let descriptor = libc::memfd_create(c"vigie-picture".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::from_raw_fd(descriptor)
    };
    file.write_all(bytes)?;
    Ok(file)
}

/// Bytes that the largest picture takes when decoded, by the sizes (`ispe`, ISO/IEC 23008-12 §6.5.3) and the depth (`av1C`,
/// AV1 in ISOBMFF §2.3.3) that the file says; 0 where it says none.
fn decoded_bytes(bytes: &[u8]) -> u64 {
    let start = &bytes[..bytes.len().min(DESCRIPTION_BYTES)];
    let number = |bytes: &[u8]| u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let sizes = start.windows(20).filter(|window| window.starts_with(b"\0\0\0\x14ispe"));
    let pixels = sizes.map(|size| number(&size[12..]) * number(&size[16..])).max().unwrap_or(0);
    let depths = start.windows(7).filter(|window| window.starts_with(b"av1C"));
    let sixths = depths.map(|depth| {
        let is_set = |bit: u8| depth[6] >> bit & 1 == 1;
        // Of a sample's bytes, 6 for the luma and as many for both planes of colours, halved on neither, one or both sides.
        let colours = if is_set(4) { 0 } else { 12 >> (u32::from(is_set(3)) + u32::from(is_set(2))) };
        (6 + colours) * if is_set(6) { 2 } else { 1 }
    });
    pixels.saturating_mul(sixths.max().unwrap_or(0)) / 6
}

/// The turn of the picture's `irot` box (ISO/IEC 23008-12 §6.5.10): 9 bytes, the last two bits of which
/// count quarter turns against the clock.
fn turn(bytes: &[u8]) -> Turn {
    let start = &bytes[..bytes.len().min(DESCRIPTION_BYTES)];
    let found = start.windows(9).find(|window| window.starts_with(b"\0\0\0\x09irot"));
    match found.map(|window| window[8] & 3) {
        Some(1) => Turn::ThreeQuarters,
        Some(2) => Turn::Half,
        Some(3) => Turn::Quarter,
        _ => Turn::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_is_read_from_its_box() {
        for (angle, expected) in
            [(0, Turn::None), (1, Turn::ThreeQuarters), (2, Turn::Half), (3, Turn::Quarter)]
        {
            let bytes = [&b"\0\0\0\x20ftypavif\0\0\0\x09irot"[..], &[angle], b"rest"].concat();
            assert_eq!(turn(&bytes), expected);
        }
        assert_eq!(turn(b"\0\0\0\x09irot"), Turn::None);
    }

    #[test]
    fn what_a_picture_takes_is_read_from_its_boxes() {
        let picture = |width: u32, height: u32, depth: u8| {
            let size = [&b"\0\0\0\x14ispe\0\0\0\0"[..], &width.to_be_bytes(), &height.to_be_bytes()].concat();
            [&size, &b"\0\0\0\x0cav1C\x81\x04"[..], &[depth, 0]].concat()
        };
        for (depth, expected) in [
            (0b0000_1100, 150),
            (0b0000_1000, 200),
            (0b0000_0000, 300),
            (0b0100_0000, 600),
            (0b0001_1100, 100),
        ] {
            assert_eq!(decoded_bytes(&picture(10, 10, depth)), expected, "{depth:08b}");
        }
        let thumbnail = picture(2, 2, 0);
        assert_eq!(decoded_bytes(&[thumbnail, picture(10, 10, 0)].concat()), 300);
        decoded_bytes(&picture(u32::MAX, u32::MAX, 0));
        assert_eq!(decoded_bytes(b"av1C\xff"), 0);
    }

    #[test]
    fn pictures_are_told_by_their_brands() {
        let file = |brands: &[u8]| {
            let length = (8 + brands.len()) as u32;
            [&length.to_be_bytes()[..], b"ftyp", brands, b"\0\0\0\x10metaavif"].concat()
        };
        for (brands, expected) in [
            (&b"avif\0\0\0\0avifmif1miafMA1A"[..], Some(Heif::Avif)),
            (b"mif1\0\0\0\0mif1avif", Some(Heif::Avif)),
            (b"heic\0\0\0\0mif1heic", Some(Heif::Other)),
            (b"mif1avifmif1heic", Some(Heif::Other)),
            (b"isom\0\0\x02\0isomiso2avc1mp41", None),
            (b"", None),
        ] {
            assert_eq!(heif(&file(brands)), expected, "{}", String::from_utf8_lossy(brands));
        }
        for start in [&b""[..], b"\0\0\0\x20", b"\xff\xff\xff\xffftypavif", b"RIFF\0\0\0\0WEBP"] {
            let expected = start.ends_with(b"avif").then_some(Heif::Avif);
            assert_eq!(heif(start), expected, "{start:?}");
        }
    }
}
