//! Packing and uploading stream: the size of an image does not show in porter's memory.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use bytes::Bytes;
use contract::manifest::{self, Image, Layer, Manifest};
use futures::stream;
use porter::{
    aws::s3::Put,
    pack::{self, Cache, Options, split_stream},
    payload::{
        blobs::{self, BlobStore},
        upload,
    },
};
use std::{
    io::{self, Read},
    process::Command,
};

const IMAGE: u64 = 2 * 1024 * 1024 * 1024;
/// D-PAY-7, D-QA-11.
const LIMIT: u64 = 128 * 1024 * 1024;
/// Tells the child process from its parent.
const CHILD: &str = "PORTER_TEST_MEMORY_CHILD";
/// Tells the child process where the bucket is.
const ENDPOINT: &str = "PORTER_TEST_MEMORY_ENDPOINT";

/// Peak resident memory of this process, as the kernel counted it.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Bytes in which zstd finds nothing to save: the same noise again, but further back than it looks.
struct Noise {
    block: Vec<u8>,
    at: usize,
    left: u64,
}

impl Noise {
    fn new(length: u64) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        Self {
            block: (0..512 * 1024 + 1).flat_map(|_| next()).collect(),
            at: 0,
            left: length,
        }
    }
}

impl Read for Noise {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = into
            .len()
            .min(self.block.len() - self.at)
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        into[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at = (self.at + n) % self.block.len();
        self.left -= n as u64;
        Ok(n)
    }
}

fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(name: &str, content: &str) -> Vec<u8> {
    let mut entry = header(name, content.len() as u64);
    entry.extend_from_slice(content.as_bytes());
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

/// What `docker save` would print for an image of one layer with one huge file.
fn saved_image() -> impl Read {
    let layer = format!("{}/layer.tar", "a".repeat(64));
    let config = serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [blobs::digest(b"")]}});
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": null, "Layers": [layer]}]);
    let before = [header(&layer, IMAGE + 3 * 512), header("huge", IMAGE)].concat();
    let after = [
        vec![0; 1024],
        padded("config.json", &config.to_string()),
        padded("manifest.json", &manifest.to_string()),
        vec![0; 1024],
    ]
    .concat();
    io::Cursor::new(before)
        .chain(Noise::new(IMAGE))
        .chain(io::Cursor::new(after))
}

/// Takes the image apart as `build pack` does with what the engine sends, then reads all of it again as an upload does.
fn child() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::below(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let split = runtime.block_on(async {
        let chunks = stream::unfold(saved_image(), |mut image| async move {
            let mut chunk = vec![0; 64 * 1024];
            let n = image.read(&mut chunk).unwrap();
            chunk.truncate(n);
            (n > 0).then(|| (Ok::<_, io::Error>(Bytes::from(chunk)), image))
        });
        split_stream(Box::pin(chunks), &store, &mut Cache::default(), &|_| {})
            .await
            .unwrap()
    });
    let layer = &split.layers[0];
    assert_eq!(layer.unpacked, IMAGE + 3 * 512);
    assert!(
        layer.blob.size > IMAGE / 2,
        "the noise was compressed to {} bytes, this measures nothing",
        layer.blob.size
    );
    store.verify(&layer.blob).unwrap();
    println!("peak {}", peak());
}

/// Builds a large image with the real engine and packs it: the build context and the saved image both stream.
fn child_with_docker() {
    const LARGE: u64 = 512 * 1024 * 1024;
    let root = support::repository(&[
        (
            "Dockerfile",
            b"FROM scratch\nCOPY large /large\nEXPOSE 8080\n",
        ),
        (".gitignore", b"large\n"),
    ]);
    io::copy(
        &mut Noise::new(LARGE),
        &mut std::fs::File::create(root.path().join("large")).unwrap(),
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let out = root.path().join(".porter-tmp");
        let packed = pack::run(
            &support::config(&["{}"]),
            root.path(),
            &out,
            Options::default(),
            &|_| {},
        )
        .await
        .unwrap();
        println!("peak {}", peak());
        let image = &packed.manifest.images["web"];
        assert!(image.layers[0].blob.size > LARGE / 2);
        let docker = bollard::Docker::connect_with_defaults()
            .unwrap()
            .negotiate_version()
            .await
            .unwrap();
        docker
            .remove_image(
                &image.reference,
                None::<bollard::query_parameters::RemoveImageOptions>,
                None,
            )
            .await
            .unwrap();
    });
}

/// Runs the test of that name in a process of its own and returns the peak that it prints.
fn measured(test: &str) -> u64 {
    measured_with(test, &[])
}

fn measured_with(test: &str, variables: &[(&str, &str)]) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let peak = text
        .split("peak ")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    println!("{test}: {} MiB", peak / 1024 / 1024);
    peak
}

#[test]
fn d_pay_7_d_qa_11_taking_apart_an_image_of_2_gib_takes_less_than_128_mib_of_memory() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    assert!(
        measured(
            "d_pay_7_d_qa_11_taking_apart_an_image_of_2_gib_takes_less_than_128_mib_of_memory"
        ) < LIMIT
    ); // D-PAY-7, D-QA-11
}

#[test]
fn d_pay_7_a_whole_pack_with_the_engine_streams_context_and_image() {
    if std::env::var_os(CHILD).is_some() {
        return child_with_docker();
    }
    assert!(measured("d_pay_7_a_whole_pack_with_the_engine_streams_context_and_image") < LIMIT); // D-PAY-7
}

/// Uploads four layers of incompressible bytes to an AWS that we did not write, as `build provision` does.
fn child_with_bucket() {
    const LAYER: u64 = 64 * 1024 * 1024;
    const BUCKET: &str = "porter-memory";
    let layers: u64 = std::env::var("PORTER_TEST_UPLOAD_LAYERS").map_or(16, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::below(&porter::payload::folder(folder.path()));
    let layers = (0..layers).map(|n| {
        let mut writer = store.writer().unwrap();
        // Different layers, or one would be the other.
        io::Write::write_all(&mut writer, &n.to_le_bytes()).unwrap();
        io::copy(&mut Noise::new(LAYER), &mut writer).unwrap();
        let blob = writer.finish().unwrap();
        Layer {
            diff_id: blob.digest.clone(),
            unpacked: blob.size,
            blob,
        }
    });
    let image = Image {
        reference: "memory/memory:x".into(),
        platform: "linux/amd64".into(),
        layers: layers.collect(),
        config: store.add(b"{}").unwrap(),
    };
    let total: u64 = image.layers.iter().map(|l| l.blob.size).sum();
    let manifest = Manifest {
        v: manifest::FORMAT,
        service: "memory".into(),
        version: "abc1234".into(),
        config: store.add(b"config").unwrap(),
        images: [("web".to_owned(), image)].into(),
        hosts: Default::default(),
    };
    let bytes = manifest.to_bytes();
    let path = porter::payload::folder(folder.path()).join("manifest.json");
    std::fs::write(path, &bytes).unwrap();
    let packed = pack::Packed {
        out: folder.path().to_owned(),
        manifest,
        payload: blobs::digest(&bytes),
        manifest_size: bytes.len() as u64,
        summary: vec![],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new("us-east-1"))
            .endpoint_url(std::env::var(ENDPOINT).unwrap())
            .credentials_provider(aws_sdk_s3::config::Credentials::new(
                "test", "test", None, None, "tests",
            ))
            .load()
            .await;
        aws_sdk_s3::Client::from_conf(
            aws_sdk_s3::config::Builder::from(&config)
                .force_path_style(true)
                .build(),
        )
        .create_bucket()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
        let s3 = porter::aws::Session::with(config, None).await.s3();
        let (look, store) = (s3.clone(), s3);
        let bucket = upload::Bucket {
            size: Box::new(move |key| {
                let (s3, key) = (look.clone(), key.to_owned());
                Box::pin(async move { Ok(s3.head(BUCKET, &key).await?.map(|h| h.size)) })
            }),
            put: Box::new(move |object| {
                let s3 = store.clone();
                Box::pin(async move {
                    let put = Put {
                        content_type: object.content_type,
                        kms_key: None,
                    };
                    Ok(s3
                        .put_file(BUCKET, &object.key, &object.path, &put, |_| {})
                        .await?)
                })
            }),
        };
        let done = upload::upload(&packed, &bucket, &|_| {}).await.unwrap();
        assert!(done.bytes > total, "{done:?}");
    });
    println!("peak {}", peak());
}

#[test]
fn d_pay_7_d_qa_11_an_upload_takes_less_than_128_mib_of_memory_whatever_its_size() {
    const NAME: &str =
        "d_pay_7_d_qa_11_an_upload_takes_less_than_128_mib_of_memory_whatever_its_size";
    if std::env::var_os(CHILD).is_some() {
        return child_with_bucket();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let emulator = runtime
        .block_on(local_cloud::emulator::Emulator::start())
        .unwrap();
    let peak = measured_with(NAME, &[(ENDPOINT, emulator.endpoint())]);
    assert!(peak < LIMIT); // D-PAY-7, D-QA-11
}
