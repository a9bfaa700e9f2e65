//! Names on which both sides rely: logical ids, tags, labels, keys in the bucket and paths on a host.

use crate::digest::Digest;

/// Logical id of the launch template, whose metadata carries the desired state.
pub const LAUNCH_TEMPLATE: &str = "LaunchTemplate";
/// Logical id of the Auto Scaling group.
pub const AUTO_SCALING_GROUP: &str = "AutoScalingGroup";
/// Logical id of the role of the hosts (D-TPL-18).
pub const HOST_ROLE: &str = "IAMRole";
/// Logical id of the stack's own queue (D-TPL-16).
pub const SIGNAL_QUEUE: &str = "PorterSignalQueue";
/// Key of [`crate::job::DesiredState`] in the launch template's metadata.
pub const METADATA_KEY: &str = "Porter";

/// Tags on stack, group and load balancer (D-PROM-4, D-TPL-35, D-TPL-36).
pub mod tag {
    /// On the destination load balancer or target group: id of the promoted stack.
    pub const PROMOTED_STACK: &str = "porter-aws-cloudformation-stack-id";
    /// Version of the tool.
    pub const PORTER_VERSION: &str = "porter-version";
    /// [`crate::job::HOST_PROTOCOL`] that the stack's hosts speak.
    pub const HOST_PROTOCOL: &str = "porter-host-protocol";
    /// Environment name.
    pub const ENVIRONMENT: &str = "porter-config-environment";
    /// Service name.
    pub const SERVICE: &str = "porter-service-name";
    /// Who owns the stack (D-PROV-3).
    pub const OWNER: &str = "porter-owner";
    /// Payload digest the stack was last asked to run.
    pub const PAYLOAD: &str = "porter-payload-digest";
    /// On the group while a swap has suspended its scaling: the swap's deadline. What a killed run leaves suspended is
    /// told by it from what an operator has suspended (D-HOT-39).
    pub const SCALING_SUSPENDED: &str = "porter-scaling-suspended-until";
    /// D-CFG-99.
    pub const GENERATION: &str = "porter-generation";
}

/// Labels on containers, images and networks (D-HOST-20).
pub mod label {
    /// Service name.
    pub const SERVICE: &str = "porter.service";
    /// Environment name.
    pub const ENVIRONMENT: &str = "porter.environment";
    /// Payload digest.
    pub const PAYLOAD: &str = "porter.payload";
    /// Swap id that started the container.
    pub const SWAP: &str = "porter.swap";
    /// `containers[].name`.
    pub const CONTAINER: &str = "porter.container";
    /// EC2 instance id: tells the simulated hosts of one machine apart.
    pub const INSTANCE: &str = "porter.instance";
    /// Where the proxy reaches the container: `127.0.0.1:20000` where it is published, `unix:<seat>` for one that hands
    /// over.
    pub const ENDPOINT: &str = "porter.endpoint";
}

/// Key of a blob (D-PAY-5).
pub fn blob_key(service: &str, digest: &Digest) -> String {
    format!("porter-deployment/{service}/blobs/sha256/{}", digest.hex())
}

/// Key of a payload manifest.
pub fn manifest_key(service: &str, payload: &Digest) -> String {
    format!(
        "porter-deployment/{service}/manifests/sha256/{}",
        payload.hex()
    )
}

/// Key of the host agent's binary, which the template pins by digest (D-SEC-26).
pub fn agent_key(service: &str, digest: &Digest) -> String {
    format!("porter-deployment/{service}/agents/sha256/{}", digest.hex())
}

/// Key of an assembled template (D-TPL-9).
pub fn template_key(service: &str, environment: &str, version: &str, digest: &Digest) -> String {
    format!(
        "porter-template/{service}/{environment}/{version}/{}",
        digest.hex()
    )
}

/// Paths on a host (D-HOST-46).
pub mod path {
    /// Sockets of the containers that hand over; the proxy's root directory.
    pub const SOCKETS: &str = "/run/porter";
    /// State, journal and blobs of the host agent, mode 0700.
    pub const STATE: &str = "/var/lib/porter";
    /// Folders of containers with `data: true`; only root may enter.
    pub const DATA: &str = "/var/lib/porter-data";
    /// Where such a folder is in its container.
    pub const DATA_INSIDE: &str = "/data";
    /// Facts about the machine that the agent does not guess: see the host agent's `machine` module. Optional.
    pub const MACHINE: &str = "/etc/porter/machine.json";
    /// Written by cfn-init: stack, region and logical id, for commands that people run by hand.
    pub const STACK: &str = "/etc/porter/stack.json";
    /// The agent's binary.
    pub const AGENT: &str = "/usr/bin/host-agent";
    /// Run by cfn-hup's post.update hook.
    pub const HOTSWAP: &str = "/usr/bin/porter_hotswap";
    /// Run once by cloud-init.
    pub const BOOTSTRAP: &str = "/usr/bin/porter_bootstrap";
    /// HAProxy's configuration (D-HAP-1).
    pub const PROXY_CONFIG: &str = "/etc/haproxy/haproxy.cfg";
    /// HAProxy's runtime socket, admin level, root only.
    pub const PROXY_SOCKET: &str = "/run/haproxy/admin.sock";
    /// HAProxy's master socket: reload and the workers' list.
    pub const PROXY_MASTER_SOCKET: &str = "/run/haproxy/master.sock";
}
