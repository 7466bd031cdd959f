//! What pictures show, as COCO's `instances_*.json` says it and as most labelling tools export it.
//!
//! Source: <https://cocodataset.org/#format-data>. Only boxes are read; masks and keypoints are passed over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::score::Truth;

/// Why a file of labels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    #[error("it is no JSON as COCO's object detection has it")]
    Unreadable(#[from] serde_json::Error),
    #[error("it names no pictures")]
    NoPictures,
    #[error("it names no categories")]
    NoCategories,
    #[error("two {what} have the id {id}")]
    Twice { what: &'static str, id: u64 },
    #[error("an annotation is of the {what} {id}, which there is not")]
    Unknown { what: &'static str, id: u64 },
    #[error("the box {bbox:?} of picture {picture} is none: x, y, width and height are at least 0")]
    Box { picture: u64, bbox: [f64; 4] },
    #[error("the file name {0:?} leads out of the folder of pictures")]
    FileName(String),
}

/// What is known of some pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// By their ids, as COCO's program has them: where scores are equal, the order counts.
    pub pictures: Vec<String>,
    /// Names of the categories, by their ids.
    pub categories: Vec<String>,
    /// By places in these lists.
    pub truths: Vec<Truth>,
}

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
    #[serde(default)]
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
    /// As `iscrowd` to who counts, though COCO's program wants a box of its own for each.
    #[serde(default)]
    ignore: u8,
}

impl Labels {
    /// Reads a file of labels.
    ///
    /// # Errors
    /// [`LabelsError`], with what is wrong and where.
    pub fn read(json: &[u8]) -> Result<Self, LabelsError> {
        let file: File = serde_json::from_slice(json)?;
        if file.images.is_empty() {
            return Err(LabelsError::NoPictures);
        }
        if file.categories.is_empty() {
            return Err(LabelsError::NoCategories);
        }
        let (pictures, picture_of) =
            listed(file.images.into_iter().map(|i| (i.id, i.file_name)), "pictures")?;
        let (categories, category_of) =
            listed(file.categories.into_iter().map(|c| (c.id, c.name)), "categories")?;
        if let Some(name) = pictures.iter().find(|name| !stays_inside(name)) {
            return Err(LabelsError::FileName(name.clone()));
        }
        let truth = |annotation: Annotation| {
            let Annotation { image_id, category_id, bbox, area, iscrowd, ignore } = annotation;
            let unknown = |what, id| LabelsError::Unknown { what, id };
            if !bbox.iter().all(|side| side.is_finite()) || bbox[2] < 0.0 || bbox[3] < 0.0 {
                return Err(LabelsError::Box { picture: image_id, bbox });
            }
            Ok(Truth {
                picture: *picture_of.get(&image_id).ok_or_else(|| unknown("picture", image_id))?,
                class: *category_of.get(&category_id).ok_or_else(|| unknown("category", category_id))?,
                bbox,
                area: area.filter(|area| area.is_finite()).unwrap_or(bbox[2] * bbox[3]),
                is_crowd: iscrowd != 0 || ignore != 0,
            })
        };
        let truths = file.annotations.into_iter().map(truth).collect::<Result<_, _>>()?;
        Ok(Self { pictures, categories, truths })
    }

    /// Keeps what is of the pictures and categories for which these say so.
    pub fn retain(
        &mut self,
        is_wanted_picture: impl Fn(&str) -> bool,
        is_wanted_category: impl Fn(&str) -> bool,
    ) {
        let places = |names: &[String], wanted: &dyn Fn(&str) -> bool| -> Vec<Option<usize>> {
            let mut next = 0;
            let place = |name: &String| {
                wanted(name).then(|| {
                    next += 1;
                    next - 1
                })
            };
            names.iter().map(place).collect()
        };
        let pictures = places(&self.pictures, &is_wanted_picture);
        let categories = places(&self.categories, &is_wanted_category);
        let truths = std::mem::take(&mut self.truths).into_iter().filter_map(|truth| {
            Some(Truth { picture: pictures[truth.picture]?, class: categories[truth.class]?, ..truth })
        });
        self.truths = truths.collect();
        self.pictures.retain(|name| is_wanted_picture(name));
        self.categories.retain(|name| is_wanted_category(name));
    }
}

/// Names by their ids, and where each id stands.
fn listed(
    items: impl Iterator<Item = (u64, String)>,
    what: &'static str,
) -> Result<(Vec<String>, HashMap<u64, usize>), LabelsError> {
    let mut by_id = BTreeMap::new();
    let mut seen = HashSet::new();
    for (id, name) in items {
        if !seen.insert(id) {
            return Err(LabelsError::Twice { what, id });
        }
        by_id.insert(id, name);
    }
    let places = by_id.keys().enumerate().map(|(place, id)| (*id, place)).collect();
    Ok((by_id.into_values().collect(), places))
}

fn stays_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_and_categories_stand_by_their_ids() {
        let json = br#"{
            "info": {"year": 2026},
            "images": [{"id": 9, "file_name": "b.jpg", "width": 4}, {"id": 2, "file_name": "sub/a.jpg"}],
            "categories": [{"id": 7, "name": "cup", "supercategory": "x"}, {"id": 3, "name": "cat"}],
            "annotations": [
                {"id": 1, "image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 5.5, "iscrowd": 1},
                {"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 2, 2.5]}
            ]
        }"#;
        let mut labels = Labels::read(json).unwrap();
        assert_eq!(labels.pictures, ["sub/a.jpg", "b.jpg"]);
        assert_eq!(labels.categories, ["cat", "cup"]);
        let crowd = Truth { picture: 1, class: 0, bbox: [1.0, 2.0, 3.0, 4.0], area: 5.5, is_crowd: true };
        let cup = Truth { picture: 0, class: 1, bbox: [0.0, 0.0, 2.0, 2.5], area: 5.0, is_crowd: false };
        assert_eq!(labels.truths, [crowd, cup.clone()]);
        labels.retain(|_| true, |name| name == "cup");
        assert_eq!(labels.categories, ["cup"]);
        assert_eq!(labels.truths, [Truth { class: 0, ..cup }]);
        labels.retain(|name| name == "b.jpg", |_| true);
        assert_eq!((labels.pictures.len(), labels.truths.len()), (1, 0));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let file = |images: &str, annotations: &str| {
            format!(
                r#"{{"images": [{images}], "annotations": [{annotations}], "categories": [{{"id": 1, "name": "a"}}]}}"#
            )
        };
        let image = r#"{"id": 1, "file_name": "a.jpg"}"#;
        let of = |image: u32, category: u32, bbox: &str| {
            format!(r#"{{"image_id": {image}, "category_id": {category}, "bbox": {bbox}}}"#)
        };
        let cases = [
            ("{".to_owned(), "no JSON"),
            ("[]".to_owned(), "no JSON"),
            (file("", ""), "names no pictures"),
            (r#"{"images": [{"id": 1, "file_name": "a"}], "categories": []}"#.to_owned(), "no categories"),
            (file(&format!("{image}, {image}"), ""), "two pictures have the id 1"),
            (file(image, &of(2, 1, "[0, 0, 1, 1]")), "the picture 2, which there is not"),
            (file(image, &of(1, 2, "[0, 0, 1, 1]")), "the category 2, which there is not"),
            (file(image, &of(1, 1, "[0, 0, -1, 1]")), "the box [0.0, 0.0, -1.0, 1.0] of picture 1"),
            (file(image, &of(1, 1, "[0, 0, 1]")), "no JSON"),
            (file(r#"{"id": 1, "file_name": "../../etc/passwd"}"#, ""), "leads out"),
            (file(r#"{"id": 1, "file_name": "/etc/passwd"}"#, ""), "leads out"),
        ];
        for (json, expected) in cases {
            let error = Labels::read(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
