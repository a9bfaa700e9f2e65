//! The messages of the protocol: what clients and backends send as typed values, what they are answered as compact
//! JSON, and every refusal with its code. No I/O, no state; whether a name or a value is permitted is decided
//! elsewhere.
//!
//! `data` and umd pass through as the JSON text they arrived as, so no number loses a digit (R-JSON-9). Inbound members
//! are checked for their type only; a wrong one is refused by name (R-JSON-10), an unknown one ignored (R-JSON-8), and
//! of a repeated one the last counts.

mod calls;
mod errors;
mod inbound;
mod outbound;
mod pages;

pub use calls::{
    Browsing, Listing, Renewal, parse_browsing, parse_channel, parse_id, parse_listing,
    parse_renewal, parse_target,
};
pub use errors::{Code, Failure};
pub use inbound::{
    Action, Author, Inbound, Kind, Members, Publish, REACTION, Reaction, STORAGE_GET, STORAGE_SET,
    parse, parse_body, parse_publish, parse_reaction, parse_token,
};
pub use outbound::{
    Member, Meta, accepted, channel_info, client_channel_info, connected, error, http_error,
    keep_alive, member_added, member_removed, member_updated, message, ping, pong, reaction,
    storage_data, storage_updated, subscribed, unsubscribed,
};
pub use pages::{entries, messages, reactions, schedule};
