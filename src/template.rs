//! The user's CloudFormation in, the final one out; pure (D-TPL).
