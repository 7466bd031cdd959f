//! What page, front and worker say to each other.
//!
//! A session's signalling is the same between page and front as between front and worker: one JSON object
//! a WebSocket text message, tagged by `type`. A picture goes to a worker with [`PredictOptions`] in the
//! query, and is refused with a [`PictureFault`].

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::is_word;

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
    /// By which the session's models are chosen.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// What the session's side of a canary hangs by, in place of its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
}

/// Text that is no attribute of a session, or no word that one could be sticky by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWord {
    #[error("{0:?} is not 1 to 64 of A-Z, a-z, 0-9, ., _ and -")]
    Word(String),
    #[error("{0:?} is not a name and a value with a colon between them")]
    Pair(String),
    #[error("there are {0} attributes, more than {MAX_ATTRIBUTES}")]
    TooMany(usize),
}

/// Attributes that a session may have.
const MAX_ATTRIBUTES: usize = 16;

/// What is known of a session besides its terms: name → value, both words as [`is_word`] knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads what [`Attributes::to_text`] writes.
    ///
    /// # Errors
    /// What is none.
    pub fn from_text(text: &str) -> Result<Self, InvalidWord> {
        let pair = |pair: &str| match pair.split_once(':') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(InvalidWord::Pair(shortened(pair))),
        };
        let pairs = text.split(',').filter(|pair| !pair.is_empty()).take(MAX_ATTRIBUTES + 1);
        pairs.map(pair).collect::<Result<BTreeMap<_, _>, _>>()?.try_into()
    }

    /// `cohort:b,plan:pro`, for a query.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(",")
    }

    /// These and `others`, which stand back where both name one; no more than there can be.
    pub fn or(mut self, others: Self) -> Self {
        for (name, value) in others.0 {
            if self.0.len() < MAX_ATTRIBUTES {
                self.0.entry(name).or_insert(value);
            }
        }
        self
    }
}

impl TryFrom<BTreeMap<String, String>> for Attributes {
    type Error = InvalidWord;

    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, InvalidWord> {
        if pairs.len() > MAX_ATTRIBUTES {
            return Err(InvalidWord::TooMany(pairs.len()));
        }
        let wrong = pairs.iter().flat_map(|(name, value)| [name, value]).find(|word| !is_word(word));
        let wrong = wrong.map(|word| InvalidWord::Word(shortened(word)));
        wrong.map_or(Ok(Self(pairs)), Err)
    }
}

impl From<Attributes> for BTreeMap<String, String> {
    fn from(attributes: Attributes) -> Self {
        attributes.0
    }
}

/// A word that is the same through the sessions of a page, or of a user: so they keep their side of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sticky(String);

impl Sticky {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sticky {
    type Error = InvalidWord;

    fn try_from(text: String) -> Result<Self, InvalidWord> {
        text.parse()
    }
}

impl From<Sticky> for String {
    fn from(sticky: Sticky) -> Self {
        sticky.0
    }
}

impl FromStr for Sticky {
    type Err = InvalidWord;

    fn from_str(text: &str) -> Result<Self, InvalidWord> {
        if is_word(text) { Ok(Self(text.to_owned())) } else { Err(InvalidWord::Word(shortened(text))) }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl SessionTerms {
    /// The query by which a front asks a worker for a session within these terms, without its question mark.
    pub fn to_query(&self) -> String {
        let Self { tasks, max_seconds, attributes, sticky } = self;
        let named = [
            ("tasks", tasks.map(TaskList::to_text)),
            ("max_seconds", max_seconds.map(|seconds| seconds.to_string())),
            ("attributes", (!attributes.is_empty()).then(|| attributes.to_text())),
            ("sticky", sticky.as_ref().map(|sticky| sticky.0.clone())),
        ];
        let pairs = named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        pairs.collect::<Vec<_>>().join("&")
    }
}

/// [`SessionTerms`] as a worker reads them of a query.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TermsQuery {
    tasks: Option<String>,
    max_seconds: Option<u32>,
    attributes: Option<String>,
    sticky: Option<String>,
}

impl TermsQuery {
    /// # Errors
    /// What is not as [`SessionTerms::to_query`] writes it.
    pub fn terms(&self) -> Result<SessionTerms, InvalidWord> {
        Ok(SessionTerms {
            tasks: self.tasks.as_deref().map(TaskList::from_text),
            max_seconds: self.max_seconds,
            attributes: Attributes::from_text(self.attributes.as_deref().unwrap_or_default())?,
            sticky: self.sticky.as_deref().map(str::parse).transpose()?,
        })
    }
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
    /// Slot → `name@version` of the stable models.
    pub models: BTreeMap<String, String>,
    /// `name@version` of every model that it has loaded.
    #[serde(default)]
    pub loaded: Vec<String>,
    /// `name@version` → why it could not be loaded.
    #[serde(default)]
    pub not_loaded: BTreeMap<String, String>,
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
        // A worker from before there was text is not told of it in vain.
        let text = if *text { "&text=true" } else { "" };
        format!("faces={faces}&gender={gender}&objects={objects}{text}&answer={answer}{threshold}{model}")
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
    fn terms_reach_the_worker_as_they_are() {
        let attributes = Attributes::from_text("plan:pro,cohort:b").unwrap();
        let terms = SessionTerms {
            tasks: Some(TaskList::ALL),
            max_seconds: Some(60),
            attributes: attributes.clone(),
            sticky: Some("tab-1.2_3".parse().unwrap()),
        };
        let query =
            "tasks=faces,gender,objects,text&max_seconds=60&attributes=cohort:b,plan:pro&sticky=tab-1.2_3";
        assert_eq!(terms.to_query(), query);
        let read = TermsQuery {
            tasks: Some("faces,gender,objects,text".into()),
            max_seconds: Some(60),
            attributes: Some("cohort:b,plan:pro".into()),
            sticky: Some("tab-1.2_3".into()),
        };
        assert_eq!(read.terms(), Ok(terms));
        assert_eq!(SessionTerms::default().to_query(), "");
        let token: SessionTerms =
            serde_json::from_str(r#"{"attributes":{"cohort":"b","plan":"pro"}}"#).unwrap();
        assert_eq!(token.attributes, attributes);
        // The token's word counts.
        let page = Attributes::from_text("cohort:a,lang:fr").unwrap();
        assert_eq!(attributes.or(page).to_text(), "cohort:b,lang:fr,plan:pro");
    }

    #[test]
    fn attributes_are_words_and_few() {
        let many = (0..17).map(|at| format!("a{at}:b")).collect::<Vec<_>>().join(",");
        for text in ["a", "a:", ":b", "a:b c", "a:b&tasks=faces", "ä:b", "a:b:c", &many, &"a".repeat(65)] {
            assert!(Attributes::from_text(text).is_err(), "{text}");
        }
        assert!(Attributes::from_text("").unwrap().is_empty());
        assert!(serde_json::from_str::<SessionTerms>(r#"{"attributes":{"a":"b c"}}"#).is_err());
        for text in ["", "a b", "ä", &"a".repeat(65)] {
            assert!(text.parse::<Sticky>().is_err(), "{text}");
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
