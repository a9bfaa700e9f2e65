//! The table, whole.

use super::*;
use contract::signal::CauseCode;

fn digest(n: u8) -> Digest {
    Digest::from_bytes(&[n; 32])
}

fn host(instance: &str, outcome: Outcome) -> HostReport {
    HostReport {
        instance: instance.into(),
        outcome,
        from: Some(digest(1)),
        to: Some(digest(2)),
        serving: Some(digest(2)),
        step: Some(Step::Report),
        seconds: BTreeMap::from([
            (Step::Fetch, 1.25),
            (Step::Start, 0.5),
            (Step::Health, 0.75),
            (Step::Drain, 3.0),
        ]),
        bytes: 2048,
        drain: Drain {
            ended: 40,
            cut: 2,
            open: 0,
        },
        connections: None,
        warnings: vec![],
        cause: None,
    }
}

fn handover(before: u64, frozen_us: u64) -> Handover {
    Handover {
        containers: 1,
        before,
        handed_over: before,
        in_flight: Some(7),
        frozen_us,
        total_us: 2 * frozen_us,
        ..Handover::default()
    }
}

fn report() -> Report {
    let failed = HostReport {
        serving: Some(digest(1)),
        step: Some(Step::Health),
        cause: Some(Cause {
            code: CauseCode::HealthTimeout,
            message: "container `web` answered GET /health with 503, 40 times".into(),
            log: "database: connection refused".into(),
        }),
        ..host("i-0bbbbbbbbbbbbbbbb", Outcome::Failed)
    };
    let silent = HostReport {
        from: None,
        serving: None,
        step: None,
        seconds: BTreeMap::new(),
        ..host("i-0cccccccccccccccc", Outcome::Unknown)
    };
    let warned = HostReport {
        connections: Some(Connections::of(handover(3000, 11_240), 2)),
        warnings: vec!["the image of the previous version can't be removed".into()],
        ..host("i-0aaaaaaaaaaaaaaaa", Outcome::Success)
    };
    let taken_back = Handover {
        taken_back: 2990,
        dropped: 10,
        ..handover(3000, 9_000)
    };
    let failed = HostReport {
        connections: Some(Connections::of(taken_back, 0)),
        ..failed
    };
    let hosts = [&warned, &failed];
    let connections = Connections::total(hosts);
    let region = |region: &str, outcome, status: Option<&str>, hosts| RegionReport {
        region: region.into(),
        outcome,
        reasons: vec!["hot swap".into()],
        stack: Some("arn:stack".into()),
        stack_status: status.map(str::to_owned),
        hosts,
    };
    Report {
        v: FORMAT,
        service: "hello".into(),
        environment: "stage".into(),
        swap: "01SWAP".into(),
        decision: DecisionKind::HotSwap,
        outcome: Outcome::Failed,
        started: Timestamp::UNIX_EPOCH,
        ended: Timestamp::UNIX_EPOCH,
        seconds: 12.34,
        from: Some(digest(1)),
        to: digest(2),
        bytes: Bytes {
            uploaded: 1_572_864,
            downloaded: 4096,
        },
        connections,
        override_blackout: Some("the certificate runs out".into()),
        regions: vec![
            region(
                "us-east-1",
                Outcome::Failed,
                Some("UPDATE_COMPLETE"),
                vec![warned, failed, silent],
            ),
            region("us-west-2", Outcome::Untouched, None, vec![]),
        ],
    }
}

#[test]
fn d_hot_58_the_table_says_what_runs_where_how_long_each_step_took_and_why_a_host_failed() {
    insta::assert_snapshot!(report().table()); // D-HOT-58
}

#[test]
fn d_hot_58_the_file_keeps_everything_and_survives_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hotswap_report.json");
    report().save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report()); // D-HOT-58, D-CFG-113
    insta::assert_snapshot!("hotswap_report.json", text);
}
