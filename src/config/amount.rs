//! Sizes and processor shares of containers (D-CFG-83).

/// Docker refuses containers with less.
const LEAST_MEMORY: u64 = 6 << 20;

/// Bytes of `512m`, `1g`, `1.5g`, `64k` or a plain number of bytes; units are powers of 1024, as Docker counts them.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is not a size such as `512m` or `1g`");
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let scale: u128 = match unit {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(expected()),
    };
    let bytes = decimal(number, scale).ok_or_else(expected)?;
    let bytes = u64::try_from(bytes)
        .ok()
        .filter(|b| *b <= i64::MAX as u64)
        .ok_or_else(|| format!("`{text}` is too much"))?;
    if bytes < LEAST_MEMORY {
        return Err(format!(
            "`{text}` is less than the 6 MiB that the container engine demands"
        ));
    }
    Ok(bytes)
}

/// Billionths of a CPU of `0.5`, `2`.
pub(super) fn cpus(text: &str) -> Result<u64, String> {
    let nano = decimal(text, 1_000_000_000)
        .ok_or_else(|| format!("`{text}` is not a number of CPUs such as `0.5`"))?;
    match u64::try_from(nano) {
        Ok(nano) if nano >= 10_000_000 && nano <= i64::MAX as u64 => Ok(nano),
        _ => Err(format!(
            "`{text}` is outside of what a container can be given (at least 0.01)"
        )),
    }
}

/// A decimal number × `scale`, rounded down.
fn decimal(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let all_digits =
        |s: &str| !s.is_empty() && s.len() <= 15 && s.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let part = fraction.parse::<u128>().ok()? * scale / 10u128.pow(fraction.len() as u32);
    Some(whole.parse::<u128>().ok()? * scale + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_cfg_83_limits_are_read_as_docker_reads_them() {
        // D-CFG-83
        assert_eq!(memory("512m"), Ok(512 << 20));
        assert_eq!(memory("1g"), Ok(1 << 30));
        assert_eq!(memory("1.5GB"), Ok(3 << 29));
        assert_eq!(memory("8388608"), Ok(8 << 20));
        assert_eq!(cpus("0.5"), Ok(500_000_000));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        for bad in ["", "m", "1t", "-1g", "1,5g", "5m", "99999999999g", "1.g"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "half", "-1", "0.001", "1e3", "999999999999"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
