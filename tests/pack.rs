//! `build pack` with the real Docker Engine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use porter::pack::{self, Options, PackEvent, Packed};
use std::{fs, io::Read, path::Path, sync::Mutex};
use support::{Repository, commit, config, git, repository, static_program};

const DOCKERFILE: &[u8] = b"FROM scratch\nWORKDIR /made/by/docker\nCOPY data /data\nEXPOSE 8080\nENTRYPOINT [\"/data/program\"]\n";

async fn try_pack(containers: &[&str], root: &Path, options: Options) -> Result<Packed, String> {
    pack::run(
        &config(containers),
        root,
        &root.join(".porter-tmp"),
        options,
        &|_| {},
    )
    .await
    .map_err(|e| e.to_string())
}

async fn pack(root: &Path) -> Packed {
    try_pack(&["{}"], root, Options::default()).await.unwrap()
}

fn no_cache() -> Options {
    Options {
        no_cache: true,
        ..Options::default()
    }
}

#[tokio::test]
async fn d_pack_17_two_packs_of_one_commit_without_any_cache_give_the_same_payload() {
    let files: &[(&str, &[u8])] = &[
        ("Dockerfile", DOCKERFILE),
        ("data/program", b"the program"),
        ("data/x/y", b"z"),
    ];
    let (first, second) = (repository(files), repository(files));
    let one = try_pack(&["{}"], first.path(), no_cache()).await.unwrap();
    // Dates in images have a resolution of one second; another second must not show.
    let began = std::time::SystemTime::now();
    while began.elapsed().unwrap().as_millis() < 1100 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let two = try_pack(&["{}"], second.path(), no_cache()).await.unwrap();
    assert_eq!(one.manifest, two.manifest); // D-PACK-17
    assert_eq!(one.payload, two.payload);
    assert_eq!(
        fs::read(one.manifest_path()).unwrap(),
        fs::read(two.manifest_path()).unwrap()
    );
}

#[tokio::test]
async fn d_pay_5_a_change_of_one_layer_leaves_the_others_blobs_as_they_were() {
    let root = repository(&[
        (
            "Dockerfile",
            b"FROM scratch\nCOPY large /large\nCOPY small /small\nEXPOSE 8080\n",
        ),
        ("large", &vec![7; 3_000_000]),
        ("small", b"one"),
    ]);
    let one = pack(root.path()).await;
    fs::write(root.path().join("small"), "two").unwrap();
    commit(root.path());
    let two = pack(root.path()).await;
    let (one_layers, two_layers) = (
        &one.manifest.images["web"].layers,
        &two.manifest.images["web"].layers,
    );
    assert_eq!(one_layers[0], two_layers[0]); // D-PAY-5
    assert_ne!(one_layers[1], two_layers[1]);
    // D-PACK-21
    assert_eq!((two.summary[0].layers, two.summary[0].new_layers), (2, 1));
    assert_eq!(two.summary[0].new_bytes, two_layers[1].blob.size);
    // What the first payload alone had is gone, so that a build host that packs 1000 times does not grow.
    assert!(!two.blobs().path(&one_layers[1].blob.digest).exists());
}

#[tokio::test]
async fn d_pack_1_a_pack_holds_everything_that_later_phases_need() {
    let root = repository(&[
        ("Dockerfile", DOCKERFILE),
        ("data/program", b"the program"),
        (".gitignore", b".porter-tmp\n"),
        ("stack.yaml", b"Resources: {}\n"),
    ]);
    let mut wanted = config(&["{}"]);
    wanted.environments[0].regions[0].stack_definition_path = Some("stack.yaml".into());
    let out = root.path().join(".porter-tmp");
    let events = Mutex::new(Vec::new());
    let packed = pack::run(&wanted, root.path(), &out, Options::default(), &|event| {
        if let PackEvent::Output { line, .. } = event {
            events.lock().unwrap().push(line.to_owned());
        }
    })
    .await
    .unwrap();
    assert!(
        events
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.starts_with("Step 1/"))
    );

    let opened = Packed::open(&out).unwrap();
    assert_eq!(
        (&opened.payload, &opened.manifest),
        (&packed.payload, &packed.manifest)
    ); // D-PACK-1
    let config = opened.config().unwrap();
    let region = &config.environments[0].regions[0];
    assert_eq!(region.containers[0].run.inet_port, Some(8080), "D-CFG-70");
    let definition = region.stack_definition_path.as_ref().unwrap();
    assert!(
        definition.starts_with(".porter-tmp"),
        "D-PACK-14: {definition:?}"
    );
    assert_eq!(
        fs::read(root.path().join(definition)).unwrap(),
        b"Resources: {}\n"
    );

    // D-PACK-3, D-PACK-5
    let hash = git(root.path(), &["rev-parse", "--short=7", "HEAD"]);
    assert_eq!(packed.manifest.version, hash);
    assert_eq!(
        packed.manifest.images["web"].reference,
        format!("s3/s3:porter-{hash}-1767323045-web")
    );
    // D-PACK-6: the host runs by the image configuration's digest, whose layers are the ones in the manifest.
    let image = &packed.manifest.images["web"];
    let store = packed.blobs();
    let image_config: serde_json::Value =
        serde_json::from_slice(&fs::read(store.path(&image.config.digest)).unwrap()).unwrap();
    let diff_ids: Vec<_> = image.layers.iter().map(|l| l.diff_id.to_string()).collect();
    assert_eq!(
        image_config["rootfs"]["diff_ids"],
        serde_json::json!(diff_ids)
    );
    for layer in &image.layers {
        store.verify(&layer.blob).unwrap();
        let tar =
            zstd::decode_all(fs::File::open(store.path(&layer.blob.digest)).unwrap()).unwrap();
        assert_eq!(porter::payload::blobs::digest(&tar), layer.diff_id);
        assert_eq!(tar.len() as u64, layer.unpacked);
    }
    assert_eq!(
        packed.manifest.hosts["stage"]["us-east-1"].containers[0].inet_port,
        Some(8080)
    );
    // D-PACK-23
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("payload/index.json")).unwrap()).unwrap();
    let described: contract::digest::Digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(store.path(&described).exists());
}

#[tokio::test]
async fn the_engine_loads_what_was_packed() {
    // Not the bytes of another test: its image would be this one, and is removed when that test likes.
    let root = repository(&[
        ("Dockerfile", DOCKERFILE),
        ("data/program", b"to be loaded"),
    ]);
    let packed = pack(root.path()).await;
    let (image, store) = (&packed.manifest.images["web"], packed.blobs());
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    let mut names = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let mut tar = Vec::new();
        zstd::Decoder::new(fs::File::open(store.path(&layer.blob.digest)).unwrap())
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap();
        add(&format!("{n}.tar"), &tar);
        names.push(format!("{n}.tar"));
    }
    add(
        "config.json",
        &fs::read(store.path(&image.config.digest)).unwrap(),
    );
    add(
        "manifest.json",
        serde_json::json!([{"Config": "config.json", "RepoTags": null, "Layers": names}])
            .to_string()
            .as_bytes(),
    );
    let archive = archive.into_inner().unwrap();

    let docker = bollard::Docker::connect_with_defaults()
        .unwrap()
        .negotiate_version()
        .await
        .expect("these tests need a running Docker Engine");
    let options = bollard::query_parameters::ImportImageOptionsBuilder::default().build();
    let events: Vec<_> = futures::StreamExt::collect(docker.import_image(
        options,
        bollard::body_full(archive.into()),
        None,
    ))
    .await;
    assert!(events.iter().all(Result::is_ok), "{events:?}");
    // D-HOST: the id under which hosts run the image is the digest of its normalised configuration.
    let id = image.config.digest.to_string();
    let loaded = docker.inspect_image(&id).await.unwrap();
    assert_eq!(loaded.config.unwrap().exposed_ports.unwrap(), ["8080/tcp"]);
    docker
        .remove_image(
            &id,
            None::<bollard::query_parameters::RemoveImageOptions>,
            None,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wrong_dockerfile_is_an_error_with_the_container_and_the_builds_last_lines() {
    let root = repository(&[(
        "docker/web",
        b"FROM scratch\nLABEL reached=here\nCOPY absent /absent\n",
    )]);
    let error = try_pack(
        &["{dockerfile: docker/web}"],
        root.path(),
        Options::default(),
    )
    .await
    .unwrap_err();
    assert!(
        error.starts_with("container `web`: docker/web was not built: "),
        "{error}"
    );
    assert!(
        error.contains("absent") && error.contains("Step 2/3 : LABEL reached=here"),
        "{error}"
    );
    // Nothing is left that a later phase would deploy.
    assert!(
        Packed::open(&root.path().join(".porter-tmp"))
            .unwrap_err()
            .to_string()
            .contains("run `porter build pack` first")
    );

    let error = try_pack(
        &["{dockerfile: docker/none}"],
        root.path(),
        Options::default(),
    )
    .await
    .unwrap_err();
    assert!(
        error.contains("container `web`: docker/none can't be read"),
        "{error}"
    );
}

#[tokio::test]
async fn d_pack_4_a_dirty_work_tree_is_marked_or_refused() {
    let root = repository(&[("Dockerfile", DOCKERFILE), ("data/program", b"1")]);
    fs::write(root.path().join("data/program"), "2").unwrap();
    let warnings = Mutex::new(Vec::new());
    let packed = pack::run(
        &config(&["{}"]),
        root.path(),
        &root.path().join(".porter-tmp"),
        Options::default(),
        &|event| {
            if let PackEvent::Warning(text) = event {
                warnings.lock().unwrap().push(text);
            }
        },
    )
    .await
    .unwrap();
    assert!(packed.manifest.version.ends_with("-dirty"), "D-PACK-4");
    assert!(warnings.lock().unwrap()[0].contains("data/program"));
    let error = try_pack(
        &["{}"],
        root.path(),
        Options {
            require_clean: true,
            ..Options::default()
        },
    )
    .await
    .unwrap_err();
    assert!(
        error.contains("not committed") && error.contains("data/program"),
        "{error}"
    );
}

#[tokio::test]
async fn d_pack_3_a_directory_without_git_fails() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("Dockerfile"), DOCKERFILE).unwrap();
    let error = try_pack(&["{}"], root.path(), Options::default())
        .await
        .unwrap_err();
    assert!(
        error.contains("not a git repository") && error.contains("service version"),
        "D-PACK-3: {error}"
    );
}

#[tokio::test]
async fn d_pack_12_13_containers_are_distinct_by_name_and_files_and_one_region_may_use_another_file()
 {
    let root = repository(&[
        ("a", b"FROM scratch\nCOPY a /a\nEXPOSE 1\n"),
        ("b", b"FROM scratch\nCOPY b /b\nEXPOSE 2\n"),
    ]);
    let mut wanted = config(&[
        "{run: {name: one}, dockerfile: a}",
        "{run: {name: two}, dockerfile: a}",
    ]);
    let mut other = wanted.environments[0].clone();
    other.name = "prod".into();
    other.regions[0].containers[1].dockerfile = "b".into();
    wanted.environments.push(other);
    let packed = pack::run(
        &wanted,
        root.path(),
        &root.path().join(".porter-tmp"),
        Options::default(),
        &|_| {},
    )
    .await
    .unwrap();
    // D-PACK-13, D-PACK-2
    assert_eq!(
        packed.manifest.images.keys().collect::<Vec<_>>(),
        ["one", "two", "two-2"]
    );
    let container =
        |environment: &str| packed.manifest.hosts[environment]["us-east-1"].containers[1].clone();
    assert_eq!(
        (
            container("stage").image.as_str(),
            container("stage").inet_port
        ),
        ("two", Some(1))
    );
    assert_eq!(
        (
            container("prod").image.as_str(),
            container("prod").inet_port
        ),
        ("two-2", Some(2))
    );
}

#[tokio::test]
async fn d_pack_10_a_missing_build_argument_fails_unless_that_is_allowed() {
    let root = repository(&[(
        "Dockerfile",
        b"FROM scratch\nARG PORTER_TEST_SURELY_UNSET\nCOPY Dockerfile /\nEXPOSE 8080\n",
    )]);
    let error = try_pack(&["{}"], root.path(), Options::default())
        .await
        .unwrap_err();
    assert!(
        error.contains("PORTER_TEST_SURELY_UNSET") && error.contains("validate_build_args_exist"),
        "D-PACK-10: {error}"
    );
    try_pack(
        &["{validate_build_args_exist: false}"],
        root.path(),
        Options::default(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn d_pack_20_an_image_for_another_platform_than_the_hosts_fails_at_pack() {
    let root = repository(&[
        ("Dockerfile", DOCKERFILE),
        ("data/program", b"of another platform"),
    ]);
    let mut wanted = config(&["{}"]);
    wanted.environments[0].regions[0].instance_type = if cfg!(target_arch = "x86_64") {
        "t4g.small"
    } else {
        "t3.small"
    }
    .into();
    let result = pack::run(
        &wanted,
        root.path(),
        &root.path().join(".porter-tmp"),
        Options::default(),
        &|_| {},
    )
    .await;
    // An engine that can build for others obeys (FROM scratch needs no emulation); one that can't makes pack fail.
    match result {
        Ok(packed) => assert_eq!(
            packed.manifest.images["web"].platform,
            pack::platform(&wanted.environments[0].regions[0].instance_type)
        ),
        Err(error) => assert!(error.to_string().contains("linux/"), "D-PACK-20: {error}"),
    }
}

#[tokio::test]
async fn d_cfg_8_files_that_do_not_belong_together_are_refused_with_both_values() {
    let root = repository(&[
        ("Dockerfile", DOCKERFILE),
        ("data/program", b"with files that belong together"),
    ]);
    let packed = pack(root.path()).await;
    let out = root.path().join(".porter-tmp");
    let good = fs::read(packed.manifest_path()).unwrap();

    fs::write(packed.manifest_path(), [&good[..], b"\n"].concat()).unwrap();
    let error = Packed::open(&out).unwrap_err().to_string();
    assert!(
        error.contains(packed.payload.as_str())
            && error.contains("manifest.json has digest sha256:"),
        "D-CFG-8: {error}"
    );
    fs::write(packed.manifest_path(), good).unwrap();

    let record = fs::read_to_string(out.join("payload.json")).unwrap();
    fs::write(
        out.join("payload.json"),
        record.replace("\"schema\": 1", "\"schema\": 77"),
    )
    .unwrap();
    let error = Packed::open(&out).unwrap_err().to_string();
    assert!(
        error.contains("schema 77") && error.contains("schema 1"),
        "D-CFG-8: {error}"
    );
    fs::write(out.join("payload.json"), record).unwrap();

    let blob = packed
        .blobs()
        .path(&packed.manifest.images["web"].layers[0].blob.digest);
    fs::remove_file(blob).unwrap();
    assert!(
        Packed::open(&out)
            .unwrap_err()
            .to_string()
            .contains("run `porter build pack`")
    );
}

/// The builder image: prints the tar that stands beside it, complains, exits as its build argument says.
const BUILDER: &str = r#"fn main() {
    let mut tar = std::fs::File::open("/context.tar").expect("context");
    std::io::copy(&mut tar, &mut std::io::stdout()).expect("print");
    eprintln!("the builder's complaint");
    std::process::exit(std::env::var("STATUS").map_or(0, |s| s.parse().expect("status")));
}"#;

fn builder_repository(status: u8) -> Repository {
    let mut context = tar::Builder::new(Vec::new());
    for (name, content) in [
        (
            "Dockerfile",
            &b"FROM scratch\nCOPY made /made\nEXPOSE 7\n"[..],
        ),
        ("made", b"by the builder"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        context.append_data(&mut header, name, content).unwrap();
    }
    let program = fs::read(static_program("builder", BUILDER)).unwrap();
    let root = repository(&[
        ("program", &program),
        ("context.tar", &context.into_inner().unwrap()),
        (
            "Dockerfile.build",
            format!("FROM scratch\nARG PORTER_TEST_UNSET=x\nCOPY program context.tar /\nENV STATUS={status}\nENTRYPOINT [\"/program\"]\n").as_bytes(),
        ),
    ]);
    fs::set_permissions(
        root.path().join("program"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    commit(root.path());
    root
}

#[tokio::test]
async fn d_pack_8_9_a_builder_prints_the_context_and_its_failure_fails_the_pack() {
    let good = builder_repository(0);
    let packed = pack(good.path()).await;
    let layer = &packed.manifest.images["web"].layers[0];
    let tar =
        zstd::decode_all(fs::File::open(packed.blobs().path(&layer.blob.digest)).unwrap()).unwrap();
    assert!(
        String::from_utf8_lossy(&tar).contains("by the builder"),
        "D-PACK-8"
    );

    let bad = builder_repository(4);
    let error = try_pack(&["{}"], bad.path(), Options::default())
        .await
        .unwrap_err();
    // D-PACK-9
    assert!(
        error.contains("Dockerfile.build ended with exit status 4")
            && error.contains("the builder's complaint"),
        "{error}"
    );
}

#[tokio::test]
async fn a_pack_that_is_interrupted_says_so_and_leaves_nothing_to_deploy() {
    let root = repository(&[("Dockerfile", DOCKERFILE), ("data/program", b"x")]);
    pack(root.path()).await;
    let options = Options::default();
    options.stop.cancel();
    let error = try_pack(&["{}"], root.path(), options).await.unwrap_err();
    assert!(error.contains("interrupted"), "{error}");
    assert!(Packed::open(&root.path().join(".porter-tmp")).is_err());
}
