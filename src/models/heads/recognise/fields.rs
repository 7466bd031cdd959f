//! Wishes as text: how flags, and the fields of a form, write them.

use super::{FitWish, Wishes};
use crate::models::heads::names;
use crate::models::manifest::{Channels, Task};

/// Text that says nothing of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    pub field: &'static str,
    reason: String,
}

impl Wishes {
    /// The fields that there are.
    pub const FIELDS: [&'static str; 10] =
        ["task", "head", "labels", "size", "channels", "mean", "std", "fit", "score", "iou"];

    /// Takes what a field says; nothing where it says nothing. Returns whether there is such a field.
    ///
    /// # Errors
    /// When the text cannot be read.
    pub fn set(&mut self, field: &str, text: &str) -> Result<bool, FieldError> {
        let Some(field) = Self::FIELDS.into_iter().find(|known| *known == field) else { return Ok(false) };
        let wrong = |reason: String| FieldError { field, reason };
        // Labels alone may begin or end with what would be cut off.
        let said = text.trim();
        if said.is_empty() {
            return Ok(true);
        }
        match field {
            "task" => self.task = Some(said.parse().map_err(|error| wrong(told(&error)))?),
            "head" => self.head = Some(said.parse().map_err(|error| wrong(told(&error)))?),
            "labels" => self.labels = Some(read_labels(text).map_err(wrong)?),
            "size" => self.size = Some(read_size(said).map_err(wrong)?),
            "channels" => self.channels = Some(read_channels(said).map_err(wrong)?),
            "mean" => self.mean = Some(read_three(said).map_err(wrong)?),
            "std" => self.std = Some(read_three(said).map_err(wrong)?),
            "fit" => self.fit = Some(read_fit(said).map_err(wrong)?),
            "score" => self.score = Some(read_part(said).map_err(wrong)?),
            _ => self.iou = Some(read_part(said).map_err(wrong)?),
        }
        Ok(true)
    }

    /// The fields that say the same.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let Self { task, head, labels, size, channels, mean, std, fit, score, iou } = self;
        let three = |[a, b, c]: [f32; 3]| format!("{a},{b},{c}");
        let fields = [
            ("task", task.map(|task| Task::name(task).to_owned())),
            ("head", head.map(|head| head.name().to_owned())),
            // A line each: a label may have commas in it.
            (
                "labels",
                labels.as_ref().map(|labels| labels.iter().map(|label| format!("{label}\n")).collect()),
            ),
            ("size", size.map(|(width, height)| format!("{width}x{height}"))),
            ("channels", channels.map(|order| name_of(order, &CHANNELS))),
            ("mean", mean.map(three)),
            ("std", std.map(three)),
            ("fit", fit.map(|fit| name_of(fit, &FITS))),
            ("score", score.map(|score| score.to_string())),
            ("iou", iou.map(|iou| iou.to_string())),
        ];
        fields.into_iter().filter_map(|(field, text)| Some((field, text?))).collect()
    }
}

const CHANNELS: [(&str, Channels); 2] = [("rgb", Channels::Rgb), ("bgr", Channels::Bgr)];
const FITS: [(&str, FitWish); 3] =
    [("centre", FitWish::Centre), ("top-left", FitWish::TopLeft), ("stretch", FitWish::Stretch)];

fn told(error: &impl std::fmt::Display) -> String {
    error.to_string()
}

fn name_of<T: PartialEq>(value: T, names: &[(&str, T)]) -> String {
    let found = names.iter().find(|(_, named)| *named == value);
    found.map(|(name, _)| (*name).to_owned()).unwrap_or_default()
}

fn named<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let all = || names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("{:?} is none of {}", short(text), all()))
}

/// The order of colours, `rgb` or `bgr`.
///
/// # Errors
/// What is expected.
pub fn read_channels(text: &str) -> Result<Channels, String> {
    named(text, &CHANNELS)
}

/// How a picture is fitted, `centre`, `top-left` or `stretch`.
///
/// # Errors
/// What is expected.
pub fn read_fit(text: &str) -> Result<FitWish, String> {
    named(text, &FITS)
}

/// Width and height in pixels: `640`, `640x384`.
///
/// # Errors
/// What is expected.
pub fn read_size(text: &str) -> Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let side = |side: &str| side.parse().ok().filter(|side| (32..=2048).contains(side));
    side(width).zip(side(height)).ok_or_else(|| "expected 32 to 2048 pixels, as 640 or 640x384".to_owned())
}

/// A number for each channel, or one for all.
///
/// # Errors
/// What is expected.
pub fn read_three(text: &str) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[all]) => Ok([all; 3]),
        Some(&[a, b, c]) => Ok([a, b, c]),
        _ => Err("expected one number or three, separated by commas".to_owned()),
    }
}

fn read_part(text: &str) -> Result<f32, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| format!("{:?} is no number from 0 to 1", short(text)))
}

/// Labels as one writes them: a line each, a list separated by commas, or Python's way of writing a list.
///
/// # Errors
/// When there are none.
pub fn read_labels(text: &str) -> Result<Vec<String>, String> {
    let labels: Vec<String> = match names::labels(text) {
        Some(labels) => labels,
        None if text.contains('\n') => {
            text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
        }
        None => text.split(',').map(|label| label.trim().to_owned()).collect(),
    };
    match labels.is_empty() {
        true => Err("there are no labels".to_owned()),
        false => Ok(labels),
    }
}

/// As much of a text as is repeated in a message.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::manifest::Head;

    #[test]
    fn what_is_written_is_read() {
        let wishes = Wishes {
            task: Some(Task::Faces),
            head: Some(Head::YoloEnd2end),
            labels: Some(vec!["a sign, red".to_owned()]),
            size: Some((640, 384)),
            channels: Some(Channels::Bgr),
            mean: Some([127.5, 0.1, 3.0]),
            std: Some([255.0; 3]),
            fit: Some(FitWish::TopLeft),
            score: Some(0.3),
            iou: Some(0.45),
        };
        let mut read = Wishes::default();
        for (field, text) in wishes.fields() {
            assert_eq!(read.set(field, &text), Ok(true), "{field}");
        }
        assert_eq!(read, wishes);
        assert!(Wishes::default().fields().is_empty());
    }

    #[test]
    fn an_empty_field_says_nothing_and_another_is_none() {
        let mut wishes = Wishes::default();
        for field in Wishes::FIELDS {
            assert_eq!(wishes.set(field, "  "), Ok(true));
        }
        assert_eq!(wishes.set("file", "x"), Ok(false));
        assert_eq!(wishes, Wishes::default());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (field, text, said) in [
            ("task", "ears", "\"ears\" is none of faces"),
            ("head", "yolov99", "\"yolov99\" is none of"),
            ("size", "640x", "32 to 2048"),
            ("size", "0", "32 to 2048"),
            ("channels", "cmyk", "is none of rgb, bgr"),
            ("mean", "1,2", "one number or three"),
            ("std", "x", "one number or three"),
            ("fit", "round", "top-left"),
            ("score", "2", "from 0 to 1"),
            ("iou", "NaN", "from 0 to 1"),
        ] {
            let error = Wishes::default().set(field, text).unwrap_err().to_string();
            assert!(error.contains(said) && error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn labels_are_read_as_they_are_written() {
        assert_eq!(read_labels("stop, yield").unwrap(), ["stop", "yield"]);
        assert_eq!(read_labels("stop\n\nyield \n").unwrap(), ["stop", "yield"]);
        assert_eq!(read_labels("['stop', 'yield']").unwrap(), ["stop", "yield"]);
        assert!(read_labels("\n").is_err());
    }

    #[test]
    fn sizes_and_numbers_are_read() {
        assert_eq!(read_size("640"), Ok((640, 640)));
        assert_eq!(read_size("640x384"), Ok((640, 384)));
        assert!(read_size("0").is_err() && read_size("640x").is_err() && read_size("9999").is_err());
        assert_eq!(read_three("255"), Ok([255.0; 3]));
        assert_eq!(read_three("1, 2,3"), Ok([1.0, 2.0, 3.0]));
        assert!(read_three("1,2").is_err() && read_three("").is_err());
    }
}
