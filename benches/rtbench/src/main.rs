//! rtbench: one neutral load client for real-time pub/sub servers (loopback only).
//!
//! One thread, one epoll set, hand-rolled RFC 6455 client framing: the client's own cost has to be
//! small and equal for every peer, because client and server share a small machine.
mod os;
mod proto;
mod wire;

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use proto::{Kind, Proto, Role};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

const MARK: &[u8] = b"@~";
const MSG: usize = 2 + 16 + 8; // marker, hex ns, hex seq
const TIMER: Token = Token(usize::MAX - 1);

#[derive(PartialEq, Clone, Copy, Debug)]
enum Phase {
    Connecting,
    Upgrading,
    Handshake,
    Ready,
    Closed,
}

struct Conn {
    s: TcpStream,
    phase: Phase,
    role: Role,
    chan: u32,
    st: u32,
    busy: bool,
    last: u32,
    rb: Vec<u8>,
    wb: Vec<u8>,
    wpos: usize,
}

struct Engine {
    poll: Poll,
    addr: SocketAddr,
    p: Proto,
    conns: Vec<Conn>,
    ready_subs: usize,
    ready_pubs: usize,
    closed: u64,
    connecting: usize,
    buf: Vec<u8>,
    finder: memchr::memmem::Finder<'static>,
    // counters
    delivered: u64,
    lost: u64,
    dup: u64,
    http_bad: u64,
    http_reopened: u64,
    hist: Histogram<u64>,
    record: bool,
    seqs: Vec<u32>,
    pub_idx: Vec<usize>,
    http_idle: Vec<usize>,
}

fn hex_u(b: &[u8]) -> u64 {
    let mut v = 0u64;
    for &c in b {
        v = v << 4 | (c as u64 & 0xf) + if c > b'9' { 9 } else { 0 };
    }
    v
}

/// Non-blocking connect from a chosen loopback source address.
fn connect_from(to: SocketAddr, from: [u8; 4]) -> TcpStream {
    use std::os::fd::FromRawFd;
    let SocketAddr::V4(to) = to else { die("IPv4 loopback only") };
    let sa = |ip: [u8; 4], port: u16| unsafe {
        let mut a: libc::sockaddr_in = std::mem::zeroed();
        a.sin_family = libc::AF_INET as u16;
        a.sin_port = port.to_be();
        a.sin_addr.s_addr = u32::from_ne_bytes(ip);
        a
    };
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            die("socket: out of file descriptors?");
        }
        let (one, len) = (1i32, std::mem::size_of::<libc::sockaddr_in>() as u32);
        libc::setsockopt(fd, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, &one as *const _ as _, 4);
        let (a, b) = (sa(from, 0), sa(to.ip().octets(), to.port()));
        assert_eq!(libc::bind(fd, &a as *const _ as _, len), 0, "bind source");
        libc::connect(fd, &b as *const _ as _, len); // EINPROGRESS; errors show up at the first event
        TcpStream::from_raw_fd(fd)
    }
}

impl Engine {
    fn open(&mut self, role: Role, chan: u32) {
        let id = self.conns.len();
        // many loopback source addresses: no search through busy or TIME_WAIT ports
        let mut s = connect_from(self.addr, [127, 1, 0, 1 + (id % 64) as u8]);
        self.poll
            .registry()
            .register(&mut s, Token(id), Interest::READABLE | Interest::WRITABLE)
            .unwrap();
        self.conns.push(Conn {
            s,
            phase: Phase::Connecting,
            role,
            chan,
            st: 0,
            busy: false,
            last: 0,
            rb: Vec::new(),
            wb: Vec::new(),
            wpos: 0,
        });
        self.connecting += 1;
    }

    fn flush(&mut self, i: usize) {
        let c = &mut self.conns[i];
        while c.wpos < c.wb.len() {
            match c.s.write(&c.wb[c.wpos..]) {
                Ok(0) => break,
                Ok(n) => c.wpos += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.fail(i, "write");
                    return;
                }
            }
        }
        c.wb.clear();
        c.wpos = 0;
        if c.wb.capacity() > 4096 && c.role == Role::Sub {
            c.wb = Vec::new();
        }
    }

    fn fail(&mut self, i: usize, why: &str) {
        let c = &mut self.conns[i];
        if c.phase == Phase::Closed {
            return;
        }
        if c.role == Role::Http && c.phase == Phase::Ready {
            // a server that does not keep HTTP connections alive: connect again in the same slot
            let _ = self.poll.registry().deregister(&mut c.s);
            let mut n = connect_from(self.addr, [127, 1, 0, 1 + (i % 64) as u8]);
            self.poll.registry().register(&mut n, Token(i), Interest::READABLE | Interest::WRITABLE).unwrap();
            c.s = n;
            c.phase = Phase::Connecting;
            c.rb.clear();
            c.wb.clear();
            c.wpos = 0;
            self.http_idle.retain(|&x| x != i);
            self.ready_pubs -= 1;
            self.connecting += 1;
            self.http_reopened += 1;
            return;
        }
        if self.closed < 5 {
            eprintln!("conn {i} closed ({why}) in {:?}", c.phase);
        }
        if c.phase != Phase::Ready {
            self.connecting -= 1;
        } else if c.role == Role::Sub {
            self.ready_subs -= 1;
        } else {
            self.ready_pubs -= 1;
        }
        c.phase = Phase::Closed;
        self.closed += 1;
        let _ = self.poll.registry().deregister(&mut c.s);
    }

    fn set_ready(&mut self, i: usize) {
        let c = &mut self.conns[i];
        if c.phase == Phase::Ready {
            return;
        }
        c.phase = Phase::Ready;
        self.connecting -= 1;
        match c.role {
            Role::Sub => self.ready_subs += 1,
            Role::Pub => {
                self.ready_pubs += 1;
                self.pub_idx.push(i);
            }
            Role::Http => {
                self.ready_pubs += 1;
                self.http_idle.push(i);
            }
        }
    }

    /// Count bench messages in a byte run; true when at least one was there.
    #[inline]
    fn messages(&mut self, i: usize, p: &[u8], t: u64) -> (bool, usize) {
        let mut at = 0;
        let mut any = false;
        while let Some(k) = self.finder.find(&p[at..]) {
            let m = at + k;
            if m + MSG > p.len() {
                return (any, m);
            }
            let c = &mut self.conns[i];
            at = m + MSG;
            if c.role != Role::Sub {
                any = true;
                continue;
            }
            let ns = hex_u(&p[m + 2..m + 18]);
            let seq = hex_u(&p[m + 18..m + 26]) as u32;
            any = true;
            if seq == c.last.wrapping_add(1) {
                c.last = seq;
            } else if seq > c.last {
                self.lost += (seq - c.last - 1) as u64;
                c.last = seq;
            } else {
                self.dup += 1;
            }
            self.delivered += 1;
            if self.record {
                let _ = self.hist.record(t.saturating_sub(ns).max(1));
            }
        }
        (any, at)
    }

    /// Consume what it can of `data`; returns the number of bytes used.
    fn consume(&mut self, i: usize, data: &[u8], t: u64) -> usize {
        let mut at = 0;
        if self.conns[i].phase == Phase::Upgrading {
            match wire::parse_upgrade(data) {
                None => return 0,
                Some(Err(e)) => {
                    eprintln!("upgrade refused: {e}");
                    self.fail(i, "upgrade");
                    return data.len();
                }
                Some(Ok(n)) => {
                    at = n;
                    self.conns[i].phase = Phase::Handshake;
                    let (role, chan) = (self.conns[i].role, self.conns[i].chan);
                    let mut out = vec![];
                    let ready = self.p.open(role, chan, i as u32, &mut out);
                    if !out.is_empty() {
                        self.conns[i].wb.extend_from_slice(&out);
                        self.flush(i);
                    }
                    if ready {
                        self.set_ready(i);
                    }
                }
            }
        }
        if self.conns[i].role == Role::Http {
            while let Some((status, n, close)) = wire::parse_response(&data[at..]) {
                at += n;
                if !(200..300).contains(&status) {
                    self.http_bad += 1;
                    if self.http_bad < 3 {
                        eprintln!("http {status}: {}", String::from_utf8_lossy(&data[..n.min(300)]));
                    }
                }
                self.conns[i].busy = false;
                if close {
                    self.fail(i, "connection: close");
                    return data.len();
                }
                self.http_idle.push(i);
            }
            return at;
        }
        if !self.p.is_ws() {
            // raw stream (redis)
            let (any, used) = self.messages(i, &data[at..], t);
            if !any && self.conns[i].phase == Phase::Handshake {
                let (role, chan) = (self.conns[i].role, self.conns[i].chan);
                let mut st = self.conns[i].st;
                let mut out = vec![];
                if self.p.frame(role, chan, &mut st, &data[at..], &mut out) {
                    self.set_ready(i);
                }
                return data.len();
            }
            // keep a possible partial message at the end
            let end = data.len();
            let keep = if used < end - at {
                let rest = &data[at + used..];
                if rest.len() >= MSG && self.finder.find(rest).is_none() {
                    1
                } else {
                    rest.len()
                }
            } else {
                0
            };
            return end - keep;
        }
        while self.conns[i].phase != Phase::Closed {
            let Some(f) = wire::parse_frame(&data[at..]) else { break };
            let p = &data[at + f.start..at + f.end];
            at += f.end;
            match f.op {
                8 => {
                    let why = format!("close frame {:?}", String::from_utf8_lossy(&p[p.len().min(2)..]));
                    self.fail(i, &why);
                    break;
                }
                9 => {
                    let mut out = vec![];
                    wire::put_frame(&mut out, 10, p);
                    self.conns[i].wb.extend_from_slice(&out);
                    self.flush(i);
                }
                10 => {}
                _ => {
                    let (any, _) = self.messages(i, p, t);
                    if !any {
                        let (role, chan) = (self.conns[i].role, self.conns[i].chan);
                        let mut st = self.conns[i].st;
                        let mut out = vec![];
                        let ready = self.p.frame(role, chan, &mut st, p, &mut out);
                        self.conns[i].st = st;
                        if !out.is_empty() {
                            self.conns[i].wb.extend_from_slice(&out);
                            self.flush(i);
                        }
                        if ready {
                            self.set_ready(i);
                        }
                    }
                }
            }
        }
        at
    }

    fn readable(&mut self, i: usize) {
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            if self.conns[i].phase == Phase::Closed {
                break;
            }
            let n = match self.conns[i].s.read(&mut buf) {
                Ok(0) => {
                    self.fail(i, "eof");
                    break;
                }
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.fail(i, "read");
                    break;
                }
            };
            let t = os::now_ns();
            if self.conns[i].rb.is_empty() {
                let used = self.consume(i, &buf[..n], t);
                if used < n {
                    self.conns[i].rb.extend_from_slice(&buf[used..n]);
                }
            } else {
                let mut rb = std::mem::take(&mut self.conns[i].rb);
                rb.extend_from_slice(&buf[..n]);
                let used = self.consume(i, &rb, t);
                rb.drain(..used);
                if rb.is_empty() && rb.capacity() > 65536 {
                    rb = Vec::new();
                }
                self.conns[i].rb = rb;
            }
            if n < buf.len() {
                break; // a short read drained the socket (edge-triggered epoll)
            }
        }
        self.buf = buf;
    }

    fn event(&mut self, i: usize, r: bool, w: bool) {
        if w && self.conns[i].phase == Phase::Connecting {
            match self.conns[i].s.take_error() {
                Ok(None) => {}
                _ => {
                    self.fail(i, "connect");
                    return;
                }
            }
            if self.conns[i].s.peer_addr().is_err() {
                return;
            }
            let _ = self.conns[i].s.set_nodelay(true);
            let (role, chan) = (self.conns[i].role, self.conns[i].chan);
            let h = self.p.hello(role, chan, i as u32);
            self.conns[i].phase =
                if role != Role::Http && self.p.is_ws() { Phase::Upgrading } else { Phase::Handshake };
            if role == Role::Http {
                self.set_ready(i);
            }
            self.conns[i].wb.extend_from_slice(&h);
            self.flush(i);
        } else if w && !self.conns[i].wb.is_empty() {
            self.flush(i);
        }
        if r {
            self.readable(i);
        }
    }

    fn turn(&mut self, ev: &mut Events, timeout: Option<Duration>) -> bool {
        if let Err(e) = self.poll.poll(ev, timeout) {
            if e.kind() != ErrorKind::Interrupted {
                panic!("{e}");
            }
        }
        let mut timer = false;
        for e in ev.iter() {
            if e.token() == TIMER {
                timer = true;
                continue;
            }
            let i = e.token().0;
            if self.conns[i].phase != Phase::Closed {
                self.event(
                    i,
                    e.is_readable() || e.is_read_closed() || e.is_error(),
                    e.is_writable(),
                );
            }
        }
        timer
    }

    fn body(&mut self, chan: u32, ns: u64, pad: usize) -> String {
        let s = &mut self.seqs[chan as usize];
        *s += 1;
        let mut b = format!("@~{ns:016x}{s:08x}");
        while b.len() < pad {
            b.push('x');
        }
        b
    }

    /// Publish one message; false when no publisher can take it now.
    fn publish(&mut self, chan: u32, ns: u64, pad: usize, http: bool) -> bool {
        if http {
            let Some(i) = self.http_idle.pop() else { return false };
            let b = self.body(chan, ns, pad);
            let r = self.p.http_publish(chan, &b);
            self.conns[i].busy = true;
            self.conns[i].wb.extend_from_slice(&r);
            self.flush(i);
        } else {
            let k = if self.p.kind == Kind::Nchan { chan as usize % self.pub_idx.len() } else { 0 };
            let i = self.pub_idx[k];
            if self.conns[i].wb.len() > 262_144 {
                return false;
            }
            let b = self.body(chan, ns, pad);
            let mut wb = std::mem::take(&mut self.conns[i].wb);
            self.p.publish(chan, &b, &mut wb);
            self.conns[i].wb = wb;
        }
        true
    }
}

/// Mean ns of one 200-byte loopback send + recv over 200 ms: how fast this CPU is right now.
fn calib() -> f64 {
    let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut a = std::net::TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let (mut b, _) = l.accept().unwrap();
    let _ = a.set_nodelay(true);
    let (d, mut r) = ([7u8; 200], [0u8; 4096]);
    let t = os::now_ns();
    let mut n = 0u64;
    while os::now_ns() - t < 200_000_000 {
        for _ in 0..100 {
            a.write_all(&d).unwrap();
            let _ = b.read(&mut r).unwrap();
        }
        n += 100;
    }
    (os::now_ns() - t) as f64 / n as f64
}

fn die(m: &str) -> ! {
    eprintln!("{m}");
    std::process::exit(2)
}

fn main() {
    let mut a: HashMap<String, String> = HashMap::new();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mode = args.first().cloned().unwrap_or_default();
    let mut i = 1;
    while i < args.len() {
        let k = args[i].trim_start_matches("--").to_string();
        let v = if i + 1 < args.len() && !args[i + 1].starts_with("--") {
            i += 1;
            args[i].clone()
        } else {
            "1".into()
        };
        a.insert(k, v);
        i += 1;
    }
    if mode == "calib" {
        println!("{:.0}", calib());
        return;
    }
    if !["sat", "rate", "idle", "token"].contains(&mode.as_str()) {
        die("usage: rtbench sat|rate|idle|token|calib --proto P --addr 127.0.0.1:PORT [--subs N] [--chans C] [--rate MSGS/S]\n\
             [--secs S] [--warmup S] [--payload B] [--inflight MSGS | --window DELIVERIES] [--publish ws|http] [--http-conns 16]\n\
             [--concurrency 128] [--server-pid PID,..] [--path /] [--secret S] [--key K] [--app-id ID]\n\
             [--publish-path /publish] [--auto-subscribe] [--prefix ch] [--label L] [--out FILE.jsonl]");
    }
    let s = |k: &str, d: &str| a.get(k).cloned().unwrap_or_else(|| d.to_string());
    let n = |k: &str, d: f64| a.get(k).map(|v| v.parse::<f64>().unwrap_or_else(|_| die(k))).unwrap_or(d);
    if mode == "token" {
        println!("{}", proto::jwt(&s("secret", "secret"), &s("claims", "{}")));
        return;
    }
    let kind = Proto::parse_kind(&s("proto", "")).unwrap_or_else(|| die("unknown --proto"));
    let addr: SocketAddr = s("addr", "127.0.0.1:8080").parse().unwrap_or_else(|_| die("--addr IP:PORT"));
    if !addr.ip().is_loopback() {
        die("loopback only");
    }
    let subs = n("subs", 100.0) as usize;
    let chans = (n("chans", 1.0) as usize).max(1);
    let secs = n("secs", 8.0).min(30.0);
    let warm = n("warmup", 2.0);
    let pad = n("payload", 128.0) as usize;
    let rate = n("rate", 100.0);
    let per = subs / chans; // subscribers of one channel
    // outstanding deliveries in saturation mode
    let window = n("window", n("inflight", if chans == 1 { 16.0 } else { 800.0 }) * per as f64) as u64;
    let http = s("publish", "ws") == "http";
    let http_conns = n("http-conns", 16.0) as usize;
    let concurrency = n("concurrency", 128.0) as usize;
    let pids: Vec<i32> = s("server-pid", "").split(',').filter_map(|x| x.parse().ok()).collect();
    let def_path = match kind {
        Kind::Mqtt | Kind::Nats | Kind::Hotsock => "/",
        Kind::CentV1 | Kind::CentV2 => "/connection/websocket",
        _ => "/",
    };
    let p = Proto {
        kind,
        host: addr.to_string(),
        path: s("path", def_path),
        secret: s("secret", "secret"),
        token: a.get("token").cloned(),
        key: s("key", "key"),
        app_id: s("app-id", "app-id"),
        publish_path: s("publish-path", "/publish"),
        auto_subscribe: a.contains_key("auto-subscribe"),
        chans: chans as u32,
        chan_prefix: s("prefix", if kind == Kind::Pusher && !http { "private-ch" } else { "ch" }),
    };

    let mut e = Engine {
        poll: Poll::new().unwrap(),
        addr,
        p,
        conns: Vec::with_capacity(subs + 64),
        ready_subs: 0,
        ready_pubs: 0,
        closed: 0,
        connecting: 0,
        buf: vec![0; 262_144],
        finder: memchr::memmem::Finder::new(MARK),
        delivered: 0,
        lost: 0,
        dup: 0,
        http_bad: 0,
        http_reopened: 0,
        hist: Histogram::new_with_bounds(1, 120_000_000_000, 3).unwrap(),
        record: false,
        seqs: vec![0; chans],
        pub_idx: vec![],
        http_idle: vec![],
    };
    let mut ev = Events::with_capacity(1024);
    let fam = os::family(&pids);
    let me = [std::process::id() as i32];

    // ---- connect and subscribe
    let (rss0, slab0) = (os::rss_kib(&fam), os::slab_kib());
    let (c0, t0) = (os::cpu_ns(&fam), os::now_ns());
    let mut made = 0;
    while e.ready_subs < subs {
        while made < subs && e.connecting < concurrency {
            e.open(Role::Sub, (made % chans) as u32);
            made += 1;
        }
        e.turn(&mut ev, Some(Duration::from_millis(100)));
        if e.closed > (subs as u64 / 50).max(3) || (os::now_ns() - t0) > 60_000_000_000 {
            die(&format!("connect phase failed: ready {} closed {}", e.ready_subs, e.closed));
        }
        if made == subs && e.connecting == 0 && e.ready_subs + (e.closed as usize) >= subs {
            break;
        }
    }
    let conn_s = (os::now_ns() - t0) as f64 / 1e9;
    let conn_cpu = (os::cpu_ns(&fam) - c0) as f64 / 1e9;
    let subs = e.ready_subs;
    let fam = os::family(&pids);

    let mut out = serde_json::Map::new();
    let mut put = |k: &str, v: serde_json::Value| {
        out.insert(k.into(), v);
    };
    let r3 = |x: f64| serde_json::json!((x * 1000.0).round() / 1000.0);
    put("label", s("label", &s("proto", "")).into());
    put("mode", mode.clone().into());
    put("subs", subs.into());
    put("chans", chans.into());
    put("publish", s("publish", "ws").into());
    put("payload", pad.into());
    put("conn_per_s", r3(subs as f64 / conn_s));
    put("conn_cpu_ms", r3(conn_cpu * 1e3 / subs as f64));

    let settle = |e: &mut Engine, ev: &mut Events, s: f64| {
        let end = os::now_ns() + (s * 1e9) as u64;
        while os::now_ns() < end {
            e.turn(ev, Some(Duration::from_millis(20)));
        }
    };

    if mode == "idle" {
        settle(&mut e, &mut ev, warm.max(3.0));
        let (rss1, slab1) = (os::rss_kib(&fam), os::slab_kib());
        let (c1, m1, t1) = (os::cpu_ns(&fam), os::machine_busy(), os::now_ns());
        settle(&mut e, &mut ev, secs);
        let dt = (os::now_ns() - t1) as f64 / 1e9;
        put("rss_before_kib", rss0.into());
        put("rss_after_kib", rss1.into());
        put("rss_per_conn_kib", r3((rss1 as f64 - rss0 as f64) / subs as f64));
        put("slab_per_conn_both_ends_kib", r3((slab1 as f64 - slab0 as f64) / subs as f64));
        put("idle_cpu_pct", r3((os::cpu_ns(&fam) - c1) as f64 / 1e7 / dt));
        put("machine_busy_s", r3(os::machine_busy() - m1));
        put("closed", e.closed.into());
    } else {
        // ---- publishers
        if http {
            for _ in 0..http_conns {
                e.open(Role::Http, 0);
            }
        } else {
            let k = if kind == Kind::Nchan { chans } else { 1 };
            for c in 0..k {
                e.open(Role::Pub, c as u32);
            }
        }
        let want = e.conns.len() - made;
        let t = os::now_ns();
        while e.ready_pubs < want {
            e.turn(&mut ev, Some(Duration::from_millis(20)));
            if os::now_ns() - t > 10_000_000_000 {
                die("publisher did not become ready");
            }
        }
        settle(&mut e, &mut ev, 0.5);

        let timer = os::Timer::new();
        e.poll
            .registry()
            .register(&mut SourceFd(&timer.0.as_raw_fd()), TIMER, Interest::READABLE)
            .unwrap();
        let gap = 1e9 / rate;
        let start = os::now_ns();
        let m0 = start + (warm * 1e9) as u64;
        let m1 = m0 + (secs * 1e9) as u64;
        let mut published = 0u64;
        let mut measuring = false;
        let (mut d0, mut p0, mut cpu0, mut us0, mut cli0, mut busy0, mut tm) =
            (0u64, 0u64, 0u64, (0.0, 0.0), 0u64, 0.0, 0u64);
        let mut rr = 0u32;
        let mut forgiven = 0u64;
        let mut stalls = 0u64;
        let mut last_progress = (os::now_ns(), 0u64);
        let mut late_max = 0u64;
        let mut slices: Vec<(u64, u64, u64)> = vec![]; // time, delivered, server CPU
        loop {
            let now = os::now_ns();
            if !measuring && now >= m0 {
                measuring = true;
                e.record = true;
                d0 = e.delivered;
                p0 = published;
                cpu0 = os::cpu_ns(&fam);
                us0 = os::user_sys(&fam);
                cli0 = os::cpu_ns(&me);
                busy0 = os::machine_busy();
                tm = os::now_ns();
            }
            if measuring && now - slices.last().map_or(0, |x| x.0) >= 250_000_000 {
                slices.push((now, e.delivered, os::cpu_ns(&fam)));
            }
            if now >= m1 {
                break;
            }
            if mode == "sat" {
                loop {
                    let out_now = (published * per as u64).saturating_sub(e.delivered + forgiven);
                    if out_now + per as u64 > window.max(per as u64) {
                        break;
                    }
                    let t = os::now_ns();
                    if !e.publish(rr, t, pad, http) {
                        break;
                    }
                    published += 1;
                    rr = (rr + 1) % chans as u32;
                }
                for k in 0..e.pub_idx.len() {
                    let i = e.pub_idx[k];
                    if !e.conns[i].wb.is_empty() {
                        e.flush(i);
                    }
                }
                if e.delivered != last_progress.1 {
                    last_progress = (now, e.delivered);
                } else if now - last_progress.0 > 1_500_000_000 {
                    // lost messages would stall the closed loop: forgive them and go on
                    forgiven = (published * per as u64).saturating_sub(e.delivered);
                    stalls += 1;
                    last_progress = (now, e.delivered);
                }
                e.turn(&mut ev, Some(Duration::from_millis(5)));
            } else {
                let mut due = start + (published as f64 * gap) as u64;
                while due <= now {
                    if !e.publish(rr, due, pad, http) {
                        break;
                    }
                    late_max = late_max.max(now - due);
                    published += 1;
                    rr = (rr + 1) % chans as u32;
                    due = start + (published as f64 * gap) as u64;
                }
                for k in 0..e.pub_idx.len() {
                    let i = e.pub_idx[k];
                    if !e.conns[i].wb.is_empty() {
                        e.flush(i);
                    }
                }
                timer.at(due.max(now + 1000));
                if e.turn(&mut ev, Some(Duration::from_millis(50))) {
                    timer.clear();
                }
            }
        }
        let dt = (os::now_ns() - tm) as f64 / 1e9;
        let del = e.delivered - d0;
        let cpu = (os::cpu_ns(&fam) - cpu0) as f64 / 1e9;
        let us = os::user_sys(&fam);
        let cli = (os::cpu_ns(&me) - cli0) as f64 / 1e9;
        let busy = os::machine_busy() - busy0;
        let pubs = published - p0;
        // drain
        let end = os::now_ns() + 3_000_000_000;
        while os::now_ns() < end && e.delivered + e.dup < published * per as u64 {
            e.turn(&mut ev, Some(Duration::from_millis(20)));
        }
        put("window", window.into());
        put("secs", r3(dt));
        put("published_per_s", r3(pubs as f64 / dt));
        put("deliveries_per_s", serde_json::json!((del as f64 / dt).round()));
        put("server_cpu_s", r3(cpu));
        put("server_user_s", r3(us.0 - us0.0));
        put("server_sys_s", r3(us.1 - us0.1));
        put("client_cpu_s", r3(cli));
        put("machine_busy_s", r3(busy));
        put("foreign_cpu_s", r3(busy - cpu - cli));
        put("server_cpu_s_per_M", r3(cpu / (del as f64 / 1e6)));
        put("client_cpu_s_per_M", r3(cli / (del as f64 / 1e6)));
        for (k, q) in [("p50_us", 50.0), ("p99_us", 99.0), ("p999_us", 99.9)] {
            put(k, r3(e.hist.value_at_percentile(q) as f64 / 1e3));
        }
        // host noise: the quietest quarter-second slices (90th percentile of rate, 10th of cost)
        let mut sr: Vec<f64> = slices.windows(2).map(|w| (w[1].1 - w[0].1) as f64 * 1e9 / (w[1].0 - w[0].0) as f64).collect();
        let mut sc: Vec<f64> = slices
            .windows(2)
            .filter(|w| w[1].1 > w[0].1)
            .map(|w| (w[1].2 - w[0].2) as f64 / 1e3 / (w[1].1 - w[0].1) as f64)
            .collect();
        sr.sort_by(f64::total_cmp);
        sc.sort_by(f64::total_cmp);
        let at = |v: &Vec<f64>, q: f64| v.get(((v.len() as f64 - 1.0) * q).round().max(0.0) as usize).copied().unwrap_or(f64::NAN);
        put("quiet_deliveries_per_s", serde_json::json!(at(&sr, 0.9).round()));
        put("quiet_server_cpu_s_per_M", r3(at(&sc, 0.1)));
        put("max_us", r3(e.hist.max() as f64 / 1e3));
        put("missing", (published * per as u64).saturating_sub(e.delivered).into());
        put("gaps", e.lost.into());
        put("dup_or_reordered", e.dup.into());
        put("stalls", stalls.into());
        put("http_bad", e.http_bad.into());
        put("http_reopened", e.http_reopened.into());
        put("closed", e.closed.into());
        put("publish_late_max_us", r3(late_max as f64 / 1e3));
        put("rss_kib", os::rss_kib(&fam).into());
        if mode == "rate" {
            put("rate", rate.into());
        }
    }
    let line = serde_json::Value::Object(out).to_string();
    println!("{line}");
    if let Some(f) = a.get("out") {
        let mut h = std::fs::OpenOptions::new().create(true).append(true).open(f).expect("out");
        writeln!(h, "{line}").unwrap();
    }
}
