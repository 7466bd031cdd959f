//! Text in a picture: where its lines are, and what they say.
//!
//! A second stage, too slow for every picture: [`read`](super::read) says when. Source of the method: PP-OCR (Du et al., 2020), whose detector marks pixels (DB)
//! and whose reader goes along a line (CTC).

use crate::frame::{BBox, Detection, Kind, Picture, Point};
use crate::imgproc::{ImgError, Rectangle, bright_regions};
use crate::inference::service::Ticket;
use crate::models::heads::Placement;
use crate::models::heads::ctc::{self, LineText};
use crate::models::heads::db::{self, TextMap};
use crate::models::traffic::Slot;

use super::prepare::{PrepareError, Prepared, prepare_line_in, prepare_part_in};
use super::recognise::{Model, RecogniseError, Recogniser, title};

/// From which value on a pixel belongs to a line.
const BRIGHT: f32 = 0.3;
/// The map shows lines thinner than they are: each side is moved out by this times area over circumference.
const UNCLIP: f32 = 1.6;
/// Map pixels: thinner regions are specks, before and after they are grown.
const MIN_SIDES: (f32, f32) = (3.0, 5.0);
/// Picture pixels: flatter lines cannot be read.
const MIN_LINE: f32 = 3.0;
/// Regions that are looked at in one map.
const MAX_REGIONS: usize = 1000;
/// Pixels of all regions together, in maps, that are averaged to score them.
const MAX_SCORED: usize = 8;
/// Lines that stand, height to width, like this or more are read from top to bottom.
const STANDING: f32 = 1.5;

/// Lines of a whole picture that are kept, the surest.
pub const MAX_LINES: usize = 64;
/// Lines of one thing that are read, from its top.
const MAX_LINES_OF_ONE: usize = 8;
/// Characters of one thing.
const MAX_TEXT: usize = 256;
/// Nothing is enlarged by more: it does not become more legible.
const MAX_ENLARGEMENT: f32 = 2.0;
/// How much larger than a thing's box the part is that is searched, in parts of its sides.
const MARGIN: f32 = 0.05;

/// How much may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Pixels: the longer side of what is searched for lines.
    pub side: u32,
    /// Lines that are read at the same time.
    pub at_once: usize,
}

impl Effort {
    /// Beside live recognition, which must not feel it.
    pub const LIVE: Self = Self { side: 640, at_once: 1 };
    /// For a file, which waits for it.
    pub const FILE: Self = Self { side: 1280, at_once: 4 };
}

/// A line of text in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Along the line; picture pixels.
    pub place: Rectangle,
    /// How surely it is one, 0 to 1.
    pub score: f32,
}

impl Line {
    /// As other detections are.
    pub fn detection(&self) -> Detection {
        let bbox = self.place.bbox();
        Detection { kind: Kind::Text, class: 0, score: self.score, bbox, landmarks: None }
    }
}

/// Where something is to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Line(Rectangle),
    /// Around something that was detected: lines are looked for in it.
    Box(BBox),
}

impl Recogniser {
    /// Finds the lines of text in `picture`, in reading order.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn find_lines(&self, picture: &Picture, effort: Effort) -> Result<Vec<Line>, RecogniseError> {
        let whole = BBox { x: 0.0, y: 0.0, w: picture.width as f32, h: picture.height as f32 };
        self.past_a_swap(|this| this.lines_in(picture, &whole, effort))
    }

    /// What is written at each of `places`; empty where nothing was made out.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn read_places(
        &self,
        picture: &Picture,
        places: &[Place],
        effort: Effort,
    ) -> Result<Vec<LineText>, RecogniseError> {
        let mut texts = Vec::with_capacity(places.len());
        // Lines that are known run together, those of a box by themselves.
        for run in places.chunk_by(|a, b| matches!((a, b), (Place::Line(_), Place::Line(_)))) {
            let lines: Vec<Rectangle> = run.iter().filter_map(Place::line).collect();
            texts.extend(self.read_lines(picture, &lines, effort)?);
            if let [Place::Box(bbox)] = run {
                texts.push(self.read_box(picture, bbox, effort)?);
            }
        }
        Ok(texts)
    }

    fn read_box(&self, picture: &Picture, bbox: &BBox, effort: Effort) -> Result<LineText, RecogniseError> {
        let part = with_margin(bbox).clipped(picture.width as f32, picture.height as f32);
        if part.w < MIN_LINE || part.h < MIN_LINE {
            return Ok(LineText::default());
        }
        let mut lines = self.past_a_swap(|this| this.lines_in(picture, &part, effort))?;
        lines.truncate(MAX_LINES_OF_ONE);
        let places: Vec<Rectangle> = lines.iter().map(|line| line.place).collect();
        Ok(joined(&self.read_lines(picture, &places, effort)?))
    }

    fn lines_in(&self, picture: &Picture, part: &BBox, effort: Effort) -> Result<Vec<Line>, RecogniseError> {
        let model = self.find(&Slot::TextDetect)?;
        let mut input = model.manifest.input.clone();
        input.size = input.size.min(effort.side);
        let (used, outputs) = self.spares.take(model.id);
        let Prepared { tensor, placement } =
            prepare_part_in(used, picture, &input, part, MAX_ENLARGEMENT).map_err(unprepared(&model))?;
        let ticket = self.ask_own(&model, tensor, outputs)?;
        let least = model.manifest.thresholds.score;
        let lines =
            self.answer(&model, ticket, |outputs| Ok(lines_of(&db::decode(outputs)?, &placement, least)))?;
        let lines = lines.map_err(|source| unprepared(&model)(source.into()))?;
        let moved = |line: Line| {
            let Point { x, y } = line.place.centre;
            let centre = Point { x: x + part.x, y: y + part.y };
            Line { place: Rectangle { centre, ..line.place }, ..line }
        };
        Ok(lines.into_iter().map(moved).collect())
    }

    fn read_lines(
        &self,
        picture: &Picture,
        lines: &[Rectangle],
        effort: Effort,
    ) -> Result<Vec<LineText>, RecogniseError> {
        let mut texts = Vec::with_capacity(lines.len());
        for some in lines.chunks(effort.at_once.max(1)) {
            texts.extend(self.past_a_swap(|this| {
                let asked: Vec<(Model, Ticket)> =
                    some.iter().map(|line| this.ask_line(picture, line)).collect::<Result<_, _>>()?;
                let read = |(model, ticket): (Model, Ticket)| this.read_line(&model, ticket);
                asked.into_iter().map(read).collect::<Result<Vec<_>, _>>()
            })?);
        }
        Ok(texts)
    }

    fn ask_line(&self, picture: &Picture, line: &Rectangle) -> Result<(Model, Ticket), RecogniseError> {
        let model = self.find(&Slot::TextRead)?;
        let (used, outputs) = self.spares.take(model.id);
        let tensor =
            prepare_line_in(used, picture, &model.manifest.input, line).map_err(unprepared(&model))?;
        let ticket = self.ask_own(&model, tensor, outputs)?;
        Ok((model, ticket))
    }

    fn read_line(&self, model: &Model, ticket: Ticket) -> Result<LineText, RecogniseError> {
        let lines = self.answer(model, ticket, |outputs| ctc::decode(outputs, 1, &model.manifest.labels))?;
        let is_sure = |line: &LineText| line.score >= model.manifest.thresholds.score;
        Ok(lines.into_iter().next().filter(is_sure).map(|line| tidy(&line)).unwrap_or_default())
    }
}

fn unprepared(model: &Model) -> impl Fn(PrepareError) -> RecogniseError {
    let model = title(&model.manifest);
    move |source| RecogniseError::Prepare { model: model.clone(), source }
}

impl Place {
    fn line(&self) -> Option<Rectangle> {
        match self {
            Self::Line(line) => Some(*line),
            Self::Box(_) => None,
        }
    }
}

fn with_margin(bbox: &BBox) -> BBox {
    let (across, down) = (bbox.w * MARGIN, bbox.h * MARGIN);
    BBox { x: bbox.x - across, y: bbox.y - down, w: bbox.w + 2.0 * across, h: bbox.h + 2.0 * down }
}

/// The text without what cannot be written on one line, and without spaces at its ends or in a row.
fn tidy(line: &LineText) -> LineText {
    let visible = line.text.replace(char::is_control, " ");
    let text: String = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    let score = if text.is_empty() { 0.0 } else { line.score };
    LineText { text, score }
}

/// Several lines as one text; the score is the mean over their characters.
fn joined(lines: &[LineText]) -> LineText {
    let (mut text, mut sum, mut count) = (String::new(), 0.0, 0);
    for line in lines.iter().filter(|line| !line.text.is_empty()) {
        let characters = line.text.chars().count();
        if count + characters > MAX_TEXT {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&line.text);
        sum += line.score * characters as f32;
        count += characters;
    }
    LineText { text, score: if count > 0 { sum / count as f32 } else { 0.0 } }
}

/// The lines that a map shows, in reading order; `placement` is that of the picture, or of its part, in the input.
///
/// # Errors
/// [`ImgError`] when the map is larger than any input.
pub fn lines_of(map: &TextMap<'_>, placement: &Placement, least: f32) -> Result<Vec<Line>, ImgError> {
    // A map may be smaller than the input that it is of.
    let step = Point {
        x: placement.input_width as f32 / map.width as f32 / placement.scale_x,
        y: placement.input_height as f32 / map.height as f32 / placement.scale_y,
    };
    let mut budget = MAX_SCORED * map.values.len();
    let mut lines = Vec::new();
    for region in bright_regions(map.values, (map.width, map.height), BRIGHT, MAX_REGIONS)? {
        if region.width.min(region.height) < MIN_SIDES.0 {
            continue;
        }
        let Some(score) = mean_within(map, &region, &mut budget) else { break };
        let grown = unclipped(&region);
        if score < least || grown.width.min(grown.height) < MIN_SIDES.1 {
            continue;
        }
        let offset =
            Point { x: placement.offset_x / placement.scale_x, y: placement.offset_y / placement.scale_y };
        let centre = Point { x: grown.centre.x * step.x - offset.x, y: grown.centre.y * step.y - offset.y };
        let scale = (step.x + step.y) / 2.0;
        let place = Rectangle { centre, width: grown.width * scale, height: grown.height * scale, ..grown };
        let place = along_the_line(&place);
        let is_inside =
            (0.0..placement.width).contains(&centre.x) && (0.0..placement.height).contains(&centre.y);
        if is_inside && place.width > MIN_LINE && place.height > MIN_LINE {
            lines.push(Line { place, score: score.min(1.0) });
        }
    }
    lines.sort_by(|a, b| b.score.total_cmp(&a.score));
    lines.truncate(MAX_LINES);
    Ok(in_reading_order(lines))
}

/// The mean of the map's values in a rectangle; `None` when no more pixels may be looked at.
fn mean_within(map: &TextMap<'_>, region: &Rectangle, budget: &mut usize) -> Option<f32> {
    let around = region.bbox();
    let span = |start: f32, length: f32, limit: usize| {
        let from = (start.floor().max(0.0) as usize).min(limit - 1);
        let to = ((start + length).ceil().max(0.0) as usize).min(limit - 1);
        from..to + 1
    };
    let (columns, rows) = (span(around.x, around.w, map.width), span(around.y, around.h, map.height));
    *budget = budget.checked_sub(columns.len() * rows.len())?;
    let (sin, cos) = region.angle.sin_cos();
    // Half a pixel: the rectangle goes through the middles of the outermost ones.
    let (half_width, half_height) = (region.width / 2.0 + 0.5, region.height / 2.0 + 0.5);
    let (mut sum, mut count) = (0.0, 0);
    for row in rows {
        for column in columns.clone() {
            let (x, y) = (column as f32 - region.centre.x, row as f32 - region.centre.y);
            let (along, across) = (x * cos + y * sin, y * cos - x * sin);
            if along.abs() <= half_width && across.abs() <= half_height {
                sum += map.values[row * map.width + column];
                count += 1;
            }
        }
    }
    Some(if count > 0 { sum / count as f32 } else { 0.0 })
}

fn unclipped(region: &Rectangle) -> Rectangle {
    let (width, height) = (region.width, region.height);
    let out = width * height * UNCLIP / (2.0 * (width + height));
    Rectangle { width: width + 2.0 * out, height: height + 2.0 * out, ..*region }
}

/// The same rectangle with its width along the line: level within 45 degrees, or from top to bottom where it stands.
fn along_the_line(place: &Rectangle) -> Rectangle {
    use std::f32::consts::{FRAC_PI_2, FRAC_PI_4};
    let quarters = (place.angle / FRAC_PI_2).round();
    let angle = place.angle - quarters * FRAC_PI_2;
    let is_turned = (quarters as i32).rem_euclid(2) == 1;
    let (width, height) = if is_turned { (place.height, place.width) } else { (place.width, place.height) };
    debug_assert!(angle.abs() <= FRAC_PI_4 + 1e-3 || !angle.is_finite());
    if height >= STANDING * width {
        return Rectangle { width: height, height: width, angle: angle + FRAC_PI_2, ..*place };
    }
    Rectangle { width, height, angle, ..*place }
}

/// From top to bottom, and from left to right where lines stand beside each other.
fn in_reading_order(mut lines: Vec<Line>) -> Vec<Line> {
    let middle = |line: &Line| line.place.centre.y;
    lines.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
    let mut ordered = Vec::with_capacity(lines.len());
    let mut rest = lines.into_iter().peekable();
    while let Some(first) = rest.next() {
        let reach = middle(&first) + first.place.bbox().h / 2.0;
        let mut row = vec![first];
        while let Some(beside) = rest.next_if(|line| middle(line) < reach) {
            row.push(beside);
        }
        row.sort_by(|a, b| a.place.centre.x.total_cmp(&b.place.centre.x));
        ordered.extend(row);
    }
    ordered
}

#[cfg(test)]
mod tests;
