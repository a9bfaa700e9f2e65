//! Settings that only have to be well formed in this version: notifications, registry, secrets and payload options.
//! A value with an effect that we do not implement is refused as not available.

use super::{
    error::Kind,
    field::{Reader, Section, unsupported},
    pattern,
};

/// Kept on hosts so that going back ships nothing (design decision; porter: 0).
const DEFAULT_KEEP_IMAGES: u32 = 1;
const SLACK: [&str; 10] = [
    "pack_success_webhook_url",
    "pack_failure_webhook_url",
    "provision_success_webhook_url",
    "provision_failure_webhook_url",
    "promote_success_webhook_url",
    "promote_failure_webhook_url",
    "hotswap_success_webhook_url",
    "hotswap_failure_webhook_url",
    "prune_success_webhook_url",
    "prune_failure_webhook_url",
];

/// D-CFG-17, D-CFG-18.
pub(super) fn slack(slack: Section) {
    for key in SLACK {
        if let Some(field) = slack.get(key)
            && field.matching(&pattern::URL).is_some()
        {
            field.unavailable("notify from a `post_*` hook");
        }
    }
    slack.done();
}

/// Registry variables come in pairs (D-CFG-115); with them the payload would be a registry's.
pub(super) fn registry(reader: &Reader) {
    let set = |name: &str| (reader.env)(name).filter(|v| !v.is_empty());
    for (one, other) in [
        ("DOCKER_REGISTRY", "DOCKER_REPOSITORY"),
        ("DOCKER_PULL_USERNAME", "DOCKER_PULL_PASSWORD"),
        ("DOCKER_PUSH_USERNAME", "DOCKER_PUSH_PASSWORD"),
    ] {
        for (given, absent) in [(one, other), (other, one)] {
            if set(given).is_some() && set(absent).is_none() {
                reader.variable(Kind::Invalid, given, format!("needs `{absent}` beside it"));
            }
        }
    }
    if let Some(host) = set("DOCKER_REGISTRY") {
        if pattern::REGISTRY_HOST.matches(&host) {
            let message = unsupported(
                "DOCKER_REGISTRY",
                "unset it; the payload then travels through the S3 bucket",
            );
            reader.variable(Kind::Unavailable, "DOCKER_REGISTRY", message);
        } else {
            reader.variable(
                Kind::Invalid,
                "DOCKER_REGISTRY",
                format!("`{host}` is not {}", pattern::REGISTRY_HOST.what),
            );
        }
    }
}

/// `payload` of an environment (D-CFG-120 to D-CFG-122); returns `keep_images`.
pub(super) fn payload(environment: &Section) -> u32 {
    let Some(payload) = environment.get("payload").and_then(|f| f.section()) else {
        return DEFAULT_KEEP_IMAGES;
    };
    if let Some(field) = payload.get("format")
        && let Some(true) = field.one_of(&[("layers", false), ("tar", true), ("registry", true)])
    {
        field.unavailable("only `layers` is");
    }
    if let Some(field) = payload.get("require_signature")
        && field.boolean() == Some(true)
    {
        field.unavailable("payloads are verified by digest");
    }
    if let Some(field) = payload.get("signing_key")
        && field.filled().is_some()
    {
        field.unavailable("payloads are verified by digest");
    }
    let keep = payload
        .get("keep_images")
        .map_or(Some(DEFAULT_KEEP_IMAGES), |f| f.count(0))
        .unwrap_or_default();
    payload.done();
    keep
}

/// `secrets` of an environment (D-CFG-123).
pub(super) fn secrets(environment: &Section) {
    let Some(secrets) = environment.get("secrets").and_then(|f| f.section()) else {
        return;
    };
    if let Some(field) = secrets.get("kms_key_id")
        && field.matching(&pattern::KMS_KEY).is_some()
    {
        field.unavailable("no secrets are delivered");
    }
    if let Some(field) = secrets.get("delivery")
        && field.one_of(&[("env", false), ("file", true)]) == Some(true)
    {
        field.unavailable("no secrets are delivered");
    }
    if let Some(field) = secrets.get("strict")
        && field.boolean() == Some(true)
    {
        field.unavailable("no secrets are delivered");
    }
    secrets.done();
}
