//! Tests of the tracker in simulated scenes: seeded motion, missed and false detections, hostile input.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::models::manifest::Thresholds;
use crate::pipeline::report::GenderReport;

fn at_ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn detection(kind: Kind, x: f32, y: f32, size: f32, score: f32) -> Detection {
    Detection { kind, class: 0, score, bbox: BBox { x, y, w: size, h: size * 1.2 }, landmarks: None }
}

fn face(x: f32, y: f32) -> Detection {
    detection(Kind::Face, x, y, 80.0, 0.9)
}

fn ids(tracker: &Tracker) -> Vec<u64> {
    tracker.tracks().iter().map(|track| track.id).collect()
}

/// A thing that wanders through a 640×480 picture.
struct Actor {
    centre: (f32, f32),
    velocity: (f32, f32),
    size: f32,
}

impl Actor {
    fn random(speed: f32, random: &mut StdRng) -> Self {
        Self {
            centre: (random.random_range(80.0..560.0), random.random_range(80.0..400.0)),
            velocity: (random.random_range(-speed..speed), random.random_range(-speed..speed)),
            size: random.random_range(50.0..120.0),
        }
    }

    fn bbox(&self) -> BBox {
        let (w, h) = (self.size, self.size * 1.2);
        BBox { x: self.centre.0 - w / 2.0, y: self.centre.1 - h / 2.0, w, h }
    }

    /// Wanders on, turning back at the edges.
    fn walk(&mut self, speed: f32, seconds: f32, random: &mut StdRng) {
        let push = 2.5 * speed * seconds.sqrt();
        for (place, speed, most) in [
            (&mut self.centre.0, &mut self.velocity.0, 600.0),
            (&mut self.centre.1, &mut self.velocity.1, 440.0),
        ] {
            *speed += random.random_range(-push..push) - 0.8 * *speed * seconds;
            *place += *speed * seconds;
            if (*place < 40.0 && *speed < 0.0) || (*place > most && *speed > 0.0) {
                *speed = -*speed;
            }
        }
        self.size = (self.size * (1.0 + random.random_range(-0.5..0.5) * seconds)).clamp(40.0, 160.0);
    }

    /// What a detector sees of it: noisy by 3 % of its size, now and then with a low score.
    fn detect(&self, random: &mut StdRng) -> Detection {
        let bbox = self.bbox();
        let mut noisy = |value: f32| value + random.random_range(-0.05..0.05) * bbox.w;
        let bbox = BBox { x: noisy(bbox.x), y: noisy(bbox.y), w: noisy(bbox.w), h: noisy(bbox.h) };
        let score = if random.random_bool(0.8) {
            random.random_range(0.55..0.99)
        } else {
            random.random_range(0.26..0.5)
        };
        Detection { kind: Kind::Face, class: 0, score, bbox, landmarks: None }
    }
}

struct Scene {
    actors: usize,
    /// Pixels a second, on either axis; faces are 40 to 160 pixels wide.
    speed: f32,
    recognitions_per_second: u64,
    missed: f64,
    /// Chance of one more detection, of nothing, per recognition.
    false_positives: f64,
}

#[derive(Debug, Default)]
struct Outcome {
    /// How often a thing was found under another id than before.
    switches: usize,
    /// Actors × minutes.
    actor_minutes: f32,
    /// Mean IoU of the shown boxes with the truth, over all video frames.
    mean_iou: f32,
    /// The same, had the boxes stood still since their recognition.
    uncarried_iou: f32,
    /// Part of the actors' frames in which a box was shown on them.
    coverage: f32,
    /// Boxes shown on nothing, per frame.
    ghosts: f32,
}

/// Plays 20 seconds of 30 fps video.
fn play(scene: &Scene, seed: u64) -> Outcome {
    const FPS: u64 = 30;
    let mut random = StdRng::seed_from_u64(seed);
    let mut tracker = Tracker::new(TrackConfig::default());
    let mut actors: Vec<_> = (0..scene.actors).map(|_| Actor::random(scene.speed, &mut random)).collect();
    let mut known: Vec<Option<u64>> = vec![None; scene.actors];
    let mut tracks = Tracks::default();
    let mut outcome = Outcome { actor_minutes: scene.actors as f32 / 3.0, ..Default::default() };
    let (mut shown, mut sum, mut uncarried_sum, mut ghosts) = (0, 0.0, 0.0, 0);
    let frames = 20 * FPS;
    for frame in 0..frames {
        let at = at_ms(frame * 1000 / FPS);
        for actor in &mut actors {
            actor.walk(scene.speed, 1.0 / FPS as f32, &mut random);
        }
        if frame % (FPS / scene.recognitions_per_second) == 0 {
            let mut detections = Vec::new();
            for actor in &actors {
                if !random.random_bool(scene.missed) {
                    detections.push(actor.detect(&mut random));
                }
            }
            if random.random_bool(scene.false_positives) {
                let (x, y) = (random.random_range(0.0..560.0), random.random_range(0.0..400.0));
                let score = random.random_range(0.3..0.65);
                detections.push(detection(Kind::Face, x, y, random.random_range(40.0..120.0), score));
            }
            tracker.update(&detections, at);
            tracks = tracker.snapshot(&Labels::default());
        }
        let boxes: Vec<_> = tracks.at(at).map(|(track, bbox)| (track.id, bbox)).collect();
        ghosts += boxes.iter().filter(|(_, bbox)| actors.iter().all(|a| a.bbox().iou(bbox) < 0.2)).count();
        for (actor, known) in actors.iter().zip(&mut known) {
            let truth = actor.bbox();
            let iou_of_known = boxes.iter().find(|(id, _)| Some(*id) == *known).map(|(_, b)| b.iou(&truth));
            let best = boxes.iter().map(|(id, b)| (*id, b.iou(&truth))).max_by(|a, b| a.1.total_cmp(&b.1));
            let found = match (iou_of_known, best) {
                (Some(iou), _) if iou >= 0.4 => Some(iou),
                (_, Some((id, iou))) if iou >= 0.4 => {
                    outcome.switches += usize::from(known.replace(id).is_some());
                    Some(iou)
                }
                _ => None,
            };
            if let Some(iou) = found {
                shown += 1;
                sum += iou;
                let uncarried = tracks.at(at).find(|(track, _)| Some(track.id) == *known);
                uncarried_sum += uncarried.map_or(0.0, |(track, _)| track.bbox.iou(&truth));
            }
        }
    }
    outcome.mean_iou = sum / shown as f32;
    outcome.uncarried_iou = uncarried_sum / shown as f32;
    outcome.coverage = shown as f32 / (frames as f32 * scene.actors as f32);
    outcome.ghosts = ghosts as f32 / frames as f32;
    outcome
}

/// Plays a scene with 40 seeds and adds the outcomes up.
fn play_many(scene: &Scene) -> Outcome {
    const SEEDS: u64 = 40;
    let mut all = Outcome::default();
    for seed in 0..SEEDS {
        let one = play(scene, seed);
        all.switches += one.switches;
        all.actor_minutes += one.actor_minutes;
        all.mean_iou += one.mean_iou / SEEDS as f32;
        all.uncarried_iou += one.uncarried_iou / SEEDS as f32;
        all.coverage += one.coverage / SEEDS as f32;
        all.ghosts += one.ghosts / SEEDS as f32;
    }
    all
}

#[test]
fn ids_and_boxes_hold_through_misses_and_false_detections() {
    let calm =
        Scene { actors: 3, speed: 30.0, recognitions_per_second: 10, missed: 0.3, false_positives: 0.3 };
    // Scene, most switches per actor and minute, least mean IoU, least coverage.
    let cases = [
        ("webcam", Scene { missed: 0.05, false_positives: 0.05, ..calm }, 0.5, 0.88, 0.98),
        ("calm", Scene { ..calm }, 2.5, 0.85, 0.94),
        ("one, fast", Scene { actors: 1, speed: 100.0, ..calm }, 6.5, 0.80, 0.90),
        ("fast", Scene { speed: 100.0, ..calm }, 9.0, 0.80, 0.90),
        ("crowd", Scene { actors: 8, speed: 60.0, ..calm }, 8.0, 0.82, 0.93),
        (
            "video rate",
            Scene { actors: 5, speed: 100.0, recognitions_per_second: 30, ..calm },
            3.5,
            0.87,
            0.98,
        ),
        ("slow", Scene { recognitions_per_second: 3, missed: 0.1, ..calm }, 1.5, 0.80, 0.92),
    ];
    for (name, scene, switches, iou, coverage) in cases {
        let outcome = play_many(&scene);
        let per_minute = outcome.switches as f32 / outcome.actor_minutes;
        assert!(per_minute <= switches, "{name}: {per_minute} switches per actor and minute, {outcome:?}");
        assert!(outcome.mean_iou >= iou, "{name}: {outcome:?}");
        assert!(outcome.mean_iou >= outcome.uncarried_iou, "{name}: carrying makes it worse, {outcome:?}");
        assert!(outcome.coverage >= coverage, "{name}: {outcome:?}");
        assert!(outcome.ghosts <= 0.7, "{name}: {outcome:?}");
    }
}

#[test]
fn faces_that_cross_keep_their_ids() {
    for offset in [30.0, 60.0, 90.0] {
        let mut tracker = Tracker::new(TrackConfig::default());
        for step in 0..40u64 {
            let x = step as f32 * 10.0;
            let (a, b) = (face(100.0 + x, 200.0), face(500.0 - x, 200.0 + offset));
            tracker.update(&[a, b], at_ms(step * 50));
        }
        let mut ends: Vec<_> =
            tracker.tracks().iter().map(|track| (track.bbox.x > 300.0, track.id)).collect();
        ends.sort_unstable();
        assert_eq!(ends, [(false, 2), (true, 1)], "offset {offset}");
    }
}

#[test]
fn an_occluded_thing_comes_back_under_its_id() {
    let mut tracker = Tracker::new(asking_gender());
    for step in 0..60u64 {
        let hidden = (20..32).contains(&step);
        let detections = [face(50.0 + step as f32 * 4.0, 100.0)];
        tracker.update(if hidden { &[] } else { &detections }, at_ms(step * 50));
        match step {
            20 => assert_eq!(ids(&tracker), [1], "one missed recognition does not blink"),
            31 => assert!(ids(&tracker).is_empty(), "long hidden, not shown"),
            33.. => assert_eq!(ids(&tracker), [1]),
            _ => {}
        }
    }
}

fn about_gender() -> Question {
    Question::gender(&Thresholds { min_width: 24.0, ..Thresholds::default() })
}

fn asking_gender() -> TrackConfig {
    TrackConfig { questions: vec![about_gender()], ..TrackConfig::default() }
}

fn gender_needed(tracker: &mut Tracker, at: Duration) -> Vec<u64> {
    tracker.needs(&about_gender(), at)
}

fn vote_gender(tracker: &mut Tracker, id: u64, p_male: f32, at: Duration) {
    tracker.vote(&about_gender(), id, &Answer::Male(p_male), at);
}

fn gender(track: &Track) -> Option<GenderReport> {
    track.attributes.as_ref()?.apparent_gender
}

#[test]
fn half_hidden_things_go_on_by_low_scores_which_begin_nothing() {
    let mut tracker = Tracker::new(TrackConfig::default());
    let low = Detection { score: 0.3, ..face(100.0, 100.0) };
    for step in 0..5 {
        tracker.update(std::slice::from_ref(&low), at_ms(step * 50));
        assert!(ids(&tracker).is_empty());
    }
    tracker.update(&[face(100.0, 100.0)], at_ms(250));
    for step in 6..100 {
        tracker.update(std::slice::from_ref(&low), at_ms(step * 50));
        assert_eq!(ids(&tracker), [1]);
    }
}

#[test]
fn what_is_hardly_a_face_is_not_classified() {
    let mut tracker = Tracker::new(asking_gender());
    tracker.update(&[face(100.0, 100.0)], at_ms(0));
    vote_gender(&mut tracker, 1, 0.9, at_ms(0));
    assert!(gender(&tracker.tracks()[0]).is_some());
    let low = Detection { score: 0.3, ..face(100.0, 100.0) };
    for step in 1..20 {
        tracker.update(std::slice::from_ref(&low), at_ms(step * 50));
    }
    assert_eq!((ids(&tracker), gender_needed(&mut tracker, at_ms(5000))), (vec![1], vec![]));
    assert_eq!(gender(&tracker.tracks()[0]), None, "nor spoken of as one that was");
    for step in 20..40 {
        tracker.update(&[face(100.0, 100.0)], at_ms(step * 50));
    }
    assert_eq!(gender_needed(&mut tracker, at_ms(5000)), [1]);
}

#[test]
fn a_raised_score_ends_what_it_excludes() {
    let mut tracker = Tracker::new(TrackConfig::default());
    let cup = Detection { score: 0.6, ..detection(Kind::Object, 300.0, 100.0, 50.0, 0.6) };
    tracker.update(&[face(100.0, 100.0), cup], at_ms(0));
    assert_eq!(ids(&tracker), [1, 2]);
    let strict = |score| TrackConfig { objects: KindConfig::above(score), ..TrackConfig::default() };
    tracker.reconfigure(strict(0.55));
    assert_eq!(ids(&tracker), [1, 2], "not excluded");
    tracker.reconfigure(strict(0.95));
    assert_eq!(ids(&tracker), [1]);
    tracker.reconfigure(strict(0.35));
    assert_eq!(ids(&tracker), [1], "what was ended stays ended");
}

#[test]
fn sure_things_show_at_once_and_others_on_their_second_detection() {
    let unsure = Detection { score: 0.55, ..face(300.0, 100.0) };
    let mut tracker = Tracker::new(TrackConfig::default());
    tracker.update(&[face(100.0, 100.0), unsure.clone()], at_ms(0));
    assert_eq!(ids(&tracker), [1]);
    tracker.update(&[face(100.0, 100.0), unsure.clone()], at_ms(50));
    assert_eq!(ids(&tracker), [1, 2]);

    let still = TrackConfig { faces: KindConfig::still(0.5), ..Default::default() };
    let mut tracker = Tracker::new(still);
    tracker.update(&[unsure], at_ms(0));
    assert_eq!(ids(&tracker), [1]);
}

#[test]
fn ids_are_never_used_again() {
    let mut tracker = Tracker::new(TrackConfig::default());
    let mut seen = std::collections::HashSet::new();
    for round in 0..20u64 {
        tracker.update(&[face(100.0, 100.0), face(400.0, 100.0)], at_ms(round * 10_000));
        for id in ids(&tracker) {
            assert!(seen.insert(id), "id {id} twice");
        }
        match round % 3 {
            0 => tracker.reset(),
            1 => tracker.forget(Kind::Face),
            _ => {}
        }
    }
    assert_eq!(seen.len(), 40);
}

#[test]
fn kinds_are_apart() {
    let mut tracker = Tracker::new(TrackConfig::default());
    let object = detection(Kind::Object, 100.0, 100.0, 80.0, 0.9);
    tracker.update(&[face(100.0, 100.0), object], at_ms(0));
    assert_eq!(ids(&tracker), [1, 2]);
    // Faces alone are recognised for a while: objects have not been missed.
    for step in 1..40 {
        tracker.update_kind(Kind::Face, &[face(100.0, 100.0)], at_ms(step * 50));
        assert_eq!(ids(&tracker), [1, 2]);
    }
    tracker.forget(Kind::Object);
    assert_eq!(ids(&tracker), [1]);
}

#[test]
fn classes_follow_the_vote() {
    let of_class = |class| Detection { class, ..detection(Kind::Object, 100.0, 100.0, 100.0, 0.8) };
    let mut tracker = Tracker::new(TrackConfig::default());
    let seen = [15, 15, 16, 15, 16, 15, 15, 16, 16, 16, 16];
    let told = [15, 15, 15, 15, 15, 15, 15, 15, 16, 16, 16];
    for (step, (class, told)) in seen.into_iter().zip(told).enumerate() {
        tracker.update(&[of_class(class)], at_ms(step as u64 * 50));
        assert_eq!(ids(&tracker), [1]);
        assert_eq!(tracker.tracks()[0].class, told, "after {} detections", step + 1);
    }
    // A second class on the very same box is no second thing.
    tracker.update(&[of_class(16), of_class(3)], at_ms(1000));
    assert_eq!(ids(&tracker), [1]);
}

#[test]
fn carried_boxes_move_for_a_while_and_then_hold_still() {
    let mut tracker = Tracker::new(TrackConfig::default());
    for step in 0..20u64 {
        let landmarks = Point { x: step as f32 * 5.0 + 20.0, y: 130.0 };
        let landmarks =
            FaceLandmarks { right_eye: landmarks, left_eye: landmarks, nose: landmarks, mouth: landmarks };
        let landmarks = Some(landmarks);
        tracker.update(&[Detection { landmarks, ..face(step as f32 * 5.0, 100.0) }], at_ms(step * 50));
    }
    let tracks = tracker.snapshot(&Labels::default());
    let x_at = |ms| tracks.at(at_ms(ms)).next().map(|(_, bbox)| bbox.x);
    let x = |ms| x_at(ms).expect("the track is fresh");
    assert!((x(950) - 95.0).abs() < 2.0, "{}", x(950));
    assert!((x(1050) - 105.0).abs() < 2.0, "{}", x(1050));
    assert!((x(900) - 90.0).abs() < 2.0, "{}", x(900));
    assert_eq!(x(1250), x(2900));
    assert_eq!(x_at(3000), None);

    let track = &tracker.tracks()[0];
    let moved = track.landmarks_at(at_ms(1050)).expect("a face has landmarks").nose;
    assert!((moved.x - 125.0).abs() < 3.0 && (moved.y - 130.0).abs() < 2.0, "{moved:?}");
    let report = track.report("face", at_ms(950), 100, 480);
    assert_eq!((report.id, report.bbox[0] + report.bbox[2]), (1, 100.0));
}

#[test]
fn a_restarted_clock_ends_all_tracks() {
    let mut tracker = Tracker::new(TrackConfig::default());
    tracker.update(&[face(100.0, 100.0)], at_ms(60_000));
    tracker.update(&[face(100.0, 100.0)], at_ms(59_500));
    assert_eq!(ids(&tracker), [1], "jitter");
    tracker.update(&[face(100.0, 100.0)], at_ms(0));
    assert_eq!(ids(&tracker), [2], "restart");
    tracker.update(&[face(100.0, 100.0)], at_ms(4_000));
    assert_eq!(ids(&tracker), [2], "a slow recogniser");
    tracker.update(&[face(100.0, 100.0)], at_ms(14_000));
    assert_eq!(ids(&tracker), [3], "a pause");
    tracker.update(&[face(100.0, 100.0)], Duration::MAX);
    assert_eq!(ids(&tracker), [4]);
}

#[test]
fn hostile_input_is_borne() {
    let hostile = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        -1.0,
        0.0,
        1e-30,
        1e30,
        99_999.0,
    ];
    for seed in 0..50 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut tracker = Tracker::new(asking_gender());
        for _ in 0..40 {
            let mut value = |most: f32| match random.random_bool(0.2) {
                true => hostile[random.random_range(0..hostile.len())],
                false => random.random_range(0.0..most),
            };
            let detections: Vec<_> = (0..40)
                .map(|index| Detection {
                    kind: Kind::ALL[index % 3],
                    class: index as u16 % 5,
                    score: value(1.0),
                    bbox: BBox { x: value(640.0), y: value(480.0), w: value(200.0), h: value(200.0) },
                    landmarks: None,
                })
                .collect();
            let at = at_ms(random.random_range(0..5_000));
            tracker.update(&detections, at);
            tracker.update_kind(Kind::Text, &detections, at);
            for id in gender_needed(&mut tracker, at) {
                vote_gender(&mut tracker, id, hostile[random.random_range(0..hostile.len())], at);
            }
            for track in tracker.tracks() {
                for bbox in [track.bbox, track.bbox_at(Duration::MAX), track.bbox_at(Duration::ZERO)] {
                    assert!(is_finite(&bbox) && bbox.w > 0.0 && bbox.h > 0.0, "{track:?}");
                }
                assert!((0.0..=1.0).contains(&track.score), "{track:?}");
                assert!(gender(track).is_none_or(|gender| (0.5..=1.0).contains(&gender.score)));
            }
        }
    }

    fn is_finite(bbox: &BBox) -> bool {
        [bbox.x, bbox.y, bbox.w, bbox.h].iter().all(|value| value.is_finite())
    }
}

#[test]
fn ten_thousand_detections_are_bounded_work() {
    let mut tracker = Tracker::new(asking_gender());
    let many: Vec<_> =
        (0..10_000).map(|index| face((index % 100) as f32 * 40.0, (index / 100) as f32 * 40.0)).collect();
    let same = vec![face(100.0, 100.0); 10_000];
    for step in 0..5 {
        tracker.update(&many, at_ms(step * 100));
        assert!(tracker.entries.len() <= MAX_TRACKS, "{}", tracker.entries.len());
        assert!(!tracker.tracks().is_empty());
        assert!(
            gender_needed(&mut tracker, at_ms(step * 100)).len()
                <= Pace::of_classifier(&Thresholds::default()).per_frame
        );
    }
    tracker.reset();
    tracker.update(&same, at_ms(0));
    assert_eq!(tracker.tracks().len(), 1, "the same box again is the same thing");
}

#[test]
fn faces_are_classified_when_new_and_rarely_later() {
    let mut tracker = Tracker::new(asking_gender());
    let narrow = detection(Kind::Face, 500.0, 100.0, 20.0, 0.9);
    let object = detection(Kind::Object, 300.0, 300.0, 90.0, 0.9);
    let all = [face(100.0, 100.0), face(300.0, 100.0), narrow, object];
    let mut asked = std::collections::BTreeMap::<u64, usize>::new();
    // A minute at 30 recognitions a second; answers come 50 ms later. One face is clear, one is not.
    let mut answers = std::collections::VecDeque::new();
    for step in 0..1800u64 {
        let at = at_ms(step * 1000 / 30);
        tracker.update(&all, at);
        while answers.front().is_some_and(|&(due, _, _)| due <= at) {
            if let Some((_, id, p_male)) = answers.pop_front() {
                vote_gender(&mut tracker, id, p_male, at);
            }
        }
        let wanted = gender_needed(&mut tracker, at);
        assert!(step > 0 || wanted == [1, 2], "new faces at once: {wanted:?}");
        for id in wanted {
            *asked.entry(id).or_default() += 1;
            answers.push_back((at + at_ms(50), id, if id == 1 { 0.97 } else { 0.68 }));
        }
    }
    // Without votes it would be 3600.
    assert_eq!(asked.keys().collect::<Vec<_>>(), [&1, &2], "narrow faces and objects are not classified");
    assert!(asked.values().sum::<usize>() <= 80, "{asked:?}");
    let labels: Vec<_> =
        tracker.tracks()[..2].iter().map(|track| gender(track).map(|gender| gender.label)).collect();
    assert_eq!(labels, [Some(crate::frame::Gender::Male); 2]);

    tracker.reconfigure(TrackConfig::default());
    assert!(tracker.tracks().iter().all(|track| track.attributes.is_none()));
    assert_eq!(gender_needed(&mut tracker, at_ms(59_990)), [1, 2]);
    vote_gender(&mut tracker, 99, 0.9, at_ms(59_990));
    vote_gender(&mut tracker, 0, 0.9, at_ms(59_990));
}

#[test]
fn classifications_per_frame_are_bounded_and_reach_everyone() {
    let mut tracker = Tracker::new(asking_gender());
    let faces: Vec<_> = (0..20).map(|index| face(index as f32 * 100.0, 0.0)).collect();
    let mut asked = std::collections::BTreeSet::new();
    for step in 0..5 {
        tracker.update(&faces, at_ms(step * 33));
        let wanted = gender_needed(&mut tracker, at_ms(step * 33));
        assert_eq!(wanted.len(), 4);
        asked.extend(wanted);
    }
    assert_eq!(asked.len(), 20, "nobody is asked for twice before all were once");
}

#[test]
fn tracks_keep_their_numbers_when_classes_are_counted_otherwise() {
    let mut tracker = Tracker::new(TrackConfig::default());
    let thing = |class, x| Detection { class, ..detection(Kind::Object, x, 50.0, 60.0, 0.95) };
    let things = [thing(0, 50.0), thing(1, 250.0), thing(2, 450.0), face(600.0, 50.0)];
    tracker.update(&things, at_ms(0));
    tracker.update(&things, at_ms(40));
    let before: Vec<_> = tracker.tracks().iter().map(|track| (track.id, track.kind, track.class)).collect();
    assert_eq!(before.len(), 4);
    // The first two change places, and the third is not known any more.
    tracker
        .translate(Kind::Object, |class| [Some(1), Some(0), None].get(usize::from(class)).copied().flatten());
    let expected: Vec<_> = before
        .iter()
        .filter(|(_, kind, class)| *kind == Kind::Face || *class < 2)
        .map(|&(id, kind, class)| (id, kind, if kind == Kind::Object { 1 - class } else { class }))
        .collect();
    let now = |tracker: &Tracker| -> Vec<_> {
        tracker.tracks().iter().map(|track| (track.id, track.kind, track.class)).collect()
    };
    assert_eq!(now(&tracker), expected);
    // The new model's detections go on with them, votes included.
    let things = [thing(1, 50.0), thing(0, 250.0), face(600.0, 50.0)];
    tracker.update(&things, at_ms(80));
    assert_eq!(now(&tracker), expected);
}
