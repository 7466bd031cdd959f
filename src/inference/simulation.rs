//! Sessions, turns, batcher and lanes played against each other in virtual time, a tenth of a millisecond a step.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::batcher::{Batcher, Limits, ModelId, Payload, Policy, Poll, Request};
use super::turns::{Turns, Wish};

const STEP: Duration = Duration::from_micros(100);
const FACES: ModelId = ModelId(0);
const OBJECTS: ModelId = ModelId(1);
const GENDER: ModelId = ModelId(2);

/// What a model takes on one lane.
fn cost(model: ModelId) -> Duration {
    Duration::from_millis(match model {
        FACES => 4,
        OBJECTS => 12,
        _ => 9,
    })
}

#[derive(Clone, Copy)]
struct Session {
    fps: f64,
    /// Of so many pictures one has a face that is not known yet; 0 for none.
    gender_every: u64,
}

const CAMERA: Session = Session { fps: 30.0, gender_every: 0 };

struct Ask {
    session: usize,
    picture: u64,
}

impl Payload for Ask {
    fn shape(&self) -> &[usize] {
        &[1, 8, 8, 3]
    }

    fn is_withdrawn(&self) -> bool {
        false
    }
}

struct Picture {
    number: u64,
    came: Instant,
    answers_missing: usize,
    is_classified: bool,
}

#[derive(Default)]
struct Play {
    waiting: Option<Picture>,
    next: Option<Instant>,
    sent: u64,
    has_asked: bool,
    has_turn: bool,
    under_way: VecDeque<Picture>,
    /// The age of each reported picture.
    ages: Vec<Duration>,
    second_begun: usize,
}

struct Outcome {
    reported: Vec<usize>,
    oldest: Duration,
    seconds_begun: usize,
    /// Of the lanes' time.
    busy: f64,
}

/// Plays `sessions` on `lanes` for 20 seconds with `places` pictures under way at the most.
fn play(sessions: &[Session], lanes: usize, places: usize) -> Outcome {
    const LENGTH: Duration = Duration::from_secs(20);
    let start = Instant::now();
    let mut batcher = Batcher::new(Limits::default());
    for model in [FACES, OBJECTS, GENDER] {
        batcher.admit(model, Policy { max_batch: 1, max_wait: Duration::ZERO });
    }
    let mut turns: Turns<usize> = Turns::new(places);
    let mut running: Vec<Option<(Instant, Ask)>> = (0..lanes).map(|_| None).collect();
    let mut plays: Vec<Play> = sessions.iter().map(|_| Play::default()).collect();
    let mut busy = Duration::ZERO;
    let mut now = start;
    while now < start + LENGTH {
        for lane in &mut running {
            if let Some((_, ask)) = lane.take_if(|(until, _)| *until <= now) {
                let pictures = &mut plays[ask.session].under_way;
                let picture = pictures.iter_mut().find(|picture| picture.number == ask.picture).unwrap();
                picture.answers_missing -= 1;
            }
        }
        // One after another, and not the same one first every time.
        let first = (now - start).as_micros() as usize % sessions.len();
        for index in (0..sessions.len()).map(|offset| (first + offset) % sessions.len()) {
            let has_idle_lane =
                |batcher: &Batcher<Ask>| running.iter().flatten().count() + batcher.len() < lanes;
            let (session, play) = (&sessions[index], &mut plays[index]);
            if play.next.is_none_or(|next| next <= now) {
                let picture =
                    Picture { number: play.sent, came: now, answers_missing: 2, is_classified: false };
                play.waiting = Some(picture);
                play.sent += 1;
                let phase = Duration::from_millis(3 * index as u64);
                play.next = Some(start + phase + Duration::from_secs_f64(play.sent as f64 / session.fps));
            }
            let mut push = |model, picture, is_ahead| {
                let payload = Ask { session: index, picture };
                let asker = index as u64;
                assert!(
                    batcher.push(Request { model, asker, is_ahead, is_first: false, payload }, now).is_ok()
                );
            };
            if let Some(oldest) = play.under_way.front_mut()
                && oldest.answers_missing == 0
            {
                let is_unsure =
                    session.gender_every > 0 && oldest.number.is_multiple_of(session.gender_every);
                if is_unsure && !oldest.is_classified {
                    (oldest.is_classified, oldest.answers_missing) = (true, 1);
                    push(GENDER, oldest.number, true);
                } else {
                    play.ages.push(now - oldest.came);
                    play.under_way.pop_front();
                    turns.end();
                }
            }
            if play.under_way.is_empty() && play.waiting.is_some() && !play.has_asked {
                play.has_asked = true;
                turns.ask(Wish { asker: index as u64, is_first: false, since: now, value: index });
            }
            let is_second = play.under_way.len() == 1 && play.waiting.is_some();
            if is_second && has_idle_lane(&batcher) && turns.take_spare() {
                play.second_begun += 1;
                play.has_turn = true;
            }
            while let Some(next) = turns.grant(now) {
                plays[next].has_turn = true;
            }
            let play = &mut plays[index];
            if std::mem::take(&mut play.has_turn) {
                play.has_asked = false;
                let picture = play.waiting.take().unwrap();
                for model in [FACES, OBJECTS] {
                    let payload = Ask { session: index, picture: picture.number };
                    let request =
                        Request { model, asker: index as u64, is_ahead: false, is_first: false, payload };
                    assert!(batcher.push(request, now).is_ok());
                }
                play.under_way.push_back(picture);
                assert!(play.under_way.len() <= 2);
            }
        }
        for lane in running.iter_mut().filter(|lane| lane.is_none()) {
            if let Poll::Run(batch) = batcher.poll(now) {
                let request = batch.requests.into_iter().next().unwrap().request;
                *lane = Some((now + cost(request.model), request.payload));
            }
        }
        busy += STEP * running.iter().flatten().count() as u32;
        now += STEP;
    }
    Outcome {
        reported: plays.iter().map(|play| play.ages.len()).collect(),
        oldest: plays.iter().flat_map(|play| play.ages.iter().copied()).max().unwrap_or_default(),
        seconds_begun: plays.iter().map(|play| play.second_begun).sum(),
        busy: busy.as_secs_f64() / (LENGTH.as_secs_f64() * lanes as f64),
    }
}

fn spread(reported: &[usize]) -> (usize, usize) {
    (*reported.iter().min().unwrap(), *reported.iter().max().unwrap())
}

#[test]
fn eight_sessions_share_two_lanes_equally() {
    // 125 pictures a second fit; eight cameras send 240, and one of them 120 by itself.
    let mut sessions = [CAMERA; 8];
    sessions[3].fps = 120.0;
    let Outcome { reported, oldest, seconds_begun, busy } = play(&sessions, 2, 3);
    let (least, most) = spread(&reported);
    assert!(most - least <= most / 20, "{reported:?}");
    assert!(busy > 0.97, "{busy}");
    assert_eq!(seconds_begun, 0, "no session has two pictures under way while others wait");
    // A camera's interval, and three pictures' work on two lanes.
    assert!(oldest < Duration::from_millis(34 + 40), "{oldest:?}");
}

#[test]
fn who_asks_for_more_of_each_picture_has_about_as_many_of_them() {
    let mut sessions = [CAMERA; 8];
    sessions[5].gender_every = 1;
    let Outcome { reported, .. } = play(&sessions, 2, 3);
    let (least, most) = spread(&reported);
    // It queues again when it is done, which is a little later.
    assert!(most - least <= most / 6, "{reported:?}");
}

#[test]
fn pictures_that_wait_for_a_turn_stay_young() {
    let sessions = [CAMERA; 16];
    let with = play(&sessions, 2, 3);
    let without = play(&sessions, 2, usize::MAX);
    assert!(with.oldest < Duration::from_millis(90), "{:?}", with.oldest);
    assert!(without.oldest > with.oldest * 3 / 2, "{:?} {:?}", without.oldest, with.oldest);
    let total = |outcome: &Outcome| outcome.reported.iter().sum::<usize>();
    assert!(total(&with) * 100 >= total(&without) * 99);
}

#[test]
fn one_session_alone_has_both_lanes() {
    let alone = play(&[Session { fps: 200.0, ..CAMERA }], 2, 3);
    assert!(alone.busy > 0.9, "{}", alone.busy);
    assert!(alone.reported[0] > 20 * 110, "{:?}", alone.reported);
    assert!(alone.oldest < Duration::from_millis(40), "{:?}", alone.oldest);
    // With one place it has what one picture at a time gives.
    assert!(play(&[Session { fps: 200.0, ..CAMERA }], 2, 1).reported[0] < 20 * 85);
}

#[test]
fn a_camera_that_the_lanes_keep_up_with_has_one_picture_under_way() {
    let Outcome { reported, seconds_begun, oldest, .. } = play(&[CAMERA], 2, 3);
    assert!(reported[0] >= 598, "{reported:?}");
    assert_eq!(seconds_begun, 0);
    assert!(oldest <= Duration::from_millis(13), "{oldest:?}");
}
