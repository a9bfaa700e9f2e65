//! The containers of a region (section 1.6 of the specification).

use super::{
    environment::unique,
    field::{Field, Section},
    model::Container,
    node::Value,
    pattern,
};
use contract::spec::{ContainerSpec, HealthCheck, SwapOrder, Topology};
use std::{path::PathBuf, time::Duration};

/// Name of the only container (D-CFG-67).
const DEFAULT_NAME: &str = "primary";
const DEFAULT_UID: u32 = 1001;
const DEFAULT_PIDS_LIMIT: u32 = 4096;
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(30);
/// So long a worker has to run without a restart before it counts as ready (D-HOST-28).
const WORKER_START_PERIOD: Duration = Duration::from_secs(10);

/// `containers`; an absent or empty list is one inet container (D-CFG-66).
pub(super) fn containers(region: &Section) -> Vec<Container> {
    let items = region
        .get("containers")
        .map(|f| f.list())
        .unwrap_or_default();
    if items.is_empty() {
        return vec![default_container()];
    }
    unique(&items, "name");
    let alone = items.len() == 1;
    let read: Vec<(Container, Section)> = items
        .iter()
        .filter_map(Field::section)
        .map(|s| (container(&s, alone), s))
        .collect();
    one_health_path(&read);
    let done = |(container, section): (Container, Section)| {
        section.done();
        container
    };
    read.into_iter().map(done).collect()
}

fn default_container() -> Container {
    Container {
        run: ContainerSpec {
            name: DEFAULT_NAME.into(),
            image: DEFAULT_NAME.into(),
            topology: Topology::Inet,
            inet_port: None,
            handover: false,
            data: false,
            uid: DEFAULT_UID,
            read_only: true,
            pids_limit: DEFAULT_PIDS_LIMIT,
            memory: None,
            nano_cpus: None,
            stop_grace: DEFAULT_STOP_GRACE,
            swap_order: SwapOrder::StartFirst,
            health: default_health(Topology::Inet),
        },
        dockerfile: PathBuf::from("Dockerfile"),
        dockerfile_build: PathBuf::from("Dockerfile.build"),
        validate_build_args_exist: true,
    }
}

/// D-CFG-77 to D-CFG-79.
fn default_health(topology: Topology) -> HealthCheck {
    HealthCheck {
        method: "GET".into(),
        path: "/health".into(),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(3),
        healthy: 3,
        start_period: if topology == Topology::Worker {
            WORKER_START_PERIOD
        } else {
            Duration::ZERO
        },
        status: 200,
        exec: None,
    }
}

fn container(section: &Section, alone: bool) -> Container {
    let default = default_container();
    let name = match section.get("name") {
        Some(field) => field.matching(&pattern::CONTAINER_NAME).unwrap_or_default(),
        None if alone => DEFAULT_NAME.into(),
        None => {
            section.missing("name", "is required, because there are several containers");
            String::new()
        }
    };
    let topology = topology(section, alone);
    let handover = handover(section, topology);
    let count = |key, least, default| {
        section
            .get(key)
            .map_or(Some(default), |f| f.count(least))
            .unwrap_or(default)
    };
    let flag = |key| section.get(key).and_then(|f| f.boolean()).unwrap_or(true);
    let file = |key, default: PathBuf| {
        section
            .get(key)
            .map_or(Some(default), |f| f.path_below_root())
            .unwrap_or_default()
    };
    let run = ContainerSpec {
        image: name.clone(),
        name,
        topology,
        inet_port: inet_port(section, topology, handover),
        handover,
        data: section
            .get("data")
            .and_then(|f| f.boolean())
            .unwrap_or(false),
        uid: count("uid", 0, DEFAULT_UID),
        read_only: flag("read_only"),
        pids_limit: count("pids_limit", 1, DEFAULT_PIDS_LIMIT),
        memory: section.get("memory").and_then(|f| f.memory()),
        nano_cpus: section.get("cpus").and_then(|f| f.nano_cpus()),
        stop_grace: section
            .get("stop_grace")
            .and_then(|f| f.duration())
            .unwrap_or(DEFAULT_STOP_GRACE),
        swap_order: swap_order(section, topology),
        health: section
            .get("health_check")
            .and_then(|f| f.section())
            .map_or_else(|| default_health(topology), |s| health(s, topology)),
    };
    if let Some(source) = section.get("src_env_file") {
        env_file(&source);
    }
    aws_credentials(section);
    if let Some(field) = section.get("prestart") {
        match (field.boolean(), topology) {
            (Some(true), Topology::Inet) => field.error("is for worker containers"),
            (Some(true), Topology::Worker) => {
                field.unavailable("workers start while the old ones still run")
            }
            _ => {}
        }
    }
    Container {
        run,
        dockerfile: file("dockerfile", default.dockerfile),
        dockerfile_build: file("dockerfile_build", default.dockerfile_build),
        validate_build_args_exist: flag("validate_build_args_exist"),
    }
}

/// D-CFG-69.
fn topology(section: &Section, alone: bool) -> Topology {
    let choices = [
        ("inet", Some(Topology::Inet)),
        ("worker", Some(Topology::Worker)),
        ("cron", None),
    ];
    match section.get("topology") {
        Some(field) => match field.one_of(&choices) {
            Some(Some(topology)) => topology,
            Some(None) => {
                field.error("`cron` is reserved; use `inet` or `worker`");
                Topology::Inet
            }
            None => Topology::Inet,
        },
        None => {
            if !alone {
                section.missing(
                    "topology",
                    "is required, because there are several containers",
                );
            }
            Topology::Inet
        }
    }
}

/// D-CFG-70; absent means the only port that the image exposes, which pack finds out.
fn inet_port(section: &Section, topology: Topology, handover: bool) -> Option<u16> {
    let field = section.get("inet_port")?;
    let port = field.integer(1..=65_535)? as u16;
    if topology == Topology::Worker {
        field.error("a worker takes no traffic; remove it or use `topology: inet`");
        return None;
    }
    if handover {
        field.error(
            "a container that hands over (`handover: true`) listens on the Unix socket that PORTER_INET_SOCKET names, not on a port; remove one of the two",
        );
        return None;
    }
    Some(port)
}

/// Whether the container hands its connections to its successor; only inet containers have any.
fn handover(section: &Section, topology: Topology) -> bool {
    let Some(field) = section.get("handover") else {
        return false;
    };
    let handover = field.boolean().unwrap_or(false);
    if handover && topology == Topology::Worker {
        field.error("a worker has no connections to hand over; remove it or use `topology: inet`");
        return false;
    }
    handover
}

/// D-CFG-85.
fn swap_order(section: &Section, topology: Topology) -> SwapOrder {
    let Some(field) = section.get("swap_order") else {
        return SwapOrder::StartFirst;
    };
    let choices = [
        ("start_first", SwapOrder::StartFirst),
        ("stop_first", SwapOrder::StopFirst),
    ];
    let order = field.one_of(&choices).unwrap_or(SwapOrder::StartFirst);
    if order == SwapOrder::StopFirst && topology == Topology::Inet {
        field.error("`stop_first` is for worker containers; inet containers always start first");
    }
    order
}

/// D-CFG-77 to D-CFG-80.
fn health(section: Section, topology: Topology) -> HealthCheck {
    let default = default_health(topology);
    let exec = section.get("exec");
    let health = HealthCheck {
        method: section
            .get("method")
            .and_then(|f| f.one_of(&[("GET", "GET"), ("HEAD", "HEAD")]))
            .map_or(default.method, str::to_owned),
        path: section
            .get("path")
            .and_then(|f| f.matching(&pattern::HTTP_PATH))
            .unwrap_or(default.path),
        interval: section
            .get("interval")
            .and_then(|f| f.some_time())
            .unwrap_or(default.interval),
        timeout: section
            .get("timeout")
            .and_then(|f| f.some_time())
            .unwrap_or(default.timeout),
        healthy: section
            .get("healthy")
            .and_then(|f| f.count(1))
            .unwrap_or(default.healthy),
        start_period: section
            .get("start_period")
            .and_then(|f| f.duration())
            .unwrap_or(default.start_period),
        status: section
            .get("status")
            .and_then(|f| f.integer(100..=599))
            .map_or(default.status, |n| n as u16),
        exec: exec.as_ref().map(|f| f.texts()),
    };
    if let Some(exec) = exec {
        if topology == Topology::Inet {
            exec.error(
                "is the readiness test of worker containers; an inet container is asked by HTTP",
            );
        } else if matches!(&exec.node.value, Value::List(items) if items.is_empty()) {
            exec.error("needs a command");
        }
    }
    section.done();
    health
}

/// D-CFG-78: the load balancer knows one path per host.
fn one_health_path(containers: &[(Container, Section)]) {
    let mut inet = containers
        .iter()
        .filter(|(c, _)| c.run.topology == Topology::Inet);
    let Some((first, _)) = inet.next() else {
        return;
    };
    for (container, section) in inet {
        if container.run.health.path != first.run.health.path {
            section.missing(
                "health_check.path",
                format!(
                    "`{}` differs from `{}` of container `{}`; all inet containers of a region share one path",
                    container.run.health.path, first.run.health.path, first.run.name
                ),
            );
        }
    }
}

/// D-CFG-81, D-CFG-82, D-CFG-124: S3, a program or a secret, exactly one of them.
fn env_file(field: &Field) {
    let Some(source) = field.section() else {
        return;
    };
    let [bucket, key, region] = ["s3_bucket", "s3_key", "s3_region"].map(|k| source.get(k));
    let [name, args] = ["exec_name", "exec_args"].map(|k| source.get(k));
    let (secret, fetch) = (source.get("secret_arn"), source.get("fetch"));
    let forms = [
        bucket.is_some() || key.is_some(),
        name.is_some(),
        secret.is_some(),
    ];

    match forms.iter().filter(|f| **f).count() {
        1 => {}
        0 => field.error("needs `s3_bucket` and `s3_key`, or `exec_name`, or `secret_arn`"),
        _ => field
            .error("`s3_bucket` with `s3_key`, `exec_name` and `secret_arn` exclude each other"),
    }
    if bucket.is_some() != key.is_some() {
        field.error("`s3_bucket` and `s3_key` come together");
    }
    bucket.iter().for_each(|f| _ = f.matching(&pattern::BUCKET));
    region.iter().for_each(|f| _ = f.matching(&pattern::REGION));
    secret
        .iter()
        .for_each(|f| _ = f.matching(&pattern::SECRET_ARN));
    fetch
        .iter()
        .for_each(|f| _ = f.one_of(&[("build", ()), ("host", ())]));
    [&key, &name]
        .into_iter()
        .flatten()
        .for_each(|f| _ = f.filled());
    args.iter().for_each(|f| _ = f.texts());
    source.done();
    field.unavailable("no secrets are delivered");
}

/// D-CFG-86.
fn aws_credentials(section: &Section) {
    let Some(field) = section.get("aws_credentials") else {
        return;
    };
    match field.text().as_deref() {
        None | Some("host") => {}
        Some("none") => field.unavailable("containers share the host's role (`host`)"),
        Some(arn) if pattern::ROLE_ARN.matches(arn) => {
            field.unavailable("containers share the host's role (`host`)")
        }
        Some(other) => field.error(format!(
            "`{other}` is not one of `host`, `none` or the ARN of a role"
        )),
    }
}
