//! How the story is set: chapters, prose, evidence, claims.

use std::io::{self, Write};

/// How wide prose is, and where a command's time ends.
const WIDTH: usize = 80;

/// Whether to print in colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colors {
    /// As a terminal shows them (ECMA-48 SGR).
    Ansi,
    /// None.
    #[default]
    Plain,
}

/// How words are shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ink {
    /// Headings.
    Bold,
    /// What is beside the point.
    Faint,
    /// What was typed.
    Typed,
    Good,
    Bad,
}

impl Colors {
    pub(super) fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => "1",
            Ink::Faint => "2",
            Ink::Typed => "36",
            Ink::Good => "32",
            Ink::Bad => "1;31",
        };
        match self {
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

pub(super) struct Page<'w> {
    out: &'w mut dyn Write,
    colors: Colors,
    checks: usize,
    failed: Vec<String>,
    /// What was printed last does not stand close to a claim.
    claims: bool,
}

impl<'w> Page<'w> {
    pub(super) fn new(out: &'w mut dyn Write, colors: Colors) -> Self {
        Self { out, colors, checks: 0, failed: Vec::new(), claims: false }
    }

    /// How many claims were checked, and those that did not hold.
    pub(super) fn verdict(self) -> (usize, Vec<String>) {
        (self.checks, self.failed)
    }

    pub(super) const fn failures(&self) -> usize {
        self.failed.len()
    }

    pub(super) const fn checks(&self) -> usize {
        self.checks
    }

    pub(super) fn heading(&mut self, title: &str) -> io::Result<()> {
        self.claims = false;
        let title = self.colors.paint(Ink::Bold, title);
        writeln!(self.out, "\n{title}")
    }

    /// Prose, set in lines.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        self.claims = false;
        writeln!(self.out)?;
        wrap(text, WIDTH - 2).iter().try_for_each(|line| writeln!(self.out, "  {line}"))
    }

    /// Something typed by somebody, at some time.
    pub(super) fn command(&mut self, who: &str, command: &str, time: &str) -> io::Result<()> {
        self.claims = false;
        let typed = format!("{who}$ {command}");
        let room = WIDTH.saturating_sub(4 + time.len());
        let gap = " ".repeat(room.saturating_sub(typed.chars().count()).max(2));
        let (typed, time) = (self.colors.paint(Ink::Typed, &typed), self.colors.paint(Ink::Faint, time));
        writeln!(self.out, "\n    {typed}{gap}{time}")
    }

    /// What came of it, as it is.
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        self.claims = false;
        text.lines().try_for_each(|line| writeln!(self.out, "{}", format!("    {line}").trim_end()))
    }

    /// The same, where every column counts.
    pub(super) fn show_wide(&mut self, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| writeln!(self.out, "  {line}"))
    }

    pub(super) fn gap(&mut self) -> io::Result<()> {
        writeln!(self.out)
    }

    /// A claim of the story, and whether it holds.
    pub(super) fn check(&mut self, holds: bool, claim: &str) -> io::Result<()> {
        if !std::mem::replace(&mut self.claims, true) {
            writeln!(self.out)?;
        }
        self.checks += 1;
        let (mark, ink) = if holds { ("\u{2713}", Ink::Good) } else { ("\u{2717} NOT SO:", Ink::Bad) };
        if !holds {
            self.failed.push(claim.to_owned());
        }
        let mark = self.colors.paint(ink, mark);
        let lines = wrap(claim, WIDTH - 4);
        let mut lines = lines.iter();
        writeln!(self.out, "  {mark} {}", lines.next().map_or("", String::as_str))?;
        lines.try_for_each(|line| writeln!(self.out, "    {line}"))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Words in lines of at most `width`, where no word is longer.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_set_in_lines() {
        for (text, width, lines) in
            [("", 5, &[][..]), ("a bc", 5, &["a bc"]), ("ab  cd\nef", 5, &["ab cd", "ef"]), ("longer", 3, &["longer"])]
        {
            assert_eq!(wrap(text, width), lines, "{text:?}");
        }
    }

    #[test]
    fn a_claim_that_does_not_hold_is_told_and_counted() {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, Colors::Plain);
        page.check(true, "water is wet").unwrap();
        page.check(false, "pigs fly").unwrap();
        assert_eq!(page.verdict(), (2, vec!["pigs fly".to_owned()]));
        assert_eq!(String::from_utf8(out).unwrap(), "\n  \u{2713} water is wet\n  \u{2717} NOT SO: pigs fly\n");
    }
}
