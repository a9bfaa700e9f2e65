//! `.porter/config`: raw YAML → checked, resolved [`Config`] (section 1 of the deployment specification).

pub mod model;

pub use model::*;
