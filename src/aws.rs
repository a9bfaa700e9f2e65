//! The only files that know the AWS SDK: one per service, our types out.
