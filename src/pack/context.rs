//! The build context: a folder as a tar, streamed to the engine while it is read (D-PACK-7, D-PAY-7).
//!
//! As with the `docker` command, files belong to root, `.dockerignore` applies, and the Dockerfile is always sent. Names
//! are sorted. `.porter-tmp` stays out in any case: it holds the payloads that are built from this context.

use super::ignored::Ignored;
use bollard::body_try_stream;
use bytes::Bytes;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::{
    sync::mpsc::{self, Sender},
    task::JoinHandle,
};

/// What the client library takes as a request's body.
pub type Body = http_body_util::Either<
    http_body_util::Full<Bytes>,
    http_body_util::StreamBody<
        std::pin::Pin<
            Box<dyn futures::Stream<Item = Result<hyper::body::Frame<Bytes>, io::Error>> + Send>,
        >,
    >,
>;

/// A context on its way. The task ends when the tar does; its error is the true cause of a failed build.
pub struct Context {
    /// The tar.
    pub body: Body,
    /// The reader's fate.
    pub reader: JoinHandle<io::Result<()>>,
}

const CHUNK: usize = 64 * 1024;
/// Chunks between reader and connection.
const AHEAD: usize = 8;

/// Streams a folder. `dockerfile` is relative to it and sent even where `.dockerignore` covers it.
pub fn of_folder(root: &Path, dockerfile: &Path) -> Context {
    let (root, dockerfile) = (root.to_owned(), dockerfile.to_owned());
    stream(move |out| write_tar(&root, &dockerfile, out))
}

/// Streams a tar that is already there.
pub fn of_tar(mut file: File) -> Context {
    stream(move |mut out| {
        io::copy(&mut file, &mut out)?;
        out.flush()
    })
}

fn stream(write: impl FnOnce(BufWriter<Chunks>) -> io::Result<()> + Send + 'static) -> Context {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        let result = write(BufWriter::with_capacity(CHUNK, Chunks(sender.clone())));
        if let Err(error) = &result {
            // The engine must not take a context that was cut short for a whole one. When nobody listens any more, the
            // build has ended by itself.
            drop(sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string()))));
        }
        result
    });
    let chunks = futures::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    Context {
        body: body_try_stream(chunks),
        reader,
    }
}

struct Chunks(Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the build ended before it had read its context",
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_tar(root: &Path, dockerfile: &Path, out: impl Write) -> io::Result<()> {
    let ignored = match fs::read_to_string(root.join(".dockerignore")) {
        Ok(text) => Ignored::parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignored::default(),
        Err(error) => return Err(at(&root.join(".dockerignore"), &error)),
    };
    let walk = Walk {
        root,
        dockerfile: name_of(dockerfile),
        ignored,
    };
    let mut tar = tar::Builder::new(out);
    walk.folder(&mut tar, "")?;
    tar.into_inner()?.flush()
}

struct Walk<'a> {
    root: &'a Path,
    dockerfile: String,
    ignored: Ignored,
}

impl Walk<'_> {
    fn folder<W: Write>(&self, tar: &mut tar::Builder<W>, folder: &str) -> io::Result<()> {
        let path = self.root.join(folder);
        let mut names: Vec<_> = fs::read_dir(&path)
            .and_then(|entries| {
                entries
                    .map(|e| Ok(e?.file_name()))
                    .collect::<io::Result<_>>()
            })
            .map_err(|e| at(&path, &e))?;
        names.sort_unstable();
        for name in names {
            let Some(name) = name.to_str() else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: the name is not UTF-8", path.join(&name).display()),
                ));
            };
            let entry = if folder.is_empty() {
                name.to_owned()
            } else {
                format!("{folder}/{name}")
            };
            if entry != super::OUT {
                self.entry(tar, &entry)?;
            }
        }
        Ok(())
    }

    fn entry<W: Write>(&self, tar: &mut tar::Builder<W>, entry: &str) -> io::Result<()> {
        let path = self.root.join(entry);
        let meta = path.symlink_metadata().map_err(|e| at(&path, &e))?;
        let leads_to_dockerfile = self
            .dockerfile
            .strip_prefix(entry)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let covered = self.ignored.covers(entry) && !leads_to_dockerfile;
        if meta.is_dir() {
            if !covered {
                append(tar, &meta, entry, io::empty()).map_err(|e| at(&path, &e))?;
            }
            if !covered || !self.ignored.is_final() {
                self.folder(tar, entry)?;
            }
        } else if !covered && meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|e| at(&path, &e))?;
            let mut header = header(&meta);
            header.set_size(0);
            tar.append_link(&mut header, entry, target)
                .map_err(|e| at(&path, &e))?;
        } else if !covered && meta.is_file() {
            let file = File::open(&path).map_err(|e| at(&path, &e))?;
            append(tar, &meta, entry, file).map_err(|e| at(&path, &e))?;
        }
        // Sockets, pipes and devices are no part of a context.
        Ok(())
    }
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    meta: &fs::Metadata,
    entry: &str,
    content: impl Read,
) -> io::Result<()> {
    let mut header = header(meta);
    let size = if meta.is_dir() { 0 } else { meta.len() };
    header.set_size(size);
    let mut counted = Counted {
        inner: content.take(size),
        read: 0,
    };
    let name = if meta.is_dir() {
        format!("{entry}/")
    } else {
        entry.to_owned()
    };
    tar.append_data(&mut header, name, &mut counted)?;
    if counted.read == size {
        Ok(())
    } else {
        Err(io::Error::other("it became shorter while it was read"))
    }
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.read += n as u64;
        Ok(n)
    }
}

fn header(meta: &fs::Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(match meta {
        m if m.is_dir() => tar::EntryType::Directory,
        m if m.is_symlink() => tar::EntryType::Symlink,
        _ => tar::EntryType::Regular,
    });
    header.set_mode(meta.permissions().mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header
}

/// `./a//b` → `a/b`: how entries are named.
fn name_of(path: &Path) -> String {
    let clean: PathBuf = path
        .components()
        .filter(|c| !matches!(c, std::path::Component::CurDir))
        .collect();
    clean.to_string_lossy().into_owned()
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path, dockerfile: &str) -> Vec<String> {
        let mut out = Vec::new();
        write_tar(root, Path::new(dockerfile), &mut out).unwrap();
        let mut archive = tar::Archive::new(&out[..]);
        let names = archive
            .entries()
            .unwrap()
            .map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap());
        names.collect()
    }

    #[test]
    fn d_pack_7_the_context_is_sorted_without_ignored_files_and_always_has_the_dockerfile() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "b/x",
            "b/deep/y",
            "a",
            "docker/Dockerfile",
            "docker/other",
            ".porter-tmp/payload/huge",
            "target/debug/z",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
        fs::write(
            root.path().join(".dockerignore"),
            "target\ndocker\nb\n!b/deep\n",
        )
        .unwrap();
        // D-PACK-7
        assert_eq!(
            names(root.path(), "./docker/Dockerfile"),
            [
                ".dockerignore",
                "a",
                "b/deep/",
                "b/deep/y",
                "docker/",
                "docker/Dockerfile",
                "link"
            ]
        );
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = write_tar(
            &root.path().join("absent"),
            Path::new("Dockerfile"),
            io::sink(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
