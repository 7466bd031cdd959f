//! The words for what was found, by the models that found it.
//!
//! A class is an index into the labels of one model. Where a model changes under a session's tracks, those of the new one
//! may stand in another order: what the tracks are called must not change with it.

use std::sync::Arc;

use crate::frame::Kind;
use crate::models::manifest::Manifest;

/// What every line of text is called: what it says is an attribute.
pub const TEXT: &str = "text";

/// Who found the things of each kind; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    faces: Option<Arc<Manifest>>,
    objects: Option<Arc<Manifest>>,
}

impl Labels {
    /// The word for a class of things of `kind`; empty where there is none.
    pub fn of(&self, kind: Kind, class: u16) -> &str {
        let finder = match kind {
            Kind::Face => &self.faces,
            Kind::Object => &self.objects,
            Kind::Text => return TEXT,
        };
        finder.as_ref().map(|manifest| label_of(manifest, class)).unwrap_or_default()
    }

    /// Has things of `kind` found by `finder` from now on, and returns how classes change by that, if they do.
    pub fn adopt(&mut self, kind: Kind, finder: &Arc<Manifest>) -> Option<Translation> {
        let place = match kind {
            Kind::Face => &mut self.faces,
            Kind::Object => &mut self.objects,
            Kind::Text => return None,
        };
        if place.as_ref().is_some_and(|known| Arc::ptr_eq(known, finder)) {
            return None;
        }
        let before = place.replace(Arc::clone(finder))?;
        (before.labels != finder.labels).then(|| Translation { before, after: Arc::clone(finder) })
    }
}

/// How the classes of one model are another's.
pub struct Translation {
    before: Arc<Manifest>,
    after: Arc<Manifest>,
}

impl Translation {
    /// The class of the same word; `None` where the other model knows no such thing.
    pub fn class(&self, class: u16) -> Option<u16> {
        let word = label_of(&self.before, class);
        let at = self.after.labels.iter().position(|label| label == word)?;
        u16::try_from(at).ok()
    }
}

/// The word for a class of a model's; empty where it has none.
pub fn label_of(manifest: &Manifest, class: u16) -> &str {
    manifest.labels.get(usize::from(class)).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::catalogue::MODELS;

    fn manifest(labels: &[&str]) -> Arc<Manifest> {
        let labels = labels.iter().map(|label| label.to_string()).collect();
        Arc::new(Manifest { labels, ..MODELS[0].manifest() })
    }

    #[test]
    fn things_are_called_by_who_found_them() {
        let mut labels = Labels::default();
        assert_eq!(labels.of(Kind::Object, 0), "");
        let first = manifest(&["dog", "cat", "cup"]);
        assert!(labels.adopt(Kind::Object, &first).is_none(), "nothing was called otherwise");
        assert_eq!((labels.of(Kind::Object, 1), labels.of(Kind::Face, 1)), ("cat", ""));
        assert_eq!(labels.of(Kind::Object, 3), "", "no such class");
        assert!(labels.adopt(Kind::Object, &first).is_none());
        assert!(labels.adopt(Kind::Object, &manifest(&["dog", "cat", "cup"])).is_none(), "the same words");
        let translation = labels.adopt(Kind::Object, &manifest(&["cup", "bird", "dog"])).unwrap();
        let classes: Vec<_> = (0..4).map(|class| translation.class(class)).collect();
        assert_eq!(classes, [Some(2), None, Some(0), None]);
        assert_eq!(labels.of(Kind::Object, 2), "dog");
    }
}
