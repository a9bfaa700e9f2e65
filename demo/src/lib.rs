//! The demo: `porter`'s main job on one machine, under load, with a receipt.
//!
//! It calls the `porter` program as a user would and never reaches around it, so whatever the receipt proves holds for
//! the commands that people and CI type.
//!
//! | module | what it is |
//! |---|---|
//! | [`live`] | THE demo: WebSockets that live through swaps |
//! | [`http`] | the demo of ordinary services: HTTP requests under a swap |
//! | [`stage`] | where both play: a cloud of their own, a lock, the report |
//! | [`porter`] | calls the `porter` program |
//! | [`service`] | the example service in a git repository of its own, and the change to version 2 |
//! | [`swap_report`] | what porter reports of a swap |

pub mod http;
pub mod live;
pub mod porter;
pub mod service;
pub mod stage;
pub mod swap_report;
