//! What every engine does, whatever it is made of: each test runs with each of [`places`]. Nothing here knows how an engine
//! keeps things; another one needs one more line there.

#[path = "engines/history.rs"]
mod history;
#[path = "engines/order.rs"]
mod order;
#[path = "engines/plans.rs"]
mod plans;
#[path = "engines/reactions.rs"]
mod reactions;
#[path = "support/redis.rs"]
mod redis;
#[path = "engines/restart.rs"]
mod restart;
#[path = "engines/run.rs"]
mod run;
#[path = "engines/storage.rs"]
mod storage;

use std::sync::Arc;

use realtime::engine::cluster::{Clock, Cluster, Installation};
use realtime::engine::embedded::Embedded;
use realtime::engine::{Durability, Engine};
use realtime::metrics::EngineMeter;
use tempfile::TempDir;

use redis::Redis;

/// Where an engine keeps things: opened again, they are there again.
trait Place {
    /// An engine that keeps things here.
    fn open(&self) -> Box<dyn Engine>;

    /// What concerns memory alone has happened when it has been submitted.
    fn is_immediate(&self) -> bool {
        true
    }
}

/// A folder of its own.
struct Folder(TempDir);

impl Place for Folder {
    fn open(&self) -> Box<dyn Engine> {
        let meter = EngineMeter::default();
        // Whether the disk has it does not matter to what is tested here.
        let engine = Embedded::open(self.0.path(), Durability::Off, meter, Arc::new(|| {}));
        Box::new(engine.expect("it opens"))
    }
}

/// A Redis of its own, with a clock that is the test's.
impl Place for Redis {
    fn open(&self) -> Box<dyn Engine> {
        let mut installation = Installation::new(&self.url(), "rt", None).expect("the URL is good");
        installation.clock = Clock::Caller;
        let engine = Cluster::open(installation, EngineMeter::default(), Arc::new(|| {}));
        Box::new(engine.expect("it opens"))
    }

    fn is_immediate(&self) -> bool {
        false
    }
}

/// A new, empty place for each engine there is.
fn places() -> Vec<Arc<dyn Place>> {
    vec![
        Arc::new(Folder(tempfile::tempdir().expect("a temporary folder"))),
        Arc::new(Redis::start()),
    ]
}
