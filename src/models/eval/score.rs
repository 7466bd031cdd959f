//! COCO's measure of detectors: average precision and recall over overlaps, sizes and numbers of detections.
//!
//! Source: `pycocotools.cocoeval` (Lin et al., 2014), whose steps this follows one by one; that its numbers come
//! out is tested against that program itself (`tests/evaluation/`).

/// Overlaps from which a detection counts as right: 0.5 to 0.95.
pub const OVERLAPS: usize = 10;
/// Recalls at which precision is read: 0 to 1.
const RECALLS: usize = 101;
/// Detections of one class in one picture that count, at most.
const MOST: [usize; 3] = [1, 10, 100];
/// Pixels: areas of what is small, medium and large.
const SMALL: f64 = 32.0 * 32.0;
const MEDIUM: f64 = 96.0 * 96.0;
const ENDLESS: f64 = 1e10;

/// Something that is in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    pub picture: usize,
    pub class: usize,
    /// x, y, width, height in pixels.
    pub bbox: [f64; 4],
    /// Pixels; of its outline where that is known.
    pub area: f64,
    /// Many at once: detections in it are neither right nor wrong.
    pub is_crowd: bool,
}

/// Something that a detector found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub picture: usize,
    pub class: usize,
    /// x, y, width, height in pixels.
    pub bbox: [f64; 4],
    pub score: f64,
}

/// Average precision (AP) and recall (AR), 0 to 1; `None` where nothing is there to be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Averages {
    pub ap: Option<f64>,
    pub ap50: Option<f64>,
    pub ap75: Option<f64>,
    pub ap_small: Option<f64>,
    pub ap_medium: Option<f64>,
    pub ap_large: Option<f64>,
    pub ar_1: Option<f64>,
    pub ar_10: Option<f64>,
    pub ar_100: Option<f64>,
    pub ar_small: Option<f64>,
    pub ar_medium: Option<f64>,
    pub ar_large: Option<f64>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    pub all: Averages,
    pub classes: Vec<ClassScores>,
}

/// The same of one class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassScores {
    pub averages: Averages,
    /// Precision at recalls of 0, 0.01 … 1 where an overlap of 0.5 is right; empty where nothing is there.
    pub precision50: Vec<f64>,
}

/// Sizes that are looked at apart, by their least and greatest area.
const SIZES: [(f64, f64); 4] = [(0.0, ENDLESS), (0.0, SMALL), (SMALL, MEDIUM), (MEDIUM, ENDLESS)];

/// Compares what was found with what is there, as COCO does.
pub fn score(pictures: usize, classes: usize, truths: &[Truth], found: &[Found]) -> Scores {
    let by_class = |class: usize| {
        let mut inside: Vec<(Vec<&Truth>, Vec<&Found>)> = vec![Default::default(); pictures];
        for truth in truths.iter().filter(|truth| truth.class == class) {
            inside[truth.picture].0.push(truth);
        }
        for found in found.iter().filter(|found| found.class == class) {
            inside[found.picture].1.push(found);
        }
        class_curves(&mut inside)
    };
    let curves: Vec<[Curves; SIZES.len()]> = (0..classes).map(by_class).collect();
    let whole = curves.iter().collect::<Vec<_>>();
    let of_class = |curves: &[Curves; SIZES.len()]| ClassScores {
        averages: averages(&[curves]),
        precision50: curves[0].precision.first().cloned().unwrap_or_default(),
    };
    Scores { all: averages(&whole), classes: curves.iter().map(of_class).collect() }
}

/// Of one class and size. Empty where nothing of that size is there.
#[derive(Clone, Debug, Default)]
struct Curves {
    /// By overlap, then by recall.
    precision: Vec<Vec<f64>>,
    /// By number of detections, then by overlap.
    recall: [Vec<f64>; MOST.len()],
}

fn averages(classes: &[&[Curves; SIZES.len()]]) -> Averages {
    let precision = |size: usize, overlap: Option<usize>| {
        let curves = classes.iter().flat_map(|class| class[size].precision.iter().enumerate());
        mean(curves.filter(|(at, _)| overlap.is_none_or(|wanted| wanted == *at)).flat_map(|(_, curve)| curve))
    };
    let recall =
        |size: usize, most: usize| mean(classes.iter().flat_map(|class| class[size].recall[most].iter()));
    Averages {
        ap: precision(0, None),
        ap50: precision(0, Some(0)),
        ap75: precision(0, Some(5)),
        ap_small: precision(1, None),
        ap_medium: precision(2, None),
        ap_large: precision(3, None),
        ar_1: recall(0, 0),
        ar_10: recall(0, 1),
        ar_100: recall(0, 2),
        ar_small: recall(1, 2),
        ar_medium: recall(2, 2),
        ar_large: recall(3, 2),
    }
}

fn mean<'a>(values: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

fn overlap_at(index: usize) -> f64 {
    // As numpy.linspace gives them, to the last bit.
    0.5 + index as f64 * ((0.95 - 0.5) / (OVERLAPS - 1) as f64)
}

fn class_curves(pictures: &mut [(Vec<&Truth>, Vec<&Found>)]) -> [Curves; SIZES.len()] {
    let most = MOST[MOST.len() - 1];
    let compared: Vec<Compared> = pictures
        .iter_mut()
        .map(|(truths, found)| {
            // Stable: equals stay in their order.
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            found.truncate(most);
            let overlaps =
                found.iter().map(|found| truths.iter().map(|truth| overlap(&found.bbox, truth)).collect());
            Compared { truths, found, overlaps: overlaps.collect() }
        })
        .collect();
    SIZES.map(|size| {
        let matched: Vec<Matched> = compared.iter().map(|compared| compared.matched(size)).collect();
        curves(&matched)
    })
}

/// How detections stand to what is there at one overlap, in one picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Places of detections that are right.
    pub right: Vec<usize>,
    /// Places of detections of what is not there, or is found already.
    pub wrong: Vec<usize>,
    /// Places of truths that no detection is right about; crowds are not missed.
    pub missed: Vec<usize>,
}

/// Tells right from wrong in one picture, each class apart, as COCO does at an overlap of 0.5.
pub fn judge(truths: &[Truth], found: &[Found]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|&a, &b| found[b].score.total_cmp(&found[a].score));
    let mut is_found = vec![false; truths.len()];
    for detection in order {
        let Found { bbox, class, .. } = &found[detection];
        let overlaps = truths
            .iter()
            .enumerate()
            .filter(|(place, truth)| truth.class == *class && (truth.is_crowd || !is_found[*place]));
        let overlaps = overlaps.map(|(place, truth)| (place, truth.is_crowd, overlap(bbox, truth)));
        // A crowd only takes what nothing else does.
        let best = overlaps
            .filter(|(.., overlap)| *overlap >= 0.5)
            .max_by(|a, b| b.1.cmp(&a.1).then(a.2.total_cmp(&b.2)));
        match best {
            Some((_, true, _)) => {}
            Some((place, false, _)) => {
                is_found[place] = true;
                verdict.right.push(detection);
            }
            None => verdict.wrong.push(detection),
        }
    }
    verdict.missed = (0..truths.len()).filter(|&place| !is_found[place] && !truths[place].is_crowd).collect();
    verdict
}

/// Intersection over union; in a crowd, over the detection alone.
fn overlap(found: &[f64; 4], truth: &Truth) -> f64 {
    let [x, y, w, h] = truth.bbox;
    let across = (found[0] + found[2]).min(x + w) - found[0].max(x);
    let down = (found[1] + found[3]).min(y + h) - found[1].max(y);
    if across <= 0.0 || down <= 0.0 {
        return 0.0;
    }
    let both = across * down;
    let area = found[2] * found[3];
    both / if truth.is_crowd { area } else { area + w * h - both }
}

/// One class in one picture.
struct Compared<'a> {
    truths: &'a [&'a Truth],
    /// Best first.
    found: &'a [&'a Found],
    /// By detection, then by truth.
    overlaps: Vec<Vec<f64>>,
}

/// What each detection of one class in one picture counts as.
struct Matched {
    scores: Vec<f64>,
    /// By overlap, then by detection.
    outcomes: Vec<Vec<Outcome>>,
    /// How many are there to be found.
    wanted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    Wrong,
    /// Of another size, or in a crowd.
    Ignored,
}

impl Compared<'_> {
    fn matched(&self, (least, greatest): (f64, f64)) -> Matched {
        let is_ignored = |truth: &Truth| truth.is_crowd || truth.area < least || truth.area > greatest;
        // Those that count come first.
        let mut order: Vec<usize> = (0..self.truths.len()).collect();
        order.sort_by_key(|&truth| is_ignored(self.truths[truth]));
        let wanted = order.iter().filter(|&&truth| !is_ignored(self.truths[truth])).count();
        let outcomes = (0..OVERLAPS).map(|index| {
            let mut is_taken = vec![false; self.truths.len()];
            let outcome = |detection: usize| {
                let mut best = None;
                let mut least_overlap = overlap_at(index).min(1.0 - 1e-10);
                for &truth in &order {
                    let ignored = is_ignored(self.truths[truth]);
                    if is_taken[truth] && !self.truths[truth].is_crowd {
                        continue;
                    }
                    // One that counts is not given up for one that does not.
                    if best.is_some_and(|best: usize| !is_ignored(self.truths[best])) && ignored {
                        break;
                    }
                    if self.overlaps[detection][truth] < least_overlap {
                        continue;
                    }
                    least_overlap = self.overlaps[detection][truth];
                    best = Some(truth);
                }
                let Some(truth) = best else {
                    let [_, _, w, h] = self.found[detection].bbox;
                    let is_of_size = (least..=greatest).contains(&(w * h));
                    return if is_of_size { Outcome::Wrong } else { Outcome::Ignored };
                };
                is_taken[truth] = true;
                if is_ignored(self.truths[truth]) { Outcome::Ignored } else { Outcome::Right }
            };
            (0..self.found.len()).map(outcome).collect()
        });
        Matched {
            outcomes: outcomes.collect(),
            scores: self.found.iter().map(|found| found.score).collect(),
            wanted,
        }
    }
}

fn curves(pictures: &[Matched]) -> Curves {
    let wanted: usize = pictures.iter().map(|picture| picture.wanted).sum();
    if wanted == 0 {
        return Curves::default();
    }
    let of = |most: usize, overlap: usize| {
        let mut all: Vec<(f64, Outcome)> = pictures
            .iter()
            .flat_map(|picture| {
                picture.scores.iter().copied().zip(picture.outcomes[overlap].iter().copied()).take(most)
            })
            .collect();
        all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        curve(&all, wanted)
    };
    let precision = (0..OVERLAPS).map(|overlap| of(MOST[MOST.len() - 1], overlap).0).collect();
    let recall = MOST.map(|most| (0..OVERLAPS).map(|overlap| of(most, overlap).1).collect());
    Curves { precision, recall }
}

/// Precision at each recall, and the highest recall, of detections that stand best first.
fn curve(all: &[(f64, Outcome)], wanted: usize) -> (Vec<f64>, f64) {
    let (mut right, mut wrong) = (0_usize, 0_usize);
    let mut points: Vec<(f64, f64)> = all
        .iter()
        .map(|(_, outcome)| {
            match outcome {
                Outcome::Right => right += 1,
                Outcome::Wrong => wrong += 1,
                Outcome::Ignored => {}
            }
            let recall = right as f64 / wanted as f64;
            (recall, right as f64 / ((wrong + right) as f64 + f64::EPSILON))
        })
        .collect();
    let highest = points.last().map_or(0.0, |(recall, _)| *recall);
    // A precision that is reached again at a higher recall holds for the lower ones too.
    for at in (1..points.len()).rev() {
        points[at - 1].1 = points[at - 1].1.max(points[at].1);
    }
    let at = |step: usize| {
        let least = step as f64 * (1.0 / (RECALLS - 1) as f64);
        let first = points.partition_point(|(recall, _)| *recall < least);
        points.get(first).map_or(0.0, |(_, precision)| *precision)
    };
    ((0..RECALLS).map(at).collect(), highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(picture: usize, class: usize, bbox: [f64; 4]) -> Truth {
        Truth { picture, class, bbox, area: bbox[2] * bbox[3], is_crowd: false }
    }

    fn found(picture: usize, class: usize, bbox: [f64; 4], score: f64) -> Found {
        Found { picture, class, bbox, score }
    }

    const BOX: [f64; 4] = [10.0, 10.0, 40.0, 40.0];

    fn near(value: Option<f64>, expected: f64) -> bool {
        value.is_some_and(|value| (value - expected).abs() < 1e-9)
    }

    #[test]
    fn what_is_found_exactly_scores_one() {
        let scores = score(1, 1, &[truth(0, 0, BOX)], &[found(0, 0, BOX, 0.4)]);
        assert!(near(scores.all.ap, 1.0) && near(scores.all.ar_1, 1.0), "{scores:?}");
        // 40 pixels a side are of medium size.
        assert!(near(scores.all.ap_medium, 1.0) && scores.all.ap_small.is_none(), "{scores:?}");
        assert_eq!(scores.classes[0].precision50, [1.0; 101].map(|one: f64| one / (1.0 + f64::EPSILON)));
    }

    #[test]
    fn what_is_missed_or_wrong_costs() {
        let truths = [truth(0, 0, BOX), truth(1, 0, BOX)];
        let half = score(2, 1, &truths, &[found(0, 0, BOX, 0.9)]);
        assert!(near(half.all.ap, 51.0 / 101.0) && near(half.all.ar_100, 0.5), "{half:?}");
        // A wrong one that is surer than the right one halves precision.
        let away = [200.0, 200.0, 40.0, 40.0];
        let worse = score(1, 1, &truths[..1], &[found(0, 0, BOX, 0.5), found(0, 0, away, 0.9)]);
        assert!(near(worse.all.ap, 0.5), "{worse:?}");
        // The second detection of a thing is wrong, and harms nothing when it comes last.
        let twice = score(1, 1, &truths[..1], &[found(0, 0, BOX, 0.5), found(0, 0, BOX, 0.4)]);
        assert!(near(twice.all.ap, 1.0), "{twice:?}");
    }

    #[test]
    fn overlap_decides_from_where_it_is_right() {
        // Three quarters of the box: right up to an overlap of 0.75.
        let scores = score(1, 1, &[truth(0, 0, BOX)], &[found(0, 0, [10.0, 10.0, 30.0, 40.0], 0.9)]);
        assert!(near(scores.all.ap, 0.6) && near(scores.all.ap75, 1.0), "{scores:?}");
    }

    #[test]
    fn crowds_are_neither_right_nor_wrong() {
        let crowd = Truth { is_crowd: true, ..truth(0, 0, [0.0, 0.0, 400.0, 400.0]) };
        let inside = found(0, 0, [100.0, 100.0, 20.0, 20.0], 0.9);
        let scores = score(
            1,
            1,
            &[crowd, truth(0, 0, [500.0, 0.0, 40.0, 40.0])],
            &[inside.clone(), inside, found(0, 0, [500.0, 0.0, 40.0, 40.0], 0.5)],
        );
        assert!(near(scores.all.ap, 1.0), "{scores:?}");
    }

    #[test]
    fn verdicts_name_each_box() {
        let crowd = Truth { is_crowd: true, ..truth(0, 0, [300.0, 0.0, 200.0, 200.0]) };
        let truths = [truth(0, 0, BOX), truth(0, 1, BOX), truth(0, 0, [100.0, 100.0, 20.0, 20.0]), crowd];
        let detections = [
            found(0, 0, [100.0, 10.0, 40.0, 40.0], 0.9),
            found(0, 0, BOX, 0.5),
            found(0, 0, BOX, 0.8),
            found(0, 1, BOX, 0.3),
            found(0, 0, [350.0, 50.0, 20.0, 20.0], 0.9),
        ];
        let verdict = judge(&truths, &detections);
        assert_eq!(verdict, Verdict { right: vec![2, 3], wrong: vec![0, 1], missed: vec![2] });
    }

    #[test]
    fn nothing_to_find_is_not_nothing_found() {
        let scores = score(1, 2, &[truth(0, 1, BOX)], &[found(0, 0, BOX, 0.9)]);
        assert_eq!(scores.classes[0].averages, Averages::default());
        assert!(near(scores.classes[1].averages.ap, 0.0), "{scores:?}");
        assert!(near(scores.all.ap, 0.0), "{scores:?}");
        assert_eq!(score(0, 0, &[], &[]).all, Averages::default());
    }
}
