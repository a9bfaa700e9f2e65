//! What a hook is told: exactly these variables (D-HOOK-6 to D-HOOK-8), and then its own `environment`; pure.

use super::{Moment, Outcome, StatsCredentials};
use crate::config::model::HookEntry;
use contract::digest::Digest;
use std::{collections::BTreeMap, path::PathBuf};

/// What all hooks of one moment and region have in common.
#[derive(Clone, Debug, Default)]
pub struct HookContext {
    /// Root of the service's repository, absolute.
    pub root: PathBuf,
    /// `.porter-tmp`, absolute: plugins are cloned there.
    pub out: PathBuf,
    /// `PORTER_SERVICE_NAME`; `None` before the configuration is read.
    pub service: Option<String>,
    /// `PORTER_SERVICE_VERSION`; `None` when it is not known.
    pub version: Option<String>,
    /// Of the proxy's statistics page.
    pub stats: Option<StatsCredentials>,
    /// For hooks that run for a region (D-HOOK-4).
    pub region: Option<RegionVariables>,
    /// For `pre_hotswap` and `post_hotswap`.
    pub swap: Option<SwapVariables>,
    /// The caller's `VOLUME_FLAG`, `ro` or `z`, for the mount of the repository (D-HOOK-3).
    pub volume_flag: Option<String>,
    /// Images of hooks stay, as a cache (D-HOOK-19).
    pub keep_images: bool,
}

/// Variables of a region (D-HOOK-7).
#[derive(Clone, Default)]
pub struct RegionVariables {
    /// `PORTER_ENVIRONMENT`
    pub environment: String,
    /// `AWS_REGION`, `AWS_DEFAULT_REGION`
    pub region: String,
    /// Of the region's role: access key id, secret access key, session token.
    pub credentials: Option<(String, String, Option<String>)>,
    /// `AWS_ENDPOINT_URL`, when the caller uses another endpoint than AWS's own.
    pub endpoint: Option<String>,
    /// `AWS_CLOUDFORMATION_STACKID`
    pub stack: Option<String>,
    /// `AWS_ELASTICLOADBALANCING_LOADBALANCER_DNS`
    pub provisioned_dns: Option<String>,
    /// `PORTER_DESTINATION_DNS`
    pub destination_dns: Option<String>,
}

impl std::fmt::Debug for RegionVariables {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegionVariables({}, {})", self.environment, self.region)
    }
}

/// Variables of a swap (D-HOOK-8).
#[derive(Clone, Debug)]
pub struct SwapVariables {
    /// `PORTER_SWAP_ID`
    pub id: String,
    /// `PORTER_OLD_PAYLOAD_DIGEST`
    pub old_payload: Option<Digest>,
    /// `PORTER_NEW_PAYLOAD_DIGEST`
    pub new_payload: Digest,
}

/// All variables of one hook. `caller` looks into porter's own environment, for entries without a value (D-CFG-90,
/// D-CFG-91).
pub fn of(
    hook: &HookEntry,
    moment: Moment,
    context: &HookContext,
    outcome: Option<Outcome>,
    caller: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value.to_owned());
        }
    };
    set("PORTER_SERVICE_NAME", context.service.as_deref());
    set("PORTER_SERVICE_VERSION", context.version.as_deref());
    set("DOCKER_ENV_FILE", Some("/dockerfile.env"));
    if let Some(stats) = &context.stats {
        set("HAPROXY_STATS_USERNAME", Some(&stats.username));
        set("HAPROXY_STATS_PASSWORD", Some(&stats.password));
        set("HAPROXY_STATS_URL", Some("http://localhost/admin?stats"));
    }
    if let Some(region) = &context.region {
        set("PORTER_ENVIRONMENT", Some(&region.environment));
        set("AWS_REGION", Some(&region.region));
        set("AWS_DEFAULT_REGION", Some(&region.region));
        if let Some((id, secret, token)) = &region.credentials {
            set("AWS_ACCESS_KEY_ID", Some(id));
            set("AWS_SECRET_ACCESS_KEY", Some(secret));
            set("AWS_SESSION_TOKEN", token.as_deref());
            set("AWS_SECURITY_TOKEN", token.as_deref());
        }
        set("AWS_ENDPOINT_URL", region.endpoint.as_deref());
        set("AWS_CLOUDFORMATION_STACKID", region.stack.as_deref());
        set(
            "AWS_ELASTICLOADBALANCING_LOADBALANCER_DNS",
            region.provisioned_dns.as_deref(),
        );
        set("PORTER_DESTINATION_DNS", region.destination_dns.as_deref());
    }
    if let (Moment::PreHotswap | Moment::PostHotswap, Some(swap)) = (moment, &context.swap) {
        set("PORTER_SWAP_ID", Some(&swap.id));
        set("PORTER_SWAP_PHASE", Some(moment.name()));
        set("PORTER_SWAP_OUTCOME", outcome.map(Outcome::name));
        set(
            "PORTER_OLD_PAYLOAD_DIGEST",
            swap.old_payload.as_ref().map(Digest::as_str),
        );
        set("PORTER_NEW_PAYLOAD_DIGEST", Some(swap.new_payload.as_str()));
    }
    for (name, value) in &hook.environment {
        set(name, value.clone().or_else(|| caller(name)).as_deref());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::RunCondition;
    use std::time::Duration;

    fn full() -> HookContext {
        HookContext {
            service: Some("hello".into()),
            version: Some("abc1234".into()),
            stats: Some(StatsCredentials {
                username: "user".into(),
                password: "word".into(),
            }),
            region: Some(RegionVariables {
                environment: "stage".into(),
                region: "us-east-1".into(),
                credentials: Some(("id".into(), "secret".into(), Some("token".into()))),
                endpoint: Some("http://127.0.0.1:1".into()),
                stack: Some("arn:stack".into()),
                provisioned_dns: Some("provisioned".into()),
                destination_dns: Some("destination".into()),
            }),
            swap: Some(SwapVariables {
                id: "01J".into(),
                old_payload: Some(Digest::from_bytes(&[1; 32])),
                new_payload: Digest::from_bytes(&[2; 32]),
            }),
            ..HookContext::default()
        }
    }

    fn hook(environment: &[(&str, Option<&str>)]) -> HookEntry {
        HookEntry {
            repo: None,
            r#ref: None,
            dockerfile: None,
            executable: Some("x".into()),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned)))
                .collect(),
            concurrent: false,
            run_condition: RunCondition::Pass,
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn d_hook_6_7_8_the_samples_list_every_variable_and_no_other() {
        for (moment, outcome, sample) in [
            (
                Moment::PreHotswap,
                None,
                include_str!("../../hooks/pre_hotswap"),
            ),
            (
                Moment::PostHotswap,
                Some(Outcome::Pass),
                include_str!("../../hooks/post_hotswap"),
            ),
        ] {
            let given = of(&hook(&[]), moment, &full(), outcome, &|_| None);
            // D-HOOK-6, D-HOOK-7, D-HOOK-8
            let listed: std::collections::BTreeSet<&str> = sample
                .lines()
                .skip_while(|line| !line.starts_with("# Variables of every hook"))
                .filter_map(|line| line.strip_prefix("#   ")?.split_whitespace().next())
                .collect();
            assert_eq!(
                given
                    .keys()
                    .map(String::as_str)
                    .collect::<std::collections::BTreeSet<_>>(),
                listed,
                "{moment}"
            );
            assert_eq!(
                given.get("PORTER_SWAP_OUTCOME").map(String::as_str),
                outcome.map(Outcome::name)
            );
            assert_eq!(given["PORTER_SWAP_PHASE"], moment.name());
        }
        let other = of(&hook(&[]), Moment::PreProvision, &full(), None, &|_| None);
        assert!(
            !other.keys().any(|k| k.starts_with("PORTER_SWAP")),
            "{other:?}"
        );
    }

    #[test]
    fn d_cfg_90_91_own_variables_are_set_copied_or_left_out() {
        let own = hook(&[
            ("SET", Some("1")),
            ("EMPTY", Some("")),
            ("COPIED", None),
            ("UNSET", None),
            ("AWS_REGION", Some("mine")),
        ]);
        let caller =
            |name: &str| (name == "COPIED" || name == "SET").then(|| "the caller's".to_owned());
        let given = of(&own, Moment::PrePack, &full(), None, &caller);
        // D-CFG-90, D-CFG-91
        assert_eq!(
            (
                &given["SET"][..],
                &given["EMPTY"][..],
                &given["COPIED"][..],
                &given["AWS_REGION"][..]
            ),
            ("1", "", "the caller's", "mine")
        );
        assert!(!given.contains_key("UNSET"));
    }

    #[test]
    fn nothing_unknown_is_given_as_an_empty_text() {
        let bare = of(
            &hook(&[]),
            Moment::PrePack,
            &HookContext::default(),
            None,
            &|_| None,
        );
        assert_eq!(bare.keys().collect::<Vec<_>>(), ["DOCKER_ENV_FILE"]);
    }

    #[test]
    fn credentials_are_never_part_of_a_debug_text() {
        let text = format!("{:?}", full());
        for secret in ["secret", "token", "word"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
