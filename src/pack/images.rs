//! Which images a configuration needs, and what it demands of them; pure.

use crate::config::model::Config;
use contract::{
    manifest::{Image, Manifest},
    spec::{HostSpec, SwapSpec, Topology},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// One image to build. Containers are distinct by name, Dockerfile, builder file and platform together
/// (D-PACK-13, D-PACK-20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Key in the manifest: the container's name, with a number when the name alone is ambiguous.
    pub key: String,
    /// The container's name.
    pub name: String,
    /// Relative to the repository root.
    pub dockerfile: PathBuf,
    /// The builder file, if it exists.
    pub dockerfile_build: PathBuf,
    /// `os/architecture` of the hosts.
    pub platform: String,
    /// D-CFG-73; true when any of its containers says so.
    pub validate_arguments: bool,
}

/// Lists the images, in the order of the configuration, and writes their keys into its containers.
pub fn wanted(config: &mut Config) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for region in config.environments.iter_mut().flat_map(|e| &mut e.regions) {
        let platform = platform(&region.instance_type);
        for container in &mut region.containers {
            let same = |w: &&mut Wanted| {
                (&w.name, &w.dockerfile, &w.dockerfile_build)
                    == (
                        &container.run.name,
                        &container.dockerfile,
                        &container.dockerfile_build,
                    )
                    && w.platform == platform
            };
            if let Some(known) = all.iter_mut().find(same) {
                known.validate_arguments |= container.validate_build_args_exist;
                container.run.image.clone_from(&known.key);
                continue;
            }
            let name = container.run.name.clone();
            let number = all.iter().filter(|w| w.name == name).count() + 1;
            // A hyphen is not allowed in names (D-CFG-67), so the numbered keys can't meet another container's.
            let key = if number == 1 {
                name.clone()
            } else {
                format!("{name}-{number}")
            };
            container.run.image.clone_from(&key);
            all.push(Wanted {
                key,
                name,
                dockerfile: container.dockerfile.clone(),
                dockerfile_build: container.dockerfile_build.clone(),
                platform: platform.to_owned(),
                validate_arguments: container.validate_build_args_exist,
            });
        }
    }
    all
}

/// The platform of an instance type, in the words of the engine.
pub fn platform(instance_type: &str) -> &'static str {
    if crate::config::is_arm(instance_type) {
        "linux/arm64"
    } else {
        "linux/amd64"
    }
}

/// A name for people and for hooks; identity is the digest (D-PACK-5, D-PACK-6). The seconds are the commit's, so that
/// packing a commit again gives the same manifest (D-PACK-17).
pub fn reference(version: &str, committed: i64, key: &str) -> String {
    format!("s3/s3:porter-{version}-{committed}-{key}")
}

/// Finds the port of every inet container that names none: the only TCP port that its image exposes (D-CFG-70).
///
/// # Errors
/// A sentence for each container whose port is not certain.
pub fn find_ports(
    config: &mut Config,
    exposed: &BTreeMap<String, Vec<String>>,
) -> Result<(), Vec<String>> {
    let mut problems = BTreeSet::new();
    let containers = config
        .environments
        .iter_mut()
        .flat_map(|e| &mut e.regions)
        .flat_map(|r| &mut r.containers);
    for run in containers
        .map(|c| &mut c.run)
        .filter(|run| run.topology == Topology::Inet && !run.handover)
    {
        let ports = exposed
            .get(&run.image)
            .map(Vec::as_slice)
            .unwrap_or_default();
        match port(run.inet_port, ports) {
            Ok(port) => run.inet_port = Some(port),
            Err(problem) => drop(problems.insert(format!("container `{}`: {problem}", run.name))),
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.into_iter().collect())
    }
}

fn port(configured: Option<u16>, exposed: &[String]) -> Result<u16, String> {
    let tcp: Vec<u16> = exposed
        .iter()
        .filter_map(|p| {
            p.strip_suffix("/tcp")
                .or((!p.contains('/')).then_some(p))?
                .parse()
                .ok()
        })
        .collect();
    match (configured, tcp.as_slice()) {
        (Some(port), _) if exposed.contains(&format!("{port}/udp")) && !tcp.contains(&port) => Err(
            format!("`inet_port: {port}` is exposed for UDP; it must be a TCP port"),
        ),
        (Some(port), _) => Ok(port),
        (None, [port]) => Ok(*port),
        (None, []) => Err(
            "the image exposes no TCP port; add `EXPOSE` to its Dockerfile or set `inet_port`"
                .into(),
        ),
        (None, several) => Err(format!(
            "the image exposes several ports ({several:?}); set `inet_port`"
        )),
    }
}

/// What the hosts of every environment and region run.
pub fn hosts(config: &Config) -> BTreeMap<String, BTreeMap<String, HostSpec>> {
    let environments = config.environments.iter().map(|environment| {
        let swap = SwapSpec {
            prepare_timeout: environment.hot_swap.prepare_timeout,
            drain_timeout: environment.hot_swap.drain_timeout,
            on_drain_timeout: environment.hot_swap.on_drain_timeout,
            handover_bake: environment.hot_swap.handover_bake,
            keep_images: environment.keep_images,
        };
        let regions = environment.regions.iter().map(|region| {
            let containers = region.containers.iter().map(|c| c.run.clone()).collect();
            (
                region.name.clone(),
                HostSpec {
                    containers,
                    proxy: region.haproxy.clone(),
                    swap: swap.clone(),
                },
            )
        });
        (environment.name.clone(), regions.collect())
    });
    environments.collect()
}

/// One line of what pack prints at its end (D-PACK-21).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Key in the manifest.
    pub image: String,
    /// Its label for people.
    pub reference: String,
    /// Its layers, unpacked, in bytes.
    pub unpacked: u64,
    /// The same as stored.
    pub stored: u64,
    /// Number of layers.
    pub layers: usize,
    /// Layers that the previous payload did not have.
    pub new_layers: usize,
    /// Their stored bytes: what an upload will ship at most.
    pub new_bytes: u64,
}

/// Compares with the payload that was packed before.
pub fn summary(manifest: &Manifest, previous: Option<&Manifest>) -> Vec<Summary> {
    let before: BTreeSet<_> = previous
        .iter()
        .flat_map(|m| m.blobs())
        .map(|b| &b.digest)
        .collect();
    let of = |(key, image): (&String, &Image)| {
        let new: Vec<_> = image
            .layers
            .iter()
            .filter(|l| !before.contains(&l.blob.digest))
            .collect();
        Summary {
            image: key.clone(),
            reference: image.reference.clone(),
            unpacked: image.layers.iter().map(|l| l.unpacked).sum(),
            stored: image.layers.iter().map(|l| l.blob.size).sum(),
            layers: image.layers.len(),
            new_layers: new.len(),
            new_bytes: new.iter().map(|l| l.blob.size).sum(),
        }
    };
    manifest.images.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_pack_20_the_platform_follows_the_instance_type() {
        for arm in [
            "t4g.micro",
            "m7gd.large",
            "c7gn.xlarge",
            "im4gn.large",
            "is4gen.medium",
            "x2gd.large",
            "g5g.xlarge",
            "a1.large",
            "r8g.metal-24xl",
            "p6e-gb200.36xlarge",
        ] {
            assert_eq!(platform(arm), "linux/arm64", "{arm}"); // D-PACK-20
        }
        for x86 in [
            "t3.small",
            "g5.xlarge",
            "m5zn.large",
            "c6i.large",
            "u-6tb1.metal",
            "p4d.24xlarge",
            "g4dn.xlarge",
            "inf2.xlarge",
        ] {
            assert_eq!(platform(x86), "linux/amd64", "{x86}");
        }
    }

    #[test]
    fn d_cfg_70_the_only_exposed_tcp_port_is_the_default() {
        let exposed = |ports: &[&str]| ports.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        // D-CFG-70
        assert_eq!(port(None, &exposed(&["8080/tcp"])), Ok(8080));
        assert_eq!(port(None, &exposed(&["8080/tcp", "53/udp"])), Ok(8080));
        assert_eq!(
            port(Some(9000), &exposed(&["8080/tcp", "9000/tcp"])),
            Ok(9000)
        );
        assert_eq!(port(Some(9000), &[]), Ok(9000));
        assert!(
            port(None, &exposed(&["8080/tcp", "9000/tcp"]))
                .unwrap_err()
                .contains("[8080, 9000]")
        );
        assert!(
            port(None, &exposed(&["53/udp"]))
                .unwrap_err()
                .contains("exposes no TCP port")
        );
        assert!(
            port(Some(53), &exposed(&["53/udp"]))
                .unwrap_err()
                .contains("must be a TCP port")
        );
    }
}
