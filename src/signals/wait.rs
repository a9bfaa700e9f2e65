//! Reads queue, group and stack of one region until its [`Watch`] has ended.
