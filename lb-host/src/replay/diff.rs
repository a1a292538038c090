//! Two packets that should be one.

use std::fmt::Write;

use super::outline::Outline;
use crate::device::link::engine_part;

/// Says where `got` differs from `expected`: the fields, then both in hexadecimal side by side, rows that are alike left
/// out.
pub(super) fn packets(expected: &[u8], got: &[u8], link_type: u16) -> String {
    const ROW: usize = 16;
    let mut text = String::new();
    let field = |at: usize| {
        let (strip, link) = engine_part(link_type, expected)?;
        let outline = Outline::of(expected.get(strip..)?, link)?;
        at.checked_sub(strip).map_or(Some("link"), |at| Some(outline.field(at)))
    };
    let mut names: Vec<&str> = Vec::new();
    for at in (0..expected.len().min(got.len())).filter(|at| expected[*at] != got[*at]) {
        let name = field(at).unwrap_or("bytes");
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    if expected.len() != got.len() {
        names.push("length");
    }
    let _ = writeln!(text, "  differs in: {}", names.join(", "));
    let _ = writeln!(text, "  {:<10}{:<50}got, {} bytes", "", format!("expected, {} bytes", expected.len()), got.len());
    for at in (0..expected.len().max(got.len())).step_by(ROW) {
        let row = |packet: &'_ [u8]| packet.get(at..).map_or(vec![], |rest| rest.iter().take(ROW).copied().collect());
        let (left, right) = (row(expected), row(got));
        if left == right {
            continue;
        }
        let hex = |row: &[u8]| row.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
        let mark: String = (0..ROW).map(|i| if left.get(i) == right.get(i) { "   " } else { "^^ " }).collect();
        let _ = writeln!(text, "  {at:#06x}    {:<50}{}", hex(&left), hex(&right).trim_end());
        let _ = writeln!(text, "  {:<10}{:<50}{}", "", mark.trim_end(), mark.trim_end());
    }
    text
}
