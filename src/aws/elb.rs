//! Classic load balancers: tags, instances in service, security groups.

use super::{Error, Kind, Session, error::Site};
use aws_sdk_elasticloadbalancing::types::Tag;
use std::collections::BTreeMap;

/// Classic load balancers in one region.
#[derive(Clone, Debug)]
pub struct Elb {
    client: aws_sdk_elasticloadbalancing::Client,
    site: Site,
}

/// A classic load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicLoadBalancer {
    /// Its name.
    pub name: String,
    /// Ids of its security groups.
    pub security_groups: Vec<String>,
    /// Absent in EC2-Classic.
    pub vpc: Option<String>,
}

impl Elb {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            client: aws_sdk_elasticloadbalancing::Client::new(&session.config),
            site: Site {
                service: "ElasticLoadBalancing",
                region: session.region.clone(),
            },
        }
    }

    /// The load balancer of that name, if there is one.
    ///
    /// # Errors
    /// The call failed.
    pub async fn describe(&self, name: &str) -> Result<Option<ClassicLoadBalancer>, Error> {
        let call = self
            .client
            .describe_load_balancers()
            .load_balancer_names(name)
            .send()
            .await;
        let answer = match call.map_err(self.site.failed("DescribeLoadBalancers")) {
            Err(e) if is_missing(&e) => return Ok(None),
            other => other?,
        };
        Ok(answer
            .load_balancer_descriptions()
            .first()
            .map(|lb| ClassicLoadBalancer {
                name: lb.load_balancer_name().unwrap_or(name).to_owned(),
                security_groups: lb.security_groups().to_vec(),
                vpc: lb.vpc_id().map(str::to_owned),
            }))
    }

    /// Its tags (D-HOT-6).
    ///
    /// # Errors
    /// The call failed, or there is no such load balancer.
    pub async fn tags(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let call = self
            .client
            .describe_tags()
            .load_balancer_names(name)
            .send()
            .await;
        let answer = call.map_err(self.site.failed("DescribeTags"))?;
        let of_it = answer
            .tag_descriptions()
            .iter()
            .filter(|d| d.load_balancer_name() == Some(name));
        Ok(of_it
            .flat_map(|d| d.tags())
            .map(|t| (t.key().to_owned(), t.value().unwrap_or_default().to_owned()))
            .collect())
    }

    /// Ids of the instances that are InService in it (D-HOT-77).
    ///
    /// # Errors
    /// The call failed, or there is no such load balancer.
    pub async fn in_service(&self, name: &str) -> Result<Vec<String>, Error> {
        let call = self
            .client
            .describe_instance_health()
            .load_balancer_name(name)
            .send()
            .await;
        let answer = call.map_err(self.site.failed("DescribeInstanceHealth"))?;
        let good = answer
            .instance_states()
            .iter()
            .filter(|s| s.state() == Some("InService"));
        Ok(good
            .filter_map(|s| s.instance_id().map(str::to_owned))
            .collect())
    }

    /// Sets tags, such as the promoted stack (D-PROM-4); others stay.
    ///
    /// # Errors
    /// The call failed.
    pub async fn set_tags(&self, name: &str, tags: &BTreeMap<String, String>) -> Result<(), Error> {
        const CALL: &str = "AddTags";
        let tags = tags
            .iter()
            .map(|(k, v)| Tag::builder().key(k).value(v).build())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| self.site.local(CALL, e))?;
        let call = self
            .client
            .add_tags()
            .load_balancer_names(name)
            .set_tags(Some(tags));
        call.send().await.map_err(self.site.failed(CALL)).map(drop)
    }
}

fn is_missing(error: &Error) -> bool {
    // The query protocol says `LoadBalancerNotFound` with status 400.
    error.kind == Kind::NotFound
}
