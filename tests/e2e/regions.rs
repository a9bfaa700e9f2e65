//! Promises about several regions, and about services without a load balancer.

use crate::{
    aws::runtime,
    cloud::Cloud,
    load,
    promises::{Promise, eventually, text, url},
    service::Service,
};
use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

pub const ALL: &[(&str, Promise)] = &[
    (
        "d_hot_41_a_region_whose_update_is_refused_does_not_leave_the_other_ones_hosts_unwatched",
        one_region_refused,
    ),
    (
        "d_hot_9_without_a_load_balancer_the_newest_stack_is_swapped",
        without_load_balancer,
    ),
    (
        "d_cli_5_an_interrupt_in_every_phase_of_a_provision_takes_the_new_stack_away_again",
        interrupted_provision,
    ),
    (
        "d_pay_3_a_bucket_that_is_not_there_is_named_before_anything_is_built",
        missing_bucket,
    ),
];

/// What CloudFormation in us-west-2 answers to UpdateStack instead of doing it.
type Refusal = Arc<Mutex<Option<&'static str>>>;

/// CloudFormation as it is, but for one answer: an address for `AWS_ENDPOINT_URL_CLOUDFORMATION`.
fn refusing_cloudformation(upstream: &str, refusal: Refusal) -> String {
    let listener = runtime()
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let upstream = upstream.to_owned();
    let answer = move |request: Request| {
        let (client, upstream, refusal) = (client.clone(), upstream.clone(), refusal.clone());
        async move {
            let (mut parts, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.expect("a body");
            let text = String::from_utf8_lossy(&body).into_owned();
            let scope = parts.headers["authorization"].to_str().unwrap_or_default();
            let refused = *refusal.lock().expect("not poisoned");
            if let Some(message) = refused
                && text.contains("Action=UpdateStack")
                && scope.contains("/us-west-2/cloudformation/")
            {
                let xml = format!(
                    "<ErrorResponse xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\"><Error>\
                     <Type>Sender</Type><Code>ValidationError</Code><Message>{message}</Message></Error>\
                     <RequestId>e2e</RequestId></ErrorResponse>"
                );
                return (StatusCode::BAD_REQUEST, xml).into_response();
            }
            parts.uri = format!("{upstream}{}", parts.uri).parse().expect("a URL");
            let answer = client.request(Request::from_parts(parts, Body::from(body)));
            match answer.await {
                Ok(answer) => answer.map(Body::new),
                Err(error) => Response::builder()
                    .status(StatusCode::BAD_GATEWAY)
                    .body(Body::from(error.to_string()))
                    .expect("an answer"),
            }
        }
    };
    let app = axum::Router::new().fallback(answer);
    runtime().spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

/// The hosts of the service in one region, in whatever state.
fn all_hosts_in(cloud: &Cloud, service: &Service, region: &str) -> Vec<Value> {
    // The emulator gives both regions' groups one name, so the region tells them apart.
    let stack = service.stack_in(region);
    let name = stack.split('/').nth(1).expect("a stack name").to_owned();
    cloud
        .hosts()
        .into_iter()
        .filter(|h| h["region"] == region && text(&h["group"]).starts_with(&name))
        .collect()
}

/// Those that run.
fn hosts_in(cloud: &Cloud, service: &Service, region: &str) -> Vec<Value> {
    let mut hosts = all_hosts_in(cloud, service, region);
    hosts.retain(|host| host["state"] == "running");
    hosts
}

fn serves(cloud: &Cloud, service: &Service, region: &str, version: &str) {
    let hosts = hosts_in(cloud, service, region);
    assert_eq!(hosts.len(), 1, "{region}: {:?}", cloud.hosts());
    assert_eq!(
        load::get(&url(&hosts[0])),
        Ok((200, version.to_owned())),
        "{region}"
    );
}

fn outcomes(report: &Value) -> Vec<(String, String, Vec<String>)> {
    let regions = report["regions"].as_array().expect("regions");
    let of = |r: &Value| {
        let hosts = r["hosts"].as_array().expect("hosts").iter();
        let hosts = hosts.map(|h| text(&h["outcome"])).collect();
        (text(&r["region"]), text(&r["outcome"]), hosts)
    };
    regions.iter().map(of).collect()
}

fn done(cloud: &Cloud, service: &Service, regions: &[&'static str]) -> Result<(), String> {
    for region in regions {
        cloud.delete_stack_in(region, &service.stack_in(region));
    }
    // A host that no longer runs still has its images removed, which could take a layer out of the next test's build.
    let gone = || {
        let mut regions = regions.iter();
        regions
            .all(|r| all_hosts_in(cloud, service, r).is_empty())
            .then_some(())
    };
    eventually("the stacks' hosts are gone", Duration::from_secs(60), gone);
    Ok(())
}

fn one_region_refused(cloud: &Cloud) -> Result<(), String> {
    const BOTH: [&str; 2] = ["us-east-1", "us-west-2"];
    const SWAP: [&str; 5] = ["build", "provision", "-e", "stage", "--hotswap-only"];
    let mut service = Service::new("regions");
    (service.instance_count, service.two_regions) = (1, true);
    service.commit();
    service.provisioned(cloud);
    for region in BOTH {
        serves(cloud, &service, region, "v1");
    }

    let refusal = Refusal::default();
    let endpoint = refusing_cloudformation(cloud.var("AWS_ENDPOINT_URL"), refusal.clone());
    let faulty = cloud.with("AWS_ENDPOINT_URL_CLOUDFORMATION", &endpoint);
    let answers = [
        (
            "User is not authorized to perform cloudformation:UpdateStack",
            "refused",
        ),
        (
            "No updates are to be performed.",
            "were not asked for anything",
        ),
    ];
    for (version, (answer, told)) in ["v2", "v3"].into_iter().zip(answers) {
        let west = load::get(&url(&hosts_in(cloud, &service, "us-west-2")[0]))?.1;
        service.packed(cloud, version);
        *refusal.lock().expect("not poisoned") = Some(answer);
        let said = service.run(&faulty, &SWAP);
        // D-HOT-41, D-HOT-40: the environment is mixed, and exactly that is said.
        assert_eq!(said.status, 5, "{}", said.all());
        assert!(said.stderr.contains(told), "{}", said.all());
        assert!(said.stderr.contains("us-west-2"), "{}", said.all());
        assert_eq!(
            outcomes(&service.report()),
            [
                (
                    "us-east-1".into(),
                    "success".into(),
                    vec!["success".to_owned()]
                ),
                ("us-west-2".into(), "untouched".into(), vec![]),
            ],
            "{}",
            said.all()
        );
        serves(cloud, &service, "us-east-1", version);
        serves(cloud, &service, "us-west-2", &west);
        // D-CLI-46: a swap that failed is no success for the next command either.
        let said = service.run(cloud, &["build", "promote"]);
        assert_eq!(said.status, 1, "{}", said.all());
    }
    // D-HOT-65: the same command finishes the work, without a fault in both regions at once.
    *refusal.lock().expect("not poisoned") = None;
    service.succeed(&faulty, &SWAP);
    for region in BOTH {
        serves(cloud, &service, region, "v3");
    }
    let success = |r: &str| {
        (
            r.to_owned(),
            "success".to_owned(),
            vec!["success".to_owned()],
        )
    };
    assert_eq!(outcomes(&service.report()), BOTH.map(success));
    done(cloud, &service, &BOTH)
}

fn without_load_balancer(cloud: &Cloud) -> Result<(), String> {
    let mut service = Service::new("worker");
    service.instance_count = 1;
    service.destination = "    elb: none\n".to_owned();
    service.commit();
    service.provisioned(cloud);
    serves(cloud, &service, "us-east-1", "v1");
    service.packed(cloud, "v2");
    // D-HOT-9: nothing names the stack but its own tags.
    service.succeed(
        cloud,
        &["build", "provision", "-e", "stage", "--hotswap-only"],
    );
    serves(cloud, &service, "us-east-1", "v2");
    done(cloud, &service, &["us-east-1"])
}

fn interrupted_provision(cloud: &Cloud) -> Result<(), String> {
    const PROVISION: [&str; 5] = ["build", "provision", "-e", "stage", "--no-hotswap"];
    let mut service = Service::new("halted");
    service.instance_count = 1;
    service.hooks =
        "hooks:\n  post_provision:\n  - {executable: note, run_condition: fail}\n".into();
    service.hook("note", "echo called >> seen-by-note");
    service.commit();
    service.provisioned(cloud);
    let (kept, stacks) = (service.stack(), cloud.stacks());
    for phase in ["[1/7]", "[2/7]", "[3/7]", "[4/7]", "[5/7]", "[6/7]"] {
        let mut provision = cloud.porter_watched(service.path(), &PROVISION);
        provision.until(phase, Duration::from_secs(60));
        provision.interrupt();
        let said = provision.end(Duration::from_secs(120));
        // D-CLI-2, D-CLI-5, D-PROV-8: it ends by itself, and nothing that it built is left.
        assert_eq!(said.status, 130, "{phase}: {}", said.all());
        assert!(said.stderr.contains("hint:"), "{phase}: {}", said.all());
        assert_eq!(cloud.stacks(), stacks, "{phase}: {}", said.all());
        if phase != "[1/7]" {
            assert_eq!(service.report()["outcome"], "unknown", "{phase}");
            // D-CLI-46: what was interrupted can't be promoted.
            let said = service.run(cloud, &["build", "promote"]);
            assert_eq!(said.status, 1, "{phase}: {}", said.all());
        }
        let noted = std::fs::read_to_string(service.path().join("seen-by-note"));
        // D-HOOK-13: the clean-up hook runs in every phase but the first, in which nothing was decided yet.
        assert_eq!(noted.is_ok(), phase != "[1/7]", "{phase}");
    }
    // What was promoted before serves all the time.
    let hosts = cloud.hosts();
    let old = hosts.iter().find(|h| h["stack"] == kept.as_str());
    let old = old.ok_or("the promoted stack has lost its host")?;
    assert_eq!(load::get(&url(old)), Ok((200, "v1".into())));
    cloud.delete_stack(&kept);
    // Those of the stacks that were interrupted, too: they remove images, and the next test builds some.
    let gone = || cloud.hosts().is_empty().then_some(());
    eventually("all hosts are gone", Duration::from_secs(60), gone);
    Ok(())
}

fn missing_bucket(cloud: &Cloud) -> Result<(), String> {
    let mut service = Service::new("nobucket");
    service.instance_count = 1;
    service.commit();
    let wrong = cloud.with("PORTER_LOCAL_BUCKET", "not-a-bucket-of-ours");
    service.pack(&wrong);
    let stacks = cloud.stacks();
    let said = service.run(
        &wrong,
        &["build", "provision", "-e", "stage", "--no-hotswap"],
    );
    // D-PAY-3: the bucket and AWS's reason, and what has not happened.
    assert_eq!(said.status, 1, "{}", said.all());
    for expected in [
        "not-a-bucket-of-ours",
        "NoSuchBucket",
        "no host has been asked for anything",
    ] {
        assert!(said.stderr.contains(expected), "{expected}: {}", said.all());
    }
    assert_eq!(cloud.stacks(), stacks);
    Ok(())
}
