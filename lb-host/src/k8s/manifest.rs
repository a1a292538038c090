//! Manifests: files of Kubernetes objects, as `kubectl get -o yaml` prints them, read into the API's
//! own types with the place of every field.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope, Resource};
use lb_core::Prefix;
use serde::de::DeserializeOwned;

use super::address::lenient_prefix;
use super::kinds::{self, Verdict};
use super::place::{Place, Problem, Problems};
use super::tree::Document;

/// A kind of Kubernetes object.
pub trait Object: Resource<Scope: 'static> + Metadata<Ty = ObjectMeta> {
    /// Whether its objects belong to namespaces.
    fn namespaced() -> bool {
        TypeId::of::<Self::Scope>() == TypeId::of::<NamespaceResourceScope>()
    }
}

impl<T: Resource<Scope: 'static> + Metadata<Ty = ObjectMeta>> Object for T {}

/// An object and where it was read.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The object.
    pub object: T,
    document: Document,
}

impl<T> From<T> for Placed<T> {
    /// An object that no file holds.
    fn from(object: T) -> Self {
        Self { object, document: Document::unwritten("the API") }
    }
}

impl<T> Placed<T> {
    /// An object that was made because of `self`, and stands where it does.
    pub fn made<U>(&self, object: U) -> Placed<U> {
        Placed { object, document: self.document.clone() }
    }

    /// The place of a field, such as `spec.ports[0].port`, or else of the deepest field on the way to it.
    pub fn place(&self, field: &str) -> Place {
        self.document.place(field)
    }
}

impl<T: Object> Placed<T> {
    /// The object's name, empty if it has none.
    pub fn name(&self) -> &str {
        self.object.metadata().name.as_deref().unwrap_or_default()
    }

    /// The object's namespace, `default` if it says none.
    pub fn namespace(&self) -> &str {
        self.object.metadata().namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
    }

    /// Namespace and name, joined by a slash; the name alone of what belongs to no namespace.
    pub fn key(&self) -> String {
        if T::namespaced() { format!("{}/{}", self.namespace(), self.name()) } else { self.name().to_owned() }
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.object.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }

    /// A problem with one of the object's fields.
    pub fn problem(&self, field: &str, message: impl std::fmt::Display, advice: impl Into<String>) -> Problem {
        let object = format!("{} {}", T::KIND, self.key());
        Problem {
            object: object.into(),
            field: field.into(),
            ..Problem::new(self.place(field), message.to_string(), advice)
        }
    }
}

/// The first of each field that the API does not know, and how many more there are of it: by kind and by
/// field, whatever its place in lists.
type UnknownFields = BTreeMap<(&'static str, String), (Problem, usize)>;

/// All objects that were read, each kind in the order of reading.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// v1 Services.
    pub services: Vec<Placed<Service>>,
    /// discovery.k8s.io/v1 EndpointSlices.
    pub slices: Vec<Placed<EndpointSlice>>,
    /// v1 Endpoints.
    pub endpoints: Vec<Placed<Endpoints>>,
    /// v1 Pods.
    pub pods: Vec<Placed<Pod>>,
    /// v1 Nodes.
    pub nodes: Vec<Placed<Node>>,
    /// v1 Namespaces.
    pub namespaces: Vec<Placed<Namespace>>,
    /// networking.k8s.io/v1 ServiceCIDRs.
    pub service_cidrs: Vec<Placed<ServiceCIDR>>,
    /// Well-known kinds that service routing has no use for, and how many objects of each were met.
    pub passed_over: BTreeMap<String, usize>,
    unknown: UnknownFields,
    seen: BTreeMap<(&'static str, String), Place>,
}

impl Manifests {
    /// Reads files, directories (their `*.yaml`, `*.yml` and `*.json`, by name) and `-`, standard input.
    ///
    /// # Errors
    /// All problems of all files.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Problems> {
        let mut manifests = Self::default();
        let mut problems = Vec::new();
        for document in documents(paths) {
            match document {
                Ok(document) => problems.extend(manifests.add_document(document)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(manifests) } else { Err(Problems(problems)) }
    }

    /// Adds the objects of a YAML or JSON text, which places call `file`.
    ///
    /// # Errors
    /// All problems of the text, or the first if it is not YAML.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), Problems> {
        let documents = Document::parse(file, text)?;
        let problems: Vec<_> = documents.into_iter().flat_map(|document| self.add_document(document)).collect();
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }

    /// Adds the object, or the list of objects, that a document is; says what is wrong with it.
    pub fn add_document(&mut self, document: Document) -> Vec<Problem> {
        self.add_kind(document, None)
    }

    /// `listed` is the version and kind that the items of a typed list need not repeat.
    fn add_kind(&mut self, document: Document, listed: Option<(&str, &str)>) -> Vec<Problem> {
        let version = document.text("apiVersion").or(listed.map(|(version, _)| version));
        let kind = document.text("kind").or(listed.map(|(_, kind)| kind));
        let (Some(version), Some(kind)) = (version, kind) else {
            let missing = if kind.is_none() { "kind" } else { "apiVersion" };
            let message = format!("an object without {missing}");
            return vec![Problem::new(
                document.place(missing),
                message,
                "say which, e.g. apiVersion: v1, kind: Service",
            )];
        };
        let (version, kind) = (version.to_owned(), kind.to_owned());
        match kinds::verdict(&version, &kind) {
            Verdict::List(item) => {
                let listed = item.as_deref().map(|item| (version.as_str(), item));
                let items = document.items("items").into_iter();
                return items.flat_map(|item| self.add_kind(item, listed)).collect();
            }
            Verdict::PassedOver => {
                *self.passed_over.entry(kind).or_default() += 1;
                return Vec::new();
            }
            Verdict::Unknown(advice) => {
                let message = format!("kind {kind} of apiVersion {version} is not one that service routing reads");
                return vec![Problem::new(document.place("kind"), message, advice)];
            }
            Verdict::Read => {}
        }
        let (seen, unknown) = (&mut self.seen, &mut self.unknown);
        let added = match kind.as_str() {
            "Service" => push(&mut self.services, document, seen, unknown),
            "EndpointSlice" => push(&mut self.slices, document, seen, unknown),
            "Endpoints" => push(&mut self.endpoints, document, seen, unknown),
            "Pod" => push(&mut self.pods, document, seen, unknown),
            "Node" => push(&mut self.nodes, document, seen, unknown),
            "Namespace" => push(&mut self.namespaces, document, seen, unknown),
            _ => push(&mut self.service_cidrs, document, seen, unknown),
        };
        added.err().into_iter().collect()
    }

    /// The blocks of the ServiceCIDR objects, as far as they are blocks.
    pub fn service_cidrs(&self) -> Vec<Prefix> {
        let specs = self.service_cidrs.iter().filter_map(|object| object.object.spec.as_ref());
        specs.flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|block| lenient_prefix(block)).collect()
    }

    /// The fields that the API does not know, once each.
    pub fn unknown_fields(&self) -> impl Iterator<Item = Problem> {
        self.unknown.values().map(|(first, more)| {
            let more = if *more == 0 { String::new() } else { format!(" (and {more} more)") };
            Problem { message: format!("{}{more}", first.message), ..first.clone() }
        })
    }

    /// What was passed over, as one line; `None` if nothing was.
    pub fn passed_over(&self) -> Option<String> {
        let kinds: Vec<_> = self.passed_over.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let kinds = (!kinds.is_empty()).then(|| kinds.join(", "))?;
        Some(format!("passed over {kinds}: service routing does not read them"))
    }
}

/// What a `T` is called that may not be one: its kind, and its name if it has one.
fn named<T: Object>(document: &Document) -> Box<str> {
    let namespace = document.text("metadata.namespace").filter(|name| !name.is_empty()).unwrap_or("default");
    match document.text("metadata.name") {
        Some(name) if T::namespaced() => format!("{} {namespace}/{name}", T::KIND).into(),
        Some(name) => format!("{} {name}", T::KIND).into(),
        None => T::KIND.into(),
    }
}

/// Reads a document as a `T` unless there is one of that name already.
fn push<T: Object + DeserializeOwned>(
    objects: &mut Vec<Placed<T>>,
    document: Document,
    seen: &mut BTreeMap<(&'static str, String), Place>,
    unknown: &mut UnknownFields,
) -> Result<(), Problem> {
    let mut reading = document.read::<T>().map_err(|problem| Problem { object: named::<T>(&document), ..problem })?;
    // Items of typed lists do not say their version and kind, which the type does.
    reading.unknown.retain(|unknown| unknown.field != "apiVersion" && unknown.field != "kind");
    let placed = Placed { object: reading.value, document };
    if placed.name().is_empty() {
        return Err(placed.problem("metadata.name", "is missing", "name the object"));
    }
    let place = placed.place("metadata.name");
    match seen.entry((T::KIND, placed.key())) {
        Entry::Occupied(first) => {
            return Err(placed.problem(
                "metadata.name",
                format_args!("is that of the one at {}", first.get()),
                "remove one",
            ));
        }
        Entry::Vacant(entry) => entry.insert(place),
    };
    for field in reading.unknown {
        let anywhere = field.field.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect();
        match unknown.entry((T::KIND, anywhere)) {
            Entry::Occupied(mut entry) => entry.get_mut().1 += 1,
            Entry::Vacant(entry) => {
                entry.insert((Problem { object: named::<T>(&placed.document), ..field.into() }, 0));
            }
        }
    }
    objects.push(placed);
    Ok(())
}

/// The documents of files, directories and `-`, in order; in the place of what cannot be read as YAML, why.
pub fn documents(paths: &[PathBuf]) -> Vec<Result<Document, Problem>> {
    let mut documents = Vec::new();
    for path in paths {
        let files = files(path).unwrap_or_else(|problem| {
            documents.push(Err(problem));
            Vec::new()
        });
        for file in files {
            match text(&file).and_then(|text| Document::parse(&file.to_string_lossy(), &text)) {
                Ok(some) => documents.extend(some.into_iter().map(Ok)),
                Err(problem) => documents.push(Err(problem)),
            }
        }
    }
    documents
}

/// The files that a path stands for.
fn files(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = path.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|e| unreadable(path, &e))?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    let manifest =
        |file: &PathBuf| file.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|k| kind == *k));
    files.retain(|file| manifest(file) && !file.is_dir());
    files.sort();
    if files.is_empty() {
        let advice = "name a directory that has some, or a file";
        return Err(Problem::new(whole(path), "no *.yaml, *.yml or *.json in this directory", advice));
    }
    Ok(files)
}

/// A file's text, or standard input's for `-`.
pub fn text(path: &Path) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().read_to_end(&mut bytes).map(drop),
        _ => std::fs::read(path).map(|read| bytes = read),
    };
    read.map_err(|error| unreadable(path, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        let line = valid.split('\n').count() as u64;
        let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        let place = Place { line, column, ..whole(path) };
        Problem::new(place, "not UTF-8", "save the file as UTF-8")
    })
}

fn whole(path: &Path) -> Place {
    Place { file: path.to_string_lossy().into(), line: 0, column: 0 }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(whole(path), format!("cannot be read: {error}"), "check the path given to -f")
}
