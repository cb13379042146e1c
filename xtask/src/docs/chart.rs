//! Draws docs/evidence.svg.

use std::fmt::Write as _;

use super::evidence::{Bursts, Evidence, Figure, Pair};

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 28.0;

/// Colors for the light and the dark scheme. The picture has its own background, so that it is readable
/// even on a page that uses the other scheme.
const STYLE: &str = "\
.page{fill:#fff;stroke:#d1d9e0}
text{fill:#1f2328;font:13px -apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif}
.title{font-size:16px;font-weight:600}
.head{font-weight:600}
.note{fill:#59636e;font-size:12px}
.axis{stroke:#d1d9e0}
.trace{fill:#818b98}
.ours{fill:#0969da}
.peer{fill:#bc4c00}
.range{stroke:#1f2328}
.value{stroke:#fff;stroke-width:4px;stroke-linejoin:round;paint-order:stroke}
@media(prefers-color-scheme:dark){
.page{fill:#0d1117;stroke:#3d444d}
text{fill:#f0f6fc}
.note{fill:#9198a1}
.axis{stroke:#3d444d}
.trace{fill:#9198a1}
.ours{fill:#4493f8}
.peer{fill:#f0883e}
.range{stroke:#f0f6fc}
.value{stroke:#0d1117}
}
";

/// Draws the figures in two parts: the CPU time reported for bursts, and the cost of measuring.
pub(crate) fn draw(evidence: &Evidence) -> String {
    let mut svg = Svg::default();
    let mut y = MARGIN + 14.0;
    svg.text(MARGIN, y, "title", "CPU time reported for short bursts of work");
    svg.text(
        MARGIN,
        y + 19.0,
        "note",
        "One CPU for 3 s. In parentheses: the difference from perf's trace of the same switches.",
    );
    y = draw_bursts(&mut svg, y + 44.0, evidence);
    y += 48.0;
    svg.text(MARGIN, y, "title", "What measuring costs");
    svg.text(MARGIN, y + 19.0, "note", "Less is better. Each axis starts at zero.");
    y = draw_costs(&mut svg, y + 46.0, evidence);
    y += 20.0;
    let note = "Bars are medians over rounds; thin lines span minimum to maximum.";
    svg.text(MARGIN, y, "note", note);
    let machines = evidence.machines.join(" and on ");
    svg.text(MARGIN, y + 16.0, "note", &format!("Measured on {machines}."));
    svg.finish(y + 16.0 + 20.0, &description(evidence))
}

/// Draws both workloads on one axis. Returns the lower edge.
fn draw_bursts(svg: &mut Svg, top: f64, Evidence { dodge, meet, .. }: &Evidence) -> f64 {
    const LABELS: f64 = 112.0;
    const LENGTH: f64 = 430.0;
    const ROW: f64 = 21.0;
    let left = MARGIN + LABELS;
    let figures = |it: &Bursts| [it.trace.most, it.ours.most, it.stat.most];
    let most = [dodge, meet].iter().flat_map(|it| figures(it)).fold(0.0, f64::max);
    let scale = Scale { left, length: LENGTH, most };
    let group = 26.0 + 3.0 * ROW;
    let bottom = top + 2.0 * group - 12.0;
    for tick in ticks(most) {
        let x = scale.x(tick);
        svg.line("axis", x, top + 8.0, x, bottom);
        svg.anchored(x, bottom + 16.0, "note", "middle", &format!("{tick} ms"));
    }
    for (y, title, Bursts { trace, ours, stat }) in [
        (top, "Bursts that dodge the tick", dodge),
        (top + group, "Bursts that meet the tick", meet),
    ] {
        svg.text(left, y, "head", title);
        let mut y = y + 8.0;
        for (name, class, figure) in [
            ("perf's trace", "trace", trace),
            ("sched_exporter", "ours", ours),
            ("/proc/stat", "peer", stat),
        ] {
            svg.anchored(left - 8.0, y + 12.0, "", "end", name);
            svg.bar(class, &scale, y, figure);
            svg.value(&scale, y + 12.0, figure);
            y += ROW;
        }
    }
    bottom + 16.0
}

/// Draws three comparisons next to each other. Returns the lower edge.
fn draw_costs(svg: &mut Svg, top: f64, Evidence { switch, scrape, memory, .. }: &Evidence) -> f64 {
    const ROW: f64 = 38.0;
    const LENGTH: f64 = 150.0;
    let column = (WIDTH - 2.0 * MARGIN) / 3.0;
    let node_exporter = "node_exporter (cpu, stat)";
    let mut left = MARGIN;
    for (title, note, peer_name, Pair { ours, peer }) in [
        ("A context switch", "CPU time added, worst case", "runqlat (bcc)", switch),
        ("A scrape", "median time", node_exporter, scrape),
        ("Memory", "resident, after the scrapes", node_exporter, memory),
    ] {
        svg.text(left, top, "head", title);
        svg.text(left, top + 16.0, "note", note);
        let scale = Scale { left, length: LENGTH, most: ours.most.max(peer.most) };
        svg.line("axis", left, top + 24.0, left, top + 26.0 + 2.0 * ROW);
        let first = top + 24.0;
        for (y, name, class, figure) in
            [(first, "sched_exporter", "ours", ours), (first + ROW, peer_name, "peer", peer)]
        {
            svg.text(left + 4.0, y + 13.0, "", name);
            svg.bar(class, &scale, y + 19.0, figure);
            svg.value(&scale, y + 31.0, figure);
        }
        left += column;
    }
    top + 26.0 + 2.0 * ROW
}

/// The text alternative of the picture.
fn description(Evidence { dodge, meet, switch, scrape, memory, .. }: &Evidence) -> String {
    let bursts = |what: &str, Bursts { trace, ours, stat }: &Bursts| {
        format!(
            "Of bursts that {what} the tick, perf's trace shows {}, sched_exporter {}, /proc/stat {}. ",
            trace.text, ours.text, stat.text
        )
    };
    let pair = |what: &str, name: &str, Pair { ours, peer }: &Pair| {
        format!("{what}: sched_exporter {}, {name} {}. ", ours.text, peer.text)
    };
    let mut text = bursts("dodge", dodge) + &bursts("meet", meet);
    text += &pair("CPU time added to context switches", "runqlat", switch);
    text += &pair("Time of a scrape", "node_exporter", scrape);
    text += &pair("Resident memory", "node_exporter", memory);
    text.trim_end().to_owned()
}

/// A horizontal axis from zero.
struct Scale {
    left: f64,
    /// The length in pixels of a bar for the value `most`.
    length: f64,
    most: f64,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        self.left + value / self.most * self.length
    }
}

/// Round values from zero to `most`, at most six.
fn ticks(most: f64) -> Vec<f64> {
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * power).into_iter().find(|it| most / it <= 5.0);
    let step = step.unwrap_or(most);
    (0..6_u8).map(|index| f64::from(index) * step).take_while(|tick| *tick <= most).collect()
}

/// The elements of a picture.
#[derive(Default)]
struct Svg {
    elements: String,
}

impl Svg {
    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        self.anchored(x, y, class, "start", text);
    }

    fn anchored(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escaped(text);
        let class = if class.is_empty() { String::new() } else { format!(r#" class="{class}""#) };
        let anchor =
            if anchor == "start" { String::new() } else { format!(r#" text-anchor="{anchor}""#) };
        let _ =
            writeln!(self.elements, r#"<text x="{x:.1}" y="{y:.1}"{class}{anchor}>{text}</text>"#);
    }

    fn line(&mut self, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
        let _ = writeln!(
            self.elements,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    /// Draws a bar for the median, with a line from minimum to maximum.
    fn bar(&mut self, class: &str, scale: &Scale, y: f64, figure: &Figure) {
        const HEIGHT: f64 = 16.0;
        let width = scale.x(figure.value) - scale.left;
        let _ = writeln!(
            self.elements,
            r#"<rect class="{class}" x="{:.1}" y="{y:.1}" width="{width:.1}" height="{HEIGHT}" rx="2"/>"#,
            scale.left
        );
        let (least, most) = (scale.x(figure.least), scale.x(figure.most));
        // A shorter line would only look like the edge of the bar.
        if most - least > 2.0 {
            let middle = y + HEIGHT / 2.0;
            self.line("range", least, middle, most, middle);
            for x in [least, most] {
                self.line("range", x, middle - 3.0, x, middle + 3.0);
            }
        }
    }

    /// Writes the figure's text to the right of its bar.
    fn value(&mut self, scale: &Scale, y: f64, figure: &Figure) {
        let mut text = figure.text.clone();
        if !figure.off.is_empty() {
            let _ = write!(text, " ({})", figure.off.replace('-', "−"));
        }
        self.text(scale.x(figure.most.max(figure.value)) + 7.0, y, "value", &text);
    }

    fn finish(self, height: f64, description: &str) -> String {
        let Self { elements } = self;
        let (width, description) = (WIDTH, escaped(description));
        let (inner_width, inner_height) = (WIDTH - 1.0, height - 1.0);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="title desc">
<title id="title">Accuracy and cost of sched_exporter</title>
<desc id="desc">{description}</desc>
<style>
{STYLE}</style>
<rect class="page" x="0.5" y="0.5" width="{inner_width}" height="{inner_height}" rx="6"/>
{elements}</svg>
"#
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docs::evidence::tests::pages;

    #[test]
    fn bars_are_as_long_as_their_figures_say() {
        let (accuracy, performance) = pages();
        let picture = draw(&Evidence::read(&accuracy, &performance).unwrap());
        let width = |class: &str, index: usize| -> f64 {
            let bar = picture.split(&format!(r#"<rect class="{class}""#)).nth(index + 1).unwrap();
            bar.split(r#"width=""#).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        // Bursts on one axis: 1000.02 ms, 20 ms, 3000 ms.
        assert!((width("ours", 0) / width("trace", 0) - 1.0).abs() < 1e-3);
        assert!((width("peer", 1) / width("ours", 0) - 3.0).abs() < 1e-2);
        assert!((width("peer", 0) / width("ours", 0) - 0.02).abs() < 1e-3);
        // Costs: 8.2 % and 36.1 %.
        assert!((width("peer", 2) / width("ours", 2) - 36.1 / 8.2).abs() < 1e-2);
    }

    #[test]
    fn picture_has_a_text_alternative_with_every_figure() {
        let (accuracy, performance) = pages();
        let picture = draw(&Evidence::read(&accuracy, &performance).unwrap());
        let description =
            picture.split("<desc id=\"desc\">").nth(1).unwrap().split('<').next().unwrap();
        for figure in ["1000.02 ms", "20.00 ms", "3000.00 ms", "+8.2 %", "52.1 µs", "6.55 MiB"] {
            assert!(description.contains(figure), "{figure}: {description}");
        }
    }

    #[test]
    fn axis_has_a_few_round_values() {
        assert_eq!(ticks(3010.0), [0.0, 1000.0, 2000.0, 3000.0]);
        assert_eq!(ticks(40.0), [0.0, 10.0, 20.0, 30.0, 40.0]);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escaped("a<b & c>d"), "a&lt;b &amp; c&gt;d");
    }
}
