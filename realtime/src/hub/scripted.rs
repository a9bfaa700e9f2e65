//! An engine that does what a test says, and when: what the hub asks for, and what it makes of every answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::connection::ConnectionId;
use crate::engine::{Answer, Engine, EngineState, Health, Outcome, Request, Ticket};
use crate::json::Json;
use crate::time::Now;

/// What was asked, and what is to be said. Clones are the same one.
#[derive(Clone, Default)]
pub struct Script(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    tickets: u64,
    asked: VecDeque<(Ticket, Request)>,
    outcomes: VecDeque<Outcome>,
}

impl Script {
    /// What was asked next, and not looked at yet.
    pub fn asked(&self) -> Option<(Ticket, Request)> {
        self.0.borrow_mut().asked.pop_front()
    }

    /// The answer to something that was asked. The hub has it when it is pumped.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        self.say(Outcome::Answer(ticket, answer));
    }

    /// Something happens.
    pub fn say(&self, outcome: Outcome) {
        self.0.borrow_mut().outcomes.push_back(outcome);
    }
}

impl Engine for Script {
    fn submit(&mut self, _now: Now, request: Request) -> Ticket {
        let mut state = self.0.borrow_mut();
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        state.asked.push_back((ticket, request));
        ticket
    }

    fn is_elsewhere(&self) -> bool {
        false
    }

    fn next_outcome(&mut self) -> Option<Outcome> {
        self.0.borrow_mut().outcomes.pop_front()
    }

    fn turn(&mut self, _now: Now) {}

    fn next_due(&self) -> Option<Timestamp> {
        None
    }

    fn tell(&mut self, _on: bool) {}

    fn is_settled(&self) -> bool {
        true
    }

    fn settle(&mut self, _now: Now, _within: Duration) -> bool {
        true
    }

    fn health(&self) -> Health {
        Health::Well
    }

    fn name(&self) -> &'static str {
        "scripted"
    }

    fn begin(&mut self, _now: Now) -> anyhow::Result<()> {
        Ok(())
    }

    fn export(&self, _now: Now) -> EngineState {
        EngineState::default()
    }

    fn import(&mut self, _now: Now, _state: EngineState) {}

    fn adopt(
        &mut self,
        _channel: &Arc<str>,
        _connection: ConnectionId,
        _uid: Option<Arc<str>>,
        _umd: Option<&Json>,
        _counted: bool,
    ) {
    }

    fn adopted(&mut self, _now: Now) {}

    fn release(&mut self) {}
}
