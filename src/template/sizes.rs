//! MinSize, MaxSize and DesiredCapacity of the template's group, also where they are intrinsics (D-TPL-37, D-TPL-38).

use super::{Input, TemplateError, document, hosts::GROUP, stack::Stack};
use crate::{capacity::Sizes, config::Region};
use serde_json::Value;
use std::collections::BTreeMap;

/// The sizes before any DesiredP: what the capacity rule compares. `parameters` are values that win over
/// `stack_parameters` and over the template's defaults, such as those a running stack keeps.
///
/// # Errors
/// When the template can't be read, or a size is an intrinsic whose value only CloudFormation knows.
pub fn sizes(
    user_template: Option<&str>,
    region: &Region,
    parameters: &BTreeMap<String, String>,
) -> Result<Sizes, TemplateError> {
    let stack = Stack::new(document::parse(user_template)?)?;
    of_group(&stack, region, parameters)
}

/// The sizes of the assembled template.
pub(super) fn resolve(stack: &Stack, input: &Input) -> Result<Sizes, TemplateError> {
    let sizes = of_group(stack, input.region, &BTreeMap::new())?;
    if let Some(desired) = input.desired_capacity {
        // Whether DesiredP fits is the capacity rule's to say, in its words.
        return Ok(Sizes { desired, ..sizes });
    }
    if sizes.min <= sizes.desired && sizes.desired <= sizes.max {
        return Ok(sizes);
    }
    Err(TemplateError::new(
        "the sizes of the Auto Scaling group",
        format!(
            "MinSize {}, DesiredCapacity {} and MaxSize {} are not in this order",
            sizes.min, sizes.desired, sizes.max
        ),
        "set all three in the stack definition: a size that is absent is `instance_count`",
    ))
}

fn of_group(
    stack: &Stack,
    region: &Region,
    parameters: &BTreeMap<String, String>,
) -> Result<Sizes, TemplateError> {
    let group = stack.choose("the Auto Scaling group", stack.ids_of_type(GROUP))?;
    let known = Known {
        stack,
        region,
        parameters,
    };
    let size = |name: &str| -> Result<u32, TemplateError> {
        let Some((id, value)) = group
            .as_deref()
            .and_then(|id| Some((id, stack.property(id, name)?)))
        else {
            return Ok(region.instance_count);
        };
        let part = format!("Resources.{id}.Properties.{name}");
        let value = known.evaluate(value, 0).ok_or_else(|| {
            TemplateError::new(
                part.clone(),
                format!("`{value}` has no value before the deployment"),
                "use a number, a Ref to a parameter with a default or a value in `stack_parameters`, Fn::FindInMap, or Fn::If over those",
            )
        })?;
        if value.is_null() {
            return Ok(region.instance_count);
        }
        text(&value)
            .and_then(|t| t.trim().parse().ok())
            .ok_or_else(|| {
                TemplateError::new(
                    part.clone(),
                    format!("`{value}` is not a number of hosts"),
                    "write a whole number, 0 or more",
                )
            })
    };
    Ok(Sizes {
        min: size("MinSize")?,
        max: size("MaxSize")?,
        desired: size("DesiredCapacity")?,
    })
}

/// What is known before CloudFormation runs. `AWS::NoValue` is null.
struct Known<'a> {
    stack: &'a Stack,
    region: &'a Region,
    parameters: &'a BTreeMap<String, String>,
}

/// Conditions may refer to one another; CloudFormation refuses circles, we must not follow them for ever.
const MAX_DEPTH: u8 = 32;

impl Known<'_> {
    fn evaluate(&self, value: &Value, depth: u8) -> Option<Value> {
        let Some(fields) = value.as_object() else {
            return Some(value.clone());
        };
        if depth > MAX_DEPTH || fields.len() != 1 {
            return None;
        }
        let (name, argument) = fields.iter().next()?;
        match (name.as_str(), argument) {
            ("Ref", Value::String(id)) => self.reference(id),
            ("Fn::FindInMap", Value::Array(path)) => {
                let mut keys = (path.iter())
                    .take(3)
                    .map(|key| text(&self.evaluate(key, depth + 1)?));
                let (map, first, second) = (keys.next()??, keys.next()??, keys.next()??);
                let found = (self.stack.read_section("Mappings")?.get(&map))
                    .and_then(|m| m.get(&first)?.get(&second));
                match (found, path.get(3).and_then(|d| d.get("DefaultValue"))) {
                    (Some(found), _) => Some(found.clone()),
                    (None, Some(default)) => self.evaluate(default, depth + 1),
                    (None, None) => None,
                }
            }
            ("Fn::If", Value::Array(parts)) => match parts.as_slice() {
                [Value::String(condition), yes, no] => {
                    let branch = if self.condition(condition, depth + 1)? {
                        yes
                    } else {
                        no
                    };
                    self.evaluate(branch, depth + 1)
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn reference(&self, id: &str) -> Option<Value> {
        if id == "AWS::Region" {
            return Some(Value::from(self.region.name.clone()));
        }
        if id == "AWS::NoValue" {
            return Some(Value::Null);
        }
        (self.parameters.get(id))
            .or_else(|| self.region.stack_parameters.get(id))
            .map(|v| Value::from(v.clone()))
            .or_else(|| {
                let default = self
                    .stack
                    .read_section("Parameters")?
                    .get(id)?
                    .get("Default")?;
                Some(default.clone())
            })
    }

    fn condition(&self, name: &str, depth: u8) -> Option<bool> {
        self.holds(self.stack.read_section("Conditions")?.get(name)?, depth)
    }

    fn holds(&self, value: &Value, depth: u8) -> Option<bool> {
        let fields = value.as_object().filter(|f| f.len() == 1)?;
        if depth > MAX_DEPTH {
            return None;
        }
        let (name, argument) = fields.iter().next()?;
        let all = |items: &Value| -> Option<Vec<bool>> {
            (items.as_array()?.iter())
                .map(|i| self.holds(i, depth + 1))
                .collect()
        };
        match name.as_str() {
            "Condition" => self.condition(argument.as_str()?, depth + 1),
            "Fn::Not" => Some(!*all(argument)?.first()?),
            "Fn::And" => Some(all(argument)?.iter().all(|b| *b)),
            "Fn::Or" => Some(all(argument)?.iter().any(|b| *b)),
            "Fn::Equals" => match argument.as_array()?.as_slice() {
                [a, b] => Some(
                    text(&self.evaluate(a, depth + 1)?)? == text(&self.evaluate(b, depth + 1)?)?,
                ),
                _ => None,
            },
            _ => None,
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}
