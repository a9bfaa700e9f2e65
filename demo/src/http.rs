//! The demo of ordinary services (`make demo-http`): HTTP requests while a service without state is swapped.
//!
//! | module | in the flow |
//! |---|---|
//! | [`flow`] | its acts, in order |
//! | [`load`] | clients that keep asking while hosts swap |
//! | [`tally`] | pure: what those clients saw, added up |
//! | [`receipt`] | pure: the report, the verdict, the table for people |

pub mod flow;
pub mod load;
pub mod receipt;
pub mod tally;
