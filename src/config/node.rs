//! YAML text → a tree in which every value knows its line: anchors, aliases and merge keys are resolved (D-CFG-1),
//! scalars keep their text, because only the key they stand under decides whether `1` is a number or a string.
//!
//! The parser is used by its events, not by its ready-made tree: so a key given twice is one finding among the others
//! instead of the end of the run (D-CFG-3).

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

/// Deeper nesting than any configuration needs; keeps a hostile file from exhausting the stack.
const MAX_DEPTH: usize = 64;
/// So many values may come into being through aliases: a few nested aliases can otherwise stand for billions.
const MAX_ALIASED: usize = 100_000;

/// A place in the file, both numbers from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

/// A value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
    /// Values below and including this one, aliases counted as often as they are used.
    size: usize,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar {
        text: String,
        /// Neither quoted nor a block: may be a number, a truth value or null.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    /// In the order of the file, keys unique, merged keys last.
    Map(Vec<(Key, Rc<Node>)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub name: String,
    pub at: Position,
}

/// A finding about the YAML itself.
#[derive(Debug)]
pub(super) struct Flaw {
    pub at: Position,
    pub path: String,
    pub message: String,
}

impl Node {
    /// Nothing after the colon, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value of a key, when this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(k, _)| k.name == key)
                .map(|(_, node)| &**node),
            _ => None,
        }
    }
}

/// The tree of a file with one document, and what is wrong with the YAML. There is no tree when the text ends early.
pub(super) fn read(text: &str) -> (Option<Rc<Node>>, Vec<Flaw>) {
    let mut tree = Tree::default();
    let mut parser = Parser::new_from_str(text);
    let outcome = tree.read_all(&mut parser);
    if let Err(flaw) = outcome {
        tree.flaws.push(flaw);
        return (None, tree.flaws);
    }
    (tree.root, tree.flaws)
}

#[derive(Default)]
struct Tree {
    open: Vec<Collection>,
    anchors: HashMap<usize, Rc<Node>>,
    aliased: usize,
    root: Option<Rc<Node>>,
    flaws: Vec<Flaw>,
}

/// A list or map whose end has not come yet.
struct Collection {
    at: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map {
        entries: Vec<(Key, Rc<Node>)>,
        merged: Vec<Rc<Node>>,
        seen: BTreeMap<String, Position>,
        key: Option<MapKey>,
    },
}

/// The key whose value comes next.
enum MapKey {
    Plain(Key),
    Merge,
    /// Already reported; its value is dropped.
    Refused,
}

impl Tree {
    fn read_all<'t>(
        &mut self,
        parser: &mut Parser<'t, saphyr_parser::StrInput<'t>>,
    ) -> Result<(), Flaw> {
        let mut documents = 0;
        for event in parser {
            let (event, span) = event.map_err(|e| {
                self.flaw(
                    position(*e.marker()),
                    format!("not valid YAML: {}", e.info()),
                )
            })?;
            let at = position(span.start);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(
                            self.flaw(at, "the file holds more than one YAML document".into())
                        );
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    let plain =
                        style == ScalarStyle::Plain && !tag.as_deref().is_some_and(is_string_tag);
                    self.refuse_own_tag(at, tag.as_deref());
                    let node = Node {
                        at,
                        value: Value::Scalar {
                            text: text.into_owned(),
                            plain,
                        },
                        size: 1,
                    };
                    self.add(anchor, node)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.refuse_own_tag(at, tag.as_deref());
                    self.open(at, anchor, Content::List(vec![]))?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.refuse_own_tag(at, tag.as_deref());
                    let content = Content::Map {
                        entries: vec![],
                        merged: vec![],
                        seen: BTreeMap::new(),
                        key: None,
                    };
                    self.open(at, anchor, content)?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(collection) = self.open.pop() {
                        let (anchor, node) = self.close(collection);
                        self.add(anchor, node)?;
                    }
                }
                Event::Alias(anchor) => {
                    let Some(node) = self.anchors.get(&anchor).cloned() else {
                        return Err(
                            self.flaw(at, "the alias stands inside the value it refers to".into())
                        );
                    };
                    self.aliased = self.aliased.saturating_add(node.size);
                    if self.aliased > MAX_ALIASED {
                        return Err(self.flaw(
                            at,
                            format!("aliases stand for more than {MAX_ALIASED} values"),
                        ));
                    }
                    self.place(at, node);
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn open(&mut self, at: Position, anchor: usize, content: Content) -> Result<(), Flaw> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.flaw(at, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(Collection {
            at,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self, collection: Collection) -> (usize, Node) {
        let Collection {
            at,
            anchor,
            content,
        } = collection;
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Map {
                mut entries,
                merged,
                mut seen,
                ..
            } => {
                for node in merged {
                    self.merge(&node, &mut entries, &mut seen);
                }
                Value::Map(entries)
            }
        };
        let below = match &value {
            Value::Scalar { .. } => 0,
            Value::List(items) => items
                .iter()
                .fold(0usize, |sum, n| sum.saturating_add(n.size)),
            Value::Map(entries) => entries
                .iter()
                .fold(0usize, |sum, (_, n)| sum.saturating_add(n.size)),
        };
        (
            anchor,
            Node {
                at,
                value,
                size: below.saturating_add(1),
            },
        )
    }

    /// `<<`: keys that the map has itself win, and among several sources the first.
    fn merge(
        &mut self,
        source: &Node,
        entries: &mut Vec<(Key, Rc<Node>)>,
        seen: &mut BTreeMap<String, Position>,
    ) {
        match &source.value {
            Value::Map(new) => {
                for (key, node) in new {
                    if !seen.contains_key(&key.name) {
                        seen.insert(key.name.clone(), key.at);
                        entries.push((key.clone(), node.clone()));
                    }
                }
            }
            Value::List(sources) if sources.iter().all(|s| matches!(s.value, Value::Map(_))) => {
                for source in sources {
                    self.merge(source, entries, seen);
                }
            }
            _ => {
                let flaw = self.flaw(source.at, "`<<` merges a map or a list of maps".into());
                self.flaws.push(flaw);
            }
        }
    }

    /// A finished value takes its name, then its place.
    fn add(&mut self, anchor: usize, node: Node) -> Result<(), Flaw> {
        let (at, node) = (node.at, Rc::new(node));
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(at, node);
        Ok(())
    }

    /// Into the innermost open collection, as its next item, key or value; outside of all it is the document.
    fn place(&mut self, at: Position, node: Rc<Node>) {
        let flaw = match self.open.last_mut().map(|c| &mut c.content) {
            None => {
                self.root = Some(node);
                None
            }
            Some(Content::List(items)) => {
                items.push(node);
                None
            }
            Some(Content::Map {
                entries,
                merged,
                seen,
                key,
            }) => match key.take() {
                Some(MapKey::Plain(key)) => {
                    entries.push((key, node));
                    None
                }
                Some(MapKey::Merge) => {
                    merged.push(node);
                    None
                }
                Some(MapKey::Refused) => None,
                None => match &node.value {
                    Value::Scalar { text, plain } => {
                        let first = seen.insert(text.clone(), at);
                        *key = Some(match first {
                            Some(_) => MapKey::Refused,
                            None if *plain && text == "<<" => MapKey::Merge,
                            None => MapKey::Plain(Key {
                                name: text.clone(),
                                at,
                            }),
                        });
                        first.map(|first| {
                            format!(
                                "the key `{text}` is given twice; the first is on line {}",
                                first.line
                            )
                        })
                    }
                    _ => {
                        *key = Some(MapKey::Refused);
                        Some("a key must be text".to_owned())
                    }
                },
            },
        };
        if let Some(message) = flaw {
            let flaw = self.flaw(at, message);
            self.flaws.push(flaw);
        }
    }

    fn refuse_own_tag(&mut self, at: Position, tag: Option<&Tag>) {
        if let Some(tag) = tag.filter(|t| !t.is_yaml_core_schema()) {
            let flaw = self.flaw(at, format!("the YAML tag `{tag}` has no meaning here"));
            self.flaws.push(flaw);
        }
    }

    fn flaw(&self, at: Position, message: String) -> Flaw {
        let mut path = String::new();
        for collection in &self.open {
            match &collection.content {
                Content::List(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Map {
                    key: Some(MapKey::Plain(key)),
                    ..
                } => path = join(&path, &key.name),
                Content::Map { .. } => {}
            }
        }
        Flaw { at, path, message }
    }
}

/// `path.key`, where the path may still be empty.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn is_string_tag(tag: &Tag) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == "str"
}

fn position(marker: saphyr_parser::Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: Option<&Node>) -> &str {
        match node.map(|n| &n.value) {
            Some(Value::Scalar { text, .. }) => text,
            other => panic!("a scalar was expected, not {other:?}"),
        }
    }

    fn flaws(yaml: &str) -> Vec<String> {
        read(yaml)
            .1
            .into_iter()
            .map(|f| format!("{}:{}: {}: {}", f.at.line, f.at.column, f.path, f.message))
            .collect()
    }

    #[test]
    fn d_cfg_1_anchors_aliases_and_merge_keys_work() {
        let (root, flaws) = read(
            "_a: &a {x: 1, y: 2}\n_b: &b {y: 3, z: 4}\nown: {<<: *a, x: 9}\nboth:\n  <<: [*a, *b]\nagain: &c\n  <<: *a\n\
             chain: {<<: *c}\nlist: [*a]\n",
        );
        let root = root.unwrap();
        assert!(flaws.is_empty(), "{flaws:?}"); // D-CFG-1
        assert_eq!(
            (
                text(root.get("own").unwrap().get("x")),
                text(root.get("own").unwrap().get("y"))
            ),
            ("9", "2")
        );
        let both = root.get("both").unwrap();
        assert_eq!(
            [
                text(both.get("x")),
                text(both.get("y")),
                text(both.get("z"))
            ],
            ["1", "2", "4"]
        );
        assert_eq!(text(root.get("chain").unwrap().get("x")), "1");
        let Value::List(items) = &root.get("list").unwrap().value else {
            panic!("a list")
        };
        assert_eq!(text(items[0].get("y")), "2");
    }

    #[test]
    fn a_key_given_twice_and_a_broken_merge_are_named_and_the_rest_is_still_read() {
        assert_eq!(
            flaws("a: 1\nb:\n- {c: 1, c: 2}\nb: 3\nd:\n  <<: 7\n? [x]\n: 1\n"),
            [
                "3:10: b[0]: the key `c` is given twice; the first is on line 3",
                "4:1: : the key `b` is given twice; the first is on line 2",
                "6:7: d: `<<` merges a map or a list of maps",
                "7:3: : a key must be text",
            ]
        );
    }

    #[test]
    fn a_syntax_error_names_its_line_and_column() {
        let (root, flaws) = read("a: 1\nb: [1, 2\nc: 3\n");
        assert!(root.is_none());
        assert_eq!((flaws.len(), flaws[0].at.line), (1, 3), "{flaws:?}");
        assert!(
            flaws[0].message.starts_with("not valid YAML: "),
            "{flaws:?}"
        );
    }

    #[test]
    fn files_made_to_exhaust_memory_or_stack_are_refused() {
        let mut bomb = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*l{}", level - 1);
            bomb.push_str(&format!(
                "l{level}: &l{level} [{}]\n",
                vec![alias; 10].join(", ")
            ));
        }
        assert!(
            flaws(&bomb)[0].contains("aliases stand for more than 100000 values"),
            "{:?}",
            flaws(&bomb)
        );
        assert!(
            flaws(&format!("a: {}", "[".repeat(200)))[0].contains("nested more than 64 levels")
        );
        assert!(flaws("a: &a [*a]")[0].contains("inside the value it refers to"));
        assert!(flaws("a: 1\n---\nb: 2\n")[0].contains("more than one YAML document"));
        assert!(flaws("a: !Ref b")[0].contains("tag"));
    }
}
