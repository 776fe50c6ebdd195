//! Provider configurations declared in files, `*.cfg`.
//!
//! YAML with one list, `providers`, whose entries have the fields of the call that would make them:
//! `name`, `manager` (the name, if left out), `config`, and `metadata` with `labels`. Anything else
//! is an error with its file and line.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use yaml_rust2::{
    Yaml,
    parser::{Event, Parser},
    scanner::TScalarStyle,
};

use crate::{Labels, NewProvider, validate::Check};

/// Largest file.
const MAX_FILE: u64 = 1024 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 32;

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    file: PathBuf,
    /// Counted from 1; `None` when it is about the whole file.
    line: Option<usize>,
    reason: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A provider configuration of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// What it declares.
    pub provider: NewProvider,
    /// Which file.
    pub file: PathBuf,
    /// Where it begins there, counted from 1.
    pub line: usize,
}

/// Reads a file, or every `*.cfg` of a directory, by name.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_providers(path: &Path) -> Result<Vec<Declared>, FileError> {
    let whole = |reason: String| FileError { file: path.into(), line: None, reason };
    let mut declared = Vec::<Declared>::new();
    for file in files(path).map_err(|error| whole(format!("cannot be read ({error})")))? {
        for new in read_file(&file)? {
            let same = |known: &&Declared| {
                known.provider.name == new.provider.name
                    && known.provider.manager == new.provider.manager
            };
            if let Some(known) = declared.iter().find(same) {
                return Err(FileError {
                    file: new.file,
                    line: Some(new.line),
                    reason: format!(
                        "`{}` of {} is declared already, at {}:{}",
                        known.provider.name,
                        known.provider.manager,
                        known.file.display(),
                        known.line
                    ),
                });
            }
            declared.push(new);
        }
    }
    Ok(declared)
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "cfg") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Path) -> Result<Vec<Declared>, FileError> {
    let at = |line: Option<usize>, reason: String| FileError { file: file.into(), line, reason };
    let length = fs::metadata(file).map(|about| about.len());
    match length {
        Ok(length) if length > MAX_FILE => {
            return Err(at(None, format!("is larger than {MAX_FILE} bytes")));
        }
        _ => {}
    }
    let text =
        fs::read_to_string(file).map_err(|error| at(None, format!("cannot be read ({error})")))?;
    read_text(&text)
        .map(|entries| {
            let declare = |(line, provider)| Declared { provider, file: file.into(), line };
            entries.into_iter().map(declare).collect()
        })
        .map_err(|Wrong { line, reason }| at(Some(line), reason))
}

/// What is wrong with a text, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    line: usize,
    reason: String,
}

impl Wrong {
    fn new<T>(line: usize, reason: impl Into<String>) -> Result<T, Self> {
        Err(Self { line, reason: reason.into() })
    }
}

pub(crate) fn read_text(text: &str) -> Result<Vec<(usize, NewProvider)>, Wrong> {
    let root = tree(text)?;
    let mut providers = None;
    for (name, node) in root.entries("a map with the key `providers`")? {
        match name.as_str() {
            "providers" => providers = Some(node),
            _ => {
                return Wrong::new(
                    node.line,
                    format!("unknown key `{name}`; there is `providers`"),
                );
            }
        }
    }
    let Some(providers) = providers else {
        return Wrong::new(root.line, "expected the key `providers`, a list");
    };
    let Content::List(items) = &providers.content else {
        return Wrong::new(providers.line, "expected a list of providers, each after `- `");
    };
    items.iter().map(|item| Ok((item.line, provider(item)?))).collect()
}

fn provider(node: &Tree) -> Result<NewProvider, Wrong> {
    let mut new = NewProvider { config_json: b"{}".to_vec(), ..NewProvider::default() };
    let mut manager = None;
    for (name, value) in node.entries("a provider with `name`, `manager`, `config`, `metadata`")? {
        match name.as_str() {
            "name" => new.name = value.text("name")?,
            "manager" => manager = Some(value.text("manager")?),
            "config" => new.config_json = config(value)?,
            "metadata" => new.labels = labels(value)?,
            _ => {
                return Wrong::new(
                    value.line,
                    format!(
                        "unknown key `{name}`; a provider has `name`, `manager`, `config`, `metadata`"
                    ),
                );
            }
        }
    }
    if new.name.is_empty() {
        return Wrong::new(node.line, "the provider has no `name`");
    }
    new.manager = manager.unwrap_or_else(|| new.name.clone());
    new.name = new.name.to_lowercase();
    check(&new).map_err(|reason| Wrong { line: node.line, reason })?;
    Ok(new)
}

/// The rules of the call.
fn check(new: &NewProvider) -> Result<(), String> {
    let mut check = Check::default();
    check.provider_name("name", &new.name);
    check.provider_name("manager", &new.manager);
    check.config_json(&new.config_json);
    check.labels(&new.labels);
    check.done_or_first()
}

fn config(node: &Tree) -> Result<Vec<u8>, Wrong> {
    match node.json() {
        value @ Value::Object(_) => Ok(value.to_string().into_bytes()),
        _ => Wrong::new(node.line, "`config` must be a map of settings"),
    }
}

fn labels(node: &Tree) -> Result<Labels, Wrong> {
    let mut labels = Labels::new();
    for (name, value) in node.entries("`metadata` with `labels`")? {
        if name != "labels" {
            return Wrong::new(value.line, format!("unknown key `{name}`; metadata has `labels`"));
        }
        for (name, value) in value.entries("a map of labels")? {
            labels.insert(name.clone(), value.text(name)?);
        }
    }
    Ok(labels)
}

/// YAML with the line of everything.
#[derive(Debug, Clone)]
struct Tree {
    line: usize,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Scalar(Yaml),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    fn entries(&self, expected: &str) -> Result<&[(String, Self)], Wrong> {
        match &self.content {
            Content::Map(entries) => Ok(entries),
            _ => Wrong::new(self.line, format!("expected {expected}")),
        }
    }

    fn text(&self, what: &str) -> Result<String, Wrong> {
        match &self.content {
            Content::Scalar(Yaml::String(text)) if !text.is_empty() => Ok(text.clone()),
            _ => Wrong::new(self.line, format!("`{what}` must be a text that is not empty")),
        }
    }

    fn json(&self) -> Value {
        match &self.content {
            Content::Scalar(Yaml::String(text)) => Value::String(text.clone()),
            Content::Scalar(Yaml::Integer(number)) => Value::from(*number),
            Content::Scalar(Yaml::Boolean(truth)) => Value::Bool(*truth),
            Content::Scalar(scalar) => scalar.as_f64().map_or(Value::Null, Value::from),
            Content::List(items) => items.iter().map(Self::json).collect(),
            Content::Map(entries) => {
                let entries = entries.iter().map(|(name, value)| (name.clone(), value.json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }
}

/// Reads event by event: `Parser::load` recurses as deep as the text is nested.
fn tree(text: &str) -> Result<Tree, Wrong> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    loop {
        let (event, mark) = parser.next_token().map_err(|error| Wrong {
            line: error.marker().line(),
            reason: error.info().to_owned(),
        })?;
        if event == Event::StreamEnd {
            break;
        }
        builder.take(event, mark.line())?;
    }
    match builder.root {
        Some(root) => Ok(root),
        None => Wrong::new(1, "the file is empty; expected the key `providers`, a list"),
    }
}

/// Builds a [`Tree`] of parser events.
#[derive(Debug, Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Tree>,
}

/// A list or map that has not ended.
#[derive(Debug)]
struct Open {
    tree: Tree,
    /// The key of a map whose value comes next.
    key: Option<String>,
}

impl Builder {
    fn take(&mut self, event: Event, line: usize) -> Result<(), Wrong> {
        match event {
            Event::Scalar(text, TScalarStyle::Plain, ..) => {
                let content = Content::Scalar(Yaml::from_str(&text));
                self.add(Tree { line, content })
            }
            Event::Scalar(text, ..) => {
                self.add(Tree { line, content: Content::Scalar(Yaml::String(text)) })
            }
            Event::SequenceStart(..) => self.begin(line, Content::List(Vec::new())),
            Event::MappingStart(..) => self.begin(line, Content::Map(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.add(open.tree),
                None => Ok(()),
            },
            Event::Alias(_) => Wrong::new(line, "aliases are not used here; write it out"),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, content: Content) -> Result<(), Wrong> {
        if self.open.len() >= MAX_DEPTH {
            return Wrong::new(line, "is nested too deeply");
        }
        self.open.push(Open { tree: Tree { line, content }, key: None });
        Ok(())
    }

    fn add(&mut self, tree: Tree) -> Result<(), Wrong> {
        let Some(Open { tree: parent, key }) = self.open.last_mut() else {
            return match self.root.replace(tree) {
                None => Ok(()),
                Some(_) => Wrong::new(1, "holds more than one document"),
            };
        };
        let line = tree.line;
        match (&mut parent.content, key.take(), tree.content) {
            (Content::List(items), _, content) => items.push(Tree { line, content }),
            (Content::Map(entries), Some(name), content) => {
                if entries.iter().any(|(known, _)| *known == name) {
                    return Wrong::new(line, format!("`{name}` is there twice"));
                }
                entries.push((name, Tree { line, content }));
            }
            (Content::Map(_), None, Content::Scalar(Yaml::String(name))) => *key = Some(name),
            (Content::Map(_) | Content::Scalar(_), ..) => {
                return Wrong::new(line, "expected a text as the key");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_call_would_be() {
        let text = "providers:\n\
                    - name: Main\n  manager: opentdf.io/hsm\n  config:\n    module: softhsm\n    \
                    workers: 2\n  metadata: { labels: { team: kas } }\n\
                    - name: opentdf.io/basic\n";
        let providers = read_text(text).unwrap();
        let [(2, main), (8, basic)] = &providers[..] else { panic!("{providers:?}") };
        assert_eq!(main.name, "main");
        assert_eq!(main.manager, "opentdf.io/hsm");
        assert_eq!(main.config_json, br#"{"module":"softhsm","workers":2}"#);
        assert_eq!(main.labels["team"], "kas");
        assert_eq!((&*basic.manager, &*basic.config_json), ("opentdf.io/basic", &b"{}"[..]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, reason) in [
            ("", 1, "is empty"),
            ("- a\n", 1, "expected a map"),
            ("providers: x\n", 1, "expected a list"),
            ("providers:\n- name: a\n  confg: {}\n", 3, "unknown key `confg`"),
            ("providers:\n- name: a\nextra: 1\n", 3, "unknown key `extra`"),
            ("providers:\n- manager: a\n", 2, "no `name`"),
            ("providers:\n- name: a\n  config: 7\n", 3, "must be a map"),
            ("providers:\n- name: a\n  name: b\n", 3, "twice"),
            ("providers:\n- name: a\n  metadata:\n    labels: { x: 1 }\n", 4, "must be a text"),
            ("providers:\n- name: a\n  metadata: { owner: x }\n", 3, "unknown key `owner`"),
            ("providers:\n- name: a\n  config: *b\n", 3, ""),
            ("providers:\n- name: [\n", 3, ""),
            ("a: 1\n---\nb: 2\n", 1, "more than one"),
            ("providers:\n- name: \"\"\n", 2, "not empty"),
        ] {
            let wrong = read_text(text).unwrap_err();
            assert!(wrong.reason.contains(reason), "{text:?}: {wrong:?}");
            assert_eq!(wrong.line, line, "{text:?}: {wrong:?}");
        }
    }

    #[test]
    fn what_no_call_would_pass_is_refused() {
        let long = "x".repeat(256);
        let config = "x".repeat(64 * 1024);
        for (entry, reason) in [
            (format!("name: {long}"), "name: value length must be at most 255 characters"),
            ("name: \"a\\0\"".to_owned(), "name: value must not have control characters"),
            (format!("{{name: a, manager: {long}}}"), "manager: value length"),
            (format!("{{name: a, config: {{b: {config}}}}}"), "config_json: value length"),
            ("{name: a, metadata: {labels: {b: \"\\0\"}}}".to_owned(), "metadata.labels: "),
        ] {
            let wrong = read_text(&format!("providers:\n- {entry}\n")).unwrap_err();
            assert!(wrong.reason.starts_with(reason), "{entry:.40}: {wrong:?}");
            assert_eq!(wrong.line, 2);
        }
    }

    #[test]
    fn nesting_is_bounded_before_it_is_followed() {
        for open in ["- ", "? ", "[", "{a: ", "providers: ["] {
            let text = open.repeat(50_000);
            let Wrong { reason, .. } = read_text(&text).unwrap_err();
            // The second is the parser's own word, of brackets that it looks through at once.
            let expected = ["is nested too deeply", "recursion limit exceeded"];
            assert!(expected.contains(&&*reason), "{open}: {reason}");
        }
    }
}
