//! A place to run porter without an AWS account.
