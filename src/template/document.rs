//! The user's stack definition: JSON, or YAML with short intrinsics such as `!Ref`, into one JSON document that keeps
//! every section and attribute (D-TPL-5).

use super::TemplateError;
use serde_json::{Map, Number, Value, json};

/// The intrinsics that have a short form, without `Ref` and `Condition`, which are written without `Fn::`.
const SHORT_FORMS: [&str; 21] = [
    "And",
    "Base64",
    "Cidr",
    "Contains",
    "EachMemberEquals",
    "EachMemberIn",
    "Equals",
    "FindInMap",
    "GetAtt",
    "GetAZs",
    "If",
    "ImportValue",
    "Join",
    "Length",
    "Not",
    "Or",
    "Select",
    "Split",
    "Sub",
    "ToJsonString",
    "Transform",
];

/// The document, empty without a text.
///
/// # Errors
/// Names line and column, or the path of the part that can't be read.
pub fn parse(text: Option<&str>) -> Result<Map<String, Value>, TemplateError> {
    let Some(text) = text.filter(|t| !t.trim().is_empty()) else {
        return Ok(Map::new());
    };
    let value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|e| {
            TemplateError::new(
                format!("line {}, column {}", e.line(), e.column()),
                e.to_string(),
                "correct the JSON at that place",
            )
        })?
    } else {
        yaml(text)?
    };
    match value {
        Value::Object(document) => Ok(document),
        Value::Null => Ok(Map::new()),
        _ => Err(TemplateError::new(
            "the top level",
            "here must be a map with sections such as Resources",
            "begin the file with `Resources:`",
        )),
    }
}

fn yaml(text: &str) -> Result<Value, TemplateError> {
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| {
        let part = e.location().map_or_else(
            || "the file".to_owned(),
            |l| format!("line {}, column {}", l.line(), l.column()),
        );
        TemplateError::new(part, e.to_string(), "correct the YAML at that place")
    })?;
    convert(value, "")
}

fn convert(value: serde_yaml::Value, path: &str) -> Result<Value, TemplateError> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => Value::Number(number(&n, path)?),
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(
            items
                .into_iter()
                .enumerate()
                .map(|(i, item)| convert(item, &format!("{path}[{i}]")))
                .collect::<Result<_, _>>()?,
        ),
        Yaml::Mapping(fields) => {
            let mut object = Map::new();
            for (key, value) in fields {
                let key = match key {
                    Yaml::String(s) => s,
                    Yaml::Number(n) => n.to_string(),
                    Yaml::Bool(b) => b.to_string(),
                    _ => {
                        return Err(TemplateError::new(
                            shown(path),
                            "a key is neither a text nor a number",
                            "write the key as a plain text",
                        ));
                    }
                };
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                object.insert(key, convert(value, &below)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let name = tag.trim_start_matches('!').to_owned();
            let inner = convert(tagged.value, path)?;
            intrinsic(&name, inner, path)?
        }
    })
}

fn intrinsic(name: &str, inner: Value, path: &str) -> Result<Value, TemplateError> {
    match name {
        "Ref" | "Condition" => Ok(json!({name: inner})),
        "GetAtt" => {
            // `!GetAtt Resource.Outputs.Name`: the first dot separates, the rest is the attribute.
            let argument = match &inner {
                Value::String(text) => match text.split_once('.') {
                    Some((id, attribute)) => json!([id, attribute]),
                    None => {
                        return Err(TemplateError::new(
                            shown(path),
                            format!("`!GetAtt {text}` names no attribute"),
                            "write `!GetAtt Resource.Attribute`",
                        ));
                    }
                },
                _ => inner,
            };
            Ok(json!({"Fn::GetAtt": argument}))
        }
        known if SHORT_FORMS.contains(&known) => Ok(json!({(format!("Fn::{known}")): inner})),
        unknown => Err(TemplateError::new(
            shown(path),
            format!("CloudFormation has no short form `!{unknown}`"),
            format!(
                "use one of !Ref, !Condition, {}",
                SHORT_FORMS.map(|s| format!("!{s}")).join(", ")
            ),
        )),
    }
}

fn number(n: &serde_yaml::Number, path: &str) -> Result<Number, TemplateError> {
    if let Some(i) = n.as_i64() {
        return Ok(i.into());
    }
    if let Some(u) = n.as_u64() {
        return Ok(u.into());
    }
    n.as_f64().and_then(Number::from_f64).ok_or_else(|| {
        TemplateError::new(
            shown(path),
            format!("`{n}` is not a number that JSON can hold"),
            "write it between quotes",
        )
    })
}

fn shown(path: &str) -> &str {
    if path.is_empty() {
        "the top level"
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d_tpl_5_short_intrinsics_become_long_ones_at_any_depth() {
        // D-TPL-5
        let text = r#"
Resources:
  A:
    Type: AWS::SQS::Queue
    Condition: Wanted
    Properties:
      Name: !Sub '${AWS::StackName}-a'
      Arn: !GetAtt B.Outputs.Arn
      Zone: !Select [0, !GetAZs '']
      List: !If [Wanted, !Join [',', [!Ref A, !ImportValue x]], !Ref 'AWS::NoValue']
Conditions:
  Wanted: !And [!Condition Other, !Not [!Equals [!Ref P, 'x']]]
"#;
        let parsed = Value::Object(parse(Some(text)).unwrap());
        assert_eq!(
            parsed["Resources"]["A"]["Properties"],
            json!({
                "Name": {"Fn::Sub": "${AWS::StackName}-a"},
                "Arn": {"Fn::GetAtt": ["B", "Outputs.Arn"]},
                "Zone": {"Fn::Select": [0, {"Fn::GetAZs": ""}]},
                "List": {"Fn::If": ["Wanted", {"Fn::Join": [",", [{"Ref": "A"}, {"Fn::ImportValue": "x"}]]}, {"Ref": "AWS::NoValue"}]},
            })
        );
        assert_eq!(
            parsed["Conditions"]["Wanted"],
            json!({"Fn::And": [{"Condition": "Other"}, {"Fn::Not": [{"Fn::Equals": [{"Ref": "P"}, "x"]}]}]})
        );
    }

    #[test]
    fn dates_leading_zeros_and_words_of_old_yaml_stay_texts() {
        // D-TPL-5
        let parsed = parse(Some(
            "AWSTemplateFormatVersion: 2010-09-09\na: 000644\nb: no\nc: 012345678901\nd: 3\n80: x\n",
        ))
        .unwrap();
        assert_eq!(
            Value::Object(parsed),
            json!({"AWSTemplateFormatVersion": "2010-09-09", "a": "000644", "b": "no", "c": "012345678901", "d": 3, "80": "x"})
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_by_place_with_a_remedy() {
        for (text, part, problem) in [
            ("a: [1", "line 2", "flow sequence"),
            ("{\"a\": }", "line 1, column 7", "expected value"),
            ("Resources:\n  A: !Reff B", "Resources.A", "`!Reff`"),
            ("Resources:\n  A: !GetAtt B", "Resources.A", "no attribute"),
            ("- 1", "the top level", "map"),
            ("a: 1\na: 2", "line 1", "duplicate"),
        ] {
            let error = parse(Some(text)).unwrap_err();
            assert!(
                error.part.contains(part) && error.problem.contains(problem),
                "{text}: {error:?}"
            );
            assert!(!error.remedy.is_empty());
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[A-Za-z:]{1,8}", inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn d_tpl_5_json_and_yaml_survive_the_reading(value in any_json()) {
            // D-TPL-5
            let document = json!({"Resources": value});
            let json = parse(Some(&document.to_string())).unwrap();
            prop_assert_eq!(&Value::Object(json), &document);
            let yaml = parse(Some(&serde_yaml::to_string(&document).unwrap())).unwrap();
            prop_assert_eq!(Value::Object(yaml), document);
        }
    }
}
