//! The motion model of one track: a constant-velocity Kalman filter over centre, width and height.
//!
//! Process and measurement noise are diagonal, so the four quantities never mix and the
//! eight-dimensional filter of SORT and ByteTrack falls apart into four two-dimensional ones, exactly.
//! Process noise is that of white-noise acceleration in continuous time: two predictions of 10 ms
//! grow the uncertainty as much as one of 20 ms, whatever the rate of recognition. This module knows
//! nothing of detections, scores or identities.

use crate::frame::BBox;

/// Standard deviation of a detector's box from one picture to the next, as a part of the box's size.
const MEASUREMENT_NOISE: f32 = 0.05;

/// Sizes a second that a thing may move at when it is first seen.
const INITIAL_SPEED: f32 = 0.8;

/// Sizes a second by which a thing's speed wanders within one second.
const SPEED_CHANGE: f32 = 1.6;

/// How much slower a box changes its size than its place.
const GROWTH: f32 = 0.3;

/// Carried boxes neither shrink below half their size nor grow beyond double.
const SIZE_LIMITS: (f32, f32) = (0.5, 2.0);

/// A quantity, its rate of change a second, and their covariance.
#[derive(Clone, Copy, Debug)]
struct Axis {
    value: f32,
    rate: f32,
    value_variance: f32,
    covariance: f32,
    rate_variance: f32,
}

impl Axis {
    fn new(value: f32, deviation: f32, rate_deviation: f32) -> Self {
        Self {
            value,
            rate: 0.0,
            value_variance: deviation * deviation,
            covariance: 0.0,
            rate_variance: rate_deviation * rate_deviation,
        }
    }

    /// Lets `seconds` pass for the uncertainty; `acceleration` is the noise's spectral density.
    fn diffuse(&mut self, seconds: f32, acceleration: f32) {
        let (t, t2) = (seconds, seconds * seconds);
        self.value_variance +=
            2.0 * t * self.covariance + t2 * self.rate_variance + acceleration * t2 * t / 3.0;
        self.covariance += t * self.rate_variance + acceleration * t2 / 2.0;
        self.rate_variance += acceleration * t;
    }

    fn correct(&mut self, measured: f32, variance: f32) {
        let total = self.value_variance + variance;
        let (gain, rate_gain) = (self.value_variance / total, self.covariance / total);
        let innovation = measured - self.value;
        self.value += gain * innovation;
        self.rate += rate_gain * innovation;
        self.rate_variance = (self.rate_variance - rate_gain * self.covariance).max(0.0);
        self.value_variance *= 1.0 - gain;
        self.covariance *= 1.0 - gain;
    }
}

/// The filtered box of one track, as of its last measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    /// Centre x, centre y, width, height, in pixels.
    axes: [Axis; 4],
}

impl Motion {
    pub(super) fn new(bbox: &BBox) -> Self {
        let size = size_of(bbox);
        let mut speed = INITIAL_SPEED * size;
        let axes = centred(bbox).map(|value| Axis::new(value, MEASUREMENT_NOISE * size, speed));
        let mut motion = Self { axes };
        speed *= GROWTH;
        for axis in &mut motion.axes[2..] {
            axis.rate_variance = speed * speed;
        }
        motion
    }

    /// The box as of the last measurement.
    pub(super) fn bbox(&self) -> BBox {
        cornered(self.axes.map(|axis| axis.value))
    }

    /// Pixels a second: of the centre's x and y, of the width and the height.
    ///
    /// Rates that do not stand out from their own uncertainty are held back, in the manner of a Wiener
    /// filter: carrying a still face by the detector's noise would only make it tremble.
    pub(super) fn rates(&self) -> [f32; 4] {
        self.axes.map(|axis| {
            let power = axis.rate * axis.rate;
            if power > 0.0 { axis.rate * power / (power + axis.rate_variance) } else { 0.0 }
        })
    }

    fn estimated_rates(&self) -> [f32; 4] {
        self.axes.map(|axis| axis.rate)
    }

    /// How uncertain the centre is `seconds` after the last measurement: its standard deviation, as a
    /// part of the box's size.
    pub(super) fn spread(&self, seconds: f32) -> f32 {
        let size = size_of(&self.bbox());
        let variance_of = |mut axis: Axis| {
            axis.diffuse(seconds, (SPEED_CHANGE * size).powi(2));
            axis.value_variance
        };
        variance_of(self.axes[0]).max(variance_of(self.axes[1])).sqrt() / size
    }

    /// Takes in a box measured `seconds` after the last one. The box is expected where
    /// [`carried`] puts it after `carried_seconds`, which a caller may hold shorter.
    pub(super) fn correct(&mut self, measured: &BBox, seconds: f32, carried_seconds: f32) {
        let expected = centred(&carried(&self.bbox(), self.estimated_rates(), carried_seconds));
        let size = size_of(&self.bbox()).max(size_of(measured));
        let variance = (MEASUREMENT_NOISE * size).powi(2);
        let measured = centred(measured);
        for (index, axis) in self.axes.iter_mut().enumerate() {
            let change = if index < 2 { SPEED_CHANGE } else { SPEED_CHANGE * GROWTH };
            axis.value = expected[index];
            axis.diffuse(seconds, (change * size).powi(2));
            axis.correct(measured[index], variance);
        }
        for axis in &mut self.axes[2..] {
            axis.value = axis.value.max(1.0);
        }
    }
}

/// `bbox` moved on at constant `rates` (as in [`Motion::rates`]) by `seconds`, which may be negative.
pub(super) fn carried(bbox: &BBox, rates: [f32; 4], seconds: f32) -> BBox {
    let [x, y, w, h] = centred(bbox);
    let resized =
        |side: f32, rate: f32| (side + rate * seconds).clamp(side * SIZE_LIMITS.0, side * SIZE_LIMITS.1);
    cornered([x + rates[0] * seconds, y + rates[1] * seconds, resized(w, rates[2]), resized(h, rates[3])])
}

fn size_of(bbox: &BBox) -> f32 {
    bbox.area().sqrt()
}

fn centred(bbox: &BBox) -> [f32; 4] {
    [bbox.x + bbox.w / 2.0, bbox.y + bbox.h / 2.0, bbox.w, bbox.h]
}

fn cornered([x, y, w, h]: [f32; 4]) -> BBox {
    BBox { x: x - w / 2.0, y: y - h / 2.0, w, h }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face_at(x: f32) -> BBox {
        BBox { x, y: 50.0, w: 80.0, h: 100.0 }
    }

    #[test]
    fn learns_a_constant_speed_at_any_rate_of_recognition() {
        for step in [0.005, 0.033, 0.1, 0.5] {
            let mut motion = Motion::new(&face_at(0.0));
            let mut x = 0.0;
            for _ in 0..(3.0 / step) as usize {
                x += 60.0 * step;
                motion.correct(&face_at(x), step, step);
            }
            let [vx, vy, vw, vh] = motion.estimated_rates();
            assert!((vx - 60.0).abs() < 1.0, "{vx} px/s at steps of {step} s");
            assert!(vy.abs() + vw.abs() + vh.abs() < 0.1);
            assert!((motion.bbox().x - x).abs() < 1.0);
            let shown = motion.rates()[0];
            assert!((30.0..=61.0).contains(&shown), "{shown} px/s shown at steps of {step} s");
        }
    }

    #[test]
    fn a_still_box_with_noise_stays_nearly_still() {
        let mut motion = Motion::new(&face_at(100.0));
        let mut worst = 0.0f32;
        for step in 0..100 {
            let noise = if step % 2 == 0 { 3.0 } else { -3.0 };
            motion.correct(&face_at(100.0 + noise), 0.033, 0.033);
            if step > 10 {
                worst = worst.max((motion.bbox().x - 100.0).abs());
            }
        }
        assert!(worst < 1.5, "{worst} px");
    }

    #[test]
    fn uncertainty_does_not_depend_on_how_time_is_cut() {
        let (mut whole, mut cut) = (Axis::new(0.0, 4.0, 80.0), Axis::new(0.0, 4.0, 80.0));
        whole.diffuse(0.6, 900.0);
        for _ in 0..60 {
            cut.diffuse(0.01, 900.0);
        }
        assert!((whole.value_variance / cut.value_variance - 1.0).abs() < 1e-3);
        assert!((whole.covariance / cut.covariance - 1.0).abs() < 1e-3);
        assert!((whole.rate_variance / cut.rate_variance - 1.0).abs() < 1e-3);
    }

    #[test]
    fn sizes_stay_positive_however_fast_they_shrink() {
        let mut motion = Motion::new(&face_at(0.0));
        for side in [60.0, 30.0, 12.0, 4.0, 1.0, 1.0, 1.0] {
            motion.correct(&BBox { x: 0.0, y: 0.0, w: side, h: side }, 0.01, 0.01);
            let bbox = carried(&motion.bbox(), motion.rates(), 5.0);
            assert!(bbox.w > 0.0 && bbox.h > 0.0, "{bbox:?}");
        }
    }
}
