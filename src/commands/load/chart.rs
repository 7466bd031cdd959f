//! Plots as inline SVG, which need no script. Colours are classes of the page. Pure.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// One line of a plot.
pub struct Series<'a> {
    pub name: &'a str,
    /// The class that colours it.
    pub class: &'a str,
    /// x and y, in order of x.
    pub points: Vec<(f64, f64)>,
}

/// What stands at the axes.
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// The end of the y axis where the data does not set it.
    pub y_max: Option<f64>,
}

/// Round steps of which about five reach `max`: 1, 2, 2.5 or 5 times a power of ten.
fn step(max: f64) -> f64 {
    let rough = (max / 5.0).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(rough)
}

fn number(value: f64) -> String {
    if value.abs() >= 10_000.0 {
        number(value / 1000.0) + "k"
    } else if (value - value.round()).abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}").trim_end_matches('0').to_owned()
    }
}

/// Where values stand on the picture.
struct Frame {
    x_max: f64,
    y_max: f64,
    y_step: f64,
}

impl Frame {
    fn new(x_max: f64, y_max: f64) -> Self {
        let y_max = if y_max > 0.0 { y_max } else { 1.0 };
        let y_step = step(y_max);
        Self { x_max: if x_max > 0.0 { x_max } else { 1.0 }, y_max: (y_max / y_step).ceil() * y_step, y_step }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value / self.y_max).min(1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn begin(&self, label: &str, axes: &Axes<'_>, x_ticks: bool) -> String {
        let mut svg = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}"><g class="grid">"#,
            escape(label)
        );
        let count = (self.y_max / self.y_step).round() as usize;
        for tick in (0..=count).map(|tick| tick as f64 * self.y_step) {
            let y = self.y(tick);
            let _ = write!(
                svg,
                r#"<path d="M{LEFT} {y:.1}H{}"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                if (tick - self.y_max).abs() < 1e-9 && !axes.y.is_empty() {
                    format!("{} {}", number(tick), escape(axes.y))
                } else {
                    number(tick)
                }
            );
        }
        if x_ticks {
            let step = step(self.x_max);
            let count = (self.x_max / step + 1e-9).floor() as usize;
            for tick in (0..=count).map(|tick| tick as f64 * step) {
                let _ = write!(
                    svg,
                    r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#,
                    self.x(tick),
                    HEIGHT - BOTTOM + 16.0,
                    number(tick)
                );
            }
        }
        let _ = write!(
            svg,
            r#"<text class="unit" x="{}" y="{}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            HEIGHT - 2.0,
            escape(axes.x)
        );
        svg + "</g>"
    }
}

/// Lines over a common x axis that begins at 0; the first has its area filled.
pub fn lines(label: &str, axes: &Axes<'_>, series: &[Series<'_>]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let highest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let y_max = axes.y_max.unwrap_or_default().max(highest(|point| point.1));
    let frame = Frame::new(highest(|point| point.0), y_max);
    let mut svg = frame.begin(label, axes, true);
    for (index, Series { class, points, .. }) in series.iter().enumerate() {
        let mut path = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", frame.x(*x), frame.y(*y));
        }
        if let (0, Some(first), Some(last)) = (index, points.first(), points.last()) {
            let (base, from, to) = (frame.y(0.0), frame.x(first.0), frame.x(last.0));
            let _ = write!(
                svg,
                r#"<path class="area {class}" d="{path}L{to:.1} {base:.1}L{from:.1} {base:.1}Z"/>"#
            );
        }
        let _ = write!(svg, r#"<path class="line {class}" d="{path}"/>"#);
    }
    svg + "</svg>"
}

/// One bar a value, side by side in the order given.
pub fn bars(label: &str, axes: &Axes<'_>, class: &str, values: &[f64]) -> String {
    let y_max = axes.y_max.unwrap_or_default().max(values.iter().copied().fold(0.0, f64::max));
    let frame = Frame::new(values.len() as f64, y_max);
    let mut svg = frame.begin(label, axes, false);
    let mut path = String::new();
    let gap = if values.len() > 120 { 0.0 } else { 0.15 };
    for (index, value) in values.iter().enumerate() {
        let (from, to) = (frame.x(index as f64 + gap / 2.0), frame.x(index as f64 + 1.0 - gap / 2.0));
        // A hair above the base, so that nothing and no bar can be told apart.
        let top = frame.y(*value).min(frame.y(0.0) - 0.5);
        let _ = write!(path, "M{from:.2} {:.2}V{top:.2}H{to:.2}V{:.2}Z", frame.y(0.0), frame.y(0.0));
    }
    let _ = write!(svg, r#"<path class="bars {class}" d="{path}"/></svg>"#);
    svg
}

/// Text as it may stand in HTML and in an attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (max, expected) in [(1.0, 0.2), (5.0, 1.0), (9.0, 2.0), (12.0, 2.5), (170.0, 50.0), (0.0, 1e-9)] {
            assert!((step(max) - expected).abs() < expected * 0.01, "{max}: {}", step(max));
        }
        assert_eq!(Frame::new(1.0, 170.0).y_max, 200.0);
    }

    #[test]
    fn a_plot_of_nothing_is_a_plot() {
        let axes = Axes { x: "s", y: "<ms>", y_max: None };
        for svg in [
            lines("a & b", &axes, &[]),
            lines("x", &axes, &[Series { name: "n", class: "c", points: vec![] }]),
            bars("x", &axes, "c", &[]),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        }
    }
}
