//! Hooks of all three kinds, with real processes, git and Docker.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use porter::{
    config::model::{HookEntry, RunCondition},
    hooks::{
        self, End, HookContext, HookError, HookRun, Moment, Outcome, RegionVariables,
        StatsCredentials,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};
use support::{commit, git, repository, static_program};
use tokio_util::sync::CancellationToken;

fn hook(executable: &str) -> HookEntry {
    HookEntry {
        repo: None,
        r#ref: None,
        dockerfile: None,
        executable: Some(executable.into()),
        environment: BTreeMap::new(),
        concurrent: false,
        run_condition: RunCondition::Pass,
        timeout: Duration::from_secs(60),
    }
}

fn concurrent(executable: &str) -> HookEntry {
    HookEntry {
        concurrent: true,
        ..hook(executable)
    }
}

fn script(root: &Path, name: &str, body: &str) {
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(&source, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    // Written by another process: a file that this one has open for writing, and has by chance just inherited to a child
    // of another test, can't be executed.
    let status = Command::new("cp")
        .arg("-p")
        .arg(source.path())
        .arg(root.join(name))
        .status()
        .unwrap();
    assert!(status.success());
}

fn context(root: &Path) -> HookContext {
    HookContext {
        root: root.to_owned(),
        out: root.join(".porter-tmp"),
        service: Some("hooked".into()),
        ..HookContext::default()
    }
}

async fn run(root: &Path, entries: &[HookEntry]) -> Result<Vec<HookRun>, HookError> {
    hooks::run(
        entries,
        Moment::PreHotswap,
        &context(root),
        None,
        &|_| {},
        &CancellationToken::new(),
    )
    .await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "waited in vain for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn d_hook_9_10_marked_neighbours_run_together_and_nothing_else_overlaps() {
    let root = tempfile::tempdir().unwrap();
    // Two hooks that each wait for the other's sign can only end if they run together; the others must see no sign of
    // anything that comes after them, and every sign of what came before.
    script(root.path(), "one", "ls; touch begun-1");
    script(
        root.path(),
        "two",
        "ls begun-1 || exit 1; touch begun-2; n=0; until [ -e begun-3 ]; do n=$((n+1)); [ $n -lt 1000 ] || exit 9; sleep 0.01; done",
    );
    script(
        root.path(),
        "three",
        "touch begun-3; n=0; until [ -e begun-2 ]; do n=$((n+1)); [ $n -lt 1000 ] || exit 9; sleep 0.01; done",
    );
    script(root.path(), "four", "ls begun-1 begun-2 begun-3");
    let runs = run(
        root.path(),
        &[
            hook("one"),
            concurrent("two"),
            concurrent("three"),
            hook("four"),
        ],
    )
    .await
    .unwrap();
    assert_eq!(text(&runs[0].stdout), "four\none\nthree\ntwo\n"); // D-HOOK-9
    assert_eq!(text(&runs[3].stdout), "begun-1\nbegun-2\nbegun-3\n"); // D-HOOK-10
}

#[tokio::test]
async fn d_hook_11_a_failing_hook_stops_what_follows_and_shows_what_it_and_its_neighbours_said() {
    let root = tempfile::tempdir().unwrap();
    script(root.path(), "good", "echo from the neighbour");
    script(
        root.path(),
        "bad",
        "echo to stdout; echo to stderr >&2; exit 3",
    );
    script(root.path(), "never", "touch was-run");
    let heard = Mutex::new(Vec::new());
    let entries = [concurrent("good"), concurrent("bad"), hook("never")];
    let error = hooks::run(
        &entries,
        Moment::PreHotswap,
        &context(root.path()),
        None,
        &|run| heard.lock().unwrap().push(text(&run.output)),
        &CancellationToken::new(),
    )
    .await
    .unwrap_err();
    let message = error.to_string();
    // D-HOOK-11
    assert!(
        message.starts_with("pre_hotswap hook 2 (bad): exit status 3\n"),
        "{message}"
    );
    assert!(
        message.contains("to stdout") && message.contains("to stderr"),
        "{message}"
    );
    assert_eq!(error.runs.len(), 2);
    assert!(
        heard
            .lock()
            .unwrap()
            .iter()
            .any(|o| o == "from the neighbour\n")
    );
    assert!(!root.path().join("was-run").exists());
}

#[tokio::test]
async fn d_hook_17_each_hook_gets_exactly_its_own_variables_also_when_many_run_together() {
    let root = tempfile::tempdir().unwrap();
    // `tr` shows the command line as it is for everyone to read.
    script(
        root.path(),
        "show",
        "env | grep -vE '^(PWD|SHLVL|_|OLDPWD)='; echo; tr '\\0' ' ' < /proc/$$/cmdline",
    );
    let entries: Vec<_> = (0..12)
        .map(|n| HookEntry {
            environment: BTreeMap::from([("SECRET".to_owned(), Some(format!("value-{n}")))]),
            ..concurrent("show")
        })
        .collect();
    let mut context = context(root.path());
    context.stats = Some(StatsCredentials {
        username: "stats-user".into(),
        password: "stats-word".into(),
    });
    context.region = Some(RegionVariables {
        environment: "stage".into(),
        region: "us-east-1".into(),
        credentials: Some(("the-id".into(), "the-key".into(), Some("the-token".into()))),
        ..RegionVariables::default()
    });
    let runs = hooks::run(
        &entries,
        Moment::PreProvision,
        &context,
        None,
        &|_| {},
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    for (n, run) in runs.iter().enumerate() {
        let output = text(&run.stdout);
        let (environment, command_line) = output.split_once("\n\n").unwrap();
        let given: BTreeMap<&str, &str> = environment
            .lines()
            .map(|l| l.split_once('=').unwrap())
            .collect();
        assert_eq!(given["SECRET"], format!("value-{n}")); // D-HOOK-17
        let names: Vec<&str> = given
            .keys()
            .copied()
            .filter(|name| !["PATH", "HOME", "LANG"].contains(name))
            .collect();
        assert_eq!(
            names,
            [
                "AWS_ACCESS_KEY_ID",
                "AWS_DEFAULT_REGION",
                "AWS_REGION",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SECURITY_TOKEN",
                "AWS_SESSION_TOKEN",
                "DOCKER_ENV_FILE",
                "HAPROXY_STATS_PASSWORD",
                "HAPROXY_STATS_URL",
                "HAPROXY_STATS_USERNAME",
                "PORTER_ENVIRONMENT",
                "PORTER_SERVICE_NAME",
                "SECRET"
            ]
        );
        for secret in [
            &format!("value-{n}")[..],
            "the-key",
            "the-token",
            "stats-word",
        ] {
            assert!(!command_line.contains(secret), "{command_line}");
        }
    }
}

#[tokio::test]
async fn d_cfg_94_a_hook_that_takes_too_long_is_killed_with_everything_it_has_started() {
    let root = tempfile::tempdir().unwrap();
    script(
        root.path(),
        "slow",
        "sleep 1000 & echo $! > child; echo before; trap '' TERM; wait; wait; wait; sleep 1000",
    );
    // Enough for what it does before it hangs.
    let timeout = Duration::from_secs(3);
    let entry = HookEntry {
        timeout,
        ..hook("slow")
    };
    let error = run(root.path(), &[entry]).await.unwrap_err();
    assert_eq!(error.runs[0].end, End::TimedOut(timeout), "D-CFG-94");
    assert_eq!(text(&error.runs[0].output), "before\n");
    let child = fs::read_to_string(root.path().join("child")).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
    // Gone, or dead and waiting for its parent to notice.
    until("the hook's child to be gone", || {
        fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "))
    })
    .await;
}

#[tokio::test]
async fn an_interrupt_kills_the_running_hook_and_starts_no_other() {
    let root = tempfile::tempdir().unwrap();
    script(root.path(), "long", "touch begun; sleep 1000");
    script(root.path(), "never", "touch was-run");
    let stop = CancellationToken::new();
    let (context, entries) = (context(root.path()), [hook("long"), hook("never")]);
    let running = hooks::run(&entries, Moment::PreHotswap, &context, None, &|_| {}, &stop);
    let interrupt = async {
        until("the hook to begin", || root.path().join("begun").exists()).await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(running, interrupt);
    assert_eq!(result.unwrap_err().runs[0].end, End::Stopped);
    assert!(!root.path().join("was-run").exists());
}

#[tokio::test]
async fn d_hook_5_12_no_hook_is_a_success_and_conditions_choose() {
    let root = tempfile::tempdir().unwrap();
    assert!(run(root.path(), &[]).await.unwrap().is_empty()); // D-HOOK-5
    script(root.path(), "say", "echo $WHICH");
    let entry = |condition, which: &str| HookEntry {
        run_condition: condition,
        environment: BTreeMap::from([("WHICH".to_owned(), Some(which.to_owned()))]),
        ..hook("say")
    };
    let entries = [
        entry(RunCondition::Pass, "pass"),
        entry(RunCondition::Fail, "fail"),
        entry(RunCondition::Always, "always"),
    ];
    for (outcome, expected) in [
        (Outcome::Pass, ["pass\n", "always\n"]),
        (Outcome::Fail, ["fail\n", "always\n"]),
    ] {
        let runs = hooks::run(
            &entries,
            Moment::PostHotswap,
            &context(root.path()),
            Some(outcome),
            &|_| {},
            &CancellationToken::new(),
        )
        .await
        .unwrap();
        assert_eq!(
            runs.iter().map(|r| text(&r.stdout)).collect::<Vec<_>>(),
            expected,
            "D-HOOK-12"
        );
    }
}

#[tokio::test]
async fn d_hook_15_the_bootstrap_output_keeps_the_order_of_definition_and_leaves_stderr_out() {
    let root = tempfile::tempdir().unwrap();
    script(
        root.path(),
        "late",
        "n=0; until [ -e early-is-done ]; do n=$((n+1)); [ $n -lt 1000 ] || exit 9; sleep 0.01; done; echo first",
    );
    script(
        root.path(),
        "early",
        "echo noise >&2; echo second; touch early-is-done",
    );
    let entries = [concurrent("late"), concurrent("early")];
    let script = hooks::ec2_bootstrap(
        &entries,
        &context(root.path()),
        &|_| {},
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    assert_eq!(text(&script), "first\nsecond\n"); // D-HOOK-15
}

#[tokio::test]
async fn a_hook_that_is_missing_or_no_program_is_a_failure_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("not-executable"), "#!/bin/sh\n").unwrap();
    for name in ["absent", "not-executable"] {
        let error = run(root.path(), &[hook(name)])
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("pre_hotswap hook 1 ({name}): could not be run: ")),
            "{error}"
        );
    }
}

/// For `FROM scratch`: prints its arguments and environment, writes to the repository, exits as told.
const PROGRAM: &str = r#"fn main() {
    println!("arguments: {:?}", std::env::args().skip(1).collect::<Vec<_>>());
    for (name, value) in std::env::vars() { println!("{name}={value}"); }
    if let Ok(file) = std::env::var("WRITE") { std::fs::write(file, "written by the hook").expect("write"); }
    if std::env::var("HANG").is_ok() { loop { std::thread::park(); } }
    std::process::exit(std::env::var("STATUS").map_or(0, |s| s.parse().expect("status")));
}"#;

fn docker_hook(root: &Path, environment: &[(&str, &str)]) -> HookEntry {
    let folder = root.join("hooks");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(static_program("hook", PROGRAM), folder.join("program")).unwrap();
    fs::write(
        folder.join("Dockerfile"),
        "FROM scratch\nCOPY program /program\nENTRYPOINT [\"/program\"]\n",
    )
    .unwrap();
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned())))
        .collect();
    HookEntry {
        executable: None,
        dockerfile: Some("hooks/Dockerfile".into()),
        environment,
        concurrent: true,
        ..hook("")
    }
}

/// Ids of everything that carries the label of hooks.
async fn left_behind() -> Vec<String> {
    use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};
    let docker = bollard::Docker::connect_with_defaults()
        .unwrap()
        .negotiate_version()
        .await
        .expect("these tests need a running Docker Engine");
    let filter = std::collections::HashMap::from([("label", vec!["porter.hook"])]);
    let containers = docker
        .list_containers(Some(
            ListContainersOptionsBuilder::default()
                .all(true)
                .filters(&filter)
                .build(),
        ))
        .await
        .unwrap();
    let images = docker
        .list_images(Some(
            ListImagesOptionsBuilder::default().filters(&filter).build(),
        ))
        .await
        .unwrap();
    containers
        .into_iter()
        .filter_map(|c| c.id)
        .chain(images.into_iter().map(|i| i.id))
        .collect()
}

/// One test, because it looks for anything that any of its hooks has left behind.
#[tokio::test]
async fn d_hook_3_17_dockerfile_hooks_run_with_the_repository_and_their_own_variables_and_leave_nothing()
 {
    let root = tempfile::tempdir().unwrap();
    let before = left_behind().await;
    let entries: Vec<_> = (0..3)
        .map(|n| {
            docker_hook(
                root.path(),
                &[
                    ("SECRET", &format!("value-{n}")),
                    ("WRITE", &format!("/repo_root/result-{n}")),
                ],
            )
        })
        .collect();
    let runs = run(root.path(), &entries).await.unwrap();
    for (n, run) in runs.iter().enumerate() {
        let output = text(&run.stdout);
        assert!(output.starts_with("arguments: []\n"), "D-HOOK-17: {output}");
        let secrets: Vec<_> = output
            .lines()
            .filter(|l| l.starts_with("SECRET="))
            .collect();
        assert_eq!(secrets, [format!("SECRET=value-{n}")], "D-HOOK-17");
        assert!(output.contains("PORTER_SERVICE_NAME=hooked"));
        assert_eq!(
            fs::read_to_string(root.path().join(format!("result-{n}"))).unwrap(),
            "written by the hook",
            "D-HOOK-3"
        );
    }

    let error = run(root.path(), &[docker_hook(root.path(), &[("STATUS", "5")])])
        .await
        .unwrap_err();
    assert_eq!(error.runs[0].end, End::Exited(5));

    let hanging = HookEntry {
        timeout: Duration::from_secs(3),
        ..docker_hook(root.path(), &[("HANG", "1")])
    };
    let error = run(root.path(), &[hanging]).await.unwrap_err();
    assert_eq!(error.runs[0].end, End::TimedOut(Duration::from_secs(3)));

    let mut read_only = context(root.path());
    read_only.volume_flag = Some("ro".into());
    let entries = [docker_hook(root.path(), &[("WRITE", "/repo_root/refused")])];
    let error = hooks::run(
        &entries,
        Moment::PreHotswap,
        &read_only,
        None,
        &|_| {},
        &CancellationToken::new(),
    )
    .await
    .unwrap_err();
    assert!(
        error.to_string().contains("Read-only") || error.to_string().contains("ReadOnlyFilesystem"),
        "D-HOOK-3: {error}"
    );

    fs::write(
        root.path().join("hooks/Dockerfile"),
        "FROM scratch\nCOPY absent /\n",
    )
    .unwrap();
    let broken = HookEntry {
        executable: None,
        dockerfile: Some("hooks/Dockerfile".into()),
        ..hook("")
    };
    let error = run(root.path(), &[broken]).await.unwrap_err().to_string();
    assert!(
        error.contains("pre_hotswap hook 1 (hooks/Dockerfile): could not be run: ")
            && error.contains("absent"),
        "{error}"
    );

    let after = left_behind().await;
    assert_eq!(
        after
            .iter()
            .filter(|id| !before.contains(id))
            .collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "D-HOOK-3"
    );
}

#[tokio::test]
async fn d_hook_2_18_plugins_are_cloned_at_their_ref_verified_and_removed() {
    let plugin = repository(&[(
        "run.sh",
        b"#!/bin/sh\necho first $PORTER_SERVICE_NAME in $(basename $PWD)\n",
    )]);
    git(
        plugin.path(),
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    fs::set_permissions(
        plugin.path().join("run.sh"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    commit(plugin.path());
    let first = git(plugin.path(), &["rev-parse", "HEAD"]);
    git(plugin.path(), &["tag", "v1"]);
    fs::write(plugin.path().join("run.sh"), "#!/bin/sh\necho second\n").unwrap();
    commit(plugin.path());
    git(plugin.path(), &["branch", "-M", "stable"]);

    let root = tempfile::tempdir().unwrap();
    let entry = |reference: &str| HookEntry {
        repo: Some(format!("file://{}", plugin.path().display())),
        r#ref: Some(reference.to_owned()),
        ..hook("run.sh")
    };
    let folder = root.path().file_name().unwrap().to_str().unwrap();
    for (reference, says) in [
        ("v1", format!("first hooked in {folder}\n")),
        ("stable", "second\n".into()),
        (&first, format!("first hooked in {folder}\n")),
    ] {
        let runs = run(root.path(), &[entry(reference)]).await.unwrap();
        assert_eq!(text(&runs[0].stdout), says, "D-HOOK-2: {reference}");
        let resolved = runs[0].commit.clone().unwrap();
        assert_eq!(resolved == first, reference != "stable", "D-HOOK-18");
    }
    let error = run(root.path(), &[entry("absent")])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("plugin absent") && error.contains("could not be run: git "),
        "{error}"
    );
    assert!(
        !error.contains(plugin.path().to_str().unwrap()),
        "an address may hold a password: {error}"
    );
    assert_eq!(
        fs::read_dir(root.path().join(".porter-tmp"))
            .unwrap()
            .count(),
        0,
        "D-HOOK-2"
    );
}
