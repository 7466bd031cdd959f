//! What `--cascade` says: which second stage is run on things of which label.

use anyhow::{Context, bail};

use crate::commands::recognition::named;
use crate::models::manifest::Task;
use crate::models::store::{Store, StoreError, Stored};
use crate::models::traffic::Slot;
use crate::models::wheel;
use crate::pipeline::recognise::{ModelSet, WHOLE_PICTURE};

/// Stands for the models that read text.
const TEXT: &str = "text";

/// The second stages that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cascades {
    /// The labels on whose things text is read, `*` for everywhere.
    pub text_on: Vec<String>,
    /// Classifiers, `NAME` or `NAME@VERSION`, by what they look at.
    pub classifiers: Vec<(Slot, String)>,
}

impl Cascades {
    /// Reads `LABEL=MODEL`, each.
    ///
    /// # Errors
    /// In words for whoever wrote it.
    pub fn read(texts: &[String]) -> anyhow::Result<Self> {
        let mut cascades = Self::default();
        for text in texts {
            // A label may have a = in it, a model's name has none.
            let Some((label, model)) = text.rsplit_once('=') else {
                bail!("--cascade {text:?} is not LABEL=MODEL");
            };
            let (label, model) = (label.trim(), model.trim());
            if label.is_empty() || model.is_empty() {
                bail!("--cascade {text:?} is not LABEL=MODEL");
            }
            match model {
                TEXT if cascades.text_on.iter().any(|known| known == label) => {}
                TEXT => cascades.text_on.push(label.to_owned()),
                _ if label == WHOLE_PICTURE => {
                    bail!("--cascade {text:?}: only text is looked for in the whole picture");
                }
                _ => cascades.add(label, model)?,
            }
        }
        Ok(cascades)
    }

    fn add(&mut self, label: &str, model: &str) -> anyhow::Result<()> {
        let slot = Slot::Classify(label.to_owned());
        if let Some((_, other)) = self.classifiers.iter().find(|(known, _)| *known == slot) {
            bail!("--cascade: {other} and {model} both look at {label}");
        }
        self.classifiers.push((slot, model.to_owned()));
        Ok(())
    }
}

/// The models of the second stages that were asked for, and those that read text if they are there: `chosen` ones
/// (by task) or those that vigie brings.
///
/// # Errors
/// With what is missing or unfit, and what to do about it.
pub fn find(
    store: &Store,
    cascades: &Cascades,
    mut chosen: impl FnMut(Task) -> Option<Stored>,
) -> anyhow::Result<Vec<(Slot, Stored)>> {
    let mut found = Vec::new();
    for (slot, name) in &cascades.classifiers {
        let stored = named(store, name)?;
        if stored.manifest.task != Task::Classes {
            bail!("--cascade: {name} is for {}, not a classifier", stored.manifest.task.name());
        }
        found.push((slot.clone(), stored));
    }
    let readers = [(Slot::TextDetect, Task::TextDetect), (Slot::TextRead, Task::TextRead)];
    for ((slot, task), brought) in readers.into_iter().zip(&wheel::MODELS) {
        let stored = match chosen(task) {
            Some(stored) => stored,
            None => match store.newest_of(brought.name) {
                Err(StoreError::NoSuchModel { .. }) if cascades.text_on.is_empty() => continue,
                stored => stored.with_context(|| {
                    let folder = store.folder().display();
                    format!("text cannot be read with the models in {folder}: `vigie models pull ocr` fetches them")
                })?,
            },
        };
        found.push((slot, stored));
    }
    Ok(found)
}

/// Says which labels nothing is called by: a misspelt one would never be heard of again.
pub fn warn_of_unknown_labels(cascades: &Cascades, models: &ModelSet) {
    let objects = models.find(&Slot::Objects).map(|model| model.manifest.labels.clone()).unwrap_or_default();
    let is_known =
        |label: &str| label == "face" || label == WHOLE_PICTURE || objects.iter().any(|known| known == label);
    let classified = cascades.classifiers.iter().filter_map(|(slot, _)| match slot {
        Slot::Classify(label) => Some(label),
        _ => None,
    });
    for label in cascades.text_on.iter().chain(classified).filter(|label| !is_known(label)) {
        tracing::warn!(label, "--cascade: the object model in use knows no such thing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> anyhow::Result<Cascades> {
        Cascades::read(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn labels_get_their_models() {
        let cascades = read(&["person=helmet", "stop sign=text", "*=text", "*=text", "a=b=brand@3"]).unwrap();
        assert_eq!(cascades.text_on, ["stop sign", "*"]);
        let slot = |label: &str| Slot::Classify(label.to_owned());
        let expected = [(slot("person"), "helmet".to_owned()), (slot("a=b"), "brand@3".to_owned())];
        assert_eq!(cascades.classifiers, expected);
        assert_eq!(read(&[]).unwrap(), Cascades::default());
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (texts, said) in [
            (&["helmet"][..], "not LABEL=MODEL"),
            (&["=helmet"], "not LABEL=MODEL"),
            (&["person="], "not LABEL=MODEL"),
            (&["*=helmet"], "only text"),
            (&["person=a", "person=b"], "both look at person"),
        ] {
            let error = read(texts).unwrap_err().to_string();
            assert!(error.contains(said), "{texts:?}: {error}");
        }
    }
}
