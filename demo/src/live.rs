//! The demo of the real-time server: thousands of WebSockets, swaps under them, and the books that prove what nobody noticed.
//!
//! | module | in the flow |
//! |---|---|
//! | [`flow`] | its acts, in order |
//! | [`ledger`] | pure: who sent what, who got it and when; what was lost, doubled, reordered |
//! | [`load`] | clients and backends on one thread, by a timetable |
//! | [`publisher`] | a backend's connection |
//! | [`tokens`] | who issues the clients' tokens |
//! | [`receipt`] | pure: the report, the verdict, the table for people |
//! | [`redis`] | one Redis for all hosts, if that is asked for |
//! | [`ask`] | one HTTP question |
//! | [`bare`] | a host without a cloud: a proxy, and server processes that succeed one another |
//! | [`swaps`] | many swaps in a row, and how much they cost with more connections |

pub mod ask;
pub mod bare;
pub mod flow;
pub mod ledger;
pub mod load;
pub mod publisher;
pub mod receipt;
pub mod redis;
pub mod swaps;
pub mod tokens;
