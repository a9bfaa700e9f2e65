//! Protocol adapters. Each says how to open a connection, subscribe, publish, and answer pings.
use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine};
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::wire;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Hotsock,
    Nchan,
    SocketIo,
    Nats,
    Mqtt,
    Pusher,
    CentV1,
    CentV2,
    Redis,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Sub,
    Pub,
    /// plain HTTP keep-alive publisher
    Http,
}

pub struct Proto {
    pub kind: Kind,
    pub host: String,
    pub path: String,
    pub secret: String,
    /// One token for all subscribers instead of one for each: for algorithms that this client cannot sign with.
    pub token: Option<String>,
    pub key: String,
    pub app_id: String,
    pub publish_path: String,
    pub auto_subscribe: bool,
    pub chan_prefix: String,
    pub chans: u32,
}

type HmacSha = Hmac<Sha256>;

fn hmac(secret: &[u8], data: &[u8]) -> Vec<u8> {
    let mut m = HmacSha::new_from_slice(secret).unwrap();
    m.update(data);
    m.finalize().into_bytes().to_vec()
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|x| format!("{x:02x}")).collect()
}

pub fn jwt(secret: &str, claims: &str) -> String {
    let h = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let p = URL_SAFE_NO_PAD.encode(claims);
    let s = URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), format!("{h}.{p}").as_bytes()));
    format!("{h}.{p}.{s}")
}

fn text(out: &mut Vec<u8>, s: &str) {
    wire::put_frame(out, 1, s.as_bytes());
}

fn has(p: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(p, needle).is_some()
}

fn mqtt_str(v: &mut Vec<u8>, s: &[u8]) {
    v.extend_from_slice(&(s.len() as u16).to_be_bytes());
    v.extend_from_slice(s);
}

fn mqtt_packet(ty: u8, body: &[u8]) -> Vec<u8> {
    let mut v = vec![ty];
    let mut n = body.len();
    loop {
        let mut b = (n % 128) as u8;
        n /= 128;
        if n > 0 {
            b |= 0x80;
        }
        v.push(b);
        if n == 0 {
            break;
        }
    }
    v.extend_from_slice(body);
    v
}

impl Proto {
    pub fn parse_kind(s: &str) -> Option<Kind> {
        Some(match s {
            "hotsock" => Kind::Hotsock,
            "nchan" => Kind::Nchan,
            "socketio" => Kind::SocketIo,
            "nats" => Kind::Nats,
            "mqtt" => Kind::Mqtt,
            "pusher" => Kind::Pusher,
            "centrifuge-v1" => Kind::CentV1,
            "centrifugo" => Kind::CentV2,
            "redis" => Kind::Redis,
            _ => return None,
        })
    }

    pub fn is_ws(&self) -> bool {
        self.kind != Kind::Redis
    }

    pub fn chan(&self, i: u32) -> String {
        format!("{}{}", self.chan_prefix, i)
    }

    /// First bytes after TCP connect.
    pub fn hello(&self, role: Role, chan: u32, id: u32) -> Vec<u8> {
        if role == Role::Http {
            return vec![];
        }
        let ch = self.chan(chan);
        match self.kind {
            Kind::Hotsock => {
                let exp = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap()
                    .as_secs()
                    + 3600;
                let claims = if role == Role::Pub {
                    format!(r#"{{"exp":{exp},"scope":"connect","uid":"pub{id}","channels":{{"*":{{"messages":{{"*":{{"broadcast":true}}}}}}}}}}"#)
                } else {
                    let auto = if self.auto_subscribe { r#","autoSubscribe":true"# } else { "" };
                    format!(r#"{{"exp":{exp},"scope":"connect","uid":"u{id}","channels":{{"{ch}":{{"subscribe":true{auto}}}}}}}"#)
                };
                let sep = if self.path.contains('?') { '&' } else { '?' };
                let token = match &self.token {
                    Some(token) if role != Role::Pub => token.clone(),
                    _ => jwt(&self.secret, &claims),
                };
                let path = format!("{}{}token={}", self.path, sep, token);
                wire::upgrade(&self.host, &path, None)
            }
            Kind::Nchan => {
                let path = match role {
                    Role::Sub => format!("/sub?id={ch}"),
                    _ => format!("/pubws?id={ch}"),
                };
                wire::upgrade(&self.host, &path, None)
            }
            Kind::SocketIo => wire::upgrade(&self.host, "/socket.io/?EIO=4&transport=websocket", None),
            Kind::Nats => wire::upgrade(&self.host, &self.path, None),
            Kind::Mqtt => wire::upgrade(&self.host, &self.path, Some("mqtt")),
            Kind::Pusher => wire::upgrade(
                &self.host,
                &format!("/app/{}?protocol=7&client=js&version=8.3.0", self.key),
                None,
            ),
            Kind::CentV1 | Kind::CentV2 => wire::upgrade(&self.host, &self.path, None),
            Kind::Redis => {
                if role == Role::Sub {
                    format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{}\r\n", ch.len(), ch).into_bytes()
                } else {
                    b"*1\r\n$4\r\nPING\r\n".to_vec()
                }
            }
        }
    }

    /// After the 101 reply. True when the connection needs no further handshake.
    pub fn open(&self, role: Role, chan: u32, id: u32, out: &mut Vec<u8>) -> bool {
        match self.kind {
            Kind::Nchan => true,
            Kind::Nats => {
                let mut s = String::from("CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rtbench\",\"version\":\"0.1\",\"protocol\":1,\"echo\":false}\r\n");
                if role == Role::Sub {
                    s.push_str(&format!("SUB {} 1\r\n", self.chan(chan)));
                }
                s.push_str("PING\r\n");
                wire::put_frame(out, 2, s.as_bytes());
                false
            }
            Kind::Mqtt => {
                let mut b = vec![];
                mqtt_str(&mut b, b"MQTT");
                b.extend_from_slice(&[4, 2, 0, 0]); // 3.1.1, clean session, no keep-alive
                mqtt_str(&mut b, format!("b{id}").as_bytes());
                wire::put_frame(out, 2, &mqtt_packet(0x10, &b));
                false
            }
            Kind::CentV1 => {
                text(out, r#"{"id":1,"method":0,"params":{}}"#);
                false
            }
            Kind::CentV2 => {
                text(out, r#"{"id":1,"connect":{}}"#);
                false
            }
            _ => false,
        }
    }

    /// A frame (or, for redis, a raw chunk) that carried no bench message. True when it makes the
    /// connection ready.
    pub fn frame(&self, role: Role, chan: u32, st: &mut u32, p: &[u8], out: &mut Vec<u8>) -> bool {
        match self.kind {
            Kind::Hotsock => {
                if *st == 0 && has(p, b"hotsock.connected") {
                    *st = 1;
                    if role == Role::Pub {
                        return true;
                    }
                    if !self.auto_subscribe {
                        text(out, &format!(r#"{{"event":"hotsock.subscribe","channel":"{}"}}"#, self.chan(chan)));
                    }
                } else if has(p, b"hotsock.subscribed") {
                    return true;
                } else if has(p, b"hotsock.error") || has(p, b"Failed") {
                    eprintln!("hotsock: {}", String::from_utf8_lossy(p));
                }
                false
            }
            Kind::Nchan => false,
            Kind::SocketIo => {
                if p == b"2" {
                    text(out, "3");
                } else if p.first() == Some(&b'0') {
                    text(out, "40");
                } else if p.starts_with(b"40") {
                    if role == Role::Pub {
                        return true;
                    }
                    text(out, &format!(r#"420["sub","{}"]"#, self.chan(chan)));
                } else if p.starts_with(b"430") {
                    return true;
                }
                false
            }
            Kind::Nats => {
                if has(p, b"PING\r\n") {
                    wire::put_frame(out, 2, b"PONG\r\n");
                }
                if has(p, b"-ERR") {
                    eprintln!("nats: {}", String::from_utf8_lossy(p));
                }
                has(p, b"PONG\r\n")
            }
            Kind::Mqtt => match p.first().map(|b| b & 0xf0) {
                Some(0x20) => {
                    if role == Role::Pub {
                        return true;
                    }
                    let mut b = vec![0, 1];
                    mqtt_str(&mut b, self.chan(chan).as_bytes());
                    b.push(0);
                    wire::put_frame(out, 2, &mqtt_packet(0x82, &b));
                    false
                }
                Some(0x90) => true,
                _ => false,
            },
            Kind::Pusher => {
                if has(p, b"pusher:ping") {
                    text(out, r#"{"event":"pusher:pong","data":{}}"#);
                } else if has(p, b"pusher:connection_established") {
                    // data is a JSON string: socket_id is escaped inside it
                    let s = String::from_utf8_lossy(p);
                    let at = s.find("socket_id").unwrap_or(0);
                    let sid: String = s[at + 9..]
                        .chars()
                        .skip_while(|c| !c.is_ascii_digit())
                        .take_while(|c| c.is_ascii_digit() || *c == '.')
                        .collect();
                    let ch = self.chan(chan);
                    if ch.starts_with("private-") {
                        // client events need membership: the publisher joins every channel it publishes to
                        let all = if role == Role::Pub { 0..self.chans } else { chan..chan + 1 };
                        for c in all {
                            let ch = self.chan(c);
                            let a = hex(&hmac(self.secret.as_bytes(), format!("{sid}:{ch}").as_bytes()));
                            text(out, &format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{ch}","auth":"{}:{a}"}}}}"#, self.key));
                        }
                    } else if role == Role::Sub {
                        text(out, &format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{ch}"}}}}"#));
                    } else {
                        return true;
                    }
                } else if has(p, b"subscription_succeeded") {
                    *st += 1;
                    return role == Role::Sub || *st == self.chans;
                } else if has(p, b"error") {
                    eprintln!("pusher: {}", String::from_utf8_lossy(p));
                }
                false
            }
            Kind::CentV1 | Kind::CentV2 => {
                if p == b"{}" {
                    text(out, "{}");
                } else if *st == 0 && has(p, br#""id":1"#) {
                    *st = 1;
                    if role == Role::Pub {
                        return true;
                    }
                    let ch = self.chan(chan);
                    if self.kind == Kind::CentV1 {
                        text(out, &format!(r#"{{"id":2,"method":1,"params":{{"channel":"{ch}"}}}}"#));
                    } else {
                        text(out, &format!(r#"{{"id":2,"subscribe":{{"channel":"{ch}"}}}}"#));
                    }
                } else if has(p, br#""id":2,"#) || has(p, br#""id":2}"#) {
                    if has(p, b"error") {
                        eprintln!("centrifuge: {}", String::from_utf8_lossy(p));
                        return false;
                    }
                    return true;
                }
                false
            }
            Kind::Redis => {
                if role == Role::Sub {
                    has(p, b"subscribe")
                } else {
                    has(p, b"PONG")
                }
            }
        }
    }

    /// One publish over the persistent connection.
    pub fn publish(&self, chan: u32, body: &str, out: &mut Vec<u8>) {
        let ch = self.chan(chan);
        match self.kind {
            Kind::Hotsock => text(out, &format!(r#"{{"channel":"{ch}","event":"bench","data":"{body}"}}"#)),
            Kind::Nchan => text(out, body),
            Kind::SocketIo => text(out, &format!(r#"42["pub","{ch}","{body}"]"#)),
            Kind::Nats => wire::put_frame(out, 2, format!("PUB {ch} {}\r\n{body}\r\n", body.len()).as_bytes()),
            Kind::Mqtt => {
                let mut b = vec![];
                mqtt_str(&mut b, ch.as_bytes());
                b.extend_from_slice(body.as_bytes());
                wire::put_frame(out, 2, &mqtt_packet(0x30, &b));
            }
            Kind::Pusher => text(out, &format!(r#"{{"event":"client-bench","channel":"{ch}","data":{{"d":"{body}"}}}}"#)),
            Kind::CentV1 => text(out, &format!(r#"{{"id":9,"method":3,"params":{{"channel":"{ch}","data":{{"d":"{body}"}}}}}}"#)),
            Kind::CentV2 => text(out, &format!(r#"{{"id":9,"publish":{{"channel":"{ch}","data":{{"d":"{body}"}}}}}}"#)),
            Kind::Redis => out.extend_from_slice(
                format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{ch}\r\n${}\r\n{body}\r\n", ch.len(), body.len()).as_bytes(),
            ),
        }
    }

    /// One publish as an HTTP/1.1 keep-alive request.
    pub fn http_publish(&self, chan: u32, body: &str) -> Vec<u8> {
        let ch = self.chan(chan);
        let (path, auth, json) = match self.kind {
            Kind::Hotsock => (
                self.publish_path.clone(),
                format!("Authorization: Bearer {}\r\n", self.key),
                format!(r#"{{"channel":"{ch}","event":"bench","data":"{body}"}}"#),
            ),
            Kind::Nchan => (format!("/pub?id={ch}"), String::new(), body.to_string()),
            Kind::CentV2 => (
                "/api/publish".into(),
                format!("X-API-Key: {}\r\n", self.key),
                format!(r#"{{"channel":"{ch}","data":{{"d":"{body}"}}}}"#),
            ),
            Kind::Pusher => {
                let json = format!(r#"{{"name":"bench","channels":["{ch}"],"data":"{{\"d\":\"{body}\"}}"}}"#);
                let md5 = hex(&Md5::digest(json.as_bytes()));
                let ts = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap()
                    .as_secs();
                let p = format!("/apps/{}/events", self.app_id);
                let q = format!("auth_key={}&auth_timestamp={ts}&auth_version=1.0&body_md5={md5}", self.key);
                let sig = hex(&hmac(self.secret.as_bytes(), format!("POST\n{p}\n{q}").as_bytes()));
                (format!("{p}?{q}&auth_signature={sig}"), String::new(), json)
            }
            k => panic!("no HTTP publish for {k:?}"),
        };
        format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{auth}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            self.host,
            json.len()
        )
        .into_bytes()
    }
}
