//! The forms that texts of the configuration must have, each with the words that a message uses for it.

use regex::bytes::{Regex, RegexBuilder};
use std::sync::LazyLock;

/// A form and its description, which completes "`x` is not …".
pub(super) struct Pattern {
    pub what: &'static str,
    regex: LazyLock<Regex>,
}

impl Pattern {
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text.as_bytes())
    }
}

/// Without Unicode classes: `\d` means 0 to 9, as everywhere in AWS.
fn compiled(expression: &str) -> Regex {
    let regex = RegexBuilder::new(expression).unicode(false).build();
    regex.expect("each expression is a literal of this file, and a test compiles them all")
}

macro_rules! patterns {
    ($($(#[$doc:meta])* $name:ident = $regex:literal, $what:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: Pattern = Pattern {
            what: $what,
            regex: LazyLock::new(|| compiled($regex)),
        };)*
        #[cfg(test)]
        static ALL: &[&Pattern] = &[$(&$name),*];
    };
}

patterns! {
    /// D-CFG-12
    SERVICE_NAME = r"^[a-zA-Z][-a-zA-Z0-9]*$", "a service name: letters, digits and `-`, beginning with a letter";
    /// D-CFG-13
    PORTER_VERSION = r"^v\d+\.\d+\.\d+$", "a version such as `v1.2.3`";
    /// D-CFG-118: part of stack names
    OWNER = r"^[a-zA-Z0-9][-a-zA-Z0-9]*$", "an owner: letters, digits and `-`";
    /// D-CFG-19
    ENVIRONMENT_NAME = r"^[0-9a-zA-Z]+$", "an environment name: letters and digits";
    /// D-CFG-21, D-CFG-22
    ROLE_ARN = r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$", "the ARN of a role, such as `arn:aws:iam::123456789012:role/porter-deployment`";
    /// Limits of STS AssumeRole.
    EXTERNAL_ID = r"^[\w+=,.@:/-]{2,1224}$", "an external id: 2 to 1224 letters, digits or `+=,.@:/-`";
    /// D-CFG-25
    INSTANCE_TYPE = r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$", "an instance type such as `t3.medium`";
    /// D-CFG-29
    AMI = r"^(ami-[0-9a-f]{8,17}|ssm:/[\w./-]+)$", "an image: `ami-…` or `ssm:/path/of/a/parameter`";
    /// D-CFG-50
    REGION = r"^[a-z]{2}(-[a-z]+)+-\d+$", "a region such as `us-west-2`";
    /// D-CFG-52
    VPC_ID = r"^vpc-([a-z0-9]{8}|[a-z0-9]{17})$", "a VPC id: `vpc-` and 8 or 17 characters";
    /// D-CFG-53
    SUBNET_ID = r"^subnet-([a-z0-9]{8}|[a-z0-9]{17})$", "a subnet id: `subnet-` and 8 or 17 characters";
    /// S3's own naming rule.
    BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", "a bucket name: 3 to 63 lower case letters, digits, `.` or `-`";
    /// D-CFG-55, D-CFG-123
    KMS_KEY = r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key|alias)/.+$", "the ARN of a KMS key";
    /// D-CFG-58
    TARGET_GROUP = r"^arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:\d{12}:targetgroup/.+$", "the ARN of a target group";
    /// D-CFG-59
    CERTIFICATE = r"^arn:aws[a-z-]*:(acm:[a-z0-9-]+|iam:):\d{12}:(certificate|server-certificate)/.+$", "the ARN of a certificate";
    /// D-CFG-124
    SECRET_ARN = r"^arn:aws[a-z-]*:(secretsmanager|ssm):[a-z0-9-]+:\d{12}:(secret:|parameter/).+$", "the ARN of a secret or of an SSM parameter";
    /// D-CFG-129
    POLICY_ARN = r"^arn:aws[a-z-]*:iam::(\d{12}|aws):policy/.+$", "the ARN of a managed policy";
    /// D-CFG-67, D-CFG-68
    CONTAINER_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.]+$", "a container name: at least two letters, digits, `_` or `.`, without a hyphen";
    /// Names of classic load balancers.
    ELB_NAME = r"^[a-zA-Z0-9]([-a-zA-Z0-9]{0,30}[a-zA-Z0-9])?$", "the name of a classic load balancer";
    /// D-CFG-63
    PREFIX_LIST = r"^pl-[0-9a-f]{8,17}$", "a prefix list id such as `pl-0123abcd`";
    /// D-CFG-62; also `!GetAtt`-free names of groups in the user's template are ids at run time.
    SECURITY_GROUP = r"^sg-[0-9a-f]{8,17}$", "a security group id such as `sg-0123abcd`";
    /// D-CFG-62
    PROTOCOL = r"^(tcp|udp|icmp|icmpv6|-1|\d{1,3})$", "a protocol: `tcp`, `udp`, `icmp`, `icmpv6`, `-1` for all, or a number";
    /// D-CFG-78
    HTTP_PATH = r"^/[!-~]*$", "a path: `/` and printable characters without spaces";
    /// D-CFG-31
    HEADER = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "a header name";
    /// D-CFG-35
    MIME = r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+*-]+$", "a MIME type such as `text/html`";
    /// D-CFG-26, D-CFG-112
    RFC_3339 = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$", "a time as RFC 3339 writes it, such as `2026-12-24T18:00:00Z`";
    /// D-CFG-114
    CRON = r"^[0-9A-Za-z*/,#?-]+( +[0-9A-Za-z*/,#?-]+){4}$", "a cron expression of five fields";
    /// D-CFG-114
    TIME_ZONE = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$", "a time zone such as `Europe/Berlin`";
    /// D-CFG-90
    VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$", "the name of a variable";
    /// Hook names are used on the command line and in file names.
    HOOK_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", "a hook name: letters, digits, `_`, `.` and `-`";
    /// CloudFormation's rule for logical ids.
    PARAMETER = r"^[A-Za-z0-9]{1,255}$", "the name of a template parameter: letters and digits";
    /// D-CFG-100
    BATCH = r"^([1-9]\d{0,5}|([1-9]\d?|100)%)$", "a number of hosts or a percentage such as `25%`";
    /// D-CFG-17
    URL = r"^https?://[!-~]+$", "a URL";
    /// D-CFG-115
    REGISTRY_HOST = r"^[A-Za-z0-9.-]+(:\d{1,5})?$", "a registry host without scheme and slash";
    /// D-CFG-60
    ZONE_NAME = r"^([A-Za-z0-9_*-]{1,63}\.)+[A-Za-z0-9-]{1,63}$", "a DNS zone such as `example.com`";
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_expression_compiles_and_refuses_the_empty_text() {
        for pattern in super::ALL {
            assert!(!pattern.matches(""), "{}", pattern.what);
        }
    }
}
