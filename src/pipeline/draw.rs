//! Boxes and labels on a picture, for the annotated video track and annotated files.
//!
//! It stands between the tracker and the encoder and writes straight into the planes of the encoder's
//! canvas: rows of constant bytes, cheaper than any conversion to RGB and back. Everything lies on even
//! pixels, where chroma samples begin, so colours have sharp edges. It does not decide what is drawn.

use std::fmt::Write as _;
use std::sync::OnceLock;

use embedded_graphics::geometry::Point;
use embedded_graphics::image::GetPixel;
use embedded_graphics::mono_font::mapping::GlyphMapping;
use embedded_graphics::mono_font::{MonoFont, iso_8859_1};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::OriginDimensions;

use crate::frame::{BBox, Gender, I420Buffer, Kind};
use crate::pipeline::labels;
use crate::pipeline::report::{Attributes, LabelReport, TrackReport};

/// One box to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrawnTrack {
    /// In picture pixels; what lies outside the picture is not drawn.
    pub bbox: BBox,
    /// Drawn as far as it fits across the picture, in Latin-1; other characters become "?".
    pub label: String,
    /// Any number, from [`colour_of`]; it is taken modulo the size of the palette.
    pub colour: usize,
}

/// The colour index of a kind and class: one for faces, the others shared by the classes of objects.
pub fn colour_of(kind: Kind, class: u16) -> usize {
    match kind {
        Kind::Face => 0,
        Kind::Object => 1 + usize::from(class) % (PALETTE.len() - 1),
        Kind::Text => TEXT_COLOUR,
    }
}

/// What is written on a track's plate, such as `#3 face female 93%` or `#4 cup 71%`.
pub fn label_of(track: &TrackReport) -> String {
    let mut text = String::new();
    write_label(&mut text, track.id, &track.label, track.score, &track.attributes);
    text
}

/// Writes what [`label_of`] gives at the end of `text`.
pub fn write_label(text: &mut String, id: u64, label: &str, score: f32, attributes: &Attributes) {
    write!(text, "#{id} ").expect("a string takes any text");
    write_caption(text, label, score, attributes);
}

/// What is written of something without an identity, such as `face female 93%` or `cup 71%`.
///
/// The percentage is the confidence in what is named last.
pub fn caption_of(label: &str, score: f32, attributes: &Attributes) -> String {
    let mut text = String::new();
    write_caption(&mut text, label, score, attributes);
    text
}

fn write_caption(text: &mut String, label: &str, score: f32, attributes: &Attributes) {
    // What a line of text is called says less than the text.
    if let (Some(read), labels::TEXT) = (&attributes.text, label) {
        write_text(text, read);
        return;
    }
    write_appearance(text, label, score, attributes);
    for class in attributes.classes.values() {
        write!(text, " {} {}%", class.label, percent(class.score)).expect("a string takes any text");
    }
    if let Some(read) = &attributes.text {
        text.push(' ');
        write_text(text, read);
    }
}

/// Characters of a text that are drawn.
const DRAWN_CHARACTERS: usize = 40;

/// What stands for characters that the fonts do not have, however many.
const UNDRAWABLE: &str = "[?]";

fn write_text(to: &mut String, read: &LabelReport) {
    to.push('"');
    let mut was_undrawable = false;
    for character in read.label.chars().take(DRAWN_CHARACTERS) {
        // What the fonts have of Latin-1: neither control characters nor the soft hyphen.
        let is_drawable = matches!(character, ' '..='~' | '\u{a0}'..='\u{ac}' | '\u{ae}'..='\u{ff}');
        match is_drawable {
            true => to.push(character),
            false if was_undrawable => {}
            false => to.push_str(UNDRAWABLE),
        }
        was_undrawable = !is_drawable;
    }
    if read.label.chars().nth(DRAWN_CHARACTERS).is_some() {
        to.push_str("...");
    }
    write!(to, "\" {}%", percent(read.score)).expect("a string takes any text");
}

fn percent(score: f32) -> f32 {
    (score.clamp(0.0, 1.0) * 100.0).round()
}

fn write_appearance(text: &mut String, label: &str, score: f32, attributes: &Attributes) {
    let written = match attributes.apparent_gender {
        None => write!(text, "{label} {}%", percent(score)),
        Some(gender) => {
            let appearance = match gender.label {
                Gender::Female => "female",
                Gender::Male => "male",
                Gender::Unsure => "unsure",
            };
            write!(text, "{label} {appearance} {}%", percent(gender.score))
        }
    };
    written.expect("a string takes any text");
}

/// Where the plates of a picture lie: kept from one picture to the next, so that drawing allocates nothing.
#[derive(Debug, Default)]
pub struct Plates(Vec<Area>);

/// Draws boxes, then plates with labels above them (or inside, or below, where there is more room).
pub fn draw(picture: &mut I420Buffer, tracks: &[DrawnTrack]) {
    draw_with(&mut Plates::default(), picture, tracks);
}

/// As [`draw`], with the plates of an earlier picture to use again.
pub fn draw_with(plates: &mut Plates, picture: &mut I420Buffer, tracks: &[DrawnTrack]) {
    let (width, height) = (picture.width as i32, picture.height as i32);
    let short_side = width.min(height);
    if short_side == 0 {
        return;
    }
    let line = if short_side < 700 { 2 } else { 4 };
    let font = Font::for_picture(short_side);
    let visible =
        || tracks.iter().filter_map(|track| Some((track, Area::covering(&track.bbox, width, height)?)));

    for (track, area) in visible() {
        outline(picture, area, line, colour(track.colour));
    }
    let Plates(plates) = plates;
    plates.clear();
    for (track, area) in visible() {
        let plate = place(font.plate_for(&track.label, &area, width), &area, height, plates);
        let colour = colour(track.colour);
        fill(picture, plate, colour);
        font.write(picture, &track.label, plate, colour.ink());
        plates.push(plate);
    }
}

/// A colour in BT.601 limited range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Colour {
    y: u8,
    u: u8,
    v: u8,
}

impl Colour {
    /// From `0xRRGGBB`, by the integer form of the BT.601 matrix.
    const fn rgb(rgb: u32) -> Self {
        let (r, g, b) = ((rgb >> 16) as i32 & 255, (rgb >> 8) as i32 & 255, rgb as i32 & 255);
        Self {
            y: (((66 * r + 129 * g + 25 * b + 128) >> 8) + 16) as u8,
            u: (((-38 * r - 74 * g + 112 * b + 128) >> 8) + 128) as u8,
            v: (((112 * r - 94 * g - 18 * b + 128) >> 8) + 128) as u8,
        }
    }

    /// The luma of text that is readable on this colour: black or white.
    fn ink(self) -> u8 {
        if self.y > 125 { 16 } else { 235 }
    }
}

/// Okabe and Ito's colours (2008), told apart with any colour vision: sky blue, orange, bluish green,
/// yellow, reddish purple, vermillion, blue.
const PALETTE: [Colour; 7] = [
    Colour::rgb(0x56b4e9),
    Colour::rgb(0xe69f00),
    Colour::rgb(0x009e73),
    Colour::rgb(0xf0e442),
    Colour::rgb(0xcc79a7),
    Colour::rgb(0xd55e00),
    Colour::rgb(0x0072b2),
];

/// Yellow, as a marker pen's.
const TEXT_COLOUR: usize = 3;

fn colour(index: usize) -> Colour {
    PALETTE[index % PALETTE.len()]
}

/// A rectangle of whole pixels from (x0, y0) to before (x1, y1); all four are even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    x0: i32,
    y0: i32,
    x1: i32,
    y1: i32,
}

impl Area {
    /// The even pixels around the part of a box inside the picture, if there is any.
    fn covering(bbox: &BBox, width: i32, height: i32) -> Option<Self> {
        let (x1, y1) = (bbox.x + bbox.w, bbox.y + bbox.h);
        // NaN fails every comparison.
        let is_visible = bbox.w > 0.0 && bbox.h > 0.0 && x1 > 0.0 && y1 > 0.0;
        if !(is_visible && bbox.x < width as f32 && bbox.y < height as f32) {
            return None;
        }
        let down = |value: f32| value.max(0.0) as i32 & !1;
        let up = |value: f32, most: i32| even(value.min(most as f32).ceil() as i32);
        Some(Self { x0: down(bbox.x), y0: down(bbox.y), x1: up(x1, width), y1: up(y1, height) })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.x0 < other.x1 && other.x0 < self.x1 && self.y0 < other.y1 && other.y0 < self.y1
    }

    fn at_height(self, y: i32) -> Self {
        Self { y0: y, y1: y + self.y1 - self.y0, ..self }
    }
}

/// The next even number.
fn even(value: i32) -> i32 {
    (value + 1) & !1
}

/// Puts a plate above its box, inside its top edge or below it: the first place within the picture
/// that no other plate has taken.
fn place(plate: Area, around: &Area, picture_height: i32, taken: &[Area]) -> Area {
    let height = plate.y1 - plate.y0;
    let places = [around.y0 - height, around.y0, around.y1].map(|y| plate.at_height(y));
    let fits = |place: &&Area| place.y0 >= 0 && place.y1 <= picture_height;
    let is_free = |place: &&Area| taken.iter().all(|other| !other.overlaps(place));
    let mut fitting = places.iter().filter(fits);
    let first = fitting.clone().next().copied().unwrap_or(places[1]);
    fitting.find(is_free).copied().unwrap_or(first)
}

/// The border of an area, `line` pixels wide, inside it.
fn outline(picture: &mut I420Buffer, area: Area, line: i32, colour: Colour) {
    let Area { x0, y0, x1, y1 } = area;
    let (top, bottom) = ((y0 + line).min(y1), (y1 - line).max(y0));
    fill(picture, Area { y1: top, ..area }, colour);
    fill(picture, Area { y0: bottom, ..area }, colour);
    let middle = Area { y0: top, y1: bottom.max(top), ..area };
    fill(picture, Area { x1: (x0 + line).min(x1), ..middle }, colour);
    fill(picture, Area { x0: (x1 - line).max(x0), ..middle }, colour);
}

/// Fills what lies inside the picture.
fn fill(picture: &mut I420Buffer, area: Area, colour: Colour) {
    for (index, value) in [colour.y, colour.u, colour.v].into_iter().enumerate() {
        let (plane, width, height) = picture.plane_mut(index);
        let scale = if index == 0 { 1 } else { 2 };
        let within = |value: i32, most: usize| ((value / scale).max(0) as usize).min(most);
        let (x0, x1) = (within(area.x0, width), within(area.x1, width));
        let (y0, y1) = (within(area.y0, height), within(area.y1, height));
        for row in plane.chunks_exact_mut(width).take(y1).skip(y0) {
            row[x0..x1.max(x0)].fill(value);
        }
    }
}

/// A bitmap font, rasterised once at its size in the picture.
struct Font {
    /// Pixels of every glyph.
    width: usize,
    height: usize,
    /// Space between the text and its plate's edges.
    padding: usize,
    /// Glyph after glyph, row after row.
    pixels: Vec<bool>,
    glyphs: &'static dyn GlyphMapping,
}

/// From this short side of a picture on, in pixels: a font, and how often it is doubled.
static FONTS: [(i32, &MonoFont, u32); 6] = [
    (0, &iso_8859_1::FONT_6X13_BOLD, 0),
    (300, &iso_8859_1::FONT_7X14_BOLD, 0),
    (440, &iso_8859_1::FONT_9X15_BOLD, 0),
    (650, &iso_8859_1::FONT_9X18_BOLD, 0),
    (900, &iso_8859_1::FONT_8X13_BOLD, 1),
    (1300, &iso_8859_1::FONT_8X13_BOLD, 2),
];

impl Font {
    /// The font of readable size for a picture whose shorter side is `short_side` pixels.
    fn for_picture(short_side: i32) -> &'static Self {
        static RASTERISED: [OnceLock<Font>; FONTS.len()] = [const { OnceLock::new() }; FONTS.len()];
        let index = FONTS.iter().rposition(|&(from, _, _)| short_side >= from).unwrap_or(0);
        let (_, font, doublings) = FONTS[index];
        RASTERISED[index].get_or_init(|| Self::rasterise(font, doublings))
    }

    fn rasterise(font: &'static MonoFont, doublings: u32) -> Self {
        let cell = font.character_size;
        let (mut width, mut height) = (cell.width as usize, cell.height as usize);
        let image = font.image.size();
        let columns = (image.width / cell.width) as usize;
        let count = columns * (image.height / cell.height) as usize;
        let mut pixels = Vec::new();
        for glyph in 0..count {
            let (left, top) = (glyph % columns * width, glyph / columns * height);
            let is_set = |x: usize, y: usize| {
                let point = Point::new((left + x) as i32, (top + y) as i32);
                font.image.pixel(point) == Some(BinaryColor::On)
            };
            let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
            pixels.extend(rows.map(|(x, y)| is_set(x, y)));
        }
        for _ in 0..doublings {
            pixels = pixels.chunks_exact(width * height).flat_map(|glyph| doubled(glyph, width)).collect();
            (width, height) = (2 * width, 2 * height);
        }
        Self { width, height, padding: (height / 6).max(2), pixels, glyphs: font.glyph_mapping }
    }

    /// The plate that a label needs, at the left edge of `around` or as near as it fits, at height 0.
    fn plate_for(&self, label: &str, around: &Area, picture_width: i32) -> Area {
        // Longer than any picture is wide, and far from overflowing.
        let characters = label.chars().take(10_000).count();
        let width = even((characters * self.width + 2 * self.padding) as i32);
        let x0 = around.x0.min(picture_width - width).max(0) & !1;
        Area { x0, y0: 0, x1: x0 + width, y1: even((self.height + self.padding) as i32) }
    }

    /// Writes the label onto its plate, in luma alone.
    fn write(&self, picture: &mut I420Buffer, label: &str, plate: Area, ink: u8) {
        let (luma, width, height) = picture.plane_mut(0);
        let mut left = plate.x0.max(0) as usize + self.padding;
        let top = plate.y0.max(0) as usize + self.padding / 2;
        for character in label.chars() {
            if left >= width {
                break;
            }
            let size = self.width * self.height;
            let glyph = self.pixels.chunks_exact(size).nth(self.glyphs.index(character)).unwrap_or_default();
            let rows = luma.chunks_exact_mut(width).take(height).skip(top);
            for (row, bits) in rows.zip(glyph.chunks_exact(self.width)) {
                for (pixel, &is_set) in row[left..].iter_mut().zip(bits) {
                    if is_set {
                        *pixel = ink;
                    }
                }
            }
            left += self.width;
        }
    }
}

/// A bitmap at twice its size, its diagonals smoothed by Scale2x (Mazzoleni, 2001).
fn doubled(bitmap: &[bool], width: usize) -> Vec<bool> {
    let height = bitmap.len() / width;
    let at = |x: usize, y: usize, dx: isize, dy: isize| {
        let (x, y) = (x.checked_add_signed(dx), y.checked_add_signed(dy));
        matches!((x, y), (Some(x), Some(y)) if x < width && y < height && bitmap[y * width + x])
    };
    let mut pixels = Vec::with_capacity(4 * bitmap.len());
    for y in 0..2 * height {
        for x in 0..2 * width {
            let (cx, cy) = (x / 2, y / 2);
            let (dx, dy) = (if x % 2 == 0 { -1 } else { 1 }, if y % 2 == 0 { -1 } else { 1 });
            let (beside, across) = (at(cx, cy, dx, 0), at(cx, cy, -dx, 0));
            let (above, below) = (at(cx, cy, 0, dy), at(cx, cy, 0, -dy));
            let is_corner = beside == above && beside != below && above != across;
            pixels.push(if is_corner { beside } else { at(cx, cy, 0, 0) });
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::report::GenderReport;

    const PAPER: Colour = Colour { y: 80, u: 90, v: 100 };

    fn paper(width: usize, height: usize) -> I420Buffer {
        let mut picture = I420Buffer::black(width, height);
        for (index, value) in [PAPER.y, PAPER.u, PAPER.v].into_iter().enumerate() {
            picture.plane_mut(index).0.fill(value);
        }
        picture
    }

    fn drawn(x: f32, y: f32, w: f32, h: f32, label: &str) -> DrawnTrack {
        DrawnTrack { bbox: BBox { x, y, w, h }, label: label.to_owned(), colour: 0 }
    }

    fn pixel(picture: &mut I420Buffer, x: usize, y: usize) -> Colour {
        let mut at = |index: usize, x: usize, y: usize| {
            let (plane, width, _) = picture.plane_mut(index);
            plane[y * width + x]
        };
        Colour { y: at(0, x, y), u: at(1, x / 2, y / 2), v: at(2, x / 2, y / 2) }
    }

    /// The pixels that are no longer paper in luma: first and last column and row.
    fn extent(picture: &mut I420Buffer) -> Option<(usize, usize, usize, usize)> {
        let (luma, width, _) = picture.plane_mut(0);
        let changed = luma.iter().enumerate().filter(|(_, value)| **value != PAPER.y);
        changed.map(|(index, _)| (index % width, index / width)).fold(None, |extent, (x, y)| {
            let (x0, y0, x1, y1) = extent.unwrap_or((x, y, x, y));
            Some((x0.min(x), y0.min(y), x1.max(x), y1.max(y)))
        })
    }

    #[test]
    fn a_box_has_lines_of_its_colour_and_an_untouched_inside() {
        for (width, height, line) in [(640, 480, 2), (1280, 720, 4)] {
            let mut picture = paper(width, height);
            draw(&mut picture, &[drawn(100.0, 100.0, 80.0, 60.0, "#1")]);
            let blue = PALETTE[0];
            for inset in 0..line {
                assert_eq!(pixel(&mut picture, 140, 100 + inset), blue, "top");
                assert_eq!(pixel(&mut picture, 140, 159 - inset), blue, "bottom");
                assert_eq!(pixel(&mut picture, 100 + inset, 130), blue, "left");
                assert_eq!(pixel(&mut picture, 179 - inset, 130), blue, "right");
            }
            for (x, y) in [(100 + line, 130), (140, 100 + line), (179 - line, 130), (140, 159 - line)] {
                assert_eq!(pixel(&mut picture, x, y), PAPER, "inside at {x}, {y}");
            }
            for (x, y) in [(98, 130), (180, 130), (140, 160), (178, 98)] {
                assert_eq!(pixel(&mut picture, x, y), PAPER, "outside at {x}, {y}");
            }
        }
    }

    #[test]
    fn the_plate_stands_above_or_inside_or_where_no_other_is() {
        let font = Font::for_picture(480);
        let plate_height = even((font.height + font.padding) as i32) as usize;
        let colour_at = |tracks: &[DrawnTrack], x, y| {
            let mut picture = paper(640, 480);
            draw(&mut picture, tracks);
            pixel(&mut picture, x, y)
        };
        let blue = PALETTE[0];
        assert_eq!(
            colour_at(&[drawn(100.0, 100.0, 90.0, 90.0, "#1")], 100, 100 - plate_height),
            blue,
            "above"
        );
        assert_eq!(colour_at(&[drawn(100.0, 100.0, 90.0, 90.0, "#1")], 100, 99 - plate_height), PAPER);
        assert_eq!(
            colour_at(&[drawn(100.0, 6.0, 90.0, 90.0, "#1")], 110, 6 + plate_height - 1),
            blue,
            "inside"
        );
        assert_eq!(colour_at(&[drawn(100.0, 6.0, 90.0, 90.0, "#1")], 110, 6 + plate_height), PAPER);
        let twice = [drawn(100.0, 100.0, 90.0, 90.0, "#1"), drawn(100.0, 100.0, 90.0, 90.0, "#2")];
        assert_eq!(colour_at(&twice, 110, 100 + plate_height - 1), blue, "the second one inside");
        // At the right edge it is moved to the left, so that its end can be read.
        assert_eq!(colour_at(&[drawn(600.0, 100.0, 40.0, 90.0, "#1 person")], 600 - 40, 98), blue);
    }

    #[test]
    fn labels_are_written_in_ink_with_glyphs_that_differ() {
        let luma_of = |label: &str| {
            let mut picture = paper(320, 240);
            draw(&mut picture, &[drawn(40.0, 60.0, 200.0, 100.0, label)]);
            picture.plane_mut(0).0.to_vec()
        };
        let count = |label: &str| luma_of(label).iter().filter(|&&y| y == PALETTE[0].ink()).count();
        assert_eq!(count("   "), 0);
        assert!(count("#12 cup 71%") > 100);
        assert_ne!(luma_of("#1"), luma_of("#7"));
        assert_ne!(luma_of("é"), luma_of("e"));
        assert_eq!(luma_of("\u{732b}"), luma_of("?"), "no glyph for this one");
    }

    #[test]
    fn every_colour_is_readable() {
        for colour in PALETTE {
            assert!(colour.ink().abs_diff(colour.y) >= 90, "{colour:?}");
        }
        let colours: std::collections::HashSet<_> =
            (0..80).map(|class| colour_of(Kind::Object, class)).collect();
        assert_eq!(
            colours,
            (1..PALETTE.len()).collect::<std::collections::HashSet<_>>(),
            "objects share all colours but that of faces"
        );
        assert_eq!(Colour::rgb(0xffffff), Colour { y: 235, u: 128, v: 128 });
        assert_eq!(Colour::rgb(0x0000ff), Colour { y: 41, u: 240, v: 110 });
    }

    #[test]
    fn text_is_larger_in_larger_pictures() {
        let heights: Vec<_> =
            [1, 240, 360, 480, 720, 1080, 2160].map(|side| Font::for_picture(side).height).into();
        assert_eq!(heights, [13, 13, 14, 15, 18, 26, 52]);
        for height in [240, 480, 720, 1080, 2160] {
            let font = Font::for_picture(height);
            let glyphs = font.pixels.chunks_exact(font.width * font.height);
            let blank = glyphs.filter(|glyph| !glyph.contains(&true)).count();
            assert_eq!(blank, 2, "only the two spaces have empty glyphs, at height {height}");
        }
    }

    #[test]
    fn doubling_keeps_squares_and_smooths_diagonals() {
        let (o, x) = (false, true);
        assert_eq!(doubled(&[x], 1), [x; 4]);
        let stairs = [x, o, o, x];
        assert_eq!(doubled(&stairs, 2), [x, x, o, o, x, x, x, o, o, x, x, x, o, o, x, x]);
    }

    #[test]
    fn any_box_in_any_picture_is_borne() {
        let values = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
            -50.5,
            -0.4,
            0.0,
            0.4,
            1.0,
            33.3,
            1e9,
        ];
        let sizes = [(0, 0), (0, 9), (1, 1), (1, 2), (2, 1), (3, 3), (7, 241), (241, 7), (65, 49)];
        let label = "#18446744073709551615 face female 100%".repeat(20);
        for (width, height) in sizes {
            for x in values {
                for y in values {
                    for w in values {
                        let mut picture = paper(width, height);
                        let tracks =
                            [drawn(x, y, w, 20.0, &label), drawn(x, y, 20.0, w, ""), drawn(y, x, w, w, "x")];
                        draw(&mut picture, &tracks);
                    }
                }
            }
        }
    }

    #[test]
    fn boxes_that_cannot_be_seen_leave_the_picture_alone() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let unseen = [
            (-100.0, 10.0, 50.0, 50.0),
            (10.0, -100.0, 50.0, 50.0),
            (320.0, 10.0, 50.0, 50.0),
            (10.0, 240.0, 50.0, 50.0),
            (10.0, 10.0, 0.0, 50.0),
            (10.0, 10.0, 50.0, -1.0),
            (nan, 10.0, 50.0, 50.0),
            (10.0, 10.0, nan, 50.0),
            (inf, 10.0, 50.0, 50.0),
            (-inf, 10.0, inf, 50.0),
        ];
        for (x, y, w, h) in unseen {
            let mut picture = paper(320, 240);
            draw(&mut picture, &[drawn(x, y, w, h, "#1 unseen")]);
            assert!(picture == paper(320, 240), "{x} {y} {w} {h}");
        }
    }

    #[test]
    fn boxes_are_even_and_end_at_the_edges_of_odd_pictures() {
        let mut picture = paper(321, 241);
        draw(&mut picture, &[drawn(101.3, 151.7, 1000.0, 1000.0, "")]);
        let (x0, _, x1, y1) = extent(&mut picture).expect("the box is in the picture");
        assert_eq!((x0, x1, y1), (100, 320, 240));
        assert_eq!(pixel(&mut picture, 320, 240), PALETTE[0]);
    }

    #[test]
    fn labels_say_who_what_and_how_surely() {
        let report = |label: &str, gender: Option<(Gender, f32)>| TrackReport {
            id: 3,
            kind: Kind::Face,
            label: label.to_owned(),
            score: 0.876,
            bbox: [0.0; 4],
            attributes: Attributes {
                apparent_gender: gender.map(|(label, score)| GenderReport { label, score }),
                ..Attributes::default()
            },
        };
        let cases = [
            ("face", None, "#3 face 88%"),
            ("cup", None, "#3 cup 88%"),
            ("face", Some((Gender::Female, 0.93)), "#3 face female 93%"),
            ("face", Some((Gender::Male, 1.0)), "#3 face male 100%"),
            ("face", Some((Gender::Unsure, 0.55)), "#3 face unsure 55%"),
        ];
        for (label, gender, text) in cases {
            assert_eq!(label_of(&report(label, gender)), text);
        }
    }

    #[test]
    fn text_is_drawn_as_far_as_the_fonts_go() {
        let caption = |label: &str, text: &str| {
            let text = Some(LabelReport { label: text.to_owned(), score: 0.98 });
            caption_of(label, 0.71, &Attributes { text, ..Attributes::default() })
        };
        assert_eq!(caption("stop sign", "STOP"), "stop sign 71% \"STOP\" 98%");
        assert_eq!(caption("text", "École 3"), "\"École 3\" 98%");
        assert_eq!(caption("text", "北京 Road 路"), "\"[?] Road [?]\" 98%");
        assert_eq!(caption("text", &"x".repeat(41)), format!("\"{}...\" 98%", "x".repeat(40)));
        let class = LabelReport { label: "helmet".to_owned(), score: 0.5 };
        let classes = [("safety".to_owned(), class)].into();
        let attributes = Attributes { classes, ..Attributes::default() };
        assert_eq!(caption_of("person", 0.9, &attributes), "person 90% helmet 50%");
    }
}
