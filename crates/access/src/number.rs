//! Numbers of claims as text.

use serde_json::Number;

/// The number as Go prints a `float64` with `%v`, which is the text that OpenTDF's platform
/// searches: shortest digits that round-trip, with an exponent of two digits or more where it is
/// less than -4 or at least 6.
pub(crate) fn go_text(number: &Number) -> String {
    number.as_f64().map_or_else(|| number.to_string(), go_float)
}

fn go_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let parts = scientific
        .split_once('e')
        .and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?)));
    match parts {
        Some((digits, exponent)) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => value.to_string(),
    }
}

/// The number as JSON has it; a whole one without a fraction, however it was sent.
pub(crate) fn json_text(number: &Number) -> String {
    /// From here on not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() < EXACT => {
            format!("{:.0}", value + 0.0)
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go 1.25 prints.
    const GO: [(&str, &str); 46] = [
        ("0", "0"),
        ("-0.0", "-0"),
        ("1", "1"),
        ("-1", "-1"),
        ("42", "42"),
        ("-42", "-42"),
        ("3.50", "3.5"),
        ("100", "100"),
        ("100000", "100000"),
        ("1e5", "100000"),
        ("-100000", "-100000"),
        ("123456", "123456"),
        ("99999.5", "99999.5"),
        ("999999", "999999"),
        ("999999.5", "999999.5"),
        ("1000000", "1e+06"),
        ("-1000000", "-1e+06"),
        ("1234567", "1.234567e+06"),
        ("1234567.89", "1.23456789e+06"),
        ("-1234567.89", "-1.23456789e+06"),
        ("20000000", "2e+07"),
        ("123456789", "1.23456789e+08"),
        ("4294967296", "4.294967296e+09"),
        ("9007199254740992", "9.007199254740992e+15"),
        ("9007199254740993", "9.007199254740992e+15"),
        ("9223372036854775807", "9.223372036854776e+18"),
        ("-9223372036854775808", "-9.223372036854776e+18"),
        ("18446744073709551615", "1.8446744073709552e+19"),
        ("1e20", "1e+20"),
        ("123456789012345680000", "1.2345678901234568e+20"),
        ("1e21", "1e+21"),
        ("1.5e21", "1.5e+21"),
        ("1e22", "1e+22"),
        ("1e100", "1e+100"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("0.1", "0.1"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("123456.789", "123456.789"),
        ("0.000123", "0.000123"),
        ("0.00012345678", "0.00012345678"),
        ("0.0001", "0.0001"),
        ("-0.0001", "-0.0001"),
        ("0.000099999", "9.9999e-05"),
        ("0.00001", "1e-05"),
        ("-1e-7", "-1e-07"),
        ("5e-324", "5e-324"),
    ];

    #[test]
    fn numbers_print_as_go_prints_them() {
        for (json, text) in GO {
            let number: Number = serde_json::from_str(json).unwrap();
            assert_eq!(go_text(&number), text, "{json}");
        }
    }

    #[test]
    fn whole_numbers_have_one_json_text() {
        for (json, text) in [
            ("42", "42"),
            ("42.0", "42"),
            ("4.2e1", "42"),
            ("-7.0", "-7"),
            ("-0.0", "0"),
            ("3.50", "3.5"),
            ("1000000", "1000000"),
            ("1e6", "1000000"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let number: Number = serde_json::from_str(json).unwrap();
            assert_eq!(json_text(&number), text, "{json}");
        }
    }
}
