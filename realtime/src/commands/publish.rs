//! `realtime publish`: one message through the server API.

use super::server::Server;
use super::{print, text_of};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Publish a message with an API key
///
/// The API key is taken from --api-key-file or from the variable REALTIME_API_KEY, never from the command line. The answer
/// of the server is printed; what it refuses ends with exit code 1.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Publish {
    #[command(flatten)]
    server: Server,
    /// The channel
    #[arg(long)]
    channel: String,
    /// The event
    #[arg(long)]
    event: String,
    /// Any JSON value, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// The storage key, for the event hotsock.channelStorageSet
    #[arg(long)]
    key: Option<String>,
    /// Keep the message, or the storage entry, for so many seconds; -1 for ever
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    store: Option<i64>,
    /// Drop the message if one with this identifier was published on the channel in the last 5 minutes
    #[arg(long, value_name = "ID")]
    deduplication_id: Option<String>,
    /// Have the message's id assigned at once, and printed
    #[arg(long)]
    eager: bool,
    /// Tell the backends of the message as well
    #[arg(long)]
    emit_pub_sub_event: bool,
    /// Deliver later: a schedule expression such as `at(2027-05-04T09:30:00)`
    #[arg(long, value_name = "EXPRESSION")]
    schedule: Option<String>,
    /// The time zone of --schedule, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", requires = "schedule")]
    timezone: Option<String>,
    /// In whose name, for the event hotsock.messageReaction
    #[arg(long)]
    uid: Option<String>,
    /// The metadata of --uid, any JSON value
    #[arg(long, value_name = "JSON", requires = "uid")]
    umd: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  realtime publish --api-key-file realtime-data/api-keys --channel room.1 --event chat --data '\"hello\"'
  REALTIME_API_KEY=... realtime publish --url https://rt.example.com --channel board.1 --event price --data @price.json
  jq -c . price.json | realtime publish --channel board.1 --event price --data - --eager --store 3600
  realtime publish --channel game.3 --event hotsock.channelStorageSet --key rules --data '{\"seats\":4}'
  realtime publish --channel room.1 --event reminder --schedule 'at(2027-05-04T09:30:00)' --timezone Europe/Berlin
  realtime publish --channel room.1 --event hotsock.messageReaction --uid bot \\
      --data '{\"messageId\":\"01KA5T6Q2M8Y0V3WZ4B7C9D1EF\",\"reaction\":\"+1\",\"action\":\"add\"}'";

impl Publish {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.data.as_deref() == Some("-") && self.server.api_key_file.as_deref() == Some("-") {
            bail!("standard input can be the data or the API key, not both");
        }
        let answer = self.server.post("/publish", self.body()?)?;
        print(answer)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The request (R-SRV-6). Numbers of the data keep all their digits.
    fn body(&self) -> anyhow::Result<String> {
        let mut body = Map::new();
        let mut set =
            |name: &str, value: Option<Value>| value.map(|value| body.insert(name.into(), value));
        set("channel", Some(json!(self.channel)));
        set("event", Some(json!(self.event)));
        set("key", self.key.clone().map(Value::from));
        set("store", self.store.map(Value::from));
        set(
            "deduplicationId",
            self.deduplication_id.clone().map(Value::from),
        );
        set("eagerIdGeneration", self.eager.then_some(Value::Bool(true)));
        set(
            "emitPubSubEvent",
            self.emit_pub_sub_event.then_some(Value::Bool(true)),
        );
        set("scheduleExpression", self.schedule.clone().map(Value::from));
        set(
            "scheduleExpressionTimezone",
            self.timezone.clone().map(Value::from),
        );
        let umd = (self.umd.as_deref())
            .map(serde_json::from_str::<Value>)
            .transpose()
            .context("the metadata are not JSON")?;
        set(
            "meta",
            (self.uid.as_ref()).map(|uid| json!({"uid": uid, "umd": umd})),
        );
        let Some(data) = &self.data else {
            return Ok(Value::Object(body).to_string());
        };
        let text = text_of(data)?;
        let data: Box<RawValue> = serde_json::from_str(text.trim()).context(
            "the data is not JSON; a text needs quotes of its own, such as --data '\"hello\"'",
        )?;
        let rest = Value::Object(body).to_string();
        Ok(format!(
            "{},\"data\":{}}}",
            rest.strip_suffix('}').unwrap_or(&rest),
            data.get()
        ))
    }
}
