//! Where in the input something stands, and what is wrong there.

use std::fmt;
use std::sync::Arc;

/// A position in a file that was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as it was named, `-` for standard input.
    pub file: Arc<str>,
    /// Counted from 1; 0 if only the file is known.
    pub line: u64,
    /// In characters, counted from 1.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            _ => write!(f, "{}:{}:{}", self.file, self.line, self.column),
        }
    }
}

/// Something wrong with the input: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The offending value.
    pub place: Place,
    /// Kind and name of the object that has it; empty if it is not of one.
    pub object: Box<str>,
    /// Its path in the object, such as `spec.ports[0].port`; empty if it is not of one field.
    pub field: Box<str>,
    /// What is wrong, with the value.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl Problem {
    /// A problem at `place`, with no field of an object.
    pub fn new(place: Place, message: impl Into<String>, advice: impl Into<String>) -> Self {
        let (object, field) = (Box::default(), Box::default());
        Self { place, object, field, message: message.into(), advice: advice.into() }
    }

    /// What it is about, up to the message: `Service default/web: spec.clusterIP `.
    fn subject(&self) -> String {
        let colon = if self.object.is_empty() { "" } else { ": " };
        let blank = if self.field.is_empty() { "" } else { " " };
        format!("{}{colon}{}{blank}", self.object, self.field)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}; {}", self.place, self.subject(), self.message, self.advice)
    }
}

/// All that is wrong with the input, in the order it was found; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
