//! Sizes on the command line.

/// A number of bytes, with or without a unit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => return Err(format!("unknown unit {other:?}; use B, KiB, MiB, GiB or TiB")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("invalid size {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn a_size_has_a_unit_or_is_in_bytes() {
        assert_eq!((parse_bytes("64MiB"), parse_bytes("67108864")), (Ok(64 << 20), Ok(64 << 20)));
        assert_eq!((parse_bytes("3 KiB"), parse_bytes("7B")), (Ok(3 << 10), Ok(7)));
    }
}
