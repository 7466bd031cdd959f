//! Which text is looked for and read when: the state that a session or a video keeps between pictures. Pure.
//!
//! Reading takes long and says the same of most pictures, so it is done a track at a time: where one is new, or
//! unsettled, or was not looked at for long. Where text is wanted of whole pictures, lines are looked for about once
//! a second and become tracks. Whoever owns the state does one piece of [`Work`] after the other and brings what came
//! of it; none is ever under way twice.

use std::time::Duration;

use super::recognise::{RecogniseError, Recogniser};
use super::text::{Effort, Line, Place};
use super::track::{Answer, Attribute, Question, Tracker};
use crate::frame::{Detection, Kind, Picture};

/// Between two looks for lines in whole pictures, by the media's time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Something to do for which one picture is needed.
#[derive(Clone, Debug)]
pub enum Work {
    /// Look for lines in the whole picture.
    Look,
    /// Read what tracks show.
    Read(Vec<Wanted>),
}

/// What is to be read for one track.
#[derive(Clone, Debug)]
pub struct Wanted {
    question: Question,
    track: u64,
    place: Place,
}

/// What came of [`Work`].
#[derive(Clone, Debug)]
pub enum Done {
    Found(Vec<Line>),
    Read(Vec<(Wanted, Answer)>),
}

impl Work {
    /// Does it, which takes a while.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn run(
        self,
        recogniser: &Recogniser,
        picture: &Picture,
        effort: Effort,
    ) -> Result<Done, RecogniseError> {
        match self {
            Self::Look => Ok(Done::Found(recogniser.find_lines(picture, effort)?)),
            Self::Read(wanted) => {
                let places: Vec<Place> = wanted.iter().map(|wanted| wanted.place).collect();
                let texts = recogniser.read_places(picture, &places, effort)?;
                let answer = |(wanted, line): (Wanted, _)| {
                    let crate::models::heads::ctc::LineText { text, score } = line;
                    (wanted, Answer::Label(text.into(), score))
                };
                Ok(Done::Read(wanted.into_iter().zip(texts).map(answer).collect()))
            }
        }
    }
}

/// What is known of the text in a session's or a video's pictures, besides its tracks.
#[derive(Debug, Default)]
pub struct Reading {
    looked: Option<Duration>,
    /// The lines that were just found, and the picture that they were found in.
    found: Option<(Picture, Vec<Line>)>,
}

impl Reading {
    /// What to do next, if anything, `picture` of media time `at` being the last that `tracker` was updated with;
    /// without it, only lines that were just found are read.
    pub fn next(
        &mut self,
        tracker: &mut Tracker,
        picture: Option<&Picture>,
        at: Duration,
    ) -> Option<(Picture, Work)> {
        let questions: Vec<Question> = (tracker.questions().into_iter())
            .filter(|question| question.attribute == Attribute::Text)
            .collect();
        if let Some((picture, lines)) = self.found.take() {
            let of_lines = questions.iter().filter(|question| question.kind == Kind::Text);
            let wanted: Vec<Wanted> =
                of_lines.flat_map(|question| wanted_lines(tracker, question, &lines, at)).collect();
            if !wanted.is_empty() {
                return Some((picture, Work::Read(wanted)));
            }
        }
        let picture = picture?;
        let of_things = questions.iter().filter(|question| question.kind != Kind::Text);
        let wanted: Vec<Wanted> =
            of_things.flat_map(|question| wanted_boxes(tracker, question, at)).collect();
        if !wanted.is_empty() {
            return Some((picture.clone(), Work::Read(wanted)));
        }
        let looks = questions.iter().any(|question| question.kind == Kind::Text);
        // A clock that stepped back is a new source's.
        let is_due = self.looked.is_none_or(|looked| at < looked || at - looked >= LOOK_EVERY);
        if looks && is_due {
            self.looked = Some(at);
            return Some((picture.clone(), Work::Look));
        }
        None
    }

    /// Has `tracker` take in what came of work in `picture`; `at` is the time of the last picture that it saw.
    pub fn take(&mut self, tracker: &mut Tracker, picture: Picture, done: Done, at: Duration) {
        match done {
            Done::Found(lines) => {
                // It may have been switched off meanwhile.
                if tracker.questions().iter().any(|question| question.kind == Kind::Text) {
                    let detections: Vec<Detection> = lines.iter().map(Line::detection).collect();
                    tracker.update_kind(Kind::Text, &detections, at);
                    self.found = Some((picture, lines));
                }
            }
            Done::Read(answers) => {
                for (Wanted { question, track, .. }, answer) in answers {
                    tracker.vote(&question, track, &answer, at);
                }
            }
        }
    }
}

fn wanted_lines(tracker: &mut Tracker, question: &Question, lines: &[Line], at: Duration) -> Vec<Wanted> {
    let ids = tracker.needs(question, at);
    let tracks = tracker.tracks().iter().filter(|track| ids.contains(&track.id));
    let of_track = |track: &super::track::Track| {
        let overlap = |line: &Line| line.place.bbox().iou(&track.bbox);
        let line = lines.iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b)))?;
        let place = Place::Line(line.place);
        (overlap(line) > 0.0).then(|| Wanted { question: question.clone(), track: track.id, place })
    };
    tracks.filter_map(of_track).collect()
}

fn wanted_boxes(tracker: &mut Tracker, question: &Question, at: Duration) -> Vec<Wanted> {
    let ids = tracker.needs(question, at);
    let tracks = tracker.tracks().iter().filter(|track| ids.contains(&track.id));
    let of_track = |track: &super::track::Track| Wanted {
        question: question.clone(),
        track: track.id,
        place: Place::Box(track.bbox),
    };
    tracks.map(of_track).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::frame::{BBox, I420Buffer};
    use crate::imgproc::Rectangle;
    use crate::pipeline::track::{Pace, TrackConfig};

    fn question(kind: Kind, class: Option<u16>) -> Question {
        Question { attribute: Attribute::Text, kind, class, pace: Pace::of_reader() }
    }

    fn picture() -> Picture {
        I420Buffer::black(64, 48).into_picture(0, Instant::now())
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn text_of(tracker: &Tracker, kind: Kind) -> Option<String> {
        let track = tracker.tracks().iter().find(|track| track.kind == kind)?;
        Some(track.attributes.as_ref()?.text.as_ref()?.label.clone())
    }

    /// Ten pictures a second; what there is to do is done at once, and counted.
    fn play(questions: Vec<Question>, seconds: u64) -> (Tracker, usize, usize) {
        let mut tracker = Tracker::new(TrackConfig { questions, ..TrackConfig::default() });
        let mut reading = Reading::default();
        let sign = BBox { x: 100.0, y: 100.0, w: 60.0, h: 60.0 };
        let stop = Detection { kind: Kind::Object, class: 11, score: 0.9, bbox: sign, landmarks: None };
        let line = Line { place: Rectangle::from(BBox { h: 20.0, ..sign }), score: 0.9 };
        let (mut looks, mut reads) = (0, 0);
        for step in 0..seconds * 10 {
            let now = at(step * 100);
            tracker.update(std::slice::from_ref(&stop), now);
            while let Some((picture, work)) = reading.next(&mut tracker, Some(&picture()), now) {
                let done = match work {
                    Work::Look => {
                        looks += 1;
                        Done::Found(vec![line])
                    }
                    Work::Read(wanted) => {
                        reads += wanted.len();
                        let answer = |wanted| (wanted, Answer::Label("STOP".into(), 0.95));
                        Done::Read(wanted.into_iter().map(answer).collect())
                    }
                };
                reading.take(&mut tracker, picture, done, now);
            }
        }
        (tracker, looks, reads)
    }

    #[test]
    fn a_things_text_is_read_a_bounded_number_of_times() {
        let (tracker, looks, reads) = play(vec![question(Kind::Object, Some(11))], 30);
        assert_eq!(text_of(&tracker, Kind::Object).as_deref(), Some("STOP"));
        assert_eq!((looks, reads), (0, 4), "twice, then every ten seconds");
    }

    #[test]
    fn lines_of_the_whole_picture_become_tracks_that_stay() {
        let (tracker, looks, reads) = play(vec![question(Kind::Text, None)], 30);
        assert_eq!(text_of(&tracker, Kind::Text).as_deref(), Some("STOP"));
        assert_eq!((looks, reads), (30, 4));
        let texts: Vec<u64> =
            tracker.tracks().iter().filter(|track| track.kind == Kind::Text).map(|track| track.id).collect();
        assert_eq!(texts.len(), 1, "one line, one track: {texts:?}");
    }

    #[test]
    fn nothing_is_read_unasked_and_other_classes_are_left_alone() {
        assert_eq!(play(vec![], 5).1, 0);
        let (tracker, looks, reads) = play(vec![question(Kind::Object, Some(12))], 5);
        assert_eq!((text_of(&tracker, Kind::Object), looks, reads), (None, 0, 0));
    }
}
