//! `realtime token`: mints a token, for tests, scripts and first steps.

use super::sign::Signer;
use super::{SourceFlags, first_line, print, text_of};
use crate::auth::Algorithm;
use crate::claims::Claims;
use crate::config::parse_duration;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

/// Mint a token
///
/// Claims come as JSON, or from flags, or both; flags win. The key is taken from --key-file, else from the variable
/// REALTIME_SIGNING_KEY, else it is the first signing key of the settings, and never from the command line. It is the Base64
/// of a secret for HS256 to HS512, and a private key as PEM for the other algorithms.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Mint {
    /// Claims as a JSON object, `@FILE`, or `-` for standard input
    claims: Option<String>,
    /// Where the token may be used: connect, subscribe, umd, separated by spaces [default: connect]
    #[arg(long)]
    scope: Option<String>,
    /// The user
    #[arg(long)]
    uid: Option<String>,
    /// The user's metadata, as JSON
    #[arg(long, value_name = "JSON")]
    umd: Option<String>,
    /// What a channel, a pattern with `*`, or a `#regex:` grants. May be repeated
    ///
    /// Grants are separated by commas: subscribe, autoSubscribe, getInfo, omitFromSubCount, umdUpdate, alias:NAME,
    /// historyStart:SECONDS, publish:EVENT, broadcast:EVENT, echo:EVENT, react:EVENT, emitPubSubEvent:EVENT, observe:KEY,
    /// get:KEY, set:KEY. What else there is, claims as JSON can say.
    #[arg(long, value_name = "NAME=GRANTS")]
    channel: Vec<String>,
    /// For how long the token is good [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Good for one use only; makes a `jti` unless the claims have one
    #[arg(long)]
    single_use: bool,
    /// The connection that a subscribe or umd token is for
    #[arg(long, value_name = "ID")]
    connection_id: Option<String>,
    /// Have the server send keep-alive messages
    #[arg(long)]
    keep_alive: bool,
    /// Have the server close the connection without a heartbeat for so many seconds, 5 to 600
    #[arg(long, value_name = "SECONDS")]
    heartbeat: Option<u32>,
    /// `aud` [default: the audience of the settings]
    #[arg(long)]
    audience: Option<String>,
    /// `iss` [default: the issuer of the settings]
    #[arg(long)]
    issuer: Option<String>,
    /// The algorithm [default: HS256, or that of the key in the settings]
    #[arg(long)]
    method: Option<String>,
    /// `kid` [default: the id of the key in the settings]
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// The file with the key, `-` for standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// Sign even what the server would refuse, to test that it does
    #[arg(long)]
    force: bool,
    /// Print the claims, and no token
    #[arg(long)]
    claims_only: bool,
    #[command(flatten)]
    sources: SourceFlags,
}

const EXAMPLES: &str = "\
Examples:
  realtime token --uid ana --channel 'room.*=subscribe,publish:chat,echo:chat'
  realtime token '{\"scope\":\"connect\",\"channels\":{\"news\":{\"subscribe\":true}}}' --expires 10m
  realtime token @claims.json --key-file key.b64
  realtime token --scope subscribe --connection-id Zt4Qw8LmPoAxBC0= --channel room.8=subscribe
  realtime token --method ES256 --key-file private.pem";

impl Mint {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let now = Timestamp::now();
        // Only what the settings are needed for makes them matter: a broken file is no reason to refuse a given key.
        let settings = self.sources.load().map(|loaded| loaded.settings);
        let parties = settings
            .as_ref()
            .ok()
            .map(|s| (s.audience.clone(), s.issuer.clone()));
        let claims = self.claims(now, parties.unwrap_or_default())?;
        let payload = Value::Object(claims).to_string();
        if !self.force {
            Claims::parse(&payload).map_err(|e| anyhow!("{e}; --force signs it nevertheless"))?;
        }
        if self.claims_only {
            print(payload)?;
            return Ok(ExitCode::SUCCESS);
        }
        let signer = match self.given_key()? {
            Some(key) => Signer::new(
                self.algorithm()?.unwrap_or(Algorithm::Hs256),
                self.kid.clone(),
                &key,
            )?,
            None => {
                let settings = settings.context("no key was given")?;
                let (method, id, key) = settings.keys.signers.first().context(
                    "a key is needed: --key-file, the variable REALTIME_SIGNING_KEY, or signing_keys.1.key in the settings",
                )?;
                let algorithm = self.algorithm()?.or_else(|| Algorithm::named(method));
                let algorithm = algorithm.context("the settings name no algorithm")?;
                Signer::new(
                    algorithm,
                    self.kid.clone().or_else(|| id.clone()),
                    key.expose(),
                )
                .context(
                    "the signing key of the settings cannot sign: servers need only public keys",
                )?
            }
        };
        print(signer.sign(&payload)?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn given_key(&self) -> anyhow::Result<Option<String>> {
        match (&self.key_file, std::env::var("REALTIME_SIGNING_KEY")) {
            (Some(file), _) if file == "-" => first_line(file).map(Some),
            (Some(file), _) => fs::read_to_string(file)
                .map(Some)
                .with_context(|| format!("`{file}` cannot be read")),
            (None, Ok(key)) if !key.is_empty() => Ok(Some(key)),
            (None, _) => Ok(None),
        }
    }

    fn algorithm(&self) -> anyhow::Result<Option<Algorithm>> {
        let Some(name) = &self.method else {
            return Ok(None);
        };
        let found = Algorithm::ALL
            .into_iter()
            .find(|a| a.name().eq_ignore_ascii_case(name));
        let names = || Algorithm::ALL.map(Algorithm::name).join(", ");
        found
            .map(Some)
            .with_context(|| format!("`{name}` is not one of {}", names()))
    }

    /// The claims of the argument, with those of the flags over them and defaults below them.
    fn claims(
        &self,
        now: Timestamp,
        (audience, issuer): (Option<String>, Option<String>),
    ) -> anyhow::Result<Map<String, Value>> {
        let mut claims = match &self.claims {
            Some(argument) => {
                let text = text_of(argument)?;
                let value: Value =
                    serde_json::from_str(&text).context("the claims are not JSON")?;
                match value {
                    Value::Object(claims) => claims,
                    _ => bail!("the claims are not a JSON object"),
                }
            }
            None => Map::new(),
        };
        let mut set =
            |name: &str, value: Option<Value>| value.map(|value| claims.insert(name.into(), value));
        let text = |value: &Option<String>| value.clone().map(Value::from);
        set("scope", text(&self.scope));
        set("uid", text(&self.uid));
        set("connectionId", text(&self.connection_id));
        set("aud", text(&self.audience));
        set("iss", text(&self.issuer));
        set("keepAlive", self.keep_alive.then_some(Value::Bool(true)));
        set("singleUse", self.single_use.then_some(Value::Bool(true)));
        set("heartbeatTimeout", self.heartbeat.map(Value::from));
        let umd = self
            .umd
            .as_ref()
            .map(|umd| serde_json::from_str(umd).context("--umd is not JSON"));
        set("umd", umd.transpose()?);
        if let Some(expires) = self.expires {
            set("exp", Some(expiry(now, expires).into()));
        }
        for channel in &self.channel {
            let channels = claims.entry("channels").or_insert_with(|| json!({}));
            grant(channels, channel)?;
        }
        claims.entry("scope").or_insert_with(|| "connect".into());
        claims
            .entry("exp")
            .or_insert_with(|| expiry(now, Duration::from_secs(3600)).into());
        if let Some(audience) = audience {
            claims.entry("aud").or_insert(audience.into());
        }
        if let Some(issuer) = issuer {
            claims.entry("iss").or_insert(issuer.into());
        }
        if self.single_use {
            claims
                .entry("jti")
                .or_insert_with(|| ulid::Ulid::generate().to_string().into());
        }
        Ok(claims)
    }
}

fn expiry(now: Timestamp, after: Duration) -> i64 {
    now.as_second()
        .saturating_add(i64::try_from(after.as_secs()).unwrap_or(i64::MAX))
}

/// Adds `NAME=GRANTS` to the claim `channels`.
fn grant(channels: &mut Value, text: &str) -> anyhow::Result<()> {
    // A regular expression may hold `=`; grants can't.
    let (name, grants) = text
        .rsplit_once('=')
        .with_context(|| format!("--channel `{text}` grants nothing: write NAME=GRANTS"))?;
    for grant in grants.split(',').map(str::trim).filter(|g| !g.is_empty()) {
        let (what, of) = grant
            .split_once(':')
            .map_or((grant, None), |(what, of)| (what, Some(of)));
        let (place, value) = match (what, of) {
            (
                "subscribe" | "autoSubscribe" | "getInfo" | "omitFromSubCount" | "umdUpdate",
                None,
            ) => (vec![what], Value::Bool(true)),
            ("alias", Some(alias)) => (vec![what], alias.into()),
            ("historyStart", Some(second)) => {
                let second: i64 = second
                    .parse()
                    .with_context(|| format!("`{second}` is not a number of Unix seconds"))?;
                (vec![what], second.into())
            }
            ("publish" | "broadcast" | "echo" | "react" | "emitPubSubEvent", Some(event)) => {
                (vec!["messages", event, what], Value::Bool(true))
            }
            ("observe" | "get" | "set", Some(key)) => {
                (vec!["storage", key, what], Value::Bool(true))
            }
            ("publish" | "broadcast" | "echo" | "react" | "emitPubSubEvent", None) => {
                bail!("`{what}` needs an event, such as `{what}:chat`")
            }
            ("observe" | "get" | "set", None) => {
                bail!("`{what}` needs a storage key, such as `{what}:state`")
            }
            _ => bail!("`{grant}` is no grant; see `realtime token --help`"),
        };
        let mut at = &mut *channels;
        for step in std::iter::once(name).chain(place) {
            let object = at
                .as_object_mut()
                .context("the claim `channels` is not made of objects")?;
            at = object.entry(step).or_insert_with(|| json!({}));
        }
        *at = value;
    }
    Ok(())
}
