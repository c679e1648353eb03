//! The report as one HTML file.

use super::report::Report;

pub fn page(report: &Report) -> String {
    format!("<pre>{report:?}</pre>")
}
