//! What page, front and worker say to each other.
//!
//! A session's signalling is the same between page and front as between front and worker: one JSON object
//! a WebSocket text message, tagged by `type`. A picture goes to a worker with [`PredictOptions`] in the
//! query, and is refused with a [`PictureFault`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes: no signalling message is longer. An offer with every codec of a browser is under 10 KB.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A trickled ICE candidate as `RTCIceCandidateInit` writes it; an empty `candidate` ends them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    pub candidate: String,
    #[serde(default)]
    pub sdp_mid: Option<String>,
    #[serde(default)]
    pub sdp_m_line_index: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

/// From the page to the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// The first offer of a session, or a later one (ICE restart, renegotiation).
    Offer {
        sdp: String,
    },
    Candidate(Candidate),
    Bye,
}

/// From the service to the page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The first message on a socket.
    Welcome {
        session: String,
        /// Presented as `?resume=` it attaches a new socket to this session.
        resume: String,
        /// Presented to `/whep/` it shows this session's annotated video.
        #[serde(default)]
        watch: String,
        /// Task → `name@version`.
        models: BTreeMap<String, String>,
        /// Task → whether this service can do it.
        tasks: BTreeMap<String, bool>,
    },
    Answer {
        sdp: String,
    },
    Candidate(Candidate),
    /// Open a new session, then close this one.
    Migrate,
    Bye {
        reason: String,
    },
    Error {
        /// Stable, in snake case.
        code: String,
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
}

impl ServerMessage {
    pub fn error(code: &str, message: impl Into<String>) -> Self {
        Self::Error { code: code.into(), message: message.into(), retry_after_s: None }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a signalling message is always JSON")
    }
}

/// What a session may do at most, as its token says; a front adds it to its request of the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTerms {
    /// Without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TaskList>,
    /// From its opening to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u32>,
}

/// Tasks by name. One that is not known here allows nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct TaskList {
    pub faces: bool,
    pub gender: bool,
    pub objects: bool,
    pub text: bool,
}

impl TaskList {
    pub const NONE: Self = Self { faces: false, gender: false, objects: false, text: false };
    pub const ALL: Self = Self { faces: true, gender: true, objects: true, text: true };
    /// What is done unless somebody says otherwise: all but reading text, which takes long.
    pub const USUAL: Self = Self { text: false, ..Self::ALL };
    /// Their names.
    pub const NAMES: [&str; 4] = ["faces", "gender", "objects", "text"];

    /// Each by its name.
    pub fn named(self) -> [(&'static str, bool); 4] {
        let [faces, gender, objects, text] = Self::NAMES;
        [(faces, self.faces), (gender, self.gender), (objects, self.objects), (text, self.text)]
    }

    /// Reads what [`TaskList::to_text`] writes.
    pub fn from_text(text: &str) -> Self {
        text.split(',').map(str::trim).map(str::to_owned).collect::<Vec<_>>().into()
    }

    /// Comma-separated, for a query.
    pub fn to_text(self) -> String {
        Vec::from(self).join(",")
    }
}

impl From<Vec<String>> for TaskList {
    fn from(names: Vec<String>) -> Self {
        let has = |name| names.iter().any(|given| given == name);
        Self { faces: has("faces"), gender: has("gender"), objects: has("objects"), text: has("text") }
    }
}

impl From<TaskList> for Vec<String> {
    fn from(list: TaskList) -> Self {
        list.named().into_iter().filter(|(_, is_in)| *is_in).map(|(name, _)| name.to_owned()).collect()
    }
}

/// What a worker says of itself when a front asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Stands in the ids of its sessions.
    pub name: String,
    pub sessions: usize,
    pub max_sessions: usize,
    /// Share of its capacity in use, as counted and measured; it takes sessions below 1.
    pub load_ratio: f64,
    /// It takes no more sessions and is about to end.
    pub draining: bool,
    /// Task → `name@version`.
    pub models: BTreeMap<String, String>,
}

/// What a worker is to do with a picture, as a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictOptions {
    pub faces: bool,
    /// Needs `faces`.
    pub gender: bool,
    pub objects: bool,
    /// One from before there was text does not ask for it.
    #[serde(default)]
    pub text: bool,
    /// 0 to 1; without one, each model's own.
    #[serde(default)]
    pub threshold: Option<f32>,
    /// `name` or `name@version`, comma-separated: the models that must be the ones in use, or no answer.
    #[serde(default)]
    pub model: Option<String>,
    pub answer: PredictAnswer,
}

/// What the answer to a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PredictAnswer {
    /// A report.
    Json,
    /// The annotated picture.
    Jpeg,
    Png,
}

impl PredictOptions {
    /// The query of a request to the worker, without its question mark. The models' names must be such as
    /// need no escaping there.
    pub fn to_query(&self) -> String {
        let Self { faces, gender, objects, text, threshold, model, answer } = self;
        let answer = match answer {
            PredictAnswer::Json => "json",
            PredictAnswer::Jpeg => "jpeg",
            PredictAnswer::Png => "png",
        };
        let threshold = threshold.map(|score| format!("&threshold={score}")).unwrap_or_default();
        let model = model.as_ref().map(|model| format!("&model={model}")).unwrap_or_default();
        format!(
            "faces={faces}&gender={gender}&objects={objects}&text={text}&answer={answer}{threshold}{model}"
        )
    }
}

/// Why a picture was not recognised: the stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureRefusal {
    InvalidOption,
    Empty,
    UnsupportedType,
    TooLarge,
    Truncated,
    Corrupt,
    Busy,
    Internal,
}

impl PictureRefusal {
    /// As it is written in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidOption => "invalid_option",
            Self::Empty => "empty",
            Self::UnsupportedType => "unsupported_type",
            Self::TooLarge => "too_large",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::Busy => "busy",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with it (RFC 9110 §15).
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidOption => 400,
            Self::Empty | Self::Truncated | Self::Corrupt => 422,
            Self::UnsupportedType => 415,
            Self::TooLarge => 413,
            Self::Busy => 503,
            Self::Internal => 500,
        }
    }
}

/// A worker's refusal of a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureFault {
    pub code: PictureRefusal,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_what_a_browser_writes() {
        let table: &[(&str, ClientMessage)] = &[
            (r#"{"type":"offer","sdp":"v=0"}"#, ClientMessage::Offer { sdp: "v=0".into() }),
            (
                r#"{"type":"candidate","candidate":"","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":null}"#,
                ClientMessage::Candidate(Candidate {
                    candidate: String::new(),
                    sdp_mid: Some("0".into()),
                    sdp_m_line_index: Some(0),
                    username_fragment: None,
                }),
            ),
            (r#"{"type":"bye"}"#, ClientMessage::Bye),
        ];
        for (json, expected) in table {
            assert_eq!(&serde_json::from_str::<ClientMessage>(json).expect(json), expected);
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for json in ["", "{}", "[]", "null", r#"{"type":"nonsense"}"#, r#"{"type":"offer"}"#, "\u{0}"] {
            assert!(serde_json::from_str::<ClientMessage>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn codes_are_written_as_they_are_read() {
        use PictureRefusal::*;
        for refusal in [InvalidOption, Empty, UnsupportedType, TooLarge, Truncated, Corrupt, Busy, Internal] {
            assert_eq!(serde_json::to_value(refusal).expect("JSON"), refusal.code());
        }
    }
}
