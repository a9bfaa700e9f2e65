//! One row for each row of section 1 of the specification: what is accepted, what is refused (D-QA-9).

use super::{Level, file, kinds, parse_text};
use crate::config::Kind;
use Level::{Container, Environment, Haproxy, Hook, HotSwap, Region, Top};

/// `good` passes; `later` is well formed but not available in this version; `bad` is refused at a key with a message.
struct Row {
    id: &'static str,
    level: Level,
    good: &'static [&'static str],
    later: &'static [&'static str],
    bad: &'static [(&'static str, &'static str, &'static str)],
}

const fn row(
    id: &'static str,
    level: Level,
    good: &'static [&'static str],
    later: &'static [&'static str],
    bad: &'static [(&'static str, &'static str, &'static str)],
) -> Row {
    Row {
        id,
        level,
        good,
        later,
        bad,
    }
}

const ROLE: &str = "role_arn: arn:aws:iam::123456789012:role/porter";
const GROUP: &str = "target_group_arns: [arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/0123456789abcdef]";
const CERTIFICATE: &str = "ssl_cert_arn: arn:aws:acm:us-east-1:123456789012:certificate/0a1b";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("D-CFG-12", Top, &["service_name: my-Service2"], &[], &[("service_name: 2nd", "service_name", "not a service name"), ("service_name:", "service_name", "is required"), ("service_name: a_b", "service_name", "not a service name")]),
    row("D-CFG-13", Top, &["porter_version: v5.3.0"], &[], &[("porter_version: 5.3.0", "porter_version", "not a version"), ("porter_version: v5.3", "porter_version", "not a version"), ("porter_version: ~", "porter_version", "is required"), ("porter_version: v٣.0.0", "porter_version", "not a version")]),
    row("D-CFG-15", Top, &[], &[], &[("environments: []", "environments", "at least one environment"), ("environments: ~", "environments", "is required"), ("environments: {name: a}", "environments", "expected a list, found a map")]),
    row("D-CFG-16", Top, &["hooks: {my-own: [{dockerfile: hooks/Dockerfile}], pre_pack: ~}"], &[], &[("hooks: {'a b': [{dockerfile: D}]}", "hooks.a b", "not a hook name"), ("hooks: {pre_pack: {dockerfile: D}}", "hooks.pre_pack", "expected a list"), ("hooks: [x]", "hooks", "expected a map")]),
    row("D-CFG-17", Top, &["slack: {}", "slack: {pack_success_webhook_url: ~}"], &["slack: {pack_success_webhook_url: 'https://hooks.example/x', promote_failure_webhook_url: 'https://hooks.example/y'}"], &[("slack: {pack_success_webhook_url: nope}", "slack.pack_success_webhook_url", "not a URL"), ("slack: {pack_sucess_webhook_url: 'https://x.example'}", "slack.pack_sucess_webhook_url", "did you mean `pack_success_webhook_url`?")]),
    row("D-CFG-18", Top, &["slack: {hotswap_success_webhook_url: ~, prune_failure_webhook_url: ~}"], &["slack: {hotswap_failure_webhook_url: 'https://hooks.example/x'}"], &[("slack: {prune_success_webhook_url: 'ftp://x'}", "slack.prune_success_webhook_url", "not a URL")]),
    row("D-CFG-19", Environment, &["name: Prod2"], &[], &[("name: pre-prod", "environments[0].name", "not an environment name"), ("name:", "environments[0].name", "is required")]),
    row("D-CFG-20", Environment, &["stack_definition_path: .porter/stack.json"], &[], &[("stack_definition_path: /etc/stack.json", "stack_definition_path", "leaves the directory"), ("stack_definition_path: ../stack.json", "stack_definition_path", "leaves the directory"), ("stack_definition_path: ''", "stack_definition_path", "must not be empty")]),
    row("D-CFG-21", Environment, &[ROLE], &[], &[("role_arn: ~", "environments[0].regions[0].role_arn", "is required, here or in the environment"), ("role_arn: porter", "environments[0].role_arn", "not the ARN of a role")]),
    row("D-CFG-22", Environment, &["role_arn: arn:aws-cn:iam::123456789012:role/porter", "role_arn: arn:aws-us-gov:iam::123456789012:role/path/porter\nexternal_id: team-a"], &[], &[("role_arn: arn:aws:iam::12345:role/porter", "environments[0].role_arn", "not the ARN of a role"), ("external_id: '!'", "environments[0].external_id", "not an external id")]),
    row("D-CFG-23", Environment, &["hot_swap: true", "hot_swap: false", "hot_swap: {}", "hot_swap: {max_age: 24h}"], &[], &[("hot_swap: maybe", "environments[0].hot_swap", "expected true or false"), ("hot_swap: [true]", "environments[0].hot_swap", "expected true or false, found a list")]),
    row("D-CFG-24", Environment, &["instance_count: 3", "instance_count: 0"], &[], &[("instance_count: -1", "environments[0].instance_count", "expected an integer"), ("instance_count: 1.5", "environments[0].instance_count", "expected an integer"), ("instance_count: '3'", "environments[0].instance_count", "without quotes")]),
    row("D-CFG-25", Environment, &["instance_type: m7i-flex.large", "instance_type: u7i-12tb.224xlarge", "instance_type: c7gn.metal-48xl"], &[], &[("instance_type: large", "environments[0].instance_type", "not an instance type"), ("instance_type: M3.medium", "environments[0].instance_type", "not an instance type")]),
    row("D-CFG-26", Environment, &["blackout_windows: [{start_time: 2026-12-24T18:00:00Z, end_time: '2026-12-27T00:00:00+01:00'}]", "blackout_windows: []"], &[], &[("blackout_windows: [{start_time: 2026-12-24T18:00:00Z}]", "blackout_windows[0].end_time", "is required"), ("blackout_windows: {start_time: x}", "blackout_windows", "expected a list")]),
    row("D-CFG-112", Environment, &["blackout_windows: [{start_time: 2026-12-24T18:00:00Z, end_time: 2026-12-24T18:00:01Z}]"], &[], &[("blackout_windows: [{start_time: 2026-12-24, end_time: 2026-12-27T00:00:00Z}]", "blackout_windows[0].start_time", "not a time as RFC 3339"), ("blackout_windows: [{start_time: 2026-02-30T00:00:00Z, end_time: 2026-12-27T00:00:00Z}]", "blackout_windows[0].start_time", "not a day"), ("blackout_windows: [{start_time: 2026-12-27T00:00:00Z, end_time: 2026-12-24T00:00:00Z}]", "blackout_windows[0]", "ends before it starts")]),
    row("D-CFG-114", Environment, &[], &["blackout_windows: [{cron: '0 18 * * 5', duration: 62h, timezone: Europe/Berlin}]"], &[("blackout_windows: [{cron: '0 18 * * 5'}]", "blackout_windows[0].duration", "is required"), ("blackout_windows: [{cron: daily, duration: 1h, timezone: UTC}]", "blackout_windows[0].cron", "not a cron expression"), ("blackout_windows: [{cron: '0 18 * * 5', duration: 1h, timezone: UTC, start_time: x}]", "blackout_windows[0].start_time", "excludes `cron`")]),
    row("D-CFG-27", Environment, &["autowire_security_groups: false"], &[], &[("autowire_security_groups: 0", "environments[0].autowire_security_groups", "expected true or false")]),
    row("D-CFG-28", Environment, &[], &[], &[("regions: []", "environments[0].regions", "at least one region"), ("regions: ~", "environments[0].regions", "is required")]),
    row("D-CFG-29", Environment, &["ami: ami-0123456789abcdef0", "ami: 'ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64'"], &[], &[("ami: amazon-linux", "environments[0].ami", "not an image")]),
    row("D-CFG-30", Environment, &["tags: {team: payments, cost-center: 42}"], &[], &[("tags: {'aws:x': y}", "tags.aws:x", "reserved"), ("tags: {porter-owner: me}", "tags.porter-owner", "reserved"), ("tags: [a]", "tags", "expected a map")]),
    row("D-CFG-31", Haproxy, &["request_header_captures: [{header: X-Request-Id, length: 64}]"], &[], &[("request_header_captures: [{header: X-Request-Id, length: 0}]", "request_header_captures[0].length", "at least 1"), ("request_header_captures: [{header: 'X Y', length: 1}]", "request_header_captures[0].header", "not a header name")]),
    row("D-CFG-32", Haproxy, &["response_header_captures: [{header: ETag, length: 20}]"], &[], &[("response_header_captures: [{header: ETag}]", "response_header_captures[0].length", "is required")]),
    row("D-CFG-33", Haproxy, &["log: false"], &[], &[("log: quiet", "haproxy.log", "expected true or false")]),
    row("D-CFG-34", Haproxy, &["compression: true"], &[], &[("compression: gzip", "haproxy.compression", "expected true or false")]),
    row("D-CFG-35", Haproxy, &["compress_types: [text/html, application/json]", "compress_types: text/html application/json"], &[], &[("compress_types: [html]", "compress_types[0]", "not a MIME type"), ("compress_types: text/html json", "compress_types", "`json` is not a MIME type")]),
    row("D-CFG-36", Haproxy, &["timeout: {client: 30s}", "timeout: {client: 0}", "timeout: {client: 1m, server: 60s}"], &[], &[("timeout: {client: 30}", "timeout.client", "has no unit")]),
    row("D-CFG-37", Haproxy, &["timeout: {server: 7s}"], &[], &[("timeout: {client: 30s, server: 20s}", "haproxy.timeout.server", "must equal `timeout.client`, which is 30s"), ("timeout: {server: 20s}", "haproxy.timeout.server", "which is 7s")]),
    row("D-CFG-38", Haproxy, &["timeout: {tunnel: 1h}"], &[], &[("timeout: {tunnel: forever}", "timeout.tunnel", "not a duration")]),
    row("D-CFG-39", Haproxy, &["timeout: {http_request: 10s}"], &[], &[("timeout: {http-request: 10s}", "timeout.http-request", "did you mean `http_request`?")]),
    row("D-CFG-40", Haproxy, &["timeout: {http_keep_alive: 0}"], &[], &[("timeout: {http_keep_alive: -1s}", "timeout.http_keep_alive", "is negative")]),
    row("D-CFG-41", Haproxy, &["maxconn: 5000", "maxconn: 200_000"], &[], &[("maxconn: 0", "haproxy.maxconn", "at least 1"), ("maxconn: 5e3", "haproxy.maxconn", "expected an integer")]),
    row("D-CFG-42", Haproxy, &[], &["ssl: {pem: {secrets_exec_name: ./pem.sh}}"], &[("ssl: {pem: {secrets_exec_args: [a]}}", "ssl.pem.secrets_exec_name", "is required"), ("ssl: {pem: cert.pem}", "ssl.pem", "expected a map")]),
    row("D-CFG-43", Haproxy, &[], &["ssl: {pem: {secrets_exec_name: ./pem.sh, secrets_exec_args: [a, b]}}"], &[("ssl: {pem: {secrets_exec_name: x, secrets_exec_args: a}}", "ssl.pem.secrets_exec_args", "expected a list")]),
    row("D-CFG-44", Haproxy, &["ssl: {cert_directory: /etc/ssl/private/}"], &[], &[("ssl: {cert_directory: certs}", "ssl.cert_directory", "not an absolute path")]),
    row("D-CFG-45", Haproxy, &[], &[], &[("ssl: {https_only: true}", "haproxy.ssl.https_only", "without a load balancer"), ("ssl: {https_only: 1}", "ssl.https_only", "expected true or false")]),
    row("D-CFG-47", Haproxy, &["ssl: {https_redirect: true}"], &[], &[("ssl: {https_redirect: 301}", "ssl.https_redirect", "expected true or false")]),
    row("D-CFG-48", Haproxy, &["stats: {enabled: true}", "stats: {bind: '127.0.0.1:9000'}", "stats: {enabled: false, public: false}"], &["stats: {public: true}"], &[("stats: {bind: '0.0.0.0:8404'}", "stats.bind", "not a loopback address"), ("stats: true", "haproxy.stats", "expected a map")]),
    row("D-CFG-49", Haproxy, &["timeout: {tunnel: 1h30m, http_request: 300ms, http_keep_alive: '0'}"], &[], &[("timeout: {http_request: 5}", "timeout.http_request", "has no unit; write for example `5s`"), ("timeout: {http_request: 5us}", "timeout.http_request", "finer than a millisecond")]),
    row("D-CFG-50", Region, &["name: eu-central-1", "name: us-gov-east-1", "name: ap-southeast-12"], &[], &[("name: us-east", "regions[0].name", "not a region"), ("name: ~", "regions[0].name", "is required")]),
    row("D-CFG-51", Region, &["azs: [{name: us-east-1a}, {name: us-east-1b}]"], &[], &[("azs: []", "regions[0].azs", "at least one availability zone"), ("azs: ~", "regions[0].azs", "is required"), ("azs: [{name: ''}]", "azs[0].name", "must not be empty"), ("vpc_id: vpc-0123abcd\nazs: [{name: a, subnet_id: subnet-0123abcd}, {name: b}]", "azs[1].subnet_id", "every zone needs a subnet"), ("azs: [{name: a, subnet_id: subnet-0123abcd}]", "azs[0].subnet_id", "needs the region's `vpc_id`")]),
    row("D-CFG-52", Region, &["vpc_id: vpc-0123abcd\nazs: [{name: a, subnet_id: subnet-0123abcd}]"], &[], &[("vpc_id: vpc-TODO\nazs: [{name: a, subnet_id: subnet-0123abcd}]", "regions[0].vpc_id", "not a VPC id")]),
    row("D-CFG-53", Region, &["vpc_id: vpc-0123456789abcdef0\nazs: [{name: a, subnet_id: subnet-0123456789abcdef0}]"], &[], &[("vpc_id: vpc-0123abcd\nazs: [{name: a, subnet_id: subnet-1}]", "azs[0].subnet_id", "not a subnet id")]),
    row("D-CFG-54", Region, &["s3_bucket: my.bucket-1"], &[], &[("s3_bucket: TODO", "regions[0].s3_bucket", "not a bucket name"), ("s3_bucket:", "regions[0].s3_bucket", "is required")]),
    row("D-CFG-55", Region, &["sse_kms_key_id: arn:aws:kms:us-east-1:123456789012:key/0a1b"], &[], &[("sse_kms_key_id: 0a1b", "regions[0].sse_kms_key_id", "not the ARN of a KMS key")]),
    row("D-CFG-56", Region, &["elb: my-elb", "elb: none"], &[], &[("elb: -elb-", "regions[0].elb", "not the name of a classic load balancer"), ("elb: none\nelbs: [{tag: a, name: b}]", "regions[0].elb", "contradicts `elbs`")]),
    row("D-CFG-57", Region, &["elbs: [{tag: blue, name: one}, {tag: green, name: two}]", "elbs: []"], &[], &[("elbs: [{name: one}]", "elbs[0].tag", "is required"), ("elbs: [{tag: a, name: x}, {tag: a, name: y}]", "elbs[1].tag", "`a` is already used, on line")]),
    row("D-CFG-58", Region, &[GROUP], &[], &[("target_group_arns: [web]", "target_group_arns[0]", "not the ARN of a target group"), ("target_group_arns: [arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/web/0]", "target_group_arns[0]", "not in us-east-1"), ("elb: x\ntarget_group_arns: [arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/0]", "target_group_arns", "excludes `elb`")]),
    row("D-CFG-59", Region, &[CERTIFICATE, "ssl_cert_arn: arn:aws:iam::123456789012:server-certificate/web"], &[], &[("ssl_cert_arn: web", "regions[0].ssl_cert_arn", "not the ARN of a certificate")]),
    row("D-CFG-60", Region, &["hosted_zone_name: example.com", "hosted_zone_name: example.com."], &[], &[("hosted_zone_name: localhost", "regions[0].hosted_zone_name", "not a DNS zone"), ("hosted_zone_name: 'a b.com'", "regions[0].hosted_zone_name", "not a DNS zone")]),
    row("D-CFG-61", Region, &["key_pair_name: ops"], &[], &[("key_pair_name: ''", "regions[0].key_pair_name", "must not be empty"), ("key_pair_name: [ops]", "regions[0].key_pair_name", "expected text, found a list")]),
    row("D-CFG-62", Region, &["auto_scaling_group: {security_group_egress: [{cidr_ip: 10.0.0.0/8, ip_protocol: tcp, from_port: 1, to_port: 65535}, {destination_security_group_id: sg-0123abcd, ip_protocol: -1}]}", "auto_scaling_group: {}"], &[], &[("auto_scaling_group: {security_group_egress: [{cidr_ip: 10.0.0.0/33, ip_protocol: tcp, from_port: 1, to_port: 2}]}", "security_group_egress[0].cidr_ip", "not an address range"), ("auto_scaling_group: {security_group_egress: [{ip_protocol: tcp, from_port: 1, to_port: 2}]}", "security_group_egress[0]", "exactly one of"), ("auto_scaling_group: {security_group_egress: [{cidr_ip: 10.0.0.0/8, ip_protocol: tcp, from_port: 9, to_port: 2}]}", "from_port", "above `to_port`"), ("auto_scaling_group: {security_group_egress: [{cidr_ip: 10.0.0.0/8, ip_protocol: tcp}]}", "from_port", "is required for tcp")]),
    row("D-CFG-63", Region, &["auto_scaling_group: {security_group_egress: [{cidr_ipv6: '2001:db8::/32', ip_protocol: udp, from_port: 53, to_port: 53}, {destination_prefix_list_id: pl-0123abcd, ip_protocol: tcp, from_port: 443, to_port: 443}]}"], &[], &[("auto_scaling_group: {security_group_egress: [{cidr_ipv6: 10.0.0.0/8, ip_protocol: udp, from_port: 53, to_port: 53}]}", "security_group_egress[0].cidr_ipv6", "such as `2001:db8::/32`"), ("auto_scaling_group: {security_group_egress: [{cidr_ip: 10.0.0.0/8, cidr_ipv6: '::/0', ip_protocol: -1}]}", "security_group_egress[0]", "exactly one of")]),
    row("D-CFG-64", Region, &[], &["auto_scaling_group: {secrets_exec_name: ./secrets.sh, secrets_exec_args: [a]}"], &[("auto_scaling_group: {secrets_exec_args: [a]}", "secrets_exec_args", "needs `secrets_exec_name`")]),
    row("D-CFG-65", Region, &["containers: [{topology: worker}]", "elb: none\ncontainers: [{topology: worker}]"], &[], &[("elb: web\ncontainers: [{topology: worker}]", "regions[0].containers", "must not have a load balancer")]),
    row("D-CFG-66", Region, &["containers: []", "containers: ~"], &[], &[("containers: {name: web}", "regions[0].containers", "expected a list")]),
    row("D-CFG-67", Region, &["containers: [{name: web, topology: inet}, {name: job.a_1, topology: worker}]"], &[], &[("containers: [{name: web, topology: inet}, {topology: worker}]", "containers[1].name", "is required"), ("containers: [{name: web, topology: inet}, {name: web, topology: worker}]", "containers[1].name", "`web` is already used"), ("containers: [{name: web, topology: inet}, {name: a-b, topology: worker}]", "containers[1].name", "not a container name")]),
    row("D-CFG-68", Container, &["name: web_1.x"], &[], &[("name: my-web", "containers[0].name", "not a container name"), ("name: w", "containers[0].name", "at least two")]),
    row("D-CFG-69", Container, &["topology: inet", "topology: worker"], &[], &[("topology: cron", "containers[0].topology", "reserved"), ("topology: job", "containers[0].topology", "not one of `inet`, `worker`")]),
    row("D-CFG-70", Container, &["inet_port: 8080"], &[], &[("inet_port: 65536", "containers[0].inet_port", "1 to 65535"), ("inet_port: 8080\ntopology: worker", "containers[0].inet_port", "a worker takes no traffic")]),
    row("D-CFG-71", Container, &["dockerfile: web/Dockerfile"], &[], &[("dockerfile: ../Dockerfile", "containers[0].dockerfile", "leaves the directory")]),
    row("D-CFG-72", Container, &["dockerfile_build: web/Dockerfile.build"], &[], &[("dockerfile_build: /Dockerfile.build", "containers[0].dockerfile_build", "leaves the directory")]),
    row("D-CFG-73", Container, &["validate_build_args_exist: false"], &[], &[("validate_build_args_exist: sometimes", "validate_build_args_exist", "expected true or false")]),
    row("D-CFG-74", Container, &["uid: 0", "uid: 65534"], &[], &[("uid: root", "containers[0].uid", "expected an integer"), ("uid: 4294967296", "containers[0].uid", "out of range")]),
    row("D-CFG-75", Container, &["read_only: false"], &[], &[("read_only: {}", "containers[0].read_only", "expected true or false, found a map")]),
    row("D-CFG-76", Container, &["pids_limit: 1"], &[], &[("pids_limit: 0", "containers[0].pids_limit", "at least 1"), ("pids_limit: -1", "containers[0].pids_limit", "expected an integer")]),
    row("D-CFG-77", Container, &["health_check: {method: GET}", "health_check: {method: HEAD}"], &[], &[("health_check: {method: POST}", "health_check.method", "not one of `GET`, `HEAD`")]),
    row("D-CFG-78", Region, &["containers: [{name: aa, topology: inet, health_check: {path: /up}}, {name: bb, topology: inet, health_check: {path: /up}}, {name: cc, topology: worker}]"], &[], &[("containers: [{name: aa, topology: inet, health_check: {path: /up}}, {name: bb, topology: inet}]", "containers[1].health_check.path", "share one path"), ("containers: [{health_check: {path: health}}]", "containers[0].health_check.path", "not a path")]),
    row("D-CFG-79", Container, &["health_check: {interval: 500ms, timeout: 1s, healthy: 2, start_period: 0, status: 204}"], &[], &[("health_check: {interval: 0}", "health_check.interval", "longer than 0"), ("health_check: {timeout: 0s}", "health_check.timeout", "longer than 0"), ("health_check: {healthy: 0}", "health_check.healthy", "at least 1"), ("health_check: {status: 99}", "health_check.status", "100 to 599"), ("health_check: {start_period: 5}", "health_check.start_period", "no unit")]),
    row("D-CFG-80", Container, &["topology: worker\nhealth_check: {exec: [/bin/ready, now]}"], &[], &[("health_check: {exec: [/bin/ready]}", "health_check.exec", "of worker containers"), ("topology: worker\nhealth_check: {exec: []}", "health_check.exec", "needs a command")]),
    row("D-CFG-81", Container, &[], &["src_env_file: {s3_bucket: secrets, s3_key: web.env}", "src_env_file: {s3_bucket: secrets, s3_key: web.env, s3_region: eu-west-1}"], &[("src_env_file: {s3_bucket: secrets}", "containers[0].src_env_file", "come together"), ("src_env_file: {s3_bucket: secrets, s3_key: a, s3_region: here}", "src_env_file.s3_region", "not a region")]),
    row("D-CFG-82", Container, &[], &["src_env_file: {exec_name: ./env.sh, exec_args: [prod]}"], &[("src_env_file: {}", "containers[0].src_env_file", "needs `s3_bucket`"), ("src_env_file: {exec_name: x, s3_bucket: secrets, s3_key: k}", "containers[0].src_env_file", "exclude each other"), ("src_env_file: {exec_args: [x]}", "containers[0].src_env_file", "needs `s3_bucket`")]),
    row("D-CFG-83", Container, &["memory: 512m\ncpus: 0.5", "memory: 1073741824\ncpus: 2"], &[], &[("memory: lots", "containers[0].memory", "not a size"), ("memory: 1m", "containers[0].memory", "6 MiB"), ("cpus: 0", "containers[0].cpus", "outside of what")]),
    row("D-CFG-84", Container, &["stop_grace: 2m", "stop_grace: 0"], &[], &[("stop_grace: 30", "containers[0].stop_grace", "has no unit")]),
    row("D-CFG-85", Container, &["topology: worker\nswap_order: stop_first", "swap_order: start_first"], &[], &[("swap_order: stop_first", "containers[0].swap_order", "is for worker containers"), ("swap_order: any", "containers[0].swap_order", "not one of")]),
    row("handover", Container, &["handover: true", "handover: false\ninet_port: 8080", "topology: worker\nhandover: false"], &[], &[("handover: true\ntopology: worker", "containers[0].handover", "no connections to hand over"), ("handover: true\ninet_port: 8080", "containers[0].inet_port", "the Unix socket that PORTER_INET_SOCKET names"), ("handover: live", "containers[0].handover", "expected true or false")]),
    row("handover_bake", HotSwap, &["handover_bake: 30s", "handover_bake: 0"], &[], &[("handover_bake: 5", "hot_swap.handover_bake", "no unit"), ("handover_bake: 20m", "hot_swap.handover_bake", "shorter than `deadline`")]),
    row("D-CFG-86", Container, &["aws_credentials: host"], &["aws_credentials: none", "aws_credentials: arn:aws:iam::123456789012:role/web"], &[("aws_credentials: mine", "containers[0].aws_credentials", "not one of")]),
    row("D-CFG-87", Hook, &["repo: https://git.example/hooks.git\nref: v1"], &[], &[("concurrent: true", "hooks.post_pack[0]", "needs `dockerfile`, `executable` or `repo`"), ("repo: ''\nref: v1", "hooks.post_pack[0].repo", "must not be empty")]),
    row("D-CFG-88", Hook, &["repo: git@git.example:hooks\nref: 8f2b5d0c1e3a4f5b6c7d8e9f0a1b2c3d4e5f6a7b"], &[], &[("repo: https://git.example/hooks.git", "hooks.post_pack[0].ref", "is required with `repo`"), ("dockerfile: D\nref: v1", "hooks.post_pack[0].ref", "needs `repo`"), ("repo: x\nref: --upload-pack=x", "hooks.post_pack[0].ref", "not a branch")]),
    row("D-CFG-89", Hook, &["dockerfile: hooks/Dockerfile", "executable: hooks/run.sh"], &[], &[("dockerfile: ../Dockerfile", "hooks.post_pack[0].dockerfile", "leaves"), ("dockerfile: D\nexecutable: run.sh", "hooks.post_pack[0].executable", "excludes `dockerfile`"), ("repo: x\nref: v1\nexecutable: run.sh", "hooks.post_pack[0].executable", "excludes `repo`")]),
    row("D-CFG-90", Hook, &["dockerfile: D\nenvironment: {A: b, COPIED: ~, N: 1}"], &[], &[("dockerfile: D\nenvironment: {A-B: c}", "environment.A-B", "not the name of a variable"), ("dockerfile: D\nenvironment: [A]", "environment", "expected a map")]),
    row("D-CFG-92", Hook, &["dockerfile: D\nconcurrent: true"], &[], &[("dockerfile: D\nconcurrent: 2", "concurrent", "expected true or false")]),
    row("D-CFG-93", Hook, &["dockerfile: D\nrun_condition: always", "dockerfile: D\nrun_condition: fail"], &[], &[("dockerfile: D\nrun_condition: success", "run_condition", "not one of `pass`, `fail`, `always`")]),
    row("D-CFG-94", Hook, &["dockerfile: D\ntimeout: 90s"], &[], &[("dockerfile: D\ntimeout: 0", "timeout", "longer than 0"), ("dockerfile: D\ntimeout: 90", "timeout", "has no unit")]),
    row("D-CFG-95", HotSwap, &["enabled: true", "enabled: false"], &[], &[("enabled: perhaps", "hot_swap.enabled", "expected true or false")]),
    row("D-CFG-96", HotSwap, &["mode: simple", "enabled: false\nmode: coordinated"], &["mode: coordinated"], &[("mode: fast", "hot_swap.mode", "not one of `simple`, `coordinated`")]),
    row("D-CFG-97", HotSwap, &["max_age: 168h", "max_age: 1h"], &[], &[("max_age: 168h0m1s", "hot_swap.max_age", "at most `168h`"), ("max_age: 7d", "hot_swap.max_age", "units"), ("max_age: 0", "hot_swap.max_age", "longer than 0")]),
    row("D-CFG-98", HotSwap, &["on_ineligible: fail", "on_ineligible: provision"], &[], &[("on_ineligible: skip", "hot_swap.on_ineligible", "not one of")]),
    row("D-CFG-99", HotSwap, &["generation: 2", "generation: schema-7"], &[], &[("generation: [2]", "hot_swap.generation", "expected text"), ("generation: \"a\\nb\"", "hot_swap.generation", "printable")]),
    row("D-CFG-100", HotSwap, &["batch: 100%", "enabled: false\nbatch: 1"], &["batch: 25%", "batch: 3"], &[("batch: 0", "hot_swap.batch", "not a number of hosts"), ("batch: 101%", "hot_swap.batch", "not a number of hosts")]),
    row("D-CFG-101", HotSwap, &["enabled: false\ncanary: {hosts: 1, bake: 5m}"], &["canary: {hosts: 1, bake: 5m}"], &[("canary: {bake: 5m}", "canary.hosts", "is required"), ("canary: {hosts: 1, bake: 5}", "canary.bake", "no unit")]),
    row("D-CFG-102", HotSwap, &["region_order: [us-east-1]"], &["region_order: [us-east-1, eu-west-1]"], &[("region_order: [mars-1]", "region_order[0]", "not a region of this environment"), ("region_order: [us-east-1, us-east-1]", "region_order[1]", "listed twice")]),
    row("D-CFG-103", HotSwap, &["deadline: 5m"], &[], &[("deadline: 0", "hot_swap.deadline", "longer than 0"), ("deadline: soon", "hot_swap.deadline", "not a duration")]),
    row("D-CFG-104", HotSwap, &["prepare_timeout: 2m"], &[], &[("prepare_timeout: 30m", "hot_swap.prepare_timeout", "longer than `deadline`"), ("prepare_timeout: 0", "hot_swap.prepare_timeout", "longer than 0")]),
    row("D-CFG-105", HotSwap, &["drain_timeout: 10s", "drain_timeout: 0"], &[], &[("drain_timeout: 180", "hot_swap.drain_timeout", "no unit")]),
    row("D-CFG-106", HotSwap, &["on_drain_timeout: close", "on_drain_timeout: fail", "enabled: false\non_drain_timeout: keep"], &["on_drain_timeout: keep"], &[("on_drain_timeout: cut", "hot_swap.on_drain_timeout", "not one of `close`, `fail`, `keep`")]),
    row("D-CFG-107", HotSwap, &["rollback: manual"], &["rollback: auto"], &[("rollback: never", "hot_swap.rollback", "not one of `auto`, `manual`")]),
    row("D-CFG-108", HotSwap, &["suspend_scaling: false"], &[], &[("suspend_scaling: x", "hot_swap.suspend_scaling", "expected true or false")]),
    row("D-CFG-109", HotSwap, &["on_template_drift: provision", "on_template_drift: fail", "on_template_drift: allow"], &[], &[("on_template_drift: ignore", "hot_swap.on_template_drift", "not one of")]),
    row("D-CFG-110", HotSwap, &["detect_interval: 60s", "detect_interval: 1m"], &["detect_interval: 15s"], &[("detect_interval: 4s", "hot_swap.detect_interval", "between `5s` and `60s`"), ("detect_interval: 61s", "hot_swap.detect_interval", "between")]),
    row("D-CFG-125", HotSwap, &["test_cidrs: []"], &["test_cidrs: [10.0.0.0/8, '2001:db8::/32']"], &[("test_cidrs: [office]", "test_cidrs[0]", "not an address range")]),
    row("D-CFG-126", HotSwap, &["allow_stop_first: false"], &["allow_stop_first: true"], &[("allow_stop_first: 1", "hot_swap.allow_stop_first", "expected true or false")]),
    row("D-CFG-118", Top, &["owner: alice"], &[], &[("owner: a b", "owner", "not an owner")]),
    row("D-CFG-119", Environment, &["stack_parameters: {InstanceProfile: x, Size: 3}"], &[], &[("stack_parameters: {with-dash: x}", "stack_parameters.with-dash", "not the name of a template parameter"), ("stack_parameters: {PorterSwapId: x}", "stack_parameters.PorterSwapId", "set by porter itself")]),
    row("D-CFG-120", Environment, &["payload: {format: layers}"], &["payload: {format: tar}", "payload: {format: registry}"], &[("payload: {format: zip}", "payload.format", "not one of")]),
    row("D-CFG-121", Environment, &["payload: {require_signature: false}"], &["payload: {require_signature: true, signing_key: key.pem}"], &[("payload: {require_signature: key}", "payload.require_signature", "expected true or false"), ("payload: {signing_key: ''}", "payload.signing_key", "must not be empty")]),
    row("D-CFG-122", Environment, &["payload: {keep_images: 0}", "payload: {keep_images: 3}"], &[], &[("payload: {keep_images: all}", "payload.keep_images", "expected an integer")]),
    row("D-CFG-123", Environment, &["secrets: {delivery: env, strict: false}"], &["secrets: {kms_key_id: 'arn:aws:kms:us-east-1:123456789012:key/0a'}", "secrets: {delivery: file}", "secrets: {strict: true}"], &[("secrets: {delivery: mail}", "secrets.delivery", "not one of"), ("secrets: {kms_key_id: 0a}", "secrets.kms_key_id", "not the ARN of a KMS key")]),
    row("D-CFG-124", Container, &[], &["src_env_file: {secret_arn: 'arn:aws:secretsmanager:us-east-1:123456789012:secret:web-Ab', fetch: host}"], &[("src_env_file: {secret_arn: web}", "src_env_file.secret_arn", "not the ARN of a secret"), ("src_env_file: {secret_arn: 'arn:aws:ssm:us-east-1:123456789012:parameter/web', fetch: later}", "src_env_file.fetch", "not one of `build`, `host`")]),
    row("D-CFG-127", Container, &["topology: worker\nprestart: false"], &["topology: worker\nprestart: true"], &[("prestart: true", "containers[0].prestart", "is for worker containers")]),
    row("D-CFG-128", Environment, &["region_order: [us-east-1]\nmax_parallel_regions: 2"], &["region_order: [eu-west-1, us-east-1]", "max_parallel_regions: 1"], &[("region_order: [us-west-9]", "region_order[0]", "not a region of this environment"), ("max_parallel_regions: 0", "max_parallel_regions", "at least 1")]),
    row("D-CFG-129", Environment, &["permissions_boundary: arn:aws:iam::123456789012:policy/boundary", "permissions_boundary: arn:aws:iam::aws:policy/PowerUserAccess"], &[], &[("permissions_boundary: boundary", "environments[0].permissions_boundary", "not the ARN of a managed policy")]),
    row("D-CFG-130", Top, &["x-interpolate: false\nx-legacy-hook-env: false"], &["x-legacy-hook-env: true"], &[("x-legacy-hook-env: 1", "x-legacy-hook-env", "expected true or false"), ("x-interpolate: 1", "x-interpolate", "expected true or false")]),
];

#[test]
fn d_qa_9_every_row_of_section_1_has_accepted_and_refused_examples() {
    let mut broken = vec![];
    for Row {
        id,
        level,
        good,
        later,
        bad,
    } in ROWS
    {
        assert!(!bad.is_empty(), "{id} has no refused example"); // D-QA-9
        for snippet in *good {
            if let Err(errors) = parse_text(&file(*level, snippet)) {
                broken.push(format!("{id}: `{snippet}` should pass:\n{errors}"));
            }
        }
        for snippet in *later {
            let found = kinds(&file(*level, snippet));
            if found.is_empty() || found.iter().any(|k| *k != Kind::Unavailable) {
                broken.push(format!(
                    "{id}: `{snippet}` should only be not available: {:?}",
                    parse_text(&file(*level, snippet)).err()
                ));
            }
        }
        for (snippet, path, message) in *bad {
            match parse_text(&file(*level, snippet)) {
                Ok(_) => broken.push(format!("{id}: `{snippet}` should be refused")),
                Err(errors) => {
                    let here = |e: &crate::config::ConfigError| {
                        e.kind == Kind::Invalid
                            && e.path.ends_with(path)
                            && e.message.contains(message)
                            && e.line.is_some()
                    };
                    if !errors.errors().iter().any(here) {
                        broken.push(format!(
                            "{id}: `{snippet}`: no `{message}` at `{path}`:\n{errors}"
                        ));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
