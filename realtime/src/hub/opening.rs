//! A client connects: its token is checked before the upgrade, then it is welcomed and subscribed to what its token says.

use std::sync::Arc;

use http::{Request as HttpRequest, Response, StatusCode};
use tracing::info;

use super::{Client, Hub, Notice, Waiting, single_use};
use crate::api;
use crate::claims::Claims;
use crate::connection::{Connection, ConnectionId, Deadlines, Identity, Origin, Rate, Secret};
use crate::engine::{Answer, Request};
use crate::events::ConnectionChange;
use crate::fanout::Encoded;
use crate::http as wire;
use crate::protocol::{self, Code, Failure, Meta};
use crate::time::Now;
use crate::websocket;

/// A client whose single-use token is being spent.
#[derive(Debug)]
pub struct Opening {
    client: Client,
    claims: Claims,
    upgrade: websocket::Upgrade,
    origin: Origin,
}

impl Hub {
    /// A client asks to become a connection. The answer is that it is refused, and then nothing is kept of it (R-CONN-31),
    /// or none yet: a [`Notice`] brings it.
    pub fn upgrade(
        &mut self,
        now: Now,
        client: Client,
        request: &HttpRequest<Vec<u8>>,
        origin: Origin,
    ) -> Option<Response<Vec<u8>>> {
        match self.admit(now, request) {
            Err(response) => Some(*response),
            Ok((claims, upgrade)) => {
                let spend = single_use(&claims);
                let opening = Opening {
                    client,
                    claims,
                    upgrade,
                    origin,
                };
                match spend {
                    None => self.open(now, opening),
                    Some(token) => self.ask(
                        now,
                        client.key,
                        Request::Spend(token),
                        Waiting::Opening(Box::new(opening)),
                    ),
                }
                self.pump(now);
                None
            }
        }
    }

    fn admit(
        &mut self,
        now: Now,
        request: &HttpRequest<Vec<u8>>,
    ) -> Result<(Claims, websocket::Upgrade), Box<Response<Vec<u8>>>> {
        let refuse = |status, code, message| Err(Box::new(api::refusal(status, code, message)));
        let upgrade = websocket::upgrade(request, self.rules.compression)
            .map_err(|why| Box::new(api::not_an_upgrade(why)))?;
        let limits = &self.rules.limits;
        if limits
            .connections
            .is_some_and(|most| self.by_id.len() >= most)
        {
            self.metrics.refused("connections");
            return refuse(
                StatusCode::TOO_MANY_REQUESTS,
                Code::RateLimited,
                "this server has as many connections as it may have",
            );
        }
        let second = now.wall.as_second();
        if self.opened_in_second.0 != second {
            self.opened_in_second = (second, 0);
        }
        if (limits.connections_per_second).is_some_and(|most| self.opened_in_second.1 >= most) {
            self.metrics.refused("connections_per_second");
            return refuse(
                StatusCode::TOO_MANY_REQUESTS,
                Code::RateLimited,
                "this server takes no more connections within this second",
            );
        }
        // Which check failed is not told (R-AUTH-19); the log and the metrics have it.
        let token = wire::query(request, "token").unwrap_or_default();
        let Ok(claims) = self.verify(now, &token) else {
            self.metrics.refused("token");
            return refuse(
                StatusCode::UNAUTHORIZED,
                Code::Unauthorized,
                "the token is missing or not valid",
            );
        };
        if !claims.scope.connect() || claims.connection_id.is_some() {
            self.metrics.refused("scope");
            return refuse(
                StatusCode::FORBIDDEN,
                Code::Unauthorized,
                "the token does not permit to connect",
            );
        }
        self.opened_in_second.1 += 1;
        Ok((claims, upgrade))
    }

    pub(super) fn opening_answered(&mut self, now: Now, opening: Opening, answer: &Answer) {
        match answer {
            Answer::Spent => {
                self.metrics.refused("spent");
                self.metrics.auth_failed("spent");
                self.notices.push(Notice::Answered(
                    opening.client,
                    api::refusal(
                        StatusCode::FORBIDDEN,
                        Code::Unauthorized,
                        "the token does not permit to connect",
                    ),
                ));
            }
            Answer::Unavailable(why) => {
                self.metrics.refused("engine");
                self.notices.push(Notice::Answered(
                    opening.client,
                    api::failure(&Failure::unavailable(why)),
                ));
            }
            _ => self.open(now, opening),
        }
    }

    /// The upgrade is certain: welcome the client, and subscribe it to what its token says.
    fn open(&mut self, now: Now, opening: Opening) {
        let Opening {
            client,
            claims,
            upgrade,
            origin,
        } = opening;
        let identity = Identity::of(&claims);
        let connection = Connection {
            id: ConnectionId::random(),
            secret: Secret::random(),
            deadlines: Deadlines::new(
                now.mono,
                &self.rules.pace,
                claims.heartbeat_timeout,
                claims.keep_alive,
            ),
            rate: Rate::new(now.mono),
            precopied: 0,
            claims: Arc::new(claims),
            identity,
            origin,
            connected_at: now.wall,
            subscriptions: Vec::new(),
            aliased: Vec::new(),
            parked: 0,
            entrusted: None,
            deflate: upgrade.deflate,
            serial: client.serial,
        };
        let expires = self.rules.pace.duration.map(|limit| now.wall + limit);
        let welcome = protocol::connected(
            connection.id.as_str(),
            expires,
            connection.secret.as_str(),
            Meta::from(&connection.identity),
        );
        info!(
            connection = connection.id.as_str(),
            source_ip = connection.origin.source_ip.map(tracing::field::display),
            "connected"
        );
        // The head of the answer, the welcome and the first subscriptions leave in one write. They are no more than the
        // token asked for, so the outbox's bounds do not apply to them.
        self.outboxes.force(client.key, upgrade.response().into());
        self.outboxes
            .force(client.key, Encoded::new(&welcome).frame(connection.deflate));
        self.metrics.deliveries.inc();
        let claims = connection.claims.clone();
        self.by_id.insert(connection.id, client.key);
        if self.connections.len() <= client.key {
            self.connections.resize_with(client.key + 1, || None);
        }
        self.connections[client.key] = Some(Box::new(connection));
        self.metrics.connections_opened.inc();
        self.metrics.connections.inc();
        self.notices.push(Notice::Opened(client, upgrade.deflate));
        self.tell_of_connection(ConnectionChange::Connected, client.key);
        for channel in claims.auto_subscribe() {
            if let Err(failure) = self.auto_subscribe(now, client.key, channel) {
                self.refuse(now, client.key, &failure);
            }
        }
    }
}
