//! What stands where SNS and EventBridge would be in a program that was built without the AWS SDK (feature `aws`): nothing is
//! sent, and nothing is given up, since another program may send it. The fuzz targets are built so.

use super::Answer;
use crate::events::spool::Record;

const ABSENT: &str = "this program was built without the AWS SDK";

/// A topic that can't be reached.
pub mod sns {
    use super::{ABSENT, Answer, Record};
    pub use crate::events::sink::stdout::LIMITS;

    /// The event alone.
    pub fn size(envelope: &str) -> usize {
        envelope.len()
    }

    /// The topic.
    #[derive(Debug)]
    pub struct Sns;

    impl Sns {
        /// Whatever its name is.
        pub fn new(_topic: String, (): &()) -> Self {
            Self
        }

        pub(in crate::events) async fn send(&self, _records: &[Record]) -> Answer {
            Answer::Later(ABSENT.into())
        }
    }
}

/// A bus that can't be reached.
pub mod eventbridge {
    pub use super::sns::{LIMITS, size};
    use super::{ABSENT, Answer, Record};

    /// The bus.
    #[derive(Debug)]
    pub struct EventBridge;

    impl EventBridge {
        /// Whatever its name is.
        pub fn new(_bus: String, (): &()) -> Self {
            Self
        }

        pub(in crate::events) async fn send(&self, _records: &[Record]) -> Answer {
            Answer::Later(ABSENT.into())
        }
    }
}
