use super::*;
use crate::frame::Planes;
use image::{Rgb, Rgba, RgbaImage};

/// Four quarters: red, green, blue, white from the top left, clockwise from there blue is below left.
fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb(match (x < width / 2, y < height / 2) {
            (true, true) => [255, 0, 0],
            (false, true) => [0, 255, 0],
            (true, false) => [0, 0, 255],
            (false, false) => [255, 255, 255],
        })
    })
}

fn written(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn code(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(picture) => format!("{picture:?}"),
        Err(ImageError::Empty) => "empty".into(),
        Err(ImageError::UnsupportedType) => "unsupported".into(),
        Err(
            ImageError::TooManyBytes { .. } | ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory,
        ) => "too large".into(),
        Err(ImageError::Truncated) => "truncated".into(),
        Err(ImageError::Heic) => "heic".into(),
        Err(ImageError::Corrupt(_)) => "corrupt".into(),
    }
}

/// The header of a PNG that says it is `width` × `height`, with nothing behind it.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&chunk);
    png.extend(crc.sum().to_be_bytes());
    png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    png
}

#[test]
fn colours_are_bt601_limited() {
    // Y, Cb, Cr by ITU-R BT.601-7 §2.5.3.
    for (rgb, yuv) in [
        ([0, 0, 0], [16, 128, 128]),
        ([255, 255, 255], [235, 128, 128]),
        ([255, 0, 0], [81, 90, 240]),
        ([0, 255, 0], [145, 54, 34]),
        ([0, 0, 255], [41, 240, 110]),
        ([128, 128, 128], [126, 128, 128]),
        ([200, 100, 60], [124, 96, 175]),
    ] {
        for (width, height) in [(1, 1), (2, 2), (3, 5)] {
            let buffer = to_i420(&RgbImage::from_pixel(width, height, Rgb(rgb)));
            for (index, value) in yuv.into_iter().enumerate() {
                let plane = buffer.plane(index);
                assert!(plane.data.iter().all(|&v| v == value), "{rgb:?} plane {index}: {:?}", plane.data);
            }
        }
    }
}

#[test]
fn chroma_is_the_mean_of_its_pixels_and_edges_repeat() {
    let row = RgbImage::from_fn(3, 1, |x, _| Rgb(if x == 1 { [0, 0, 0] } else { [255, 255, 0] }));
    let buffer = to_i420(&row);
    // Yellow has Cb 16: half of black and yellow lies halfway, and the last column stands alone.
    assert_eq!(buffer.plane(1).data, [72, 16]);
}

#[test]
fn there_and_back_is_the_same_picture() {
    let smooth = RgbImage::from_fn(64, 48, |x, y| Rgb([(60 + 2 * x) as u8, (80 + 2 * y) as u8, 120]));
    let picture = to_i420(&smooth).into_picture(0, Instant::now());
    for (format, limit) in [(Format::Png, 6), (Format::Jpeg, 10)] {
        let bytes = encode(&picture, format).unwrap();
        let back = image::load_from_memory(&bytes).unwrap().into_rgb8();
        assert_eq!(back.dimensions(), smooth.dimensions());
        let worst = back.iter().zip(smooth.iter()).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
        assert!(worst <= limit, "{format:?} is off by {worst}");
    }
}

#[test]
fn every_format_is_read_whatever_it_is_called() {
    let picture = quarters(40, 20);
    let expected = to_i420(&picture);
    for format in FORMATS {
        let bytes = written(&picture, format);
        let decoded = decode(&bytes).unwrap_or_else(|error| panic!("{format:?}: {error:?}"));
        assert_eq!((decoded.width, decoded.height), (40, 20), "{format:?}");
        for index in 0..3 {
            let (ours, theirs) = (decoded.planes.plane(index), expected.plane(index));
            let worst = ours.data.iter().zip(theirs.data).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
            let limit = if format == ImageFormat::Jpeg { 60 } else { 0 };
            assert!(worst <= limit, "{format:?} plane {index} is off by {worst}");
        }
    }
}

#[test]
fn exif_orientation_is_honoured() {
    // The TIFF header of an EXIF block with one entry, the orientation.
    let exif = |orientation: u8| {
        let mut block = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        block.extend([orientation, 0, 0, 0, 0, 0, 0]);
        block
    };
    // Where the top left quarter, red, comes to lie.
    for (orientation, size, red) in [
        (1, (48, 32), (4, 4)),
        (3, (48, 32), (44, 28)),
        (6, (32, 48), (28, 4)),
        (8, (32, 48), (4, 44)),
        (2, (48, 32), (44, 4)),
    ] {
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        let picture = quarters(48, 32);
        encoder.write_image(picture.as_raw(), 48, 32, image::ExtendedColorType::Rgb8).unwrap();
        let decoded = decode(&bytes).unwrap();
        assert_eq!((decoded.width, decoded.height), size, "orientation {orientation}");
        let plane = decoded.planes.plane(2);
        let value = plane.data[red.1 / 2 * plane.stride + red.0 / 2];
        assert!(value > 200, "orientation {orientation}: Cr {value} where red is expected");
    }
}

/// A photograph with halved chroma.
const COMMON: &[u8] = include_bytes!("../../../benches/data/pan.jpg");

#[test]
fn a_common_jpeg_is_the_same_picture_as_through_rgb() {
    assert!(JpegHeader::read(COMMON).is_common);
    let short = decode(COMMON).unwrap();
    let long = to_i420(&image::load_from_memory(COMMON).unwrap().into_rgb8());
    assert_eq!((short.width, short.height), (long.width, long.height));
    for index in 0..3 {
        let (ours, theirs) = (short.planes.plane(index), long.plane(index));
        let mut off: Vec<u8> = Vec::new();
        for (ours, theirs) in ours.data.chunks(ours.stride).zip(theirs.data.chunks(theirs.stride)) {
            off.extend(ours.iter().zip(theirs).map(|(&a, &b)| a.abs_diff(b)));
        }
        let mean = off.iter().map(|&off| f64::from(off)).sum::<f64>() / off.len() as f64;
        assert!(mean < 1.0, "plane {index} is off by {mean} on average");
    }
}

#[test]
fn a_jpeg_that_is_not_common_or_not_whole_is_read_or_refused_as_before() {
    let with = |segment: &[u8]| [&COMMON[..2], segment, &COMMON[2..]].concat();
    // Adobe's marker with transform 0: the components are red, green and blue.
    let rgb = with(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0");
    assert!(!JpegHeader::read(&rgb).is_common && JpegHeader::read(&rgb).is_whole);
    let turned =
        with(b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0");
    let decoded = decode(&turned).unwrap();
    assert_eq!((decoded.width, decoded.height), (480, 640));
    let full_chroma = written(&quarters(64, 64), ImageFormat::Jpeg);
    assert!(!JpegHeader::read(&full_chroma).is_common);

    // Damage is either met by both decoders or made up by the one before, never a panic.
    for at in (700..COMMON.len() - 40).step_by(1499) {
        let mut damaged = COMMON.to_vec();
        damaged[at..at + 32].fill(0xfe);
        let before = image::load_from_memory(&damaged).is_ok();
        assert_eq!(decode(&damaged).is_ok(), before, "damaged at {at}");
    }
}

#[test]
fn what_is_transparent_lies_on_white() {
    let clear = RgbaImage::from_pixel(4, 4, Rgba([255, 0, 0, 0]));
    let mut bytes = Cursor::new(Vec::new());
    clear.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let decoded = decode(&bytes.into_inner()).unwrap();
    assert_eq!(decoded.planes.plane(0).data[0], 235);
}

#[test]
fn bad_bytes_are_clear_errors() {
    let jpeg = written(&quarters(64, 64), ImageFormat::Jpeg);
    let png = written(&quarters(64, 64), ImageFormat::Png);
    let mut broken_png = png.clone();
    broken_png[30] ^= 0xff;
    let mut broken_jpeg = jpeg.clone();
    broken_jpeg[20..60].fill(0xaa);
    for (name, bytes, expected) in [
        ("nothing", Vec::new(), "empty"),
        ("text", b"#EXTM3U\nhttp://127.0.0.1/a.ts\n".to_vec(), "unsupported"),
        ("zeroes", vec![0; 1000], "unsupported"),
        ("a video", b"\0\0\0\x20ftypisom\0\0\x02\0".to_vec(), "unsupported"),
        ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), "unsupported"),
        ("a bomb", png_header(65_535, 65_535), "too large"),
        ("a wide bomb", png_header(40_000, 10), "too large"),
        ("a bomb of 2 billion", png_header(0x7fff_ffff, 0x7fff_ffff), "too large"),
        ("half a JPEG", jpeg[..jpeg.len() / 2].to_vec(), "truncated"),
        ("a JPEG without its end", jpeg[..jpeg.len() - 2].to_vec(), "truncated"),
        ("half a PNG", png[..png.len() / 2].to_vec(), "truncated"),
        ("a broken PNG", broken_png, "corrupt"),
        ("a broken JPEG", broken_jpeg, "corrupt"),
        ("33 MB", [png.clone(), vec![0; MAX_BYTES]].concat(), "too large"),
        ("a name alone", b"\x89PNG\r\n\x1a\n".to_vec(), "truncated"),
    ] {
        assert_eq!(code(&bytes), expected, "{name}");
    }
    for format in FORMATS {
        let bytes = written(&quarters(64, 64), format);
        for cut in [bytes.len() / 3, bytes.len() - 3] {
            let _ = code(&bytes[..cut]);
        }
        assert!(decode(&bytes[..bytes.len() / 3]).is_err(), "a third of a {format:?}");
    }
}
