//! From sources to [`Settings`]: a file, the environment, flags; then the files that these name; then what must fit together.

use super::{
    API_KEYS_FILE, Address, ApiKey, Errors, Finding, Secret, Setting, Settings, Source, Watch,
    settings, show_duration,
};
use crate::auth::SigningKey;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Variables that begin like settings and are none: what the other commands read.
const OTHER_VARIABLES: [&str; 5] = [
    "REALTIME_CONFIG",
    "REALTIME_TOKEN",
    "REALTIME_URL",
    "REALTIME_API_KEY",
    "REALTIME_SIGNING_KEY",
];

/// Where settings come from, the later winning: file, environment, flags.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables, of which those that begin with `REALTIME_` are read.
    pub environment: Vec<(String, Secret)>,
    /// Flags in the order in which they were typed.
    pub flags: Vec<Flag>,
    /// `--dev-echo`.
    pub dev_echo: bool,
}

/// A setting given as a flag.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The setting.
    pub key: String,
    /// Its value.
    pub value: String,
    /// How it was typed, for errors: `--listen`, `--set limits.idle`.
    pub typed: String,
}

/// Settings with what else was found out on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Finding>,
    /// The files that were read, as they were then: a change of one is a reason to reload.
    pub watch: Watch,
}

/// What a reload gives.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The settings now in force, with the files to watch from now on.
    pub loaded: Loaded,
    /// Settings that have changed, and stay as they were until a restart.
    pub left: Vec<&'static str>,
}

impl Sources {
    /// Reads everything and checks it as a whole.
    ///
    /// # Errors
    /// Everything that is wrong, each finding with its place.
    pub fn load(&self) -> Result<Loaded, Errors> {
        Loading::default()
            .load(self, None)
            .map(|reloaded| reloaded.loaded)
    }
}

impl Settings {
    /// Reads the sources again (R-CFG-2). Settings that need a restart keep their value and are named. When anything is
    /// wrong nothing changes (R-CFG-3).
    ///
    /// # Errors
    /// Everything that is wrong, each finding with its place.
    pub fn reload(&self, sources: &Sources) -> Result<Reloaded, Errors> {
        Loading::default().load(sources, Some(self))
    }
}

/// Where a value came from: which layer, and which place in it.
type Origins = BTreeMap<&'static str, (usize, Source)>;

#[derive(Default)]
struct Loading {
    settings: Settings,
    origins: Origins,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    watch: Watch,
}

impl Loading {
    fn load(mut self, sources: &Sources, old: Option<&Settings>) -> Result<Reloaded, Errors> {
        self.place_data(&sources.environment);
        if let Some(file) = &sources.file {
            self.read_file(file);
        }
        self.read_environment(&sources.environment);
        self.read_flags(&sources.flags);
        self.settings.dev_echo = sources.dev_echo;
        let left = old.map(|old| self.keep(old)).unwrap_or_default();
        self.resolve_signing_keys();
        self.resolve_api_keys(old);
        self.check_together();
        if self.errors.is_empty() {
            let Self {
                settings,
                warnings,
                watch,
                ..
            } = self;
            Ok(Reloaded {
                loaded: Loaded {
                    settings,
                    warnings,
                    watch,
                },
                left,
            })
        } else {
            Err(Errors::new(self.errors))
        }
    }

    /// Containers that hand over share one folder, that of their sockets, and often may write nowhere else: what the next
    /// one must find is there, unless something else is set.
    fn place_data(&mut self, environment: &[(String, Secret)]) {
        let socket = environment
            .iter()
            .find(|(name, _)| name == "PORTER_HANDOVER_SOCKET");
        if let Some(folder) = socket.and_then(|(_, path)| Path::new(path.expose()).parent()) {
            self.settings.data_dir = folder.join(&self.settings.data_dir);
        }
    }

    /// Gives settings that need a restart their old value back, and names those.
    fn keep(&mut self, old: &Settings) -> Vec<&'static str> {
        let fixed = settings().iter().filter(|s| !s.reload);
        fixed
            .filter(|s| s.keep(old, &mut self.settings))
            .map(|s| s.key)
            .collect()
    }

    fn error(&mut self, source: Source, key: &str, message: impl Into<String>) {
        self.errors.push(Finding {
            source,
            key: key.into(),
            message: message.into(),
        });
    }

    fn warn(&mut self, source: Source, key: &str, message: impl Into<String>) {
        self.warnings.push(Finding {
            source,
            key: key.into(),
            message: message.into(),
        });
    }

    /// Where a setting was written, or that it wasn't.
    fn origin(&self, key: &str) -> Source {
        self.origins
            .get(key)
            .map_or(Source::Default, |(_, source)| source.clone())
    }

    fn apply(&mut self, layer: usize, setting: &'static Setting, items: &[String], source: Source) {
        match setting.set(&mut self.settings, items) {
            Ok(()) => drop(self.origins.insert(setting.key, (layer, source))),
            Err(messages) => messages
                .into_iter()
                .for_each(|message| self.error(source.clone(), setting.key, message)),
        }
    }

    // --- the file

    fn read_file(&mut self, path: &Path) {
        self.watch.add(path);
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                return self.error(
                    Source::File(path.into(), 0),
                    "",
                    format!("cannot be read: {e}"),
                );
            }
        };
        let line = |at: usize| Source::File(path.into(), 1 + text[..at].matches('\n').count());
        let (table, wrong) = DeTable::parse_recoverable(&text);
        if !wrong.is_empty() {
            for e in wrong {
                let at = e.span().map_or(0, |s| s.start.min(text.len()));
                self.error(line(at), "", format!("is not TOML: {}", e.message()));
            }
            return;
        }
        let mut values = Vec::new();
        flatten(table.get_ref(), "", &mut values);
        // In the order of the file, not of the alphabet.
        values.sort_by_key(|(_, at, _)| *at);
        for (key, at, items) in values {
            match (find(&key), items) {
                (None, _) => self.error(line(at), &key, unknown(&key)),
                (Some(setting), Ok((items, array))) if setting.list || !array => {
                    let items = if array {
                        items
                    } else {
                        split(setting, &items.concat())
                    };
                    self.apply(0, setting, &items, line(at));
                }
                (Some(_), Ok(_)) => self.error(line(at), &key, "takes one value, not a list"),
                (Some(_), Err(message)) => self.error(line(at), &key, message),
            }
        }
    }

    // --- the environment

    fn read_environment(&mut self, variables: &[(String, Secret)]) {
        let mut variables: Vec<_> = variables
            .iter()
            .filter(|(name, _)| name.starts_with("REALTIME_"))
            .collect();
        variables.sort_by_key(|(name, _)| name);
        for (name, value) in variables {
            let value = value.expose();
            // Set to nothing is not set, as container tools have it.
            if value.is_empty()
                || OTHER_VARIABLES.contains(&name.as_str())
                || made_by_kubernetes(name)
            {
                continue;
            }
            match settings().iter().find(|s| s.variable() == *name) {
                Some(setting) => self.apply(
                    1,
                    setting,
                    &split(setting, value),
                    Source::Variable(name.clone()),
                ),
                None => {
                    let names: Vec<_> = settings().iter().map(Setting::variable).collect();
                    let hint = nearest(name, names.iter().map(String::as_str));
                    // Only a warning: a prefix is no property, and other programs may use it.
                    self.warn(
                        Source::Variable(name.clone()),
                        "",
                        format!("is no setting and has no effect{hint}"),
                    );
                }
            }
        }
    }

    // --- flags

    fn read_flags(&mut self, flags: &[Flag]) {
        let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Flag { key, value, typed } in flags {
            let source = Source::Flag(typed.clone());
            match find(key) {
                None => self.error(source, key, unknown(key)),
                Some(setting) if setting.secret => {
                    let message = format!(
                        "is a secret: flags can be read by every user of the machine; use the file or {}",
                        setting.variable()
                    );
                    self.error(source, key, message);
                }
                Some(setting) if setting.list => {
                    let items = lists.entry(setting.key).or_default();
                    items.extend(split(setting, value));
                    let items = items.clone();
                    self.apply(2, setting, &items, source);
                }
                Some(setting) => self.apply(2, setting, std::slice::from_ref(value), source),
            }
        }
    }

    // --- keys

    /// Of a value and a file that holds it the one of the later source is meant; `None` when neither is set or both in one.
    fn value_or_file(&mut self, value: &'static str, file: &'static str) -> Option<Given> {
        let layer = |key| self.origins.get(key).map(|(layer, _)| *layer);
        match (layer(value), layer(file)) {
            (Some(a), Some(b)) if a == b => {
                self.error(
                    self.origin(file),
                    file,
                    format!("has no place beside `{value}`: give one of the two"),
                );
                None
            }
            (a, b) if a > b => Some(Given::Value),
            (_, Some(_)) => Some(Given::File),
            _ => None,
        }
    }

    fn read_key_file(&mut self, key: &str, path: &Path) -> Option<String> {
        self.watch.add(path);
        match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(e) => {
                self.error(
                    self.origin(key),
                    key,
                    format!("`{}` cannot be read: {e}", path.display()),
                );
                None
            }
        }
    }

    fn resolve_signing_keys(&mut self) {
        const KEYS: [[&str; 4]; 2] = [
            [
                "signing_keys.1.method",
                "signing_keys.1.key",
                "signing_keys.1.key_file",
                "signing_keys.1.id",
            ],
            [
                "signing_keys.2.method",
                "signing_keys.2.key",
                "signing_keys.2.key_file",
                "signing_keys.2.id",
            ],
        ];
        for ([method, key, file, id], slot) in
            KEYS.into_iter().zip(self.settings.keys.signing.clone())
        {
            let given = match (self.value_or_file(key, file), slot.key, slot.key_file) {
                (Some(Given::Value), Some(encoded), _) => Some((key, encoded)),
                (Some(Given::File), _, Some(path)) => self
                    .read_key_file(file, &path)
                    .map(|text| (file, Secret::new(text))),
                _ => None,
            };
            // With a wrong method nothing can be said about the key.
            if self.errors.iter().any(|e| e.key == method) {
                continue;
            }
            match given {
                Some((key, encoded)) => {
                    let id_or_blank = slot.id.as_deref().unwrap_or("");
                    match SigningKey::parse(&slot.method, id_or_blank, encoded.expose()) {
                        Ok(parsed) => self.settings.signing_keys.push(parsed),
                        Err(e) => self.error(self.origin(key), key, e.to_string()),
                    }
                    let signer = (slot.method, slot.id, encoded);
                    self.settings.keys.signers.push(signer);
                }
                None if slot.id.is_some() && self.errors.is_empty() => {
                    self.warn(self.origin(id), id, "has no effect without a key");
                }
                None => {}
            }
        }
    }

    fn resolve_api_keys(&mut self, old: Option<&Settings>) {
        const KEYS: &str = "api_keys";
        const FILE: &str = "api_keys_file";
        match self.value_or_file(KEYS, FILE) {
            Some(Given::Value) if !self.settings.keys.api.is_empty() => {
                for (n, key) in self.settings.keys.api.clone().iter().enumerate() {
                    match ApiKey::parse(key.expose()) {
                        Ok(key) => self.settings.api_keys.push(key),
                        Err(message) => {
                            self.error(self.origin(KEYS), KEYS, format!("key {}: {message}", n + 1))
                        }
                    }
                }
                // From here on their digests do; that they were given is still told.
                self.settings.keys.api.fill(Secret::new(""));
            }
            Some(Given::File) if self.settings.keys.api_file.is_some() => {
                let path = self.settings.keys.api_file.clone().unwrap_or_default();
                if let Some(text) = self.read_key_file(FILE, &path) {
                    self.add_api_keys(&path, &text);
                    if self.settings.api_keys.is_empty() && self.errors.is_empty() {
                        self.error(Source::File(path, 0), FILE, "holds no key");
                    }
                }
            }
            _ => {
                let path = self.settings.data_dir.join(API_KEYS_FILE);
                self.watch.add(&path);
                match fs::read_to_string(&path) {
                    Ok(text) => self.add_api_keys(&path, &text),
                    Err(e)
                        if e.kind() == ErrorKind::NotFound
                            && old.is_none_or(|o| o.api_keys.is_empty()) => {}
                    Err(e) => {
                        self.error(Source::File(path, 0), KEYS, format!("cannot be read: {e}"))
                    }
                }
            }
        }
    }

    fn add_api_keys(&mut self, path: &Path, text: &str) {
        let (keys, wrong) = read_api_keys(path, text);
        self.settings.api_keys.extend(keys);
        self.errors.extend(wrong);
    }

    // --- what must fit together

    fn check_together(&mut self) {
        if self.settings.listen.is_empty() {
            self.error(
                self.origin("listen"),
                "listen",
                "needs one address at least",
            );
        }
        let mut seen: Vec<&Address> = Vec::new();
        let mut twice = Vec::new();
        for (key, addresses) in [
            ("listen", &self.settings.listen),
            ("operations", &self.settings.operations),
        ] {
            for address in addresses {
                // Port 0 is another port each time.
                let any_port = matches!(address, Address::Tcp(a) if a.port() == 0);
                if seen.contains(&address) && !any_port {
                    twice.push((key, format!("`{address}` is named twice")));
                }
                seen.push(address);
            }
        }
        for (key, message) in twice {
            self.error(self.origin(key), key, message);
        }
        self.check_events();
        self.check_function_keys();
        let limits = &self.settings.limits;
        if let Some(idle) = limits.idle.filter(|idle| *idle <= limits.keep_alive) {
            let (idle, keep_alive) = (show_duration(idle), show_duration(limits.keep_alive));
            let message = format!(
                "{idle} does not exceed limits.keep_alive ({keep_alive}): connections that rely on keep-alive messages \
                 are closed nevertheless"
            );
            self.warn(self.origin("limits.idle"), "limits.idle", message);
        }
    }

    fn check_events(&mut self) {
        const URL: &str = "events.webhook.url";
        const SECRET: &str = "events.webhook.secret";
        let events = self.settings.events.clone();
        if events.webhook_url.is_some() && events.webhook_secrets.is_empty() {
            let message = "needs events.webhook.secret: whoever gets the events could not tell whose they are";
            self.error(self.origin(URL), URL, message);
        }
        for secret in &events.webhook_secrets {
            if let Err(message) = crate::events::sink::webhook::Key::parse(secret) {
                self.error(self.origin(SECRET), SECRET, message);
            }
        }
    }

    fn check_function_keys(&mut self) {
        const KEYS: [[&str; 2]; 2] = [
            [
                "function_keys.1.access_key_id",
                "function_keys.1.secret_access_key",
            ],
            [
                "function_keys.2.access_key_id",
                "function_keys.2.secret_access_key",
            ],
        ];
        for ([id, secret], pair) in KEYS.into_iter().zip(self.settings.function_keys.clone()) {
            match (&pair.access_key_id, &pair.secret_access_key) {
                (Some(_), None) => {
                    self.error(self.origin(id), id, format!("needs `{secret}` beside it"))
                }
                (None, Some(_)) => self.error(
                    self.origin(secret),
                    secret,
                    format!("needs `{id}` beside it"),
                ),
                (Some(_), Some(given)) if given.expose().len() < ApiKey::SHORTEST => {
                    let message = format!("has {} characters at least", ApiKey::SHORTEST);
                    self.error(self.origin(secret), secret, message);
                }
                _ => {}
            }
        }
        let [one, other] = &self.settings.function_keys;
        if one.access_key_id.is_some() && one.access_key_id == other.access_key_id {
            let key = KEYS[1][0];
            self.error(self.origin(key), key, "is the id of the first key, too");
        }
    }
}

/// The keys of a file: one on a line, empty lines and such that begin with `#` aside.
pub(super) fn read_api_keys(path: &Path, text: &str) -> (Vec<ApiKey>, Vec<Finding>) {
    let (mut keys, mut wrong) = (Vec::new(), Vec::new());
    for (n, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match ApiKey::parse(line) {
            Ok(key) => keys.push(key),
            Err(message) => wrong.push(Finding {
                source: Source::File(path.into(), n + 1),
                key: "api_keys".into(),
                message,
            }),
        }
    }
    (keys, wrong)
}

enum Given {
    Value,
    File,
}

/// One value of a file: its key, where it stands, and its items with whether they stood in an array.
type FileValue = (String, usize, Result<(Vec<String>, bool), String>);

/// Lists the values of a table under dotted keys; tables of an array are counted from 1.
fn flatten(table: &DeTable<'_>, prefix: &str, out: &mut Vec<FileValue>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        let at = name.span().start;
        match value.get_ref() {
            DeValue::Table(inner) => flatten(inner, &key, out),
            DeValue::Array(items) if items.iter().any(|i| i.get_ref().is_table()) => {
                for (n, item) in items.iter().enumerate() {
                    match item.get_ref() {
                        DeValue::Table(inner) => flatten(inner, &format!("{key}.{}", n + 1), out),
                        _ => out.push((
                            key.clone(),
                            item.span().start,
                            Err("mixes tables and values".into()),
                        )),
                    }
                }
            }
            DeValue::Array(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(|i| plain(i.get_ref())).collect();
                out.push((key, at, items.map(|items| (items, true))));
            }
            value => out.push((key, at, plain(value).map(|text| (vec![text], false)))),
        }
    }
}

fn plain(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(n) => match i128::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Ok(n.to_string()),
            Err(_) => Ok(n.as_str().to_owned()),
        },
        DeValue::Float(n) => Ok(n.as_str().to_owned()),
        DeValue::Boolean(b) => Ok(b.to_string()),
        other => Err(format!("takes no {}", other.type_str())),
    }
}

/// The items of one text: a list has commas between them.
fn split(setting: &Setting, text: &str) -> Vec<String> {
    if setting.list {
        text.split(',').map(|i| i.trim().to_owned()).collect()
    } else {
        vec![text.to_owned()]
    }
}

fn find(key: &str) -> Option<&'static Setting> {
    settings().iter().find(|s| s.key == key)
}

fn unknown(key: &str) -> String {
    if let Some(of) = key.strip_prefix("signing_keys.") {
        match of.split_once('.') {
            None => return "belongs below `[[signing_keys]]`, with double brackets".into(),
            Some((n, _)) if !["1", "2"].contains(&n) => {
                return "there are two signing keys at most".into();
            }
            Some(_) => {}
        }
    }
    if key == "dev_echo" {
        return "is the flag `--dev-echo` only".into();
    }
    if let Some(inner) = settings()
        .iter()
        .find(|s| s.key.starts_with(&format!("{key}.")))
    {
        return format!("holds settings, such as `{}`", inner.key);
    }
    format!(
        "is no setting{}",
        nearest(key, settings().iter().map(|s| s.key))
    )
}

/// `; did you mean …?` when a name is close, or ends the same.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let close = names
        .clone()
        .map(|n| (strsim::damerau_levenshtein(name, n), n))
        .filter(|(distance, n)| *distance <= 3 && *distance < n.len() / 2)
        .min();
    let last = |n: &str| n.rsplit('.').next().map(str::to_owned);
    let found = close.map(|(_, n)| n).or_else(|| {
        names
            .clone()
            .find(|n| n.contains('.') && last(n) == last(name))
    });
    found
        .map(|n| format!("; did you mean `{n}`?"))
        .unwrap_or_default()
}

/// Kubernetes sets such variables in every pod of a namespace that has a service with the name `realtime`.
fn made_by_kubernetes(name: &str) -> bool {
    name == "REALTIME_PORT"
        || name.starts_with("REALTIME_PORT_")
        || name.starts_with("REALTIME_SERVICE_")
}
