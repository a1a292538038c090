//! YAML as a tree whose every value knows its line and column. JSON is read as the YAML it is.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::Segment;
use serde_saphyr::Spanned;

use super::place::{Place, Problem};

/// One YAML document, or one value inside it, and the file it stands in.
#[derive(Clone, Debug)]
pub struct Document {
    file: Arc<str>,
    /// Where the text that `root`'s lines and columns count from begins in the file.
    start: Start,
    root: Arc<Node>,
}

/// The lines before a text, and the characters before it on its first line.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    lines: u64,
    columns: u64,
}

#[derive(Clone, Debug)]
struct Node {
    line: u64,
    column: u64,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Scalar(serde_json::Value),
    /// Shared, so that an item of a list can be a document without a copy of it.
    List(Vec<Arc<Node>>),
    Map(Vec<(String, Node)>),
}

/// A typed reading of a document.
#[derive(Clone, Debug)]
pub struct Reading<T> {
    /// What was read.
    pub value: T,
    /// Fields that the type does not have.
    pub unknown: Vec<Unknown>,
}

/// A field that a type does not have, and that was therefore not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Its path, such as `spec.prots`.
    pub field: String,
    /// Where its value stands.
    pub place: Place,
}

impl From<Unknown> for Problem {
    fn from(Unknown { field, place }: Unknown) -> Self {
        let advice = "it is not read: correct or remove it";
        Self { field: field.into(), ..Self::new(place, "is an unknown field", advice) }
    }
}

/// One step down a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Document {
    /// All documents of a YAML or JSON text; empty ones are left out. `file` is what places call it.
    ///
    /// # Errors
    /// The text is no YAML, repeats a key of a mapping, or expands beyond reason.
    pub fn parse(file: &str, text: &str) -> Result<Vec<Self>, Problem> {
        let file: Arc<str> = file.into();
        let mut start = Start::default();
        let mut documents = Vec::new();
        for piece in pieces(text) {
            documents.extend(Self::parse_piece(&file, piece, start)?);
            start = start.behind(piece);
        }
        Ok(documents)
    }

    fn parse_piece(file: &Arc<str>, text: &str, start: Start) -> Result<Vec<Self>, Problem> {
        // A dump of a whole cluster is fine, a small text that expands into a large one is not: nodes
        // may be as many as bytes, while the limits on nesting and alias expansion stay as they are.
        let whole = text.len().saturating_add(1024);
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_events: whole.saturating_mul(2),
                max_nodes: whole,
                max_documents: whole,
                max_total_scalar_bytes: whole.saturating_mul(4),
            },
            emit_comments: false,
            with_snippet: false,
        };
        match serde_saphyr::from_multiple_with_options::<Node>(text, options) {
            Ok(roots) => {
                Ok(roots.into_iter().map(|root| Self { file: file.clone(), start, root: root.into() }).collect())
            }
            Err(error) => {
                let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
                let formatter = serde_saphyr::UserMessageFormatter;
                let message = serde_saphyr::MessageFormatter::format_message(&formatter, error.without_snippet());
                let advice = "correct the YAML around there";
                let place = start.place(file, line, column);
                Err(Problem::new(place, format!("not valid YAML: {message}"), advice))
            }
        }
    }

    /// What no file holds: every place in it is `source`, without a line.
    pub fn unwritten(source: &str) -> Self {
        let root = Node { line: 0, column: 0, value: Value::Scalar(serde_json::Value::Null) };
        Self { file: source.into(), start: Start::default(), root: root.into() }
    }

    /// The place of the value at `path` (`spec.ports[0].port`); of the deepest value on the way to it
    /// if there is none. The empty path is the document itself.
    pub fn place(&self, path: &str) -> Place {
        self.place_of(self.root.deepest(&steps(path)).0)
    }

    /// The text at `path`, if there is text.
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.root.deepest(&steps(path)) {
            (Node { value: Value::Scalar(serde_json::Value::String(text)), .. }, true) => Some(text),
            _ => None,
        }
    }

    /// Whether there is something other than null at `path`.
    pub fn has(&self, path: &str) -> bool {
        let (node, whole) = self.root.deepest(&steps(path));
        whole && !matches!(node.value, Value::Scalar(serde_json::Value::Null))
    }

    /// The values of the list at `path`, each a document of its own; none if there is no list.
    pub fn items(&self, path: &str) -> Vec<Self> {
        match self.root.deepest(&steps(path)) {
            (Node { value: Value::List(items), .. }, true) => {
                items.iter().map(|root| Self { root: root.clone(), ..self.clone() }).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The document as JSON.
    pub fn json(&self) -> serde_json::Value {
        self.root.json()
    }

    /// Reads the document as a `T`.
    ///
    /// # Errors
    /// A value is of a wrong type, or a required one is missing.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Reading<T>, Problem> {
        let json = self.json();
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(&json, &mut track);
        let value = serde_ignored::deserialize(deserializer, |path| {
            let steps = ignored_steps(&path);
            let place = self.place_of(self.root.deepest(&steps).0);
            unknown.push(Unknown { field: field(&steps), place });
        });
        match value {
            Ok(value) => Ok(Reading { value, unknown }),
            Err(error) => {
                let steps: Vec<Step> = track.path().iter().filter_map(step).collect();
                let place = self.place_of(self.root.deepest(&steps).0);
                let advice = "give a value of the type that the field has";
                let problem = Problem::new(place, format!("cannot be read: {error}"), advice);
                Err(Problem { field: field(&steps).into(), ..problem })
            }
        }
    }

    fn place_of(&self, node: &Node) -> Place {
        self.start.place(&self.file, node.line, node.column)
    }
}

impl Start {
    /// Where what follows `text` begins.
    fn behind(self, text: &str) -> Self {
        let newlines = text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        let last = text.rsplit('\n').next().unwrap_or(text).chars().count() as u64;
        Self { lines: self.lines + newlines, columns: if newlines == 0 { self.columns + last } else { last } }
    }

    /// The place of what stands at this line and column of the text; line 0 is no line.
    fn place(self, file: &Arc<str>, line: u64, column: u64) -> Place {
        let (lines, columns) = match line {
            0 => (0, 0),
            1 => (self.lines, self.columns),
            _ => (self.lines, 0),
        };
        Place { file: file.clone(), line: line + lines, column: column + columns }
    }
}

/// The texts of JSON objects that follow each other with nothing between, which YAML does not know and kubectl takes;
/// else the text as it is.
fn pieces(text: &str) -> Vec<&str> {
    if !text.trim_start().starts_with('{') {
        return vec![text];
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut pieces, mut begin) = (Vec::new(), 0);
    while let Some(value) = values.next() {
        let Some(piece) = value.ok().and_then(|_| text.get(begin..values.byte_offset())) else { return vec![text] };
        pieces.push(piece);
        begin = values.byte_offset();
    }
    pieces
}

impl Node {
    /// The deepest node on the way along `steps`, and whether that is the end of the way.
    fn deepest(&self, steps: &[Step]) -> (&Self, bool) {
        let mut node = self;
        for step in steps {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(map)) => map.iter().find(|(name, _)| name == key).map(|(_, node)| node),
                (Step::Index(index), Value::List(list)) => list.get(*index).map(Arc::as_ref),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => return (node, false),
            }
        }
        (node, true)
    }

    fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.clone(),
            Value::List(list) => list.iter().map(|node| node.json()).collect(),
            Value::Map(map) => map.iter().map(|(key, node)| (key.clone(), node.json())).collect(),
        }
    }
}

/// The steps of `spec.ports[0].port`.
fn steps(path: &str) -> Vec<Step> {
    let words = path.split(['.', '[']).filter(|word| !word.is_empty());
    words
        .map(|word| match word.strip_suffix(']') {
            Some(index) => Step::Index(index.parse().unwrap_or(usize::MAX)),
            None => Step::Key(word.to_owned()),
        })
        .collect()
}

/// `spec.ports[0].port` of these steps.
fn field(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.extend([".", key]),
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    if path.is_empty() { "the document".to_owned() } else { path }
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn ignored_steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = ignored_steps(parent);
    steps.extend(step);
    steps
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Where it was written, for what an alias or a merge key brought in as well.
        let Spanned { value, defined, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: defined.line(), column: defined.column(), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(serde_json::Value::Null))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(serde_json::Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    /// A whole number is one however it is written, as on kubectl's way through Go and JSON: 80.0, 8e1, 080.
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        let whole = value as i64;
        let exact = whole as f64 == value && whole.unsigned_abs() < 1 << f64::MANTISSA_DIGITS;
        Ok(Value::Scalar(if exact { whole.into() } else { value.into() }))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element::<Node>()? {
            list.push(node.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = access.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}
