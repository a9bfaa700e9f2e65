//! Where the installation's Redis or Valkey is, as operators write it: `redis://[user:password@]host:port/db`, `rediss://…`
//! with TLS, `redis+unix:///path?db=0` for a socket.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use percent_encoding::percent_decode_str;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Secret;

/// The port if the URL names none.
const PORT: u16 = 6379;

/// A Redis or Valkey server, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Address {
    /// Where.
    pub place: Place,
    /// The user of an access control list; `None` is its default user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u32,
    /// With TLS.
    pub tls: bool,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A name or address, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// Is this a URL of such a server?
    #[must_use]
    pub fn is_one(url: &str) -> bool {
        ["redis://", "rediss://", "redis+unix://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
    }

    /// Reads a URL. No error repeats it, since it may hold a password.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        const FORM: &str = "write it as redis://[user:password@]host:port/db, rediss:// for TLS, or redis+unix:///path?db=0";
        let (scheme, rest) = url.split_once("://").context(FORM)?;
        if scheme == "redis+unix" {
            let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
            let database = query.strip_prefix("db=").unwrap_or("");
            if !path.starts_with('/') || !(query.is_empty() || query.starts_with("db=")) {
                bail!(FORM);
            }
            return Ok(Self {
                place: Place::Unix(path.into()),
                user: None,
                password: None,
                database: number(database)?,
                tls: false,
            });
        }
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => bail!(FORM),
        };
        let (login, rest) = rest
            .rsplit_once('@')
            .map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').context("its host lacks a `]`")?;
                (host, after.strip_prefix(':'))
            }
            None => authority
                .rsplit_once(':')
                .map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            bail!("it names no host; {FORM}");
        }
        let port = match port {
            None => PORT,
            Some(port) => (port.parse().ok().filter(|port| *port > 0))
                .context("its port is not a number from 1 to 65535")?,
        };
        let decode = |text: &str| -> anyhow::Result<String> {
            let decoded = percent_decode_str(text).decode_utf8();
            Ok(decoded
                .map_err(|_| {
                    anyhow!("its user or password is not UTF-8 once its %-escapes are read")
                })?
                .into_owned())
        };
        let (user, password) = match login.map(|login| login.split_once(':')) {
            None => (None, None),
            Some(None) => {
                bail!("it has a user without a password; write user:password@ or :password@")
            }
            Some(Some((user, password))) => (
                Some(decode(user)?).filter(|user| !user.is_empty()),
                Some(Secret::new(decode(password)?)),
            ),
        };
        Ok(Self {
            place: Place::Tcp(host.to_owned(), port),
            user,
            password,
            database: number(database)?,
            tls,
        })
    }
}

fn number(database: &str) -> anyhow::Result<u32> {
    match database {
        "" => Ok(0),
        text => text.parse().context("its database is not a number"),
    }
}

/// How to make sure whom one speaks to.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who may vouch for the server.
    pub config: Arc<ClientConfig>,
    /// The name that the server must have.
    pub name: ServerName<'static>,
}

impl Tls {
    /// Trusts the authorities in a PEM file, or those that browsers trust.
    ///
    /// # Errors
    /// The file can't be read, or the host is no name.
    pub fn new(host: &str, authorities: Option<&std::path::Path>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        match authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let unread = || format!("no certificates can be read from {}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).with_context(unread)? {
                    roots
                        .add(certificate.with_context(unread)?)
                        .with_context(unread)?;
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
            name: ServerName::try_from(host.to_owned())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Address {
        Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error:#}"))
    }

    #[test]
    fn a_url_says_where_and_who() {
        let address = read("rediss://app:p%40ss%2Fword@cache.example.com:6380/3");
        assert_eq!(address.place, Place::Tcp("cache.example.com".into(), 6380));
        assert_eq!(address.user.as_deref(), Some("app"));
        assert_eq!(
            address.password.as_ref().map(Secret::expose),
            Some("p@ss/word")
        );
        assert_eq!((address.database, address.tls), (3, true));

        let address = read("redis://:secret@[::1]");
        assert_eq!(address.place, Place::Tcp("::1".into(), 6379));
        assert_eq!(address.user, None);
        assert_eq!((address.database, address.tls), (0, false));

        let address = read("redis+unix:///run/redis.sock?db=2");
        assert_eq!(address.place, Place::Unix("/run/redis.sock".into()));
        assert_eq!(address.database, 2);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for url in [
            "http://a",
            "redis://",
            "redis://:hidden@",
            "redis://:hidden@h:0",
            "redis://:hidden@h:x",
            "redis://hidden@h",
            "redis://:hidden@h/x",
            "redis://:%ffhidden@h",
            "redis+unix://relative",
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(
                !format!("{error:#} {error:?}").contains("hidden"),
                "{error:#}"
            );
        }
        assert!(!format!("{:?}", read("redis://:hidden@h")).contains("hidden"));
    }
}
