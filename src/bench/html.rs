//! The report as one HTML file: the figures as tables, and plots as SVG in the text itself, so that it can be sent
//! and kept as it is. Text in plots is the reader's own font: nothing is fetched.

use std::error::Error;
use std::fmt::Write;

use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::report::{CpuReport, Percentiles, PhaseReport, Report};

/// Of a plot, in CSS pixels.
const SIZE: (u32, u32) = (860, 360);

const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 97, 141), RGBColor(192, 57, 43), RGBColor(39, 134, 87), RGBColor(125, 60, 152)];
const GREY: RGBColor = RGBColor(110, 110, 110);

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
    h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;margin:.5em 0}\
    td,th{padding:.2em .9em .2em 0;text-align:right;font-variant-numeric:tabular-nums;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}code,pre{font-size:.85em;white-space:pre-wrap}\
    .doubt{background:#fdecea;padding:.5em 1em;border-left:4px solid #c0392b}svg{max-width:100%;height:auto}";

/// A name, and how it is read off a phase, or off the part of it that a plot is about.
type Named<Of, Value> = (&'static str, fn(&Of) -> Value);

/// Rows of a table: a name, and a value for each phase.
type Row = Named<PhaseReport, String>;

const ROWS: [Row; 19] = [
    ("Listeners", |phase| phase.listeners.to_string()),
    ("Packets/s into the server", |phase| number(phase.packets_in_per_second)),
    ("Packets/s out of it", |phase| number(phase.packets_out_per_second)),
    ("Mb/s out of it", |phase| format!("{:.1}", phase.goodput_bps / 1e6)),
    ("Lost packets", |phase| format!("{} of {}", phase.lost, phase.expected)),
    ("Loss, %", |phase| format!("{:.4}", phase.loss * 100.0)),
    ("Listeners with loss", |phase| phase.listeners_with_loss.to_string()),
    ("Duplicates, reordered", |phase| format!("{}, {}", phase.duplicates, phase.reordered)),
    ("Delay p50, µs", |phase| phase.delay_us.p50.to_string()),
    ("Delay p99, µs", |phase| phase.delay_us.p99.to_string()),
    ("Delay p99.9, µs", |phase| phase.delay_us.p999.to_string()),
    ("Delay max, µs", |phase| phase.delay_us.max.to_string()),
    ("First to last listener p50, µs", |phase| phase.spread_us.p50.to_string()),
    ("First to last listener p99, µs", |phase| phase.spread_us.p99.to_string()),
    ("Server CPU per packet, ns", |phase| cpu(phase, |cpu| cpu.total_ns)),
    ("Packets/s per core", |phase| cpu(phase, |cpu| cpu.packets_per_core_second)),
    ("Server cores busy, %", |phase| cpu(phase, |cpu| cpu.cores_busy * 100.0)),
    ("Segments per send", |phase| {
        phase.server.as_ref().map_or("–".into(), |server| format!("{:.2}", server.segments_per_send))
    }),
    ("Generator threads busy, %", |phase| {
        let busy = phase.generator.threads_busy.iter();
        busy.map(|busy| format!("{:.0}", busy * 100.0)).collect::<Vec<_>>().join(", ")
    }),
];

/// The whole page. A plot that could not be drawn is replaced by the reason.
pub fn page(report: &Report) -> String {
    let mut html = String::new();
    let put = |html: &mut String, text: &str| html.push_str(text);
    put(&mut html, "<!doctype html><html lang=en><meta charset=utf-8><title>fanline bench</title>");
    put(&mut html, &format!("<style>{STYLE}</style><h1>fanline bench</h1>"));
    put(&mut html, &format!("<pre>{}</pre>", escape(&report.head())));
    put(&mut html, &format!("<p><code>{}</code></p>", escape(&report.command.join(" "))));
    for doubt in &report.doubts {
        put(&mut html, &format!("<p class=doubt>{}</p>", escape(doubt)));
    }
    put(&mut html, "<h2>Delay from speaker to listener</h2>");
    put(&mut html, &plot(|svg| delays(svg, &report.phases)));
    if report.phases.iter().any(|phase| phase.cpu.is_some()) {
        put(&mut html, "<h2>What a forwarded packet costs the server</h2>");
        put(&mut html, &plot(|svg| costs(svg, &report.phases)));
    }
    if report.phases.len() > 2 {
        put(&mut html, "<h2>Delay and loss by the size of the room</h2>");
        put(&mut html, &plot(|svg| stairs(svg, &report.phases)));
    }
    put(&mut html, "<h2>Figures</h2>");
    put(&mut html, &table(&report.phases));
    put(&mut html, "<h2>Joins</h2>");
    put(&mut html, &joins(report));
    put(&mut html, "<p>Each figure is defined in <code>docs/bench.md</code>.</p></html>\n");
    html
}

fn table(phases: &[PhaseReport]) -> String {
    let mut html = String::from("<table><tr><th></th>");
    phases.iter().for_each(|phase| html += &format!("<th>{}</th>", escape(&phase.name)));
    html += "</tr>";
    for (name, value) in ROWS {
        html += &format!("<tr><td>{name}</td>");
        phases.iter().for_each(|phase| html += &format!("<td>{}</td>", escape(&value(phase))));
        html += "</tr>";
    }
    html + "</table>"
}

fn joins(report: &Report) -> String {
    let head = "<tr><th></th><th>joined</th><th>failed</th><th>p50, ms</th><th>p90</th><th>p99</th><th>max</th></tr>";
    let mut html = format!("<table>{head}");
    let meanwhile =
        report.phases.iter().filter_map(|phase| Some((phase.name.as_str(), phase.joins.as_ref()?)));
    for (name, joins) in [("before", &report.joins)].into_iter().chain(meanwhile) {
        let Percentiles { p50, p90, p99, max, .. } = joins.heard_us;
        let ms = [p50, p90, p99, max].map(|us| format!("<td>{:.1}</td>", us as f64 / 1e3)).concat();
        let (name, joined, failed) = (escape(name), joins.joined, joins.failed);
        write!(html, "<tr><td>{name}</td><td>{joined}</td><td>{failed}</td>{ms}</tr>")
            .expect("a String takes it");
    }
    html + "</table><p>From the first request to a packet of every track.</p>"
}

fn plot(draw: impl FnOnce(&mut String) -> Result<(), Box<dyn Error>>) -> String {
    let mut svg = String::new();
    match draw(&mut svg) {
        Ok(()) => svg,
        Err(error) => {
            format!("<p class=doubt>this plot could not be drawn: {}</p>", escape(&error.to_string()))
        }
    }
}

/// Delay over percentile, with the axis of percentiles stretched towards 100 % as HDR histograms are shown.
fn delays(svg: &mut String, phases: &[PhaseReport]) -> Result<(), Box<dyn Error>> {
    // 1 − quantile halves from tick to tick of this scale.
    let stretch = |quantile: f64| -(1.0 - quantile).max(1e-7).log10();
    let nines = phases.iter().flat_map(|phase| &phase.delay_curve).map(|(quantile, _)| stretch(*quantile));
    let nines = nines.filter(|nines| *nines < 6.9).fold(2.0, f64::max);
    let highest = phases.iter().map(|phase| phase.delay_us.max).max().unwrap_or(1).max(10) as f64;
    let lowest =
        phases.iter().flat_map(|phase| &phase.delay_curve).map(|(_, us)| *us).min().unwrap_or(1).max(1);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..nines, (lowest as f64 * 0.8..highest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.04))
        .x_labels(8)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_labels(6)
        .y_label_formatter(&|us| duration(*us))
        .x_desc("percentile of packets and listeners")
        .y_desc("delay")
        .draw()?;
    for (phase, colour) in phases.iter().zip(COLOURS.iter().cycle()) {
        let points =
            phase.delay_curve.iter().filter(|(quantile, _)| *quantile < 1.0 && stretch(*quantile) <= nines);
        let points: Vec<_> = points.map(|(quantile, us)| (stretch(*quantile), (*us).max(1) as f64)).collect();
        let name = phase.name.clone();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    Ok(())
}

/// CPU per packet, as a bar of user, system and softirq for each phase.
fn costs(svg: &mut String, phases: &[PhaseReport]) -> Result<(), Box<dyn Error>> {
    let measured: Vec<_> =
        phases.iter().filter_map(|phase| Some((&phase.name, phase.cpu.as_ref()?))).collect();
    let highest = measured.iter().map(|(_, cpu)| cpu.total_ns).fold(1.0, f64::max);
    let root = SVGBackend::with_string(svg, (SIZE.0, 130 + 40 * measured.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let count = measured.len() as f64;
    let names: Vec<_> = measured.iter().map(|(name, _)| (*name).clone()).collect();
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(110)
        .build_cartesian_2d(0.0..highest * 1.25, 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(BLACK.mix(0.04))
        .x_label_formatter(&|ns| number(*ns))
        .x_desc("CPU time per forwarded packet, ns")
        .draw()?;
    let parts: [Named<CpuReport, f64>; 3] =
        [("user", |cpu| cpu.user_ns), ("system", |cpu| cpu.system_ns), ("softirq", |cpu| cpu.softirq_ns)];
    let mut starts = vec![0.0; measured.len()];
    for ((part, value), colour) in parts.into_iter().zip(COLOURS) {
        let bars = measured.iter().enumerate().map(|(at, (_, cpu))| {
            let start = starts[at];
            starts[at] += value(cpu);
            Rectangle::new([(start, at as f64 + 0.2), (starts[at], at as f64 + 0.8)], colour.filled())
        });
        let bars: Vec<_> = bars.collect();
        chart
            .draw_series(bars)?
            .label(part)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    for (at, name) in names.into_iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, at as f64 + 0.5));
        let style = ("sans-serif", 14).into_font().color(&GREY).pos(right_middle());
        root.draw(&Text::new(name, (x - 8, y), style))?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    root.present()?;
    Ok(())
}

fn legend<'a, 'svg: 'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, SVGBackend<'svg>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), Box<dyn Error>> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

fn right_middle() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Right, VPos::Center)
}

/// Median and 99th percentile of the delay over the number of listeners; a red mark where packets were lost.
fn stairs(svg: &mut String, phases: &[PhaseReport]) -> Result<(), Box<dyn Error>> {
    let most = phases.iter().map(|phase| phase.listeners).max().unwrap_or(1).max(1) as f64;
    let highest = phases.iter().map(|phase| phase.delay_us.p99).max().unwrap_or(1).max(10) as f64;
    let lowest = phases.iter().map(|phase| phase.delay_us.p50).min().unwrap_or(1).max(1) as f64;
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..most * 1.05, (lowest * 0.8..highest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.04))
        .x_desc("listeners")
        .x_label_formatter(&|listeners| format!("{listeners:.0}"))
        .y_desc("delay")
        .y_label_formatter(&|us| duration(*us))
        .draw()?;
    let lines: [Named<PhaseReport, u64>; 2] =
        [("p50", |phase| phase.delay_us.p50), ("p99", |phase| phase.delay_us.p99)];
    let mut in_order: Vec<_> = phases.iter().collect();
    in_order.sort_by_key(|phase| phase.listeners);
    for ((name, value), colour) in lines.into_iter().zip(COLOURS.iter().rev()) {
        let points: Vec<_> =
            in_order.iter().map(|phase| (phase.listeners as f64, value(phase).max(1) as f64)).collect();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    let lossy = in_order.iter().filter(|phase| phase.lost > 0);
    let marks: Vec<_> = lossy
        .map(|phase| {
            Cross::new((phase.listeners as f64, phase.delay_us.p99.max(1) as f64), 7, RED.stroke_width(2))
        })
        .collect();
    chart
        .draw_series(marks)?
        .label("with loss")
        .legend(|(x, y)| Cross::new((x + 9, y), 5, RED.stroke_width(2)));
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    Ok(())
}

/// 1.0 is 90 %, 2.0 is 99 %, and so on.
fn percentile(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10_f64.powf(-nines);
    let text = format!("{percent:.5}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn duration(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{} ms", us / 1_000.0),
        us => format!("{} s", us / 1_000_000.0),
    }
}

fn number(value: f64) -> String {
    format!("{value:.0}")
}

fn cpu(phase: &PhaseReport, figure: fn(&CpuReport) -> f64) -> String {
    phase.cpu.as_ref().map_or("–".into(), |cpu| number(figure(cpu)))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_of_percentiles_is_labelled_by_its_nines() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(percentile), ["0 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!([250.0, 2_000.0, 3e6].map(duration), ["250 µs", "2 ms", "3 s"]);
    }

    #[test]
    fn text_of_others_is_not_markup() {
        assert_eq!(escape("<a> & b"), "&lt;a&gt; &amp; b");
    }
}
