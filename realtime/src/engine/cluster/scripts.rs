//! The scripts that Redis executes, each as a whole and alone.

/// A script; each is described at the beginning of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    Spend,
    Check,
    Join,
    Leave,
    Update,
    Publish,
    Describe,
    Write,
    Keys,
    Values,
    History,
    Find,
    React,
    Reactions,
    Schedule,
    Planned,
    Cancel,
    Fire,
    Resume,
    Register,
    CatchUp,
    Tend,
}

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("common.lua"), include_str!($name))
    };
}

impl Script {
    /// All of them; `script as usize` is its place.
    pub const ALL: [(Self, &'static str); 22] = [
        (Self::Spend, script!("spend.lua")),
        (Self::Check, script!("check.lua")),
        (Self::Join, script!("join.lua")),
        (Self::Leave, script!("leave.lua")),
        (Self::Update, script!("update.lua")),
        (Self::Publish, script!("publish.lua")),
        (Self::Describe, script!("describe.lua")),
        (Self::Write, script!("write.lua")),
        (Self::Keys, script!("keys.lua")),
        (Self::Values, script!("values.lua")),
        (Self::History, script!("history.lua")),
        (Self::Find, script!("find.lua")),
        (Self::React, script!("react.lua")),
        (Self::Reactions, script!("reactions.lua")),
        (Self::Schedule, script!("schedule.lua")),
        (Self::Planned, script!("planned.lua")),
        (Self::Cancel, script!("cancel.lua")),
        (Self::Fire, script!("fire.lua")),
        (Self::Resume, script!("resume.lua")),
        (Self::Register, script!("register.lua")),
        (Self::CatchUp, script!("catch_up.lua")),
        (Self::Tend, script!("tend.lua")),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_stands_at_its_place() {
        for (at, (script, text)) in Script::ALL.iter().enumerate() {
            assert_eq!(*script as usize, at);
            assert!(text.contains("ARGV"));
        }
    }
}
