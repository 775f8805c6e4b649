//! Plots over the steps of a run, as the numbers that an SVG is made of.

use std::fmt::Write;

use serde::Serialize;

use super::ticks::{label, ticks};

/// The size of a plot, and of the margins that its labels stand in.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 32.0;

/// A plot.
#[derive(Debug, Serialize)]
pub struct Chart {
    /// A word that stands for it on the page.
    id: &'static str,
    title: &'static str,
    /// What somebody hears who does not see it.
    description: String,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    bottom: f64,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    lines: Vec<Line>,
    limit: Option<Tick>,
}

/// A mark on an axis.
#[derive(Debug, Serialize)]
struct Tick {
    at: String,
    label: String,
}

/// A curve.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    path: String,
    points: Vec<Point>,
}

/// A point of a curve.
#[derive(Debug, Serialize)]
struct Point {
    x: String,
    y: String,
    step: usize,
    /// The number as the record has it.
    number: String,
}

/// A number after a step.
#[derive(Clone, Debug)]
pub struct Number {
    /// Steps taken.
    pub step: usize,
    /// The number.
    pub value: f64,
    /// The number as the record has it.
    pub text: String,
}

/// What a plot is drawn of.
pub struct Series<'a> {
    /// A word that stands for it on the page.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Curves by their names.
    pub lines: Vec<(&'static str, Vec<Number>)>,
    /// Whether the axis begins at 0.
    pub from_zero: bool,
    /// A line across, with what it is.
    pub limit: Option<(f64, String)>,
    /// The numbers as the axis and the description show them.
    pub show: &'a dyn Fn(f64) -> String,
}

impl Series<'_> {
    /// Draws the plot; `None` where there is no number.
    pub fn chart(self) -> Option<Chart> {
        let numbers = || self.lines.iter().flat_map(|(_, numbers)| numbers);
        let steps = || numbers().map(|number| number.step as f64);
        let values = numbers().map(|number| number.value);
        let values: Vec<f64> = values
            .chain(self.limit.as_ref().map(|limit| limit.0))
            .collect();
        numbers().next()?;
        let least = if self.from_zero { 0.0 } else { f64::INFINITY };
        let y = Scale::new(
            values.iter().copied().fold(least, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            [HEIGHT - BOTTOM, TOP],
        );
        let x = Scale::new(
            steps().fold(f64::INFINITY, f64::min),
            steps().fold(f64::NEG_INFINITY, f64::max),
            [LEFT, WIDTH - RIGHT],
        );
        let tick = |scale: &Scale, value: f64, show: &dyn Fn(f64) -> String| Tick {
            at: place(scale.at(value)),
            label: show(value),
        };
        let whole = ticks(x.least, x.most, 6).into_iter();
        let whole = whole.filter(|step| step.fract() == 0.0);
        Some(Chart {
            id: self.id,
            title: self.title,
            description: described(&self),
            width: WIDTH,
            height: HEIGHT,
            left: LEFT,
            right: WIDTH - RIGHT,
            bottom: HEIGHT - BOTTOM,
            x_ticks: whole.map(|step| tick(&x, step, &label)).collect(),
            y_ticks: ticks(y.least, y.most, 4)
                .into_iter()
                .map(|value| tick(&y, value, self.show))
                .collect(),
            limit: self.limit.map(|(value, label)| Tick {
                at: place(y.at(value)),
                label,
            }),
            lines: self
                .lines
                .into_iter()
                .filter(|(_, numbers)| !numbers.is_empty())
                .map(|(name, numbers)| line(name, numbers, &x, &y))
                .collect(),
        })
    }
}

fn line(name: &'static str, numbers: Vec<Number>, x: &Scale, y: &Scale) -> Line {
    let mut path = String::new();
    let mut points = Vec::with_capacity(numbers.len());
    for number in numbers {
        let (x, y) = (place(x.at(number.step as f64)), place(y.at(number.value)));
        let command = if path.is_empty() { 'M' } else { 'L' };
        // Writing to a string does not fail.
        let _ = write!(path, "{command}{x} {y}");
        points.push(Point {
            x,
            y,
            step: number.step,
            number: number.text,
        });
    }
    Line { name, path, points }
}

/// Says how each curve goes.
fn described(series: &Series<'_>) -> String {
    let show = series.show;
    let lines = series.lines.iter().filter_map(|(name, numbers)| {
        let (first, last) = (numbers.first()?, numbers.last()?);
        let least = numbers.iter().min_by(|a, b| a.value.total_cmp(&b.value))?;
        let most = numbers.iter().max_by(|a, b| a.value.total_cmp(&b.value))?;
        Some(format!(
            "{name}: {} at step {}, {} at step {}; lowest {} at step {}, highest {} at step {}.",
            show(first.value),
            first.step,
            show(last.value),
            last.step,
            show(least.value),
            least.step,
            show(most.value),
            most.step
        ))
    });
    let limit = series.limit.as_ref().map(|(_, label)| format!("{label}."));
    lines.chain(limit).collect::<Vec<_>>().join(" ")
}

/// An axis: values between two ends, and where these are drawn.
struct Scale {
    least: f64,
    most: f64,
    ends: [f64; 2],
}

impl Scale {
    fn new(least: f64, most: f64, ends: [f64; 2]) -> Self {
        // One value alone is drawn in the middle.
        let room = if most > least {
            0.0
        } else {
            most.abs().max(1.0) / 2.0
        };
        Self {
            least: least - room,
            most: most + room,
            ends,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let [from, to] = self.ends;
        from + (value - self.least) / (self.most - self.least) * (to - from)
    }
}

fn place(number: f64) -> String {
    format!("{number:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64]) -> Vec<Number> {
        let numbers = values.iter().enumerate();
        let number = |(place, value): (usize, &f64)| Number {
            step: place + 1,
            value: *value,
            text: value.to_string(),
        };
        numbers.map(number).collect()
    }

    fn chart(values: &[f64], limit: Option<f64>) -> Option<Chart> {
        let series = Series {
            id: "loss",
            title: "Loss",
            lines: vec![("training", numbers(values)), ("held out", Vec::new())],
            from_zero: limit.is_some(),
            limit: limit.map(|limit| (limit, "planned".to_owned())),
            show: &label,
        };
        series.chart()
    }

    #[test]
    fn points_are_where_their_numbers_are() {
        let chart = chart(&[4.0, 2.0, 3.0], None).unwrap();
        assert_eq!(chart.lines.len(), 1);
        let line = &chart.lines[0];
        // The highest is at the top, the lowest at the bottom, and what is between them between.
        assert_eq!(line.path, "M60.0 12.0L264.0 168.0L468.0 90.0");
        assert_eq!(line.points[1].number, "2");
        assert_eq!(
            chart.description,
            "training: 4 at step 1, 3 at step 3; lowest 2 at step 2, highest 4 at step 1."
        );
        let steps: Vec<&str> = chart.x_ticks.iter().map(|tick| &*tick.label).collect();
        assert_eq!(steps, ["1", "2", "3"]);
    }

    #[test]
    fn a_limit_is_within_the_plot() {
        let chart = chart(&[1.0], Some(2.0)).unwrap();
        assert_eq!(chart.limit.as_ref().unwrap().at, "12.0");
        // One step alone is in the middle.
        assert_eq!(chart.lines[0].path, "M264.0 90.0");
        assert!(chart.description.ends_with("planned."));
    }

    #[test]
    fn without_a_number_there_is_no_plot() {
        assert!(chart(&[], None).is_none());
    }
}
