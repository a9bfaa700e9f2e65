//! What is done later: checked when it is sent, done by the engine when it is due (section 16 of the protocol).

use jiff::Timestamp;

use super::Hub;
use crate::engine::{Deferred, Request};
use crate::protocol::{self, Code, Failure, Inbound};
use crate::schedule;
use crate::time::Now;

impl Inbound<'_> {
    /// When a client wants this done, if later; no later than `before_ms`, in Unix milliseconds (R-SCHED-8, R-PERM-29).
    pub(super) fn planned(
        &self,
        now: Now,
        called: &str,
        before_ms: i64,
    ) -> Result<Option<Timestamp>, Failure> {
        let Some(expression) = &self.schedule_expression else {
            return Ok(None);
        };
        let zone = self.schedule_expression_timezone.as_deref();
        let at = moment(now, expression, zone, called)?;
        match at.as_millisecond() > before_ms {
            true => Err(Failure::from(Code::SchedulePermissionDenied).in_channel(called)),
            false => Ok(Some(at)),
        }
    }
}

impl protocol::Publish<'_> {
    /// When a backend wants this done, if later (R-SCHED-9).
    pub(super) fn planned(&self, now: Now) -> Result<Option<Timestamp>, Failure> {
        let zone = self.schedule_expression_timezone.as_deref();
        (self.schedule_expression.as_deref())
            .map(|expression| moment(now, expression, zone, &self.channel))
            .transpose()
    }
}

/// A zone without an expression is not even looked at (R-SCHED-4).
fn moment(
    now: Now,
    expression: &str,
    zone: Option<&str>,
    called: &str,
) -> Result<Timestamp, Failure> {
    schedule::moment(now.wall, expression, zone)
        .map_err(|why| Failure::because(Code::InvalidSchedule, why.to_string()).in_channel(called))
}

impl Hub {
    /// What the engine is asked for, for something that is done later.
    pub(super) fn later(&self, at: Timestamp, deferred: Deferred, eager: bool) -> Request {
        self.metrics.schedules.inc();
        Request::Schedule {
            at,
            deferred,
            eager,
        }
    }
}
