//! Numbers in names.

use std::ops::RangeInclusive;

/// A number in decimal digits.
pub(super) fn decimal(digits: &[u8]) -> Option<u32> {
    let add = |value: u32, digit: &u8| value.checked_mul(10)?.checked_add(char::from(*digit).to_digit(10)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// A number in as many hexadecimal digits, at most eight.
pub(super) fn hexadecimal(digits: &[u8], count: RangeInclusive<usize>) -> Option<u32> {
    let add = |value: u32, digit: &u8| Some(value << 4 | char::from(*digit).to_digit(16)?);
    if count.contains(&digits.len()) { digits.iter().try_fold(0, add) } else { None }
}

/// The number that a name begins with.
pub fn leading_number(name: &[u8]) -> Option<u32> {
    let end = name.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(name.len());
    decimal(&name[..end])
}
