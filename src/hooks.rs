//! Runs the user's hooks at their named moments (D-HOOK).
