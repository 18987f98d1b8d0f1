//! Kubernetes quantities, as far as they are compared here.

use serde_json::Value;

/// The value of a Kubernetes quantity (apimachinery's `resource.Quantity`).
pub fn quantity(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_have_the_value_that_their_suffix_says() {
        let value = |text: &str| quantity(&json!(text));
        assert_eq!(value("1500m"), Some(1.5));
        assert_eq!(value("0.5Gi"), value("512Mi"));
        assert_eq!(value("2k"), Some(2_000.0));
        for none in ["", "m", "1x", "-1", "1e3", "1.2.3"] {
            assert_eq!(value(none), None, "{none}");
        }
        assert_eq!(quantity(&json!(1)), None);
    }
}
