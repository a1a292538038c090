//! Who may import whom, kept by reading the sources: the tables first, then the reader, then the
//! proof that the reader sees.
//!
//! Sources are read as tokens, so comments, strings and layout can't fool it. What `#[cfg(test)]` guards
//! is exempt. A type renamed on import can hide a clock from it; clippy's `disallowed-methods` sees those.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Anything that `lb-core/src/lib.rs` re-exports, imported as `crate::Name`.
const PUBLIC: &str = "the crate's public types";

/// Each module of lb-core and what it may import of the others: a module, or one type of it.
const CORE: &[(&str, &[&str])] = &[
    // Small files, one idea each.
    ("config", &[]),
    ("rng", &[]),
    ("time", &[]),
    ("tuple", &[]),
    ("hash", &["tuple"]),
    ("memory", &[]),
    ("processor", &[]),
    ("scheduler", &[]),
    // What goes in and what comes out: plain types, made of the layers' smallest ones.
    ("packet", &["nat::Checksum", "verdict", "wire::Link"]),
    ("verdict", &["flow::Direction", "flow::FlowId"]),
    ("counters", &["flow::Direction", "flow::FlowId", "verdict"]),
    // The layers, which do not know each other. Rules are pure: they have seen neither frame nor flow.
    ("wire", &["tuple"]),
    ("flow", &["config", "hash", "memory::Block", "processor", "time", "tuple"]),
    ("pick", &["hash", "rng", "rules::Backend", "rules::Pool", "rules::Segment", "scheduler", "tuple"]),
    ("rules", &["hash", "packet::Origin", "processor", "scheduler", "tuple", "verdict"]),
    ("nat", &["tuple", "wire"]),
    // Which core a packet is for: read off its headers and the rules, before any of it is judged.
    ("steer", &["hash", "rules::Receiver", "rules::RuleTable", "tuple", "wire"]),
    // The data arrow: the one place where they meet.
    (
        "balancer",
        &[
            "config", "counters", "flow", "hash", "memory", "nat", "packet", "pick", "rng", "rules", "steer", "time",
            "tuple", "verdict", "wire",
        ],
    ),
    // The control arrow ends at the image and the Maglev fill.
    ("control", &["hash", "pick", "rules", "scheduler", "tuple"]),
    ("ffi", &["balancer", PUBLIC, "flow::State", "rules"]),
];

/// Modules of lb-host that only these may import.
const HOST_ONLY_FROM: &[(&str, &[&str])] =
    &[("cli", &["main"]), ("cluster", &["cli", "demo", "main"]), ("demo", &["cli", "main"])];

/// Modules of lb-host and what they may never import.
const HOST_NEVER: &[(&str, &[&str])] = &[
    ("device", &["k8s"]),
    // Names are a view of the objects: no packet, no machine, no clock.
    (
        "dns",
        &[
            "chance",
            "clock",
            "cluster",
            "device",
            "dialled",
            "diff",
            "explain",
            "health",
            "host",
            "listing",
            "path",
            "proxy",
            "replay",
            "routing_test",
            "rules",
        ],
    ),
    // The story is told by the box, whose time is its own, and by nobody else.
    ("demo", &["clock", "device", "explain", "proxy", "replay"]),
    // A machine's stack knows no cluster.
    ("host", &["cluster", "device", "dns", "k8s", "proxy"]),
    // Objects know neither the box that keeps them nor how they are printed.
    ("k8s", &["cluster", "device", "dns", "host", "proxy", "table"]),
    ("table", &["cluster", "device", "host"]),
    // The userspace proxy is a program on such a stack; of a cluster it knows what the control plane does.
    ("proxy", &["cluster", "device", "dns", "k8s", "replay"]),
    // The live data plane is the real world's: nothing in memory stands for any of it.
    ("run", &["chance", "cluster", "diff", "dns", "explain", "host", "proxy", "replay", "routing_test"]),
    ("metrics", &["cluster", "device", "host", "k8s", "proxy", "run"]),
];

/// Crates that lb-core never names.
const NOT_IN_CORE: &[&str] = &["std", "serde", "serde_json", "k8s_openapi", "kube"];

/// What lb-core's strings never say, in any case: objects reach it as numbers and opaque labels.
const NOT_IN_CORE_STRINGS: &[&str] = &["kubernetes", "kube-", "k8s"];

/// Readers of the OS clock and of OS randomness, as the end of a path or as a `.method`.
const OUTSIDE_WORLD: &[&[&str]] = &[
    &["Instant", "now"],
    &["SystemTime"],
    &[".elapsed"],
    &["OsRng"],
    &["RandomState"],
    &["ThreadRng"],
    &["getrandom"],
    &["rand", "random"],
    &["rand", "rng"],
    &["thread_rng"],
];

/// The only files that may read them.
const WINDOWS: &[&str] = &["lb-host/src/clock.rs", "lb-host/src/main.rs"];

/// Where lb-core is unsafe: its C ABI, and the one file of instructions that the language does not have.
const UNSAFE: &[&str] = &["lb-core/src/ffi", "lb-core/src/processor.rs"];

/// A file past this is more than one idea.
const LINES: usize = 1000;

#[test]
fn the_sources_keep_the_layers() {
    let mut files = Vec::new();
    for directory in ["lb-core", "lb-host", "tests", "benches", "fuzz/fuzz_targets"] {
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(directory), &mut files);
    }
    for (module, _) in CORE.iter().filter(|(module, _)| ["wire", "flow", "rules"].contains(module)) {
        let prefix = format!("lb-core/src/{module}");
        assert!(files.iter().any(|(path, _)| path.starts_with(&prefix)), "{prefix} was not found, nothing was checked");
    }
    let found = violations(&files);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// A path relative to the repository's top, with slashes, and the text of the file.
type File = (String, String);

fn collect(top: &Path, directory: &Path, files: &mut Vec<File>) {
    // `benches` and `fuzz_targets` are not in a packaged crate.
    let Ok(entries) = std::fs::read_dir(top.join(directory)) else { return };
    for entry in entries {
        let entry = entry.expect("a directory entry");
        let path = directory.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            collect(top, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(top.join(&path)).expect("a source file in UTF-8");
            files.push((path.to_string_lossy().replace('\\', "/"), text));
        }
    }
}

/// Everything in these files that breaks a rule, as `file:line: what`.
fn violations(files: &[File]) -> Vec<String> {
    let read: BTreeMap<&str, Source> = files.iter().map(|(path, text)| (path.as_str(), Source::read(text))).collect();
    let test_only: BTreeSet<String> = read.iter().flat_map(|(path, source)| source.test_files(path)).collect();
    let public = read.get("lb-core/src/lib.rs").map(Source::re_exports).unwrap_or_default();

    let mut found = Vec::new();
    let mut unsafe_files = BTreeSet::new();
    for (path, text) in files {
        let lines = text.lines().count();
        if lines > LINES {
            found.push(format!("{path}:{lines}: longer than {LINES} lines: make it two ideas, two files"));
        }
        let Some((krate, file)) = path.split_once("/src/") else { continue };
        if test_only.iter().any(|prefix| path.starts_with(prefix.as_str())) {
            continue;
        }
        let place = Place { path, in_core: krate == "lb-core", module: module_of(file), public: &public };
        for mention in &read[path.as_str()].mentions {
            if let Some(what) = place.objection(mention) {
                found.push(format!("{path}:{}: {what}", mention.line));
            }
            if mention.path == ["unsafe"] && !UNSAFE.iter().any(|place| path.starts_with(place)) {
                unsafe_files.insert(path.as_str());
            }
        }
    }
    if unsafe_files.len() > 1 {
        found.push(format!("unsafe code outside {UNSAFE:?} in more than one file: {unsafe_files:?}"));
    }
    found
}

/// `flow/table.rs` is `flow::table`; `flow/mod.rs` is `flow`; `lib.rs` is the root, `main.rs` is `main`.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// Where a mention stands, and so what it may be.
struct Place<'a> {
    path: &'a str,
    in_core: bool,
    module: Vec<String>,
    /// The names that lib.rs re-exports and what they stand for.
    public: &'a BTreeMap<String, Vec<String>>,
}

impl Place<'_> {
    fn objection(&self, mention: &Mention) -> Option<String> {
        if let Some(text) = &mention.text {
            let said = text.to_lowercase();
            let word = NOT_IN_CORE_STRINGS.iter().find(|word| self.in_core && said.contains(**word))?;
            return Some(format!("lb-core's strings never say `{word}`"));
        }
        let ends = |tail: &&&[&str]| mention.path.windows(tail.len()).any(|part| part == **tail);
        if let Some(tail) = OUTSIDE_WORLD.iter().find(ends)
            && !WINDOWS.contains(&self.path)
        {
            return Some(format!(
                "`{}` is an argument, not to be read here: see lb-host/src/clock.rs",
                tail.join("::")
            ));
        }
        if self.in_core && NOT_IN_CORE.contains(&mention.path[0].as_str()) {
            return Some(format!("lb-core never names `{}`", mention.path[0]));
        }
        self.import_objection(&self.resolve(&mention.path)?)
    }

    /// The path from the crate's root on, `None` if it starts elsewhere or stays within this module.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let (base, rest) = match path[0].as_str() {
            "super" => (&self.module[..self.module.len().checked_sub(ups)?], &path[ups..]),
            "crate" | "lb_host" => (&self.module[..0], &path[1..]),
            _ => return None,
        };
        let whole = [base, rest].concat();
        (!whole.is_empty() && whole.first() != self.module.first()).then_some(whole)
    }

    fn import_objection(&self, import: &[String]) -> Option<String> {
        // The root declares and re-exports all modules.
        let module = self.module.first()?;
        if !self.in_core {
            let only_from = HOST_ONLY_FROM.iter().find(|(theirs, _)| import[0] == *theirs);
            let refused = only_from.is_some_and(|(_, importers)| !importers.contains(&module.as_str()))
                || HOST_NEVER.iter().any(|(ours, never)| module == ours && never.contains(&import[0].as_str()));
            return refused.then(|| format!("`{module}` may not import `{}`", import[0]));
        }
        let Some((_, allowed)) = CORE.iter().find(|(ours, _)| module == ours) else {
            return Some(format!("`{module}` is not in the table of tests/layering.rs: say what it may import"));
        };
        let meant = self.public.get(&import[0]);
        let full = meant.map_or(import, Vec::as_slice);
        if full[0] == *module || meant.is_some() && allowed.contains(&PUBLIC) {
            return None;
        }
        let begins =
            |entry: &str| entry.split("::").enumerate().all(|(at, part)| full.get(at).is_some_and(|p| p == part));
        let admitted = allowed.iter().any(|entry| begins(entry));
        (!admitted).then(|| format!("`{module}` may not import `{}`, only {allowed:?}", full.join("::")))
    }
}

/// A path or a string in a source, outside tests and comments.
struct Mention {
    line: usize,
    /// `crate::flow::FlowId` as its parts; a lone word is a path of one; a method call is `.name`.
    path: Vec<String>,
    /// Set for a string literal, whose path is empty.
    text: Option<String>,
    /// Whether a `pub use` says it, and by which name it is then known.
    exported: Option<String>,
}

#[derive(Default)]
struct Source {
    mentions: Vec<Mention>,
    /// The names in `#[cfg(test)] mod name;`.
    test_modules: Vec<String>,
}

impl Source {
    fn read(text: &str) -> Self {
        let mut source = Self::default();
        let tokens: TokenStream = text.parse().expect("a file that Rust can read");
        source.walk(&tokens.into_iter().collect::<Vec<_>>(), &[], false);
        source
    }

    /// What `#[cfg(test)] mod name;` in the file of this path names: `dir/name.rs` and `dir/name/`.
    fn test_files(&self, path: &str) -> Vec<String> {
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
        let inside = match file {
            "mod.rs" | "lib.rs" | "main.rs" => directory.to_owned(),
            _ => format!("{directory}/{}", file.trim_end_matches(".rs")),
        };
        self.test_modules.iter().flat_map(|name| [format!("{inside}/{name}.rs"), format!("{inside}/{name}/")]).collect()
    }

    fn re_exports(&self) -> BTreeMap<String, Vec<String>> {
        let exported = |mention: &Mention| Some((mention.exported.clone()?, mention.path.clone()));
        self.mentions.iter().filter_map(exported).collect()
    }

    /// Reads tokens that stand inside these inline modules; `quiet` in attributes, whose strings explain.
    fn walk(&mut self, tokens: &[TokenTree], inline: &[String], quiet: bool) {
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            at += match rest {
                [hash, ..] if is(hash, "#") => self.attribute(rest, inline),
                [word, next, ..] if is(word, "use") && !is(next, "<") => self.use_item(tokens, at, inline),
                [word, TokenTree::Ident(name), TokenTree::Group(body), ..] if is(word, "mod") => {
                    let deeper = [inline, &[name.to_string()]].concat();
                    self.walk(&body.stream().into_iter().collect::<Vec<_>>(), &deeper, quiet);
                    3
                }
                [dot, TokenTree::Ident(name), TokenTree::Group(arguments), ..]
                    if is(dot, ".") && arguments.delimiter() == Delimiter::Parenthesis =>
                {
                    self.mention(name.span(), vec![format!(".{name}")], inline, None);
                    2
                }
                [TokenTree::Ident(first), ..] => {
                    let (path, used) = path(rest);
                    self.mention(first.span(), path, inline, None);
                    used
                }
                [TokenTree::Group(group), ..] => {
                    self.walk(&group.stream().into_iter().collect::<Vec<_>>(), inline, quiet);
                    1
                }
                [TokenTree::Literal(literal), ..] => {
                    let text = literal.to_string();
                    if text.contains('"') && !quiet {
                        let line = literal.span().start().line;
                        self.mentions.push(Mention {
                            line,
                            path: vec![String::new()],
                            text: Some(text),
                            exported: None,
                        });
                    }
                    1
                }
                _ => 1,
            };
        }
    }

    /// Reads an attribute, and skips the item behind it if it makes that a test. Returns the tokens used.
    fn attribute(&mut self, tokens: &[TokenTree], inline: &[String]) -> usize {
        let bang = usize::from(tokens.get(1).is_some_and(|token| is(token, "!")));
        let Some(TokenTree::Group(group)) = tokens.get(1 + bang) else { return 1 };
        let used = 2 + bang;
        let inside: Vec<_> = group.stream().into_iter().collect();
        if inside.first().is_some_and(|word| is(word, "doc")) {
            return used;
        }
        let condition: String = group.stream().to_string().split_whitespace().collect();
        if condition != "cfg(test)" && !condition.starts_with("cfg(all(test,") {
            self.walk(&inside, inline, true);
            return used;
        }
        let item = &tokens[used..];
        let end = item.iter().position(|token| is(token, ";") || is(token, "{}")).map_or(item.len(), |end| end + 1);
        if let [word, TokenTree::Ident(name), TokenTree::Punct(_)] = &item[end.saturating_sub(3)..end]
            && is(word, "mod")
        {
            self.test_modules.push(name.to_string());
        }
        used + end
    }

    /// Reads the `use` at this place, each of its leaves a mention. Returns the tokens used.
    fn use_item(&mut self, tokens: &[TokenTree], at: usize, inline: &[String]) -> usize {
        let exported = at > 0 && is(&tokens[at - 1], "pub");
        let item = &tokens[at + 1..];
        let end = item.iter().position(|token| is(token, ";")).unwrap_or(item.len());
        self.use_tree(&item[..end], &[], inline, exported);
        1 + end
    }

    fn use_tree(&mut self, tokens: &[TokenTree], prefix: &[String], inline: &[String], exported: bool) {
        for branch in tokens.split(|token| is(token, ",")).filter(|branch| !branch.is_empty()) {
            let (parts, used) = path(branch);
            let mut whole = [prefix, &parts].concat();
            match &branch[used..] {
                [.., TokenTree::Group(group)] => {
                    self.use_tree(&group.stream().into_iter().collect::<Vec<_>>(), &whole, inline, exported);
                }
                rest => {
                    match rest {
                        [.., star] if is(star, "*") => whole.push("*".to_owned()),
                        _ if whole.last().is_some_and(|last| last == "self") && whole.len() > 1 => drop(whole.pop()),
                        _ => {}
                    }
                    let known = match rest {
                        [word, TokenTree::Ident(name)] if is(word, "as") => Some(name.to_string()),
                        _ => whole.last().cloned(),
                    };
                    self.mention(branch[0].span(), whole, inline, known.filter(|_| exported));
                }
            }
        }
    }

    /// Notes a path; `self` and `super` are first taken from the inline modules to the file's own.
    fn mention(&mut self, at: proc_macro2::Span, path: Vec<String>, inline: &[String], exported: Option<String>) {
        let ups = path.iter().take_while(|part| *part == "super").count();
        // Within the file nothing is imported.
        let inside = path[0] == "super" && ups <= inline.len();
        let path = if inside { vec!["self".to_owned()] } else { path[ups.min(inline.len())..].to_vec() };
        self.mentions.push(Mention { line: at.start().line, path, text: None, exported });
    }
}

/// The path that starts here, without what ends it, and how many tokens it is long.
fn path(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let mut parts = Vec::new();
    let mut used = 0;
    // A leading `::` starts a path to another crate.
    if tokens.len() > 1 && is(&tokens[0], ":") && is(&tokens[1], ":") {
        used = 2;
    }
    while let Some(TokenTree::Ident(name)) = tokens.get(used) {
        parts.push(name.to_string());
        used += 1;
        match &tokens[used..] {
            [a, b, ..] if is(a, ":") && is(b, ":") => used += 2,
            _ => break,
        }
    }
    (parts, used)
}

/// Whether a token is this word or sign; `{}` is any group in braces.
fn is(token: &TokenTree, what: &str) -> bool {
    match token {
        TokenTree::Ident(word) => *word == what,
        TokenTree::Punct(sign) => what.len() == 1 && what.starts_with(sign.as_char()),
        TokenTree::Group(group) => what == "{}" && group.delimiter() == Delimiter::Brace,
        TokenTree::Literal(_) => false,
    }
}

/// Whoever links the packet path builds this much, and no more.
#[test]
fn without_features_lb_core_is_built_of_three_crates() {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--offline", "-p", "lb-core", "--no-default-features"]);
    let output = cargo.args(["-e", "normal,no-proc-macro", "--prefix", "none", "-f", "{lib}"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let crates = String::from_utf8(output.stdout).unwrap();
    assert_eq!(crates.split_whitespace().collect::<Vec<_>>(), ["lb_core", "bytemuck", "siphasher"]);
}

#[test]
fn planted_violations_are_caught() {
    const LIB: &str = "pub use time::Instant; pub use flow::{Direction, table::Table as Flows}; pub mod wire;";
    let long = "\n".repeat(LINES + 1);
    #[rustfmt::skip]
    let cases: &[(&str, &str, Option<&str>)] = &[
        // file, its text, what is said about it
        ("lb-core/src/wire/tcp.rs",      "use crate::tuple::Tuple;",                              None),
        ("lb-core/src/wire/tcp.rs",      "use super::Headers; use crate::wire::ipv4;",            None),
        ("lb-core/src/wire/tcp.rs",      "use crate::flow::FlowId;",                              Some(":1: `wire` may not import `flow::FlowId`")),
        ("lb-core/src/wire/tcp.rs",      "\nuse crate::{tuple::Tuple, flow};",                    Some(":2: `wire` may not import `flow`")),
        ("lb-core/src/wire/tcp.rs",      "use super::super::flow::FlowId;",                       Some("import `flow::FlowId`")),
        ("lb-core/src/wire/mod.rs",      "use super::flow::{self, FlowId};",                      Some("import `flow`")),
        ("lb-core/src/wire/mod.rs",      "fn f(id: crate::flow::FlowId) {}",                      Some("import `flow::FlowId`")),
        ("lb-core/src/wire/mod.rs",      "fn f() -> u8 { matches!(x, [super::nat::A]) }",         Some("import `nat::A`")),
        ("lb-core/src/wire/mod.rs",      "macro_rules! m { () => { $crate::nat::f() } }",         Some("import `nat::f`")),
        ("lb-core/src/wire/mod.rs",      "use crate::Instant;",                                   Some("import `time::Instant`")),
        ("lb-core/src/wire/mod.rs",      "use crate::Flows;",                                     Some("import `flow::table::Table`")),
        ("lb-core/src/wire/mod.rs",      "use crate::*;",                                         Some("import `*`")),
        ("lb-core/src/wire/mod.rs",      "mod inner { use super::Headers; use crate::tuple::Tuple; }", None),
        ("lb-core/src/wire/mod.rs",      "mod inner { use super::super::flow::FlowId; }",         Some("import `flow::FlowId`")),
        ("lb-core/src/wire/mod.rs",      "/// [`FlowId`](crate::flow::FlowId)\n// use crate::flow;\nstruct A;", None),
        ("lb-core/src/wire/mod.rs",      "const A: &str = \"use crate::flow;\";",                 None),
        ("lb-core/src/wire/mod.rs",      "#[cfg(test)] mod tests { use super::*; use crate::flow::FlowId; use std::vec; }", None),
        ("lb-core/src/wire/mod.rs",      "#[cfg(test)] mod tests {} use crate::flow::FlowId;",    Some("import `flow::FlowId`")),
        ("lb-core/src/wire/mod.rs",      "#[cfg(test)]\n#[allow(x)] use crate::flow; use crate::nat;", Some(":2: `wire` may not import `nat`")),
        ("lb-core/src/wire/mod.rs",      "#[cfg(not(test))] use crate::flow;",                    Some("import `flow`")),
        ("lb-core/src/wire/mod.rs",      "#[cfg(any(test, feature = \"x\"))] use crate::flow;",   Some("import `flow`")),
        ("lb-core/src/rules/decide.rs",  "use crate::wire::Headers;",                             Some("`rules` may not import `wire::Headers`")),
        ("lb-core/src/rules/decide.rs",  "use crate::packet::Origin; use crate::scheduler::Scheduler;", None),
        ("lb-core/src/rules/decide.rs",  "use crate::pick::maglev;",                              Some("import `pick::maglev`")),
        ("lb-core/src/rules/decide.rs",  "use crate::packet::Packet;",                            Some("import `packet::Packet`")),
        ("lb-core/src/pick/maglev.rs",   "use crate::flow::Direction;",                           Some("`pick` may not import `flow::Direction`")),
        ("lb-core/src/flow/table.rs",    "use crate::{config::Timeouts, hash::Key, time::Instant, tuple::Tuple};", None),
        ("lb-core/src/flow/table.rs",    "use crate::wire::TcpFlags;",                            Some("import `wire::TcpFlags`")),
        ("lb-core/src/nat/rewrite.rs",   "use crate::{tuple::Tuple, wire::Headers}; use super::Checksum;", None),
        ("lb-core/src/nat/rewrite.rs",   "use crate::rules::RuleTable;",                          Some("import `rules::RuleTable`")),
        ("lb-core/src/verdict.rs",       "use crate::flow::{Direction, FlowId};",                 None),
        ("lb-core/src/verdict.rs",       "use crate::flow::table;",                               Some("`verdict` may not import `flow::table`")),
        ("lb-core/src/packet.rs",        "pub use crate::wire::Link; use super::balancer::Balancer;", Some("import `balancer::Balancer`")),
        ("lb-core/src/balancer.rs",      "use crate::{flow, nat, pick, rules, wire};",            None),
        ("lb-core/src/balancer.rs",      "use crate::control::Service;",                          Some("import `control::Service`")),
        ("lb-core/src/control/mod.rs",   "use crate::{pick::maglev, rules::image};",              None),
        ("lb-core/src/control/mod.rs",   "use crate::nat::Checksum;",                             Some("import `nat::Checksum`")),
        ("lb-core/src/ffi/mod.rs",       "use crate::{Instant, balancer::Balancer};",             None),
        ("lb-core/src/ffi/mod.rs",       "use crate::flow::table;",                               Some("`ffi` may not import `flow::table`")),
        ("lb-core/src/magic.rs",         "use crate::tuple::Tuple;",                              Some("`magic` is not in the table")),
        ("lb-core/src/lib.rs",           "pub use crate::flow::FlowId; mod flow; mod wire;",      None),
        ("lb-core/src/time.rs",          "use std::vec::Vec;",                                    Some("never names `std`")),
        ("lb-core/src/time.rs",          "extern crate std;",                                     Some("never names `std`")),
        ("lb-core/src/time.rs",          "fn f() { ::std::process::abort() }",                    Some("never names `std`")),
        ("lb-core/src/time.rs",          "#![no_std] extern crate alloc; use core::time::Duration;", None),
        ("lb-core/src/time.rs",          "#[derive(serde::Serialize)] struct A;",                 Some("never names `serde`")),
        ("lb-core/src/time.rs",          "#[cfg_attr(feature = \"x\", derive(serde::Serialize))] struct A;", Some("never names `serde`")),
        ("lb-core/src/time.rs",          "const A: &str = \"topology.Kubernetes.io/zone\";",      Some("never say `kubernetes`")),
        ("lb-core/src/time.rs",          "/// as kube-proxy does\n#[allow(x, reason = \"kube-proxy\")] const A: u8 = 0;", None),
        ("lb-host/src/device/pcap.rs",   "use crate::k8s::Manifest;",                             Some("`device` may not import `k8s`")),
        ("lb-host/src/dns/zone/mod.rs",  "use crate::k8s::Manifests;",                            None),
        ("lb-host/src/dns/live.rs",      "use crate::clock::now;",                                Some("`dns` may not import `clock`")),
        ("lb-host/src/dns/server.rs",    "use crate::host::Host;",                                Some("`dns` may not import `host`")),
        ("lb-host/src/replay.rs",        "use crate::k8s::Manifest; use std::vec::Vec;",          None),
        ("lb-host/src/demo/mod.rs",      "use crate::cluster::kubernetes::Kubernetes;",           None),
        ("lb-host/src/demo/mod.rs",      "use crate::clock::now;",                                Some("`demo` may not import `clock`")),
        ("lb-host/src/cluster/mod.rs",   "use crate::demo::Options;",                             Some("import `demo`")),
        ("lb-host/src/replay.rs",        "use crate::cli::Table;",                                Some("`replay` may not import `cli`")),
        ("lb-host/src/run/worker.rs",    "use crate::device::Device; use crate::k8s::Problems;",   None),
        ("lb-host/src/run/worker.rs",    "use crate::host::Host;",                                Some("`run` may not import `host`")),
        ("lb-host/src/k8s/check.rs",     "use crate::cluster::api::Api;",                         Some("`k8s` may not import `cluster`")),
        ("lb-host/src/cli/mod.rs",       "use super::replay; use crate::cli::table;",             None),
        ("lb-host/src/main.rs",          "use lb_host::cli; fn main() { let _ = std::time::SystemTime::now(); }", None),
        ("lb-host/src/replay.rs",        "fn f() { std::time::Instant::now(); }",                 Some("`Instant::now` is an argument")),
        ("lb-host/src/replay.rs",        "fn f() { start.elapsed(); }",                           Some("`.elapsed` is an argument")),
        ("lb-host/src/replay.rs",        "struct A { elapsed: u8 } fn f(a: A) { a.elapsed; }",    None),
        ("lb-host/src/replay.rs",        "use std::time::{Duration, SystemTime};",                Some("`SystemTime` is an argument")),
        ("lb-host/src/replay.rs",        "fn f() { getrandom::fill(&mut key); }",                 Some("`getrandom` is an argument")),
        ("lb-host/src/clock.rs",         "fn f() { Instant::now(); }",                            None),
        ("lb-core/src/ffi/mod.rs",       "#[unsafe(no_mangle)] fn f() { unsafe { g() } }",        None),
        ("lb-core/src/hash.rs",          "#![forbid(unsafe_code)] fn f() { unsafe { g() } }",     Some("unsafe code outside")),
        ("tests/flows.rs",               &long,                                                   Some("longer than 1000 lines")),
    ];
    for (path, text, expected) in cases {
        // One other file may be unsafe, so that the case above is the second.
        let mut files = vec![("lb-host/src/device/other.rs".to_owned(), "fn f() { unsafe { g() } }".to_owned())];
        if *path != "lb-core/src/lib.rs" {
            files.push(("lb-core/src/lib.rs".to_owned(), LIB.to_owned()));
        }
        files.push(((*path).to_owned(), (*text).to_owned()));
        let found = violations(&files).join("\n");
        match expected {
            None => assert_eq!(found, "", "{path}: {text}"),
            Some(words) => assert!(found.contains(words), "{path}: {text}\n  said: {found}\n  not: {words}"),
        }
    }
}

#[test]
fn a_file_declared_as_a_test_is_exempt() {
    let files = [
        ("lb-core/src/wire/mod.rs", "#[cfg(test)]\nmod tests; mod tcp;"),
        ("lb-core/src/wire/tests.rs", "use crate::flow::FlowId;"),
        ("lb-core/src/wire/tests/table.rs", "use std::vec;"),
        ("lb-core/src/wire/tcp.rs", "use crate::flow::FlowId;"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()));
    let found = violations(&files);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("lb-core/src/wire/tcp.rs:1:"), "{found:?}");
}
