//! What the machine reads: desired state, cfn-init's config sets, cfn-hup's hook, user data (D-TPL-47 to D-TPL-53).
//!
//! `docs/spec/cfn-hup.md` holds the facts about cfn-init and cfn-hup on which this rests: units are started by
//! `commands` because `services` differ between releases; backups that cfn-init leaves in `hooks.d` are removed,
//! because cfn-hup reads them as hooks; nothing in the INI files needs a `%`.

use super::{
    Input, TemplateError, launch, parameter, reference,
    stack::{Stack, object},
};
use contract::{
    job::HOST_PROTOCOL,
    names::{METADATA_KEY, SIGNAL_QUEUE, path},
};
use minijinja::{Environment, UndefinedBehavior, Value as Slot, context, syntax::SyntaxConfig};
use serde_json::{Map, Value, json};

const INIT: &str = "AWS::CloudFormation::Init";
/// Config sets of ours.
const BOOTSTRAP: &str = "bootstrap";
const HOTSWAP: &str = "hotswap";
/// Configs of ours.
const HOST_CONFIG: &str = "porter_host";
const SWAP_CONFIG: &str = "porter_swap";
/// The config set of the user's that runs at first boot, and the config that stands for it when there are no sets.
const DEFAULT_SET: &str = "default";
const DEFAULT_CONFIG: &str = "config";

/// Separates our part of the user data from the user's.
const BOUNDARY: &str = "==porter-user-data==";

/// Puts metadata and user data onto the launch template.
pub(super) fn configure(
    stack: &mut Stack,
    input: &Input,
    launch_template: &str,
    handle: &str,
) -> Result<(), TemplateError> {
    let desired = desired_state(input);
    let theirs = stack.metadata(launch_template)?.get(INIT).cloned();
    let init = init(input, launch_template, handle, theirs.as_ref())?;
    let metadata = stack.metadata(launch_template)?;
    if metadata.contains_key(METADATA_KEY) {
        return Err(TemplateError::new(
            format!("Resources.{launch_template}.Metadata.{METADATA_KEY}"),
            "the key is porter's: it carries what the hosts shall run",
            "rename the key",
        ));
    }
    metadata.insert(METADATA_KEY.into(), desired);
    metadata.insert(INIT.into(), init);

    let ours = user_data(launch_template, handle);
    let data = launch::data(stack, launch_template)?;
    let merged = match data.get("UserData") {
        None => json!({"Fn::Base64": ours}),
        Some(theirs) => with_user_part(ours, theirs),
    };
    data.insert("UserData".into(), merged);
    Ok(())
}

/// [`contract::job::DesiredState`] with references in place of values (D-TPL-52).
fn desired_state(input: &Input) -> Value {
    json!({
        "v": HOST_PROTOCOL,
        "swap": reference(parameter::SWAP_ID),
        "payload": reference(parameter::PAYLOAD_DIGEST),
        "service": reference(parameter::SERVICE_NAME),
        "environment": reference(parameter::ENVIRONMENT),
        "region": reference("AWS::Region"),
        "stack": reference("AWS::StackId"),
        "bucket": input.region.s3_bucket,
        "queue": reference(SIGNAL_QUEUE),
        "generation": reference(parameter::GENERATION),
        "mode": "simple",
        "deadline": reference(parameter::DEADLINE),
    })
}

/// Ours, then the user's as further configs and sets; their default set runs at the end of the bootstrap (D-TPL-4).
fn init(
    input: &Input,
    launch_template: &str,
    handle: &str,
    theirs: Option<&Value>,
) -> Result<Value, TemplateError> {
    let mut bootstrap = vec![json!(HOST_CONFIG)];
    let mut sets = Map::new();
    let mut configs = Map::from_iter([
        (
            HOST_CONFIG.to_owned(),
            host_config(input, launch_template, handle),
        ),
        (SWAP_CONFIG.to_owned(), swap_config(input)),
    ]);
    if let Some(theirs) = theirs {
        let part = format!("Resources.{launch_template}.Metadata.{INIT}");
        for (name, value) in object(Some(theirs), &part)? {
            if name == "configSets" {
                for (set, list) in object(Some(value), &format!("{part}.configSets"))? {
                    taken(&[BOOTSTRAP, HOTSWAP], set, &format!("{part}.configSets"))?;
                    sets.insert(set.clone(), list.clone());
                }
            } else {
                taken(&[HOST_CONFIG, SWAP_CONFIG], name, &part)?;
                configs.insert(name.clone(), value.clone());
            }
        }
        match sets.get(DEFAULT_SET) {
            Some(Value::Array(list)) => bootstrap.extend(list.iter().cloned()),
            Some(one) => bootstrap.push(one.clone()),
            None if configs.contains_key(DEFAULT_CONFIG) => bootstrap.push(json!(DEFAULT_CONFIG)),
            None => {}
        }
    }
    let mut all_sets = Map::from_iter([
        (BOOTSTRAP.to_owned(), json!(bootstrap)),
        (HOTSWAP.to_owned(), json!([SWAP_CONFIG])),
    ]);
    all_sets.extend(sets);
    let mut init = Map::from_iter([("configSets".to_owned(), Value::Object(all_sets))]);
    init.extend(configs);
    Ok(Value::Object(init))
}

fn taken(ours: &[&str], name: &str, part: &str) -> Result<(), TemplateError> {
    if ours.contains(&name) {
        return Err(TemplateError::new(
            format!("{part}.{name}"),
            "the name is one of porter's",
            "rename it",
        ));
    }
    Ok(())
}

/// Everything a fresh host needs before `porter_bootstrap`.
fn host_config(input: &Input, launch_template: &str, handle: &str) -> Value {
    let stack = context! {launch_template, metadata_key => METADATA_KEY};
    let mut files = Map::new();
    let mut file = |path: &str, mode: &str, content: Value| {
        files.insert(path.to_owned(), self::file(mode, content));
    };
    let sub = |text: String| json!({"Fn::Sub": text});
    file(
        "/etc/cfn/cfn-hup.conf",
        "000400",
        sub(include_str!("../../templates/cfn-hup.conf").to_owned()),
    );
    file(
        "/etc/cfn/hooks.d/porter.conf",
        "000400",
        sub(render(
            include_str!("../../templates/porter.conf"),
            stack.clone(),
        )),
    );
    file(
        path::STACK,
        "000644",
        sub(render(include_str!("../../templates/stack.json"), stack)),
    );
    // Whoever holds this URL can end the stack's creation.
    file("/etc/porter/wait-handle", "000600", reference(handle));
    file(path::BOOTSTRAP, "000755", json!(bootstrap_script(input)));
    file(path::HOTSWAP, "000755", json!(hotswap_script(input)));
    file(
        "/etc/systemd/system/cfn-hup.service",
        "000644",
        json!(include_str!("../../templates/cfn-hup.service")),
    );
    file(
        "/etc/systemd/system/haproxy.service",
        "000644",
        json!(include_str!("../../templates/haproxy.service")),
    );
    file(
        "/etc/docker/daemon.json",
        "000644",
        json!(include_str!("../../templates/daemon.json")),
    );
    file(
        "/etc/sysctl.d/90-porter.conf",
        "000644",
        json!(include_str!("../../templates/sysctl.conf")),
    );
    file(
        "/etc/motd.d/30-porter",
        "000644",
        sub(include_str!("../../templates/motd").to_owned()),
    );

    let mut commands = Map::new();
    let mut command = |name: &str, text: &str| {
        commands.insert(name.to_owned(), json!({"command": text, "cwd": "/"}));
    };
    // cfn-init runs them in the order of their names.
    command("10_backups", "rm -f /etc/cfn/hooks.d/*.bak");
    command("20_units", "systemctl daemon-reload");
    command("30_docker", "systemctl enable --now docker");
    if input.is_inet() {
        // Not started: the agent does that once there is a configuration, and a reboot finds one.
        command("40_haproxy", "systemctl enable haproxy");
    }
    command("50_cfn_hup", "systemctl enable --now cfn-hup");
    json!({"files": files, "commands": commands})
}

/// What a hot swap runs (D-TPL-49). Its exit status is cfn-init's, and thereby the hook's.
fn swap_config(input: &Input) -> Value {
    json!({
        "files": {path::HOTSWAP: file("000755", json!(hotswap_script(input)))},
        "commands": {"10_hotswap": {"command": path::HOTSWAP, "cwd": "/"}},
    })
}

fn file(mode: &str, content: Value) -> Value {
    json!({"content": content, "group": "root", "mode": mode, "owner": "root"})
}

/// The agent's pinned binary is the only thing in the scripts that may change between deployments.
fn fetch_agent(input: &Input) -> String {
    let source = format!("s3://{}/{}", input.region.s3_bucket, input.agent.key);
    render(
        include_str!("../../templates/fetch_agent.sh"),
        context! {
            sha256 => input.agent.digest.hex(),
            source => quoted(&source),
            not_fetched => quoted(&format!("host-agent can't be fetched from {source}: the containers are left as they are")),
            not_pinned => quoted(&format!("{source} is not the host-agent that the template pins (SHA-256): it was not installed")),
        },
    )
}

fn hotswap_script(input: &Input) -> String {
    render(
        include_str!("../../templates/porter_hotswap.sh"),
        context! {
            region => quoted(&input.region.name),
            fetch_agent => fetch_agent(input).trim_end(),
        },
    )
}

fn bootstrap_script(input: &Input) -> String {
    render(
        include_str!("../../templates/porter_bootstrap.sh"),
        context! {
            region => quoted(&input.region.name),
            tool_version => quoted(input.tool_version),
            service => quoted(&input.config.service_name),
            environment => quoted(&input.environment.name),
            fetch_agent => fetch_agent(input).trim_end(),
            host_bootstrap => input.host_bootstrap.trim_end(),
        },
    )
}

/// A `Fn::Sub` that yields the cloud-config of every host.
fn user_data(launch_template: &str, handle: &str) -> Value {
    let text = render(
        include_str!("../../templates/user_data.yaml"),
        context! {launch_template},
    );
    json!({"Fn::Sub": [text, {"HANDLE": reference(handle)}]})
}

/// Ours and the user's as parts of one MIME message (D-TPL-4). cloud-init runs `runcmd` and scripts in the order of
/// their names, so theirs gets a name behind `runcmd`; their lists go behind ours, and where both set a value ours wins.
fn with_user_part(ours: Value, theirs: &Value) -> Value {
    let begin = format!(
        "Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n--{BOUNDARY}\nContent-Type: text/cloud-config; charset=\"utf-8\"\n\n"
    );
    let end = json!(format!("\n--{BOUNDARY}--\n"));
    let headers = |encoding: &str| {
        json!(format!(
            "\n--{BOUNDARY}\nContent-Type: text/plain; charset=\"utf-8\"\nMerge-Type: list(append)+dict(no_replace,recurse_list)+str()\nContent-Disposition: attachment; filename=\"service-user-data\"\n{encoding}\n"
        ))
    };
    let (headers, body) = match theirs.get("Fn::Base64") {
        Some(text) if begins_with_headers(text) => {
            (json!(format!("\n--{BOUNDARY}\n")), text.clone())
        }
        Some(text) => (headers(""), text.clone()),
        // Already in base64: a literal, or a parameter that holds it.
        None => (
            headers("Content-Transfer-Encoding: base64\n"),
            theirs.clone(),
        ),
    };
    json!({"Fn::Base64": {"Fn::Join": ["", [begin, ours, headers, body, end]]}})
}

/// Whether the text is a MIME message of its own, as far as it can be seen before CloudFormation runs.
fn begins_with_headers(text: &Value) -> bool {
    let first = match text {
        Value::String(s) => Some(s.as_str()),
        Value::Object(fields) => match fields.iter().next() {
            Some((name, Value::String(s))) if name == "Fn::Sub" => Some(s.as_str()),
            Some((name, Value::Array(items))) if name == "Fn::Sub" => {
                items.first().and_then(Value::as_str)
            }
            Some((name, Value::Array(items))) if name == "Fn::Join" => {
                items.get(1).and_then(|l| l.as_array()?.first()?.as_str())
            }
            _ => None,
        },
        _ => None,
    };
    first.is_some_and(|s| {
        let s = s.trim_start().to_ascii_lowercase();
        s.starts_with("content-type: multipart/") || s.starts_with("mime-version:")
    })
}

/// Our own templates: a mistake in one shows in every test.
fn render(template: &str, slots: Slot) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true).trim_blocks(true);
    environment.set_syntax(syntax.build().expect("the default delimiters are valid"));
    environment
        .render_str(template, slots)
        .expect("templates/ is compiled in and every slot is given")
}

/// One word for sh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
