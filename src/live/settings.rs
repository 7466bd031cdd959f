//! What a session does, as its page set it: the `control` channel's messages. Pure.

use serde::{Deserialize, Serialize};

use crate::cluster::protocol::TaskList;
use crate::cluster::whip::Wishes;

/// Where results go besides the JSON reports, which always flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// The page draws; nothing is encoded.
    #[default]
    Overlay,
    /// The annotated video track.
    Annotated,
    Both,
}

impl Output {
    pub fn has_video(self) -> bool {
        self != Self::Overlay
    }
}

/// Which recognition runs. Gender needs faces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSwitches {
    pub faces: bool,
    pub gender: bool,
    pub objects: bool,
    /// What is written on the things that the server was told of, or anywhere.
    pub text: bool,
}

/// The effective settings of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub tasks: TaskSwitches,
    /// Score from which a detection is reported, 0.05 to 0.95; without one, each model's own.
    pub threshold: Option<f32>,
    pub output: Output,
    /// Recognised frames a second at the most, 0.1 to 120.
    pub max_rate: f32,
}

impl Default for Settings {
    fn default() -> Self {
        let tasks = TaskSwitches { faces: true, gender: true, objects: true, text: false };
        Self { tasks, threshold: None, output: Output::default(), max_rate: 60.0 }
    }
}

/// Any subset of the settings, as the page sends it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SettingsPatch {
    tasks: TaskPatch,
    threshold: Option<f32>,
    output: Option<Output>,
    max_rate: Option<f32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct TaskPatch {
    faces: Option<bool>,
    gender: Option<bool>,
    objects: Option<bool>,
    text: Option<bool>,
}

impl From<&Wishes> for SettingsPatch {
    fn from(wishes: &Wishes) -> Self {
        let tasks = wishes.tasks.map_or_else(TaskPatch::default, |tasks| TaskPatch {
            faces: Some(tasks.faces),
            gender: Some(tasks.gender),
            objects: Some(tasks.objects),
            text: Some(tasks.text),
        });
        Self { tasks, threshold: wishes.threshold, output: None, max_rate: wishes.max_rate }
    }
}

/// Why a patch was not applied.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    #[error("threshold {0} is not between 0.05 and 0.95")]
    Threshold(f32),
    #[error("max_rate {0} is not between 0.1 and 120")]
    Rate(f32),
}

impl Settings {
    /// What a session begins with; text is read where the server was told on what.
    pub fn of(reads_text: bool) -> Self {
        let mut settings = Self::default();
        settings.tasks.text = reads_text;
        settings
    }

    /// These settings without the tasks that the session's token does not allow.
    pub fn within(mut self, allowed: TaskList) -> Self {
        self.tasks.faces &= allowed.faces;
        self.tasks.gender &= allowed.gender;
        self.tasks.objects &= allowed.objects;
        self.tasks.text &= allowed.text;
        self
    }

    /// These settings with `patch` applied; all of it or nothing.
    pub fn patched(&self, patch: &SettingsPatch) -> Result<Self, SettingsError> {
        let mut next = self.clone();
        if let Some(threshold) = patch.threshold {
            if !(0.05..=0.95).contains(&threshold) {
                return Err(SettingsError::Threshold(threshold));
            }
            next.threshold = Some(threshold);
        }
        if let Some(rate) = patch.max_rate {
            if !(0.1..=120.0).contains(&rate) {
                return Err(SettingsError::Rate(rate));
            }
            next.max_rate = rate;
        }
        next.output = patch.output.unwrap_or(next.output);
        let (tasks, wanted) = (&mut next.tasks, &patch.tasks);
        tasks.faces = wanted.faces.unwrap_or(tasks.faces);
        tasks.gender = wanted.gender.unwrap_or(tasks.gender);
        tasks.objects = wanted.objects.unwrap_or(tasks.objects);
        tasks.text = wanted.text.unwrap_or(tasks.text);
        Ok(next)
    }
}

/// From the page, on the `control` channel.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ControlRequest {
    Settings(SettingsPatch),
}

/// To the page, on the `control` channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ControlReply {
    /// What is in force now.
    Settings(Settings),
    /// Something that the user should know.
    Notice {
        code: String,
        message: String,
    },
    Error {
        code: String,
        message: String,
    },
}

impl ControlReply {
    pub fn notice(code: &str, message: &str) -> Self {
        Self::Notice { code: code.into(), message: message.into() }
    }

    pub fn error(code: &str, message: impl std::fmt::Display) -> Self {
        Self::Error { code: code.into(), message: message.to_string() }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a control message is always JSON")
    }
}

/// Applies one control message to `settings`, as far as `allowed` goes, and says what to answer.
pub fn apply(settings: &mut Settings, allowed: TaskList, text: &str) -> ControlReply {
    match serde_json::from_str(text) {
        Ok(ControlRequest::Settings(patch)) => match settings.patched(&patch) {
            Ok(next) => {
                *settings = next.within(allowed);
                ControlReply::Settings(settings.clone())
            }
            Err(error) => ControlReply::error("settings_refused", error),
        },
        Err(error) => ControlReply::error("control_unreadable", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subset_changes_only_what_it_names() {
        let mut settings = Settings::default();
        let reply = apply(
            &mut settings,
            TaskList::ALL,
            r#"{"type":"settings","tasks":{"gender":false},"output":"both","threshold":0.4}"#,
        );
        assert_eq!(reply, ControlReply::Settings(settings.clone()));
        assert_eq!(settings.tasks, TaskSwitches { faces: true, gender: false, objects: true, text: false });
        assert_eq!((settings.output, settings.threshold, settings.max_rate), (Output::Both, Some(0.4), 60.0));
    }

    #[test]
    fn a_task_that_is_not_allowed_stays_off() {
        let allowed = TaskList { faces: true, ..TaskList::NONE };
        let mut settings = Settings::default().within(allowed);
        let off = TaskSwitches { faces: true, gender: false, objects: false, text: false };
        assert_eq!(settings.tasks, off);
        let wanted = r#"{"type":"settings","tasks":{"gender":true,"objects":true,"text":true},"max_rate":5}"#;
        assert_eq!(apply(&mut settings, allowed, wanted), ControlReply::Settings(settings.clone()));
        assert_eq!((settings.tasks, settings.max_rate), (off, 5.0));
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let refused = [
            r#"{"type":"settings","threshold":2}"#,
            r#"{"type":"settings","threshold":1e999}"#,
            r#"{"type":"settings","max_rate":0,"tasks":{"faces":false}}"#,
            r#"{"type":"settings","output":"cinema"}"#,
            r#"{"type":"reboot"}"#,
            "",
            "\u{0}",
        ];
        for text in refused {
            let mut settings = Settings::default();
            assert!(
                matches!(apply(&mut settings, TaskList::ALL, text), ControlReply::Error { .. }),
                "{text}"
            );
            assert_eq!(settings, Settings::default(), "{text}");
        }
    }
}
