//! Target groups and the load balancers before them: tags, target health, VPC, security groups.

use super::{Error, Kind, Session, error::Site};
use aws_sdk_elasticloadbalancingv2::types::{Tag, TargetHealthStateEnum};
use std::collections::BTreeMap;

/// ELBv2 in one region.
#[derive(Clone, Debug)]
pub struct Elbv2 {
    client: aws_sdk_elasticloadbalancingv2::Client,
    site: Site,
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Its VPC.
    pub vpc: Option<String>,
    /// ARNs of the load balancers that forward to it.
    pub load_balancers: Vec<String>,
    /// `HTTP`, `TCP`, ….
    pub protocol: String,
    /// Where it sends traffic on hosts.
    pub port: u16,
}

/// The load balancers before a target group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancers {
    /// Ids of their security groups.
    pub security_groups: Vec<String>,
    /// Ids of their subnets.
    pub subnets: Vec<String>,
    /// DNS name of the first.
    pub dns: Option<String>,
}

/// A registered target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Instance id.
    pub instance: String,
    /// Such as `healthy`, `initial`, `draining`, `unused`.
    pub state: String,
    /// Why it is not healthy, for people.
    pub reason: Option<String>,
}

impl Target {
    /// Whether it receives traffic.
    pub fn in_service(&self) -> bool {
        self.state == TargetHealthStateEnum::Healthy.as_str()
    }
}

impl Elbv2 {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            client: aws_sdk_elasticloadbalancingv2::Client::new(&session.config),
            site: Site {
                service: "ElasticLoadBalancing",
                region: session.region.clone(),
            },
        }
    }

    /// The target group of that ARN, if there is one.
    ///
    /// # Errors
    /// The call failed.
    pub async fn target_group(&self, arn: &str) -> Result<Option<TargetGroup>, Error> {
        let call = self
            .client
            .describe_target_groups()
            .target_group_arns(arn)
            .send()
            .await;
        let answer = match call.map_err(self.site.failed("DescribeTargetGroups")) {
            Err(e) if e.kind == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let group = answer
            .target_groups()
            .iter()
            .find(|g| g.target_group_arn() == Some(arn));
        Ok(group.map(|g| TargetGroup {
            arn: arn.to_owned(),
            name: g.target_group_name().unwrap_or_default().to_owned(),
            vpc: g.vpc_id().map(str::to_owned),
            load_balancers: g.load_balancer_arns().to_vec(),
            protocol: g
                .protocol()
                .map_or(String::new(), |p| p.as_str().to_owned()),
            port: g
                .port()
                .and_then(|p| u16::try_from(p).ok())
                .unwrap_or_default(),
        }))
    }

    /// Its tags (D-HOT-6).
    ///
    /// # Errors
    /// The call failed, or there is no such target group.
    pub async fn tags(&self, arn: &str) -> Result<BTreeMap<String, String>, Error> {
        let call = self.client.describe_tags().resource_arns(arn).send().await;
        let answer = call.map_err(self.site.failed("DescribeTags"))?;
        let of_it = answer
            .tag_descriptions()
            .iter()
            .filter(|d| d.resource_arn() == Some(arn));
        Ok(of_it
            .flat_map(|d| d.tags())
            .filter_map(|t| {
                Some((
                    t.key()?.to_owned(),
                    t.value().unwrap_or_default().to_owned(),
                ))
            })
            .collect())
    }

    /// Its registered targets.
    ///
    /// # Errors
    /// The call failed, or there is no such target group.
    pub async fn targets(&self, arn: &str) -> Result<Vec<Target>, Error> {
        let call = self
            .client
            .describe_target_health()
            .target_group_arn(arn)
            .send()
            .await;
        let answer = call.map_err(self.site.failed("DescribeTargetHealth"))?;
        let targets = answer.target_health_descriptions().iter().filter_map(|d| {
            let health = d.target_health();
            Some(Target {
                instance: d.target()?.id()?.to_owned(),
                state: health
                    .and_then(|h| h.state())
                    .map_or(String::new(), |s| s.as_str().to_owned()),
                reason: health.and_then(|h| h.description()).map(str::to_owned),
            })
        });
        Ok(targets.collect())
    }

    /// What hosts of a stack need to know of the load balancers in front; an NLB may have no security groups.
    ///
    /// # Errors
    /// The call failed, or one of them does not exist.
    pub async fn load_balancers(&self, arns: &[String]) -> Result<Balancers, Error> {
        if arns.is_empty() {
            return Ok(Balancers::default());
        }
        let call = self
            .client
            .describe_load_balancers()
            .set_load_balancer_arns(Some(arns.to_vec()));
        let answer = call
            .send()
            .await
            .map_err(self.site.failed("DescribeLoadBalancers"))?;
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list.dedup();
            list
        };
        let all = answer.load_balancers();
        Ok(Balancers {
            security_groups: sorted(
                all.iter()
                    .flat_map(|lb| lb.security_groups().to_vec())
                    .collect(),
            ),
            subnets: sorted(
                all.iter()
                    .flat_map(|lb| lb.availability_zones())
                    .filter_map(|z| z.subnet_id().map(str::to_owned))
                    .collect(),
            ),
            dns: all.first().and_then(|lb| lb.dns_name()).map(str::to_owned),
        })
    }

    /// Sets tags, such as the promoted stack (D-PROM-4, D-PROM-11); others stay.
    ///
    /// # Errors
    /// The call failed.
    pub async fn set_tags(&self, arn: &str, tags: &BTreeMap<String, String>) -> Result<(), Error> {
        let tags = tags
            .iter()
            .map(|(k, v)| Tag::builder().key(k).value(v).build())
            .collect();
        let call = self
            .client
            .add_tags()
            .resource_arns(arn)
            .set_tags(Some(tags));
        call.send()
            .await
            .map_err(self.site.failed("AddTags"))
            .map(drop)
    }
}
