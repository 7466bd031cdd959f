//! What is kept of a video job: the record that any front can answer from and that its runner carries on.
//!
//! A record only says what is so. Who may change it, and when, is [`service`](super::service)'s.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use super::id::JobId;

/// Characters of a name that are kept.
const MAX_NAME: usize = 200;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl State {
    /// Whether nothing more will happen to the job.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is to be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Faces,
    Gender,
    Objects,
    Text,
}

/// How a video is to be annotated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Each at most once, and faces wherever gender is.
    pub tasks: Vec<Task>,
    /// 0 to 1; without one, each model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Recognise every so many pictures, at least 1.
    pub every: u64,
}

/// An option that cannot be meant.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidOptions {
    #[error("{name:?} is no task: there are faces, gender, objects and text")]
    UnknownTask { name: String },
    #[error("threshold is not between 0 and 1")]
    Threshold,
    #[error("every is not between 1 and 1000")]
    Every,
}

impl Options {
    /// Checks what a client asks for; `tasks` is comma-separated, and nothing means all of them but text.
    ///
    /// # Errors
    /// [`InvalidOptions`], in words for the client.
    pub fn read(
        tasks: Option<&str>,
        threshold: Option<f32>,
        every: Option<u64>,
    ) -> Result<Self, InvalidOptions> {
        if threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
            return Err(InvalidOptions::Threshold);
        }
        let every = every.unwrap_or(1);
        if !(1..=1000).contains(&every) {
            return Err(InvalidOptions::Every);
        }
        let mut wanted = Vec::new();
        for name in tasks.unwrap_or("faces,gender,objects").split(',') {
            wanted.extend(match name.trim() {
                "faces" => &[Task::Faces][..],
                // A gender is a face's.
                "gender" => &[Task::Faces, Task::Gender],
                "objects" => &[Task::Objects],
                "text" => &[Task::Text],
                other => {
                    return Err(InvalidOptions::UnknownTask { name: other.chars().take(40).collect() });
                }
            });
        }
        let tasks = [Task::Faces, Task::Gender, Task::Objects, Task::Text];
        let tasks = tasks.into_iter().filter(|task| wanted.contains(task)).collect();
        Ok(Self { tasks, threshold, every })
    }

    pub fn wants(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Pictures done.
    pub frames: u64,
    /// Of how many, as far as the file says; an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_frames: Option<u64>,
    /// Pictures a second lately.
    pub fps: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
    /// Media time of the last picture.
    pub media_s: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
}

/// Why a job failed: a stable code, and words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub code: String,
    pub message: String,
}

impl Fault {
    /// There was no room for the results, however often it was tried.
    pub const STORE_FULL: &str = "store_full";

    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// Everything that is kept of a job beside its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub name: String,
    pub state: State,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// When an ended job is deleted.
    pub expires_at: DateTime<Utc>,
    /// The upload's length.
    pub bytes: u64,
    /// The upload's SHA-256, which it is kept under.
    pub upload: String,
    pub options: Options,
    /// Runs begun, those that were handed back not counted.
    pub tries: u32,
    pub progress: Progress,
    /// Of a failed job why; of one that is tried again, what ended the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

impl Job {
    /// A job that waits for its first run.
    pub fn new(
        id: JobId,
        upload: &Upload,
        name: &str,
        options: Options,
        now: DateTime<Utc>,
        expiry: Duration,
    ) -> Self {
        let now = now.trunc_subsecs(3);
        Self {
            id,
            name: clean_name(name),
            state: State::Queued,
            created_at: now,
            updated_at: now,
            expires_at: now + expiry,
            bytes: upload.bytes,
            upload: upload.sha256.clone(),
            options,
            tries: 0,
            progress: Progress::default(),
            error: None,
        }
    }

    /// Notes that the record changes now, which puts its expiry off.
    pub fn touch(&mut self, now: DateTime<Utc>, expiry: Duration) {
        self.updated_at = now.trunc_subsecs(3);
        self.expires_at = self.updated_at + expiry;
    }
}

/// An upload that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub bytes: u64,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

/// A file's name as people may see it: no folders, nothing invisible, not too long.
fn clean_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String =
        last.chars().filter(|c| !c.is_control() && !is_direction(*c)).take(MAX_NAME).collect();
    let clean = clean.trim();
    if clean.is_empty() { "video".into() } else { clean.into() }
}

/// Characters that turn the direction of writing, and so can dress an ending up as another.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        use Task::*;
        let read = |tasks, threshold, every| Options::read(tasks, threshold, every);
        let tasks = |text| read(Some(text), None, None).map(|options| options.tasks);
        assert_eq!(
            read(None, None, None),
            Ok(Options { tasks: vec![Faces, Gender, Objects], threshold: None, every: 1 })
        );
        assert_eq!(tasks("gender"), Ok(vec![Faces, Gender]));
        assert_eq!(tasks("objects, faces,faces"), Ok(vec![Faces, Objects]));
        assert_eq!(tasks("text,objects"), Ok(vec![Objects, Text]));
        for wrong in ["", "ears", "faces,,objects"] {
            assert!(matches!(tasks(wrong), Err(InvalidOptions::UnknownTask { .. })), "{wrong}");
        }
        for wrong in [-0.1, 1.1, f32::NAN] {
            assert_eq!(read(None, Some(wrong), None), Err(InvalidOptions::Threshold), "{wrong}");
        }
        assert_eq!(read(None, None, Some(0)), Err(InvalidOptions::Every));
        assert!(read(None, Some(0.5), Some(1000)).is_ok());
    }

    #[test]
    fn names_are_only_names() {
        for (given, kept) in [
            ("a day.mp4", "a day.mp4"),
            ("C:\\Users\\me\\film.avi", "film.avi"),
            ("../../etc/passwd", "passwd"),
            ("a\r\nb\u{0}.mp4", "ab.mp4"),
            ("gpm\u{202e}4pm.exe", "gpm4pm.exe"),
            ("", "video"),
            ("/", "video"),
        ] {
            assert_eq!(clean_name(given), kept);
        }
        assert_eq!(clean_name(&"é".repeat(500)).chars().count(), MAX_NAME);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let upload = Upload { bytes: 7, sha256: "00".repeat(32) };
        let options = Options::read(None, Some(0.25), None).unwrap();
        let job = Job::new(JobId::random(), &upload, "a.mp4", options, Utc::now(), Duration::from_secs(60));
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
        assert!((job.expires_at - job.created_at).num_seconds() == 60);
    }
}
