//! Objects: is it there, put it there from a file without holding it in memory, fetch it into a file.

use super::{Error, Kind, Session, error::Site};
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::{
    primitives::{ByteStream, Length},
    types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption, StorageClass},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{path::Path, time::Duration};

/// Smaller objects use the standard class: infrequent access bills at least this much (D-PAY-15).
pub const STANDARD_BELOW: u64 = 128 * 1024;
/// Larger files travel in parts.
const MULTIPART_FROM: u64 = 16 * 1024 * 1024;
/// The least size of a part; S3 wants 5 MiB, and at most 10,000 parts.
const PART: u64 = 8 * 1024 * 1024;
const MAX_PARTS: u64 = 10_000;
/// Parts on the way at the same time. They are read from disk as they are sent, so memory holds buffers, not parts.
const PARTS_AT_ONCE: usize = 4;
/// One attempt at a part: on a slow line it may take long, and the SDK notices a line that stands still. This is for an
/// endpoint that took everything and does not answer.
const PART_LIMIT: Duration = Duration::from_secs(600);
/// One attempt at a look-up.
const LOOK_LIMIT: Duration = Duration::from_secs(15);

/// S3 in one region.
#[derive(Clone, Debug)]
pub struct S3 {
    client: aws_sdk_s3::Client,
    site: Site,
    endpoint: Option<String>,
}

/// What a check of an object tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes.
    pub size: u64,
    /// As the upload said it.
    pub content_type: Option<String>,
    /// `None` for the standard class.
    pub storage_class: Option<String>,
}

/// How an object is stored.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Such as `application/json`.
    pub content_type: &'a str,
    /// SSE-KMS with this key (D-CFG-55).
    pub kms_key: Option<&'a str>,
}

impl S3 {
    pub(super) fn new(session: &Session) -> Self {
        let endpoint = session.s3_endpoint.clone();
        let path_style = endpoint.as_deref().is_some_and(needs_path_style);
        let config = aws_sdk_s3::config::Builder::from(&session.config)
            .force_path_style(path_style)
            .timeout_config(timeouts(PART_LIMIT))
            .build();
        Self {
            client: aws_sdk_s3::Client::from_conf(config),
            site: Site {
                service: "S3",
                region: session.region.clone(),
            },
            endpoint,
        }
    }

    /// The address at which CloudFormation and hosts find an object.
    pub fn url(&self, bucket: &str, key: &str) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
            None => {
                let region = &self.site.region;
                let suffix = if region.starts_with("cn-") {
                    "amazonaws.com.cn"
                } else {
                    "amazonaws.com"
                };
                // A dot in a bucket's name does not fit the certificate of the other style.
                if bucket.contains('.') {
                    format!("https://s3.{region}.{suffix}/{bucket}/{key}")
                } else {
                    format!("https://{bucket}.s3.{region}.{suffix}/{key}")
                }
            }
        }
    }

    /// Whether there is such an object (D-PAY-3).
    ///
    /// # Errors
    /// Anything but an answer; a 403 explains itself in [`Error::hint`].
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, Error> {
        let call = self
            .client
            .head_object()
            .bucket(bucket)
            .key(key)
            .customize()
            .config_override(
                aws_sdk_s3::config::Builder::new().timeout_config(timeouts(LOOK_LIMIT)),
            )
            .send()
            .await;
        match call.map_err(self.site.failed("HeadObject")) {
            Ok(head) => Ok(Some(Head {
                size: head
                    .content_length()
                    .and_then(|n| u64::try_from(n).ok())
                    .unwrap_or_default(),
                content_type: head.content_type().map(str::to_owned),
                storage_class: head.storage_class().map(|c| c.as_str().to_owned()),
            })),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stores a file. Memory stays bounded whatever its size (D-PAY-7); `sent` is told the bytes of each finished part.
    ///
    /// # Errors
    /// The file can't be read, or the object was not stored; parts that had arrived are removed.
    pub async fn put_file(
        &self,
        bucket: &str,
        key: &str,
        file: &Path,
        put: &Put<'_>,
        sent: impl Fn(u64) + Sync,
    ) -> Result<(), Error> {
        const CALL: &str = "PutObject";
        let unreadable =
            |e: &dyn std::fmt::Display| self.site.local(CALL, format!("{}: {e}", file.display()));
        let size = tokio::fs::metadata(file)
            .await
            .map_err(|e| unreadable(&e))?
            .len();
        if size >= MULTIPART_FROM {
            return self.put_parts(bucket, key, file, size, put, &sent).await;
        }
        let body = ByteStream::from_path(file)
            .await
            .map_err(|e| unreadable(&e))?;
        self.put(bucket, key, body, size, put).await?;
        sent(size);
        Ok(())
    }

    /// Stores a small text, such as a template or a manifest.
    ///
    /// # Errors
    /// The object was not stored.
    pub async fn put_bytes(
        &self,
        bucket: &str,
        key: &str,
        bytes: Vec<u8>,
        put: &Put<'_>,
    ) -> Result<(), Error> {
        let size = bytes.len() as u64;
        self.put(bucket, key, ByteStream::from(bytes), size, put)
            .await
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: ByteStream,
        size: u64,
        put: &Put<'_>,
    ) -> Result<(), Error> {
        self.client
            .put_object()
            .bucket(bucket)
            .key(key)
            .content_type(put.content_type)
            .storage_class(storage_class(size))
            .set_server_side_encryption(put.kms_key.map(|_| ServerSideEncryption::AwsKms))
            .set_ssekms_key_id(put.kms_key.map(str::to_owned))
            .body(body)
            .send()
            .await
            .map_err(self.site.failed("PutObject"))
            .map(drop)
    }

    async fn put_parts(
        &self,
        bucket: &str,
        key: &str,
        file: &Path,
        size: u64,
        put: &Put<'_>,
        sent: &(impl Fn(u64) + Sync),
    ) -> Result<(), Error> {
        const CALL: &str = "CreateMultipartUpload";
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(bucket)
            .key(key)
            .content_type(put.content_type)
            .storage_class(storage_class(size))
            .set_server_side_encryption(put.kms_key.map(|_| ServerSideEncryption::AwsKms))
            .set_ssekms_key_id(put.kms_key.map(str::to_owned))
            .send()
            .await
            .map_err(self.site.failed(CALL))?;
        let upload = begun
            .upload_id()
            .ok_or_else(|| self.site.incomplete(CALL, "upload id"))?;
        let result = self
            .put_parts_of(bucket, key, file, size, upload, sent)
            .await;
        if result.is_err() {
            let abort = self
                .client
                .abort_multipart_upload()
                .bucket(bucket)
                .key(key)
                .upload_id(upload);
            if let Err(e) = abort
                .send()
                .await
                .map_err(self.site.failed("AbortMultipartUpload"))
            {
                tracing::warn!("parts of {key} stay in the bucket {bucket} and cost storage: {e}");
            }
        }
        result
    }

    async fn put_parts_of(
        &self,
        bucket: &str,
        key: &str,
        file: &Path,
        size: u64,
        upload: &str,
        sent: &(impl Fn(u64) + Sync),
    ) -> Result<(), Error> {
        let one = |part: Part| async move {
            let body = ByteStream::read_from()
                .path(file)
                .offset(part.offset)
                .length(Length::Exact(part.length))
                .build()
                .await
                .map_err(|e| {
                    self.site
                        .local("UploadPart", format!("{}: {e}", file.display()))
                })?;
            let call = self
                .client
                .upload_part()
                .bucket(bucket)
                .key(key)
                .upload_id(upload);
            let done = call
                .part_number(part.number)
                .body(body)
                .send()
                .await
                .map_err(self.site.failed("UploadPart"))?;
            sent(part.length);
            Ok::<_, Error>(
                CompletedPart::builder()
                    .part_number(part.number)
                    .set_e_tag(done.e_tag)
                    .set_checksum_crc32(done.checksum_crc32)
                    .build(),
            )
        };
        let mut parts: Vec<_> = stream::iter(parts(size))
            .map(one)
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        parts.sort_by_key(CompletedPart::part_number);
        self.client
            .complete_multipart_upload()
            .bucket(bucket)
            .key(key)
            .upload_id(upload)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .send()
            .await
            .map_err(self.site.failed("CompleteMultipartUpload"))
            .map(drop)
    }

    /// Fetches an object into a file, which is created or emptied first, and returns its size. The caller verifies it.
    ///
    /// # Errors
    /// There is no such object, the transfer broke off, or the file can't be written.
    pub async fn get_to_file(&self, bucket: &str, key: &str, file: &Path) -> Result<u64, Error> {
        const CALL: &str = "GetObject";
        let call = self
            .client
            .get_object()
            .bucket(bucket)
            .key(key)
            .send()
            .await;
        let mut body = call.map_err(self.site.failed(CALL))?.body.into_async_read();
        let local = |e: std::io::Error| {
            self.site
                .local(CALL, format!("{key} to {}: {e}", file.display()))
        };
        let mut out = tokio::fs::File::create(file).await.map_err(local)?;
        let size = tokio::io::copy_buf(&mut body, &mut out)
            .await
            .map_err(local)?;
        tokio::io::AsyncWriteExt::flush(&mut out)
            .await
            .map_err(local)?;
        Ok(size)
    }
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(attempt)
        .build()
}

/// Infrequent access for what is kept long and read once per host (D-PAY-2), standard for what is small (D-PAY-15).
fn storage_class(size: u64) -> StorageClass {
    if size < STANDARD_BELOW {
        StorageClass::Standard
    } else {
        StorageClass::StandardIa
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: i32,
    offset: u64,
    length: u64,
}

/// Pure: the parts of a file of `size` bytes, in order.
fn parts(size: u64) -> Vec<Part> {
    let length = PART.max(size.div_ceil(MAX_PARTS));
    (0..size.div_ceil(length))
        .zip(1..)
        .map(|(i, number)| Part {
            number,
            offset: i * length,
            length: length.min(size - i * length),
        })
        .collect()
}

/// Whether bucket names can't be part of the host name: addresses, `localhost`, and names without a domain.
fn needs_path_style(endpoint: &str) -> bool {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    if host.starts_with('[') {
        return true;
    }
    let host = host.split(':').next().unwrap_or_default();
    host.parse::<std::net::Ipv4Addr>().is_ok()
        || !host.contains('.')
        || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d_pay_15_small_objects_use_the_standard_class() {
        assert_eq!(storage_class(STANDARD_BELOW - 1), StorageClass::Standard); // D-PAY-15
        assert_eq!(storage_class(STANDARD_BELOW), StorageClass::StandardIa); // D-PAY-2
    }

    #[test]
    fn buckets_are_put_into_the_path_where_no_host_name_can_carry_them() {
        for (endpoint, path) in [
            ("http://127.0.0.1:4566", true),
            ("http://localhost:4566/", true),
            ("http://[::1]:4566", true),
            ("http://ministack:4566", true),
            ("http://s3.localhost:4566", true),
            ("https://s3.eu-west-1.amazonaws.com", false),
            ("https://minio.example.org:9000/", false),
        ] {
            assert_eq!(needs_path_style(endpoint), path, "{endpoint}");
        }
    }

    proptest! {
        #[test]
        fn d_pay_7_parts_cover_the_file_once_and_in_order(size in 1u64..5_000_000_000_000) {
            let parts = parts(size);
            prop_assert!(parts.len() as u64 <= MAX_PARTS);
            let mut end = 0;
            for (i, part) in parts.iter().enumerate() {
                prop_assert_eq!((part.number, part.offset), (i as i32 + 1, end));
                prop_assert!(part.length > 0 && (part.length >= PART || i + 1 == parts.len()));
                end += part.length;
            }
            prop_assert_eq!(end, size); // D-PAY-7
        }
    }
}
