//! Sizes and durations as people write and read them.

pub(crate) mod duration;
pub(crate) mod size;

/// A number written with an optional fraction, as an exact ratio: `1.5` is 15 / 10. `None` for anything else.
fn decimal(text: &str) -> Option<(u128, u128)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || text.ends_with('.') || text.len() > 24
    {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let numerator = format!("{whole}{fraction}").parse().ok()?;
    Some((numerator, scale))
}

/// `text` times `unit`, if that is a whole number that fits.
fn scaled(text: &str, unit: u64) -> Option<u64> {
    let (numerator, scale) = decimal(text)?;
    let product = numerator.checked_mul(u128::from(unit))?;
    if product % scale != 0 {
        return None;
    }
    u64::try_from(product / scale).ok()
}

/// Splits `12 GiB` into `12` and `GiB`.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}
