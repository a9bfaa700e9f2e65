//! The INI files of cfn-hup, as Python's ConfigParser reads them. Pure.

use anyhow::{Result, bail};

/// Sections in their order; keys are lower-cased.
pub type Sections = Vec<(String, Vec<(String, String)>)>;

/// Reads a file. A section that appears twice is merged, as are files that are read after each other.
///
/// # Errors
/// A line outside a section, without a value, or with a lone `%`.
pub fn parse(text: &str, sections: &mut Sections) -> Result<()> {
    let mut current: Option<usize> = None;
    for (n, line) in text.lines().enumerate() {
        let fault = |what: &str| format!("line {}: {what}", n + 1);
        if line.trim().is_empty() || line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|l| l.trim_end().strip_suffix(']'))
        {
            let at = sections
                .iter()
                .position(|(s, _)| s == name)
                .unwrap_or_else(|| {
                    sections.push((name.to_owned(), vec![]));
                    sections.len() - 1
                });
            current = Some(at);
            continue;
        }
        let Some(section) = current.and_then(|i| sections.get_mut(i)) else {
            bail!(fault("no section header"))
        };
        if line.starts_with([' ', '\t']) {
            let Some((_, value)) = section.1.last_mut() else {
                bail!(fault("a continuation of nothing"))
            };
            value.push('\n');
            *value += line.trim();
            continue;
        }
        let Some(at) = line.find(['=', ':']) else {
            bail!(fault("neither a section nor `key=value`"))
        };
        // ` ;` begins a comment on a key's first line.
        let value = line[at + 1..].split(" ;").next().unwrap_or_default().trim();
        let key = line[..at].trim().to_lowercase();
        section.1.retain(|(k, _)| *k != key);
        section.1.push((key, value.to_owned()));
    }
    Ok(())
}

/// `%%` is `%`.
///
/// # Errors
/// A lone `%`: Python would interpolate.
pub fn interpolate(value: &str) -> Result<String> {
    let plain = value.replace("%%", "\0");
    if plain.contains('%') {
        bail!("`{value}`: a `%` is written `%%`");
    }
    Ok(plain.replace('\0', "%"))
}
