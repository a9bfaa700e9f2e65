//! The host agent: runs on every EC2 host, started by cfn-hup.
