//! Columns as kubectl aligns them, and objects as it prints them.

mod rows;

use std::io::{self, Write};

use tabwriter::TabWriter;

pub use rows::{Row, write_objects};

/// What stands for a value that there is none of.
pub const NONE: &str = "<none>";
/// What stands for a value that manifests do not tell, such as an object's age.
pub const UNKNOWN: &str = "<unknown>";

/// Writes a table: a row of headings, then the others, three blanks between columns.
///
/// # Errors
/// `out`'s own.
pub fn write<'r>(
    out: &mut dyn Write,
    headings: &[&str],
    rows: impl IntoIterator<Item = &'r Vec<String>>,
) -> io::Result<()> {
    let mut table = TabWriter::new(out).minwidth(3).padding(3);
    writeln!(table, "{}", headings.join("\t"))?;
    for row in rows {
        // A tab or line break inside a value would tear the table.
        let cells: Vec<_> = row.iter().map(|cell| cell.replace(char::is_control, " ")).collect();
        writeln!(table, "{}", cells.join("\t"))?;
    }
    table.flush()
}

/// The values joined by commas, [`NONE`] if there are none.
pub fn list<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let values: Vec<_> = values.into_iter().collect();
    let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
    if values.is_empty() { NONE.to_owned() } else { values.join(",") }
}

/// As [`list`], the first three values only, as kubectl does with endpoints.
pub fn short_list(values: &[String]) -> String {
    match values.get(..3) {
        Some(first) if values.len() > 3 => format!("{} + {} more...", first.join(","), values.len() - 3),
        _ => list(values),
    }
}
