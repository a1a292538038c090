//! What came of the cases, as JUnit's XML: a suite a case, a test a check.

use std::io::{self, Write};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::report::reason_lines;
use super::run::Outcome;

/// Writes the report.
///
/// # Errors
/// `out` cannot be written to.
pub fn junit(out: &mut dyn Write, outcomes: &[Outcome]) -> io::Result<()> {
    let mut report = Report::new("lb test");
    for outcome in outcomes {
        let mut suite = TestSuite::new(outcome.name.as_str());
        for check in &outcome.checks {
            let status = if check.holds() {
                TestCaseStatus::success()
            } else {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                let message = check
                    .differences
                    .iter()
                    .map(|one| format!("{}: expected {}, got {}", one.of, one.expected, one.got));
                status
                    .set_message(message.collect::<Vec<_>>().join("; "))
                    .set_description(reason_lines(check).join("\n"));
                status
            };
            let mut case = TestCase::new(format!("{}: {}", check.step, check.check), status);
            case.set_classname(outcome.name.as_str());
            case.extra.insert("file".into(), (&*check.place.file).into());
            case.extra.insert("line".into(), check.place.line.to_string().into());
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.serialize(out).map_err(io::Error::other)
}
