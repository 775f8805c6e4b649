//! Bars and lines as SVG, without a dependency: a few kilobytes that a README shows as they are.

use std::fmt::Write;
use std::path::Path;

/// Width of a chart in pixels.
const WIDTH: f64 = 760.0;
/// One colour a series.
const COLOURS: [&str; 5] = ["#4269d0", "#e8800c", "#3ca951", "#ff5c5c", "#9c6ade"];
/// Room that a letter takes on average.
const LETTER: f64 = 6.6;
const INK: &str = "#24292f";
const FAINT: &str = "#d0d7de";

/// Horizontal bars, in groups of one bar a series.
#[derive(Debug, Clone)]
pub struct BarChart {
    /// The title, above the bars.
    pub title: String,
    /// The quantity of a bar's length, below the axis.
    pub axis: String,
    /// A line across all bars, where there is something to compare with.
    pub mark: Option<f64>,
    /// Names of the series.
    pub series: Vec<String>,
    /// A label and a value for each series.
    pub groups: Vec<(String, Vec<f64>)>,
}

/// Lines over a common axis, both axes from 0 on.
#[derive(Debug, Clone)]
pub struct LineChart {
    /// The title, above the lines.
    pub title: String,
    /// Name of the horizontal axis.
    pub x_axis: String,
    /// Name of the vertical axis.
    pub y_axis: String,
    /// Values of the horizontal axis that are marked on it.
    pub x_ticks: Vec<f64>,
    /// A name for each line and its points, from left to right.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl BarChart {
    /// Returns the chart as SVG.
    pub fn svg(&self) -> String {
        const BAR: f64 = 11.0;
        const GAP: f64 = 9.0;
        let longest = self.groups.iter().map(|(label, _)| label.chars().count());
        let left = longest.max().unwrap_or(0) as f64 * LETTER + 24.0;
        let top = 64.0;
        let group = BAR * self.series.len() as f64 + GAP;
        let bottom = top + group * self.groups.len() as f64;
        let mut svg = Svg::new(bottom + 48.0, &self.title);
        let names: Vec<&str> = self.series.iter().map(String::as_str).collect();
        svg.legend(&names, 50.0);

        let values = self.groups.iter().flat_map(|(_, values)| values).copied();
        let ticks = ticks(values.chain(self.mark).fold(0.0, f64::max));
        let right = WIDTH - 60.0;
        let full = ticks[ticks.len() - 1];
        let x = |value: f64| left + value / full * (right - left);
        for tick in ticks {
            svg.line((x(tick), top), (x(tick), bottom), FAINT, 1.0);
            svg.text((x(tick), bottom + 16.0), "middle", INK, &number(tick));
        }
        let middle = (left + right) / 2.0;
        svg.text((middle, bottom + 36.0), "middle", INK, &self.axis);
        for (index, (label, values)) in self.groups.iter().enumerate() {
            let y = top + group * index as f64 + GAP / 2.0;
            let centre = y + (group - GAP) / 2.0 + 4.0;
            svg.text((left - 8.0, centre), "end", INK, label);
            for (series, value) in values.iter().enumerate() {
                let y = y + BAR * series as f64;
                svg.bar((left, y), (x(*value) - left, BAR - 1.0), colour(series));
                svg.text((x(*value) + 4.0, y + 9.0), "start", INK, &number(*value));
            }
        }
        if let Some(mark) = self.mark {
            svg.line((x(mark), top), (x(mark), bottom), INK, 1.5);
        }
        svg.finish()
    }
}

impl LineChart {
    /// Returns the chart as SVG.
    pub fn svg(&self) -> String {
        let (left, right, top, bottom) = (72.0, WIDTH - 24.0, 64.0, 360.0);
        let mut svg = Svg::new(bottom + 48.0, &self.title);
        let names: Vec<&str> = self.lines.iter().map(|(name, _)| name.as_str()).collect();
        svg.legend(&names, 50.0);

        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let across = points().map(|point| point.0).fold(0.0, f64::max) * 1.02;
        let ticks = ticks(points().map(|point| point.1).fold(0.0, f64::max));
        let full = ticks[ticks.len() - 1];
        let place = |(x, y): (f64, f64)| {
            (
                left + x / across * (right - left),
                bottom - y / full * (bottom - top),
            )
        };
        for tick in ticks {
            let (_, y) = place((0.0, tick));
            svg.line((left, y), (right, y), FAINT, 1.0);
            svg.text((left - 8.0, y + 4.0), "end", INK, &number(tick));
        }
        for tick in &self.x_ticks {
            let (x, _) = place((*tick, 0.0));
            svg.line((x, bottom), (x, bottom + 4.0), INK, 1.0);
            svg.text((x, bottom + 18.0), "middle", INK, &number(*tick));
        }
        svg.line((left, bottom), (right, bottom), INK, 1.0);
        let middle = (left + right) / 2.0;
        svg.text((middle, bottom + 38.0), "middle", INK, &self.x_axis);
        svg.text((left - 8.0, top - 12.0), "end", INK, &self.y_axis);
        for (index, (_, points)) in self.lines.iter().enumerate() {
            let points: Vec<_> = points.iter().map(|point| place(*point)).collect();
            for pair in points.windows(2) {
                svg.line(pair[0], pair[1], colour(index), 2.0);
            }
            for point in points {
                svg.dot(point, colour(index));
            }
        }
        svg.finish()
    }
}

/// Writes a chart, and the folders to it, and says where.
///
/// # Errors
/// The file system's error.
pub fn write(path: &Path, svg: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, svg)?;
    println!("The chart is in {}", path.display());
    Ok(())
}

/// The elements of an SVG file.
struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#ffffff\"/>\n"
        ));
        svg.element(format_args!(
            "<text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"bold\" fill=\"{INK}\">{}</text>",
            escaped(title)
        ));
        svg
    }

    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a string takes what is written to it");
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, fill: &str, text: &str) {
        let text = escaped(text);
        self.element(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{text}</text>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.element(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\" \
             stroke-width=\"{width}\"/>"
        ));
    }

    fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        self.element(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\"/>"
        ));
    }

    fn dot(&mut self, (x, y): (f64, f64), fill: &str) {
        self.element(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{fill}\"/>"
        ));
    }

    /// Draws the names of the series beside their colours, from the right.
    fn legend(&mut self, names: &[&str], y: f64) {
        let width = |name: &str| name.chars().count() as f64 * LETTER + 26.0;
        let mut x = WIDTH - 16.0 - names.iter().map(|name| width(name)).sum::<f64>();
        for (index, name) in names.iter().enumerate() {
            self.bar((x, y - 9.0), (10.0, 10.0), colour(index));
            self.text((x + 14.0, y), "start", INK, name);
            x += width(name);
        }
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// Returns round values from 0 to one that is `most` or more.
fn ticks(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| most / step <= 6.0);
    let step = step.unwrap_or(10.0 * power);
    let count = (most / step).ceil() as usize;
    (0..=count).map(|tick| tick as f64 * step).collect()
}

/// Returns as many digits as tell bars apart: at most one after the point above 10, two below.
fn number(value: f64) -> String {
    let digits = match value {
        value if value.fract() == 0.0 || value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_largest_value() {
        assert_eq!(ticks(7.3), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(4540.0), [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]);
        assert_eq!(ticks(0.0).len(), 6);
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let chart = BarChart {
            title: "a < b".into(),
            axis: "times".into(),
            mark: Some(1.0),
            series: vec!["one".into()],
            groups: vec![("x".into(), vec![2.0]), ("y".into(), vec![4.0])],
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b"));
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && line.contains(COLOURS[0]))
            // The first one is the legend's.
            .skip(1)
            .map(|line| {
                let from = line.split("width=\"").nth(1).unwrap();
                from.split('"').next().unwrap().parse().unwrap()
            })
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 2.0).abs() < 0.01, "{widths:?}");
    }
}
