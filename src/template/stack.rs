//! The template under construction: its sections and resources, and whose resource is ours to fill.

use super::TemplateError;
use serde_json::{Map, Value, json};

pub(super) const ROLE: &str = "AWS::IAM::Role";
pub(super) const PROFILE: &str = "AWS::IAM::InstanceProfile";
pub(super) const SECURITY_GROUP: &str = "AWS::EC2::SecurityGroup";

/// Sections in the order in which people expect them.
const SECTIONS: [&str; 10] = [
    "AWSTemplateFormatVersion",
    "Description",
    "Transform",
    "Metadata",
    "Parameters",
    "Rules",
    "Mappings",
    "Conditions",
    "Resources",
    "Outputs",
];

pub(super) struct Stack {
    document: Map<String, Value>,
    pub warnings: Vec<String>,
}

impl Stack {
    /// Checks the shape of what we are going to touch.
    pub fn new(mut document: Map<String, Value>) -> Result<Self, TemplateError> {
        document
            .entry("AWSTemplateFormatVersion")
            .or_insert_with(|| json!("2010-09-09"));
        document.entry("Resources").or_insert_with(|| json!({}));
        for (name, resource) in object(document.get("Resources"), "Resources")? {
            // `Fn::ForEach::…` and `Fn::Transform` make resources that we can't see.
            if name.starts_with("Fn::") {
                continue;
            }
            let part = format!("Resources.{name}");
            let fields = object(Some(resource), &part)?;
            if !fields.get("Type").is_some_and(Value::is_string) {
                return Err(TemplateError::new(
                    part,
                    "the resource has no type",
                    "add `Type`, such as AWS::SQS::Queue",
                ));
            }
            for field in ["Properties", "Metadata"] {
                if let Some(value) = fields.get(field) {
                    object(Some(value), &format!("{part}.{field}"))?;
                }
            }
        }
        Ok(Self {
            document,
            warnings: Vec::new(),
        })
    }

    /// Ours, before what the user wrote (D-TPL-54).
    pub fn describe(&mut self, ours: &str) {
        let text = match self.document.get("Description").and_then(Value::as_str) {
            Some(user) if !user.is_empty() => format!("{ours}: {user}"),
            _ => ours.to_owned(),
        };
        // CloudFormation takes 1024 bytes.
        let end = (0..=text.len().min(1024))
            .rev()
            .find(|&i| text.is_char_boundary(i))
            .unwrap_or(0);
        self.document
            .insert("Description".into(), json!(text[..end]));
    }

    /// A section that is a map, made when it is missing.
    pub fn section(&mut self, name: &str) -> Result<&mut Map<String, Value>, TemplateError> {
        object_mut(self.document.entry(name).or_insert_with(|| json!({})), name)
    }

    pub fn read_section(&self, name: &str) -> Option<&Map<String, Value>> {
        self.document.get(name).and_then(Value::as_object)
    }

    pub fn resource(&self, id: &str) -> Option<&Value> {
        self.read_section("Resources")?.get(id)
    }

    pub fn type_of(&self, id: &str) -> Option<&str> {
        self.resource(id)?.get("Type")?.as_str()
    }

    pub fn property(&self, id: &str, name: &str) -> Option<&Value> {
        self.resource(id)?.get("Properties")?.get(name)
    }

    pub fn properties(&mut self, id: &str) -> Result<&mut Map<String, Value>, TemplateError> {
        self.field(id, "Properties")
    }

    pub fn metadata(&mut self, id: &str) -> Result<&mut Map<String, Value>, TemplateError> {
        self.field(id, "Metadata")
    }

    pub fn resource_mut(&mut self, id: &str) -> Result<&mut Map<String, Value>, TemplateError> {
        let resource = self.section("Resources")?.get_mut(id).ok_or_else(|| {
            TemplateError::new(
                format!("Resources.{id}"),
                "there is no such resource",
                "define it, or refer to another one",
            )
        })?;
        object_mut(resource, id)
    }

    fn field(&mut self, id: &str, field: &str) -> Result<&mut Map<String, Value>, TemplateError> {
        let value = self
            .resource_mut(id)?
            .entry(field)
            .or_insert_with(|| json!({}));
        object_mut(value, &format!("Resources.{id}.{field}"))
    }

    /// Adds a resource of ours (D-TPL-8: a name that is taken is an error).
    pub fn add(&mut self, id: &str, resource: Value) -> Result<(), TemplateError> {
        if let Some(other) = self.type_of(id) {
            return Err(TemplateError::new(
                format!("Resources.{id}"),
                format!("the name is one of porter's, here it is a resource of type {other}"),
                "rename the resource in the stack definition",
            ));
        }
        self.section("Resources")?.insert(id.into(), resource);
        Ok(())
    }

    /// Sets a property unless the user did.
    pub fn fill(&mut self, id: &str, name: &str, value: Value) -> Result<(), TemplateError> {
        self.properties(id)?.entry(name).or_insert(value);
        Ok(())
    }

    /// Appends to a list that may be missing, or may be an intrinsic that yields a list of strings.
    pub fn append(&mut self, id: &str, name: &str, ours: Vec<Value>) -> Result<(), TemplateError> {
        if ours.is_empty() {
            return Ok(());
        }
        let properties = self.properties(id)?;
        let joined = appended(properties.get(name), ours);
        properties.insert(name.into(), joined);
        Ok(())
    }

    pub fn ids_of_type(&self, kind: &str) -> Vec<String> {
        self.read_section("Resources")
            .into_iter()
            .flatten()
            .filter(|(_, r)| r.get("Type").and_then(Value::as_str) == Some(kind))
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub fn is_marked(&self, id: &str, key: &str) -> bool {
        match self.resource(id).and_then(|r| r.get("Metadata")?.get(key)) {
            Some(Value::Bool(b)) => *b,
            Some(Value::String(s)) => s == "true",
            _ => false,
        }
    }

    /// The user's resource that takes the place of ours, if any (D-TPL-8).
    pub fn choose(
        &self,
        what: &str,
        candidates: Vec<String>,
    ) -> Result<Option<String>, TemplateError> {
        let marked: Vec<&String> = (candidates.iter())
            .filter(|id| {
                self.resource(id)
                    .and_then(|r| r.get("Metadata")?.get("porter")?.as_str())
                    == Some("primary")
            })
            .collect();
        match (marked.as_slice(), candidates.as_slice()) {
            ([one], _) => Ok(Some((*one).clone())),
            ([], []) => Ok(None),
            ([], [one]) => Ok(Some(one.clone())),
            _ => Err(TemplateError::new(
                "Resources",
                format!(
                    "{what} could be any of {}",
                    candidates
                        .iter()
                        .map(|c| format!("`{c}`"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                "write `porter: primary` into the Metadata of exactly one of them",
            )),
        }
    }

    /// Removes an entry of ours that nothing refers to, which cfn-lint rightly dislikes; tells whether it did.
    pub fn prune(&mut self, section: &str, name: &str) -> Result<bool, TemplateError> {
        let Some(entry) = self.section(section)?.shift_remove(name) else {
            return Ok(false);
        };
        let rest = Value::Object(self.document.clone()).to_string();
        // `{"Ref": name}`, `"Condition": name`, and `${name}` in a user's Fn::Sub.
        let is_used =
            rest.contains(&format!("\"{name}\"")) || rest.contains(&format!("${{{name}}}"));
        if is_used {
            self.section(section)?.insert(name.into(), entry);
        } else if self.section(section)?.is_empty() {
            self.document.shift_remove(section);
        }
        Ok(!is_used)
    }

    /// The largest resources by their JSON size, for an error message.
    pub fn largest_resources(&self, count: usize) -> String {
        let mut sizes: Vec<(usize, &String)> = self
            .read_section("Resources")
            .into_iter()
            .flatten()
            .map(|(id, r)| (r.to_string().len(), id))
            .collect();
        sizes.sort_by(|a, b| b.cmp(a));
        sizes
            .iter()
            .take(count)
            .map(|(size, id)| format!("`{id}` ({size} bytes)"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The final text.
    pub fn to_json(&self) -> String {
        let mut ordered = Map::new();
        for name in SECTIONS {
            if let Some(section) = self.document.get(name) {
                ordered.insert(name.into(), section.clone());
            }
        }
        for (name, section) in &self.document {
            ordered
                .entry(name.clone())
                .or_insert_with(|| section.clone());
        }
        let mut text = format!("{:#}", Value::Object(ordered));
        text.push('\n');
        text
    }
}

/// A list with `ours` at its end.
pub(super) fn appended(list: Option<&Value>, ours: Vec<Value>) -> Value {
    match list {
        None => Value::Array(ours),
        Some(Value::Array(theirs)) => {
            let new = ours.into_iter().filter(|o| !theirs.contains(o));
            Value::Array(theirs.iter().cloned().chain(new).collect())
        }
        // A parameter of type List<…>, a Fn::Split: only strings can be lists of that kind.
        Some(intrinsic) => {
            let mut parts = vec![json!({"Fn::Join": [",", intrinsic]})];
            parts.extend(ours);
            json!({"Fn::Split": [",", {"Fn::Join": [",", parts]}]})
        }
    }
}

pub(super) fn object<'a>(
    value: Option<&'a Value>,
    part: &str,
) -> Result<&'a Map<String, Value>, TemplateError> {
    value
        .and_then(Value::as_object)
        .ok_or_else(|| not_a_map(part))
}

pub(super) fn object_mut<'a>(
    value: &'a mut Value,
    part: &str,
) -> Result<&'a mut Map<String, Value>, TemplateError> {
    value.as_object_mut().ok_or_else(|| not_a_map(part))
}

fn not_a_map(part: &str) -> TemplateError {
    TemplateError::new(
        part,
        "here must be a map of names to values",
        "check the indentation and the colons of this part",
    )
}

/// The logical id in `{"Ref": id}`, `{"Fn::GetAtt": [id, …]}` or `{"Fn::GetAtt": "id.…"}`.
pub(super) fn target(value: &Value) -> Option<&str> {
    let fields = value.as_object().filter(|f| f.len() == 1)?;
    if let Some(id) = fields.get("Ref") {
        return id.as_str();
    }
    match fields.get("Fn::GetAtt")? {
        Value::Array(path) => path.first()?.as_str(),
        Value::String(path) => path.split('.').next(),
        _ => None,
    }
}
