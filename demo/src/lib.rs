//! The demo: `porter`'s main job on one machine, under load, with a receipt.
//!
//! It calls the `porter` program as a user would and never reaches around it, so whatever the receipt proves holds for
//! the commands that people and CI type.
//!
//! | module | in the flow |
//! |---|---|
//! | [`flow`] | THE demo: its acts, in order |
//! | [`porter`] | calls the `porter` program |
//! | [`service`] | the example service in a git repository of its own, and the change to version 2 |
//! | [`load`] | clients that keep asking while hosts swap |
//! | [`tally`] | pure: what those clients saw, added up |
//! | [`receipt`] | pure: the report, the verdict, the table for people |

pub mod flow;
pub mod load;
pub mod porter;
pub mod receipt;
pub mod service;
pub mod tally;
