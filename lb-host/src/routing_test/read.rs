//! From files and directories to cases.

use std::path::{Path, PathBuf};

use super::format::{Case, case};
use crate::k8s::manifest::text;
use crate::k8s::{Document, Place, Problem, Problems};

/// The version and kind of a routing test.
const VERSION: &str = "matryoshka/v1alpha1";
const KIND: &str = "RoutingTest";

/// The cases that were found, and what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Tests {
    /// In the order of the paths given; below a directory by name.
    pub cases: Vec<Case>,
    /// What is wrong with files that are routing tests, or were named as such.
    pub problems: Vec<Problem>,
}

/// Reads files, and directories with all below them. In a directory only files with routing tests count.
pub fn read(paths: &[PathBuf]) -> Tests {
    let mut tests = Tests::default();
    for path in paths {
        let before = tests.cases.len() + tests.problems.len();
        if path.is_dir() {
            let mut files = Vec::new();
            if let Err(problem) = below(path, &mut files) {
                tests.problems.push(problem);
            }
            files.iter().for_each(|file| tests.add(file, false));
        } else {
            tests.add(path, true);
        }
        if tests.cases.len() + tests.problems.len() == before {
            let advice = format!("name a file or a directory with documents of kind: {KIND}");
            tests.problems.push(Problem::new(whole(path), "no routing test", advice));
        }
    }
    tests
}

impl Tests {
    /// `named`: the file was named, so that it must hold routing tests.
    fn add(&mut self, file: &Path, named: bool) {
        match cases(file, named) {
            Ok(cases) => {
                for case in cases {
                    match case {
                        Ok(case) => self.cases.push(case),
                        Err(Problems(problems)) => self.problems.extend(problems),
                    }
                }
            }
            Err(problem) => self.problems.push(problem),
        }
    }
}

fn cases(file: &Path, named: bool) -> Result<Vec<Result<Case, Problems>>, Problem> {
    let name = file.to_string_lossy();
    let text = text(file).map_err(|problem| match problem.place.line {
        0 => Problem { advice: "check the path".to_owned(), ..problem },
        _ => problem,
    })?;
    // Someone else's templates below a directory need not be YAML.
    if !named && !text.contains(KIND) && !text.contains(VERSION) {
        return Ok(Vec::new());
    }
    let documents = Document::parse(&name, &text)?;
    let ours =
        |document: &Document| document.text("kind") == Some(KIND) || document.text("apiVersion") == Some(VERSION);
    if !named && !documents.iter().any(ours) {
        return Ok(Vec::new());
    }
    let directory = file.parent().unwrap_or(Path::new(""));
    let one = |document: &Document| {
        for (key, value) in [("kind", KIND), ("apiVersion", VERSION)] {
            let found = document.text(key);
            if found != Some(value) {
                let message = match found {
                    Some(found) => format!("{key} is {found}, not {value}"),
                    None => format!("there is no {key}"),
                };
                let advice = format!("write {key}: {value}; keep other documents in a file of their own");
                return Err(Problem::new(document.place(key), message, advice).into());
            }
        }
        case(document, directory)
    };
    Ok(documents.iter().map(one).collect())
}

/// The manifests below a directory, by name. Links to directories are not followed, so that there is an end.
fn below(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let unreadable = |error: std::io::Error| {
        Problem::new(whole(directory), format!("cannot be read: {error}"), "check the path and its permissions")
    };
    let entries = directory.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
    let mut paths: Vec<_> =
        entries.iter().map(|entry| (entry.path(), entry.file_type().is_ok_and(|t| t.is_dir()))).collect();
    paths.sort();
    for (path, is_dir) in paths {
        let manifest = path.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known));
        if is_dir {
            below(&path, files)?;
        } else if manifest && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn whole(path: &Path) -> Place {
    Place { file: path.to_string_lossy().into(), line: 0, column: 0 }
}
