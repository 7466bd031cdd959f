use std::time::Instant;

use super::*;

/// Smooth, colourful and inside the gamut, so that averaging before or after conversion agrees.
fn gradient(width: usize, height: usize) -> I420Buffer {
    let mut picture = I420Buffer::black(width, height);
    for index in 0..3 {
        let (data, w, h) = picture.plane_mut(index);
        for (at, value) in data.iter_mut().enumerate() {
            let (x, y) = ((at % w) as f32 / w as f32, (at / w) as f32 / h as f32);
            *value = match index {
                0 => 90.0 + 60.0 * x + 20.0 * (6.0 * y).sin(),
                1 => 110.0 + 35.0 * y,
                _ => 150.0 - 40.0 * x,
            } as u8;
        }
    }
    picture
}

const WHITE: [u8; 3] = [235, 128, 128];

/// RGB in I420's terms (ITU-R BT.601-7 §2.5.3).
fn yuv(r: u8, g: u8, b: u8) -> [u8; 3] {
    let (r, g, b) = (f32::from(r), f32::from(g), f32::from(b));
    let y = 16.0 + 0.256_79 * r + 0.504_13 * g + 0.097_91 * b;
    let u = 128.0 - 0.148_22 * r - 0.290_99 * g + 0.439_22 * b;
    let v = 128.0 + 0.439_22 * r - 0.367_79 * g - 0.071_43 * b;
    [y, u, v].map(|value| value.round() as u8)
}

fn paint(canvas: &mut I420Buffer, colour: [u8; 3]) {
    for (index, value) in colour.into_iter().enumerate() {
        canvas.plane_mut(index).0.fill(value);
    }
}

fn square(centre: Point, side: f32, angle: f32) -> Rectangle {
    Rectangle { centre, width: side, height: side, angle }
}

fn crop_square(picture: &Picture, square: &Rectangle, size: usize, rgb: &mut [u8]) -> Result<(), ImgError> {
    let whole = Region { x: 0, y: 0, width: size, height: size };
    crop(picture, square, (size, size), whole, 0, rgb)
}

fn picture(buffer: I420Buffer) -> Picture {
    buffer.into_picture(0, Instant::now())
}

/// A letterbox in buffers of its own.
fn letterboxed(
    picture: &Picture,
    canvas: (usize, usize),
    content: Region,
    fill: u8,
    rgb: &mut [u8],
) -> Result<(), ImgError> {
    letterbox(&mut Source::new(picture, &mut Halves::default())?, canvas, content, fill, rgb)
}

/// RGB of one pixel in floats, chroma repeated.
fn reference_pixel(buffer: &I420Buffer, x: usize, y: usize) -> [f32; 3] {
    use crate::frame::Planes;
    let sample = |index: usize, x: usize, y: usize| {
        let plane = buffer.plane(index);
        f32::from(plane.data[y * plane.stride + x])
    };
    let luma = (sample(0, x, y) - 16.0) * 255.0 / 219.0;
    let (u, v) = (sample(1, x / 2, y / 2) - 128.0, sample(2, x / 2, y / 2) - 128.0);
    [luma + 1.596_03 * v, luma - 0.391_76 * u - 0.812_97 * v, luma + 2.017_23 * u]
}

/// Converts first and averages then: what the small picture should look like.
fn reference(buffer: &I420Buffer, width: usize, height: usize) -> Vec<f32> {
    let mut rgb = Vec::with_capacity(width * height * 3);
    let (step_x, step_y) = (buffer.width as f32 / width as f32, buffer.height as f32 / height as f32);
    for y in 0..height {
        for x in 0..width {
            let mut sum = [0.0; 3];
            const SUB: usize = 6;
            for sub in 0..SUB * SUB {
                let at_x = (x as f32 + ((sub % SUB) as f32 + 0.5) / SUB as f32) * step_x;
                let at_y = (y as f32 + ((sub / SUB) as f32 + 0.5) / SUB as f32) * step_y;
                let pixel = reference_pixel(buffer, at_x as usize, at_y as usize);
                for (sum, value) in sum.iter_mut().zip(pixel) {
                    *sum += value.clamp(0.0, 255.0) / (SUB * SUB) as f32;
                }
            }
            rgb.extend(sum);
        }
    }
    rgb
}

fn worst_and_mean(ours: &[u8], reference: &[f32]) -> (f32, f32) {
    assert_eq!(ours.len(), reference.len());
    let differences = ours.iter().zip(reference).map(|(&a, &b)| (f32::from(a) - b).abs());
    differences.fold((0.0, 0.0), |(worst, mean), d| (d.max(worst), mean + d / ours.len() as f32))
}

#[test]
fn scaled_planes_look_like_a_scaled_rgb_picture() {
    for ((from_w, from_h), (to_w, to_h)) in [
        ((640, 480), (320, 240)),
        ((640, 480), (256, 192)),
        ((1280, 720), (320, 180)),
        ((1920, 1080), (256, 144)),
        ((1284, 724), (320, 180)),
        ((1000, 600), (100, 60)),
        ((321, 241), (256, 192)),
        ((2000, 30), (100, 15)),
        ((200, 150), (200, 150)),
    ] {
        let buffer = gradient(from_w, from_h);
        let expected = reference(&buffer, to_w, to_h);
        let mut rgb = vec![0; to_w * to_h * 3];
        let content = Region { x: 0, y: 0, width: to_w, height: to_h };
        letterboxed(&picture(buffer), (to_w, to_h), content, 0, &mut rgb).unwrap();
        let (worst, mean) = worst_and_mean(&rgb, &expected);
        assert!(worst < 5.0 && mean < 1.2, "{from_w}x{from_h} to {to_w}x{to_h}: worst {worst}, mean {mean}");
    }
}

#[test]
fn a_size_does_not_depend_on_those_made_before() {
    let made = |sizes: &[(usize, usize)]| {
        let pictures = [gradient(96, 64), gradient(640, 480)].map(picture);
        let mut halves = Halves::default();
        let mut rgb = Vec::new();
        for picture in &pictures {
            let mut source = Source::new(picture, &mut halves).unwrap();
            for &(width, height) in sizes {
                rgb = vec![0; width * height * 3];
                let content = Region { x: 0, y: 0, width, height };
                letterbox(&mut source, (width, height), content, 0, &mut rgb).unwrap();
            }
        }
        rgb
    };
    let alone = made(&[(100, 75)]);
    assert_eq!(made(&[(320, 240), (20, 15), (100, 75)]), alone);
    assert_eq!(made(&[(256, 192), (100, 75)]), alone);
}

#[test]
fn colours_survive_both_ways() {
    for (r, g, b) in
        [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (12, 99, 250)]
    {
        let mut canvas = I420Buffer::black(8, 8);
        paint(&mut canvas, yuv(r, g, b));
        let mut rgb = [0; 4 * 4 * 3];
        let content = Region { x: 0, y: 0, width: 4, height: 4 };
        letterboxed(&picture(canvas), (4, 4), content, 0, &mut rgb).unwrap();
        for (ours, theirs) in rgb[..3].iter().zip([r, g, b]) {
            assert!(ours.abs_diff(theirs) <= 2, "{:?} for {:?}", &rgb[..3], (r, g, b));
        }
    }
}

#[test]
fn letterbox_fills_around_the_content() {
    let mut white = I420Buffer::black(20, 10);
    paint(&mut white, WHITE);
    let mut rgb = vec![9; 10 * 10 * 3];
    let content = Region { x: 1, y: 3, width: 8, height: 4 };
    letterboxed(&picture(white), (10, 10), content, 114, &mut rgb).unwrap();
    for (at, pixel) in rgb.chunks(3).enumerate() {
        let (x, y) = (at % 10, at / 10);
        let expected = if (1..9).contains(&x) && (3..7).contains(&y) { 255 } else { 114 };
        assert_eq!(pixel, [expected; 3], "({x}, {y})");
    }
}

#[test]
fn every_size_works() {
    for (width, height) in [(1, 1), (1, 2), (3, 1), (5, 7), (1, 480), (641, 1), (4096, 2160), (4095, 3)] {
        let picture = picture(gradient(width, height));
        let mut rgb = vec![0; 96 * 64 * 3];
        letterboxed(&picture, (96, 64), Region { x: 0, y: 0, width: 96, height: 64 }, 0, &mut rgb).unwrap();
        for side in [0.5, 3.0, 300.0, 20_000.0] {
            let centre = Point { x: width as f32 / 2.0, y: height as f32 / 2.0 };
            let mut rgb = vec![0; 32 * 32 * 3];
            crop_square(&picture, &square(centre, side, 0.7), 32, &mut rgb).unwrap();
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let at = Region { x: 0, y: 0, width: 4, height: 4 };
    let source = picture(gradient(8, 8));
    assert!(letterboxed(&source, (4, 4), at, 0, &mut [0; 47]).is_err(), "buffer too small");
    assert!(letterboxed(&source, (3, 4), at, 0, &mut [0; 36]).is_err(), "content sticks out");
    assert!(letterboxed(&source, (4, 4), Region { width: 0, ..at }, 0, &mut [0; 48]).is_err(), "no content");
    for (x, side) in [(f32::NAN, 1.0), (0.0, f32::INFINITY), (0.0, 0.0), (0.0, -4.0), (1e30, 1.0)] {
        let square = square(Point { x, y: 0.0 }, side, 0.0);
        assert!(crop_square(&source, &square, 4, &mut [0; 48]).is_err(), "{square:?}");
    }
    let lying = Picture { width: 9, ..source };
    assert!(matches!(
        letterboxed(&lying, (4, 4), at, 0, &mut [0; 48]),
        Err(ImgError::Planes { index: 0, .. })
    ));
}

#[test]
fn crops_are_black_outside_the_picture() {
    let mut white = I420Buffer::black(40, 40);
    paint(&mut white, WHITE);
    let white = picture(white);
    let crop = |x: f32, y: f32, side: f32| {
        let mut rgb = vec![7; 16 * 16 * 3];
        crop_square(&white, &square(Point { x, y }, side, 0.0), 16, &mut rgb).unwrap();
        rgb
    };
    assert!(crop(20.0, 20.0, 16.0).iter().all(|&v| v == 255), "inside");
    assert!(crop(200.0, 20.0, 16.0).iter().all(|&v| v == 0), "beside");
    let corner = crop(0.0, 0.0, 16.0);
    let at = |x: usize, y: usize| corner[(y * 16 + x) * 3];
    assert_eq!((at(3, 3), at(12, 3), at(3, 12), at(12, 12)), (0, 0, 0, 255));
}

#[test]
fn a_turned_crop_levels_what_was_turned() {
    // A white bar at 30 degrees through the centre becomes horizontal.
    let angle = 30f32.to_radians();
    for (scale, size) in [(1.0, 64), (6.0, 64), (0.5, 64)] {
        let side = (200.0 * scale) as usize;
        let mut buffer = I420Buffer::black(side, side);
        let (data, w, _) = buffer.plane_mut(0);
        let centre = side as f32 / 2.0;
        for (at, value) in data.iter_mut().enumerate() {
            let (x, y) = ((at % w) as f32 + 0.5 - centre, (at / w) as f32 + 0.5 - centre);
            let across = -x * angle.sin() + y * angle.cos();
            if across.abs() < 12.0 * scale {
                *value = 235;
            }
        }
        let square = square(Point { x: centre, y: centre }, 128.0 * scale, angle);
        let mut rgb = vec![0; size * size * 3];
        crop_square(&picture(buffer), &square, size, &mut rgb).unwrap();
        for (row, expected) in [(8, 0), (20, 0), (29, 255), (34, 255), (44, 0), (56, 0)] {
            for column in [2, 31, 61] {
                let value = rgb[(row * size + column) * 3];
                assert!(value.abs_diff(expected) < 8, "scale {scale}: ({column}, {row}) is {value}");
            }
        }
    }
}

#[test]
fn the_crop_is_where_the_square_is() {
    let buffer = gradient(200, 200);
    let square = square(Point { x: 100.0, y: 80.0 }, 64.0, 0.0);
    let expected: Vec<f32> = (0..64 * 64)
        .flat_map(|at| reference_pixel(&buffer, 68 + at % 64, 48 + at / 64))
        .map(|value| value.clamp(0.0, 255.0))
        .collect();
    let mut rgb = vec![0; 64 * 64 * 3];
    crop_square(&picture(buffer), &square, 64, &mut rgb).unwrap();
    let (worst, mean) = worst_and_mean(&rgb, &expected);
    assert!(worst < 4.0 && mean < 1.0, "worst {worst}, mean {mean}");
}

#[test]
fn a_crop_is_stretched_into_its_place_and_filled_around() {
    let mut white = I420Buffer::black(40, 40);
    paint(&mut white, WHITE);
    let place = Rectangle { centre: Point { x: 20.0, y: 20.0 }, width: 30.0, height: 5.0, angle: 0.4 };
    let mut rgb = vec![9; 10 * 6 * 3];
    let content = Region { x: 2, y: 1, width: 7, height: 4 };
    crop(&picture(white), &place, (10, 6), content, 114, &mut rgb).unwrap();
    for (at, pixel) in rgb.chunks(3).enumerate() {
        let (x, y) = (at % 10, at / 10);
        let expected = if (2..9).contains(&x) && (1..5).contains(&y) { 255 } else { 114 };
        assert_eq!(pixel, [expected; 3], "({x}, {y})");
    }
}

#[test]
fn bright_regions_are_bounded_by_their_tightest_rectangles() {
    // Two bars of 20 by 4, one of them turned by 30 degrees.
    let angle = 30f32.to_radians();
    let (width, height) = (120, 60);
    let value = |at: usize| {
        let (x, y) = ((at % width) as f32, (at / width) as f32);
        let level = (10.0..=29.0).contains(&x) && (10.0..=13.0).contains(&y);
        let (x, y) = (x - 80.0, y - 30.0);
        let (along, across) = (x * angle.cos() + y * angle.sin(), -x * angle.sin() + y * angle.cos());
        let turned = along.abs() <= 10.0 && across.abs() <= 2.0;
        if level || turned { 0.9 } else { 0.1 }
    };
    let map: Vec<f32> = (0..width * height).map(value).collect();
    let mut found = bright_regions(&map, (width, height), 0.3, 10).unwrap();
    found.sort_by(|a, b| a.centre.x.total_cmp(&b.centre.x));
    let [level, turned] = found.as_slice() else { panic!("{found:?}") };
    for (region, x, y) in [(level, 20.0, 12.0), (turned, 80.0, 30.0)] {
        assert!((region.centre.x - x).abs() < 1.2 && (region.centre.y - y).abs() < 1.2, "{region:?}");
        let (long, short) = (region.width.max(region.height), region.width.min(region.height));
        assert!((long - 20.0).abs() < 2.0 && (short - 4.0).abs() < 2.0, "{region:?}");
    }
    let degrees = turned.angle.to_degrees().rem_euclid(90.0);
    assert!((degrees - 30.0).abs() < 5.0, "{turned:?}");
    assert_eq!(bright_regions(&map, (width, height), 0.3, 1).unwrap().len(), 1);
    assert_eq!(bright_regions(&map, (width, height), 0.95, 9).unwrap(), []);
    assert!(bright_regions(&map, (width, height + 1), 0.3, 1).is_err());
    assert!(bright_regions(&[f32::NAN; 4], (2, 2), 0.3, 1).unwrap().is_empty());
}

#[test]
fn a_shrunken_picture_is_the_same_picture() {
    let source = gradient(64, 48);
    let mut half = I420Buffer::black(1, 1);
    shrink(&picture(source.clone()), 2, &mut half).unwrap();
    assert_eq!((half.width, half.height), (32, 24));
    let mut expected = gradient(32, 24);
    for index in 0..3 {
        let (ours, _, _) = half.plane_mut(index);
        let (theirs, _, _) = expected.plane_mut(index);
        let worst = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(4), "plane {index}: {worst:?}");
    }
    assert!(shrink(&picture(gradient(5, 5)), 2, &mut half).is_ok());
    assert!(shrink(&picture(gradient(1, 1)), 2, &mut half).is_err());
}
