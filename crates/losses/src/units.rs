//! Margins carry their unit.

use crate::{Error, Result};

/// An angle that knows its unit: `0.5` radians and `28.6` degrees are the same ArcFace margin, and a bare number
/// is the commonest way to get it wrong by a factor of 57.
///
/// In configuration files: `"28.6deg"` or `"0.5rad"`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Angle {
    radians: f64,
}

impl Angle {
    /// An angle in degrees.
    pub const fn degrees(degrees: f64) -> Self {
        Self { radians: degrees * (std::f64::consts::PI / 180.0) }
    }

    /// An angle in radians.
    pub const fn radians(radians: f64) -> Self {
        Self { radians }
    }

    /// The angle in radians.
    pub const fn as_radians(self) -> f64 {
        self.radians
    }

    /// The angle in degrees.
    pub const fn as_degrees(self) -> f64 {
        self.radians * (180.0 / std::f64::consts::PI)
    }

    /// For messages: whoever mistook the unit finds the number that was written.
    pub(crate) fn in_both(self) -> String {
        let short = |v: f64| (v * 1e4).round() / 1e4;
        format!("{}rad ({}deg)", short(self.radians), short(self.as_degrees()))
    }
}

impl std::fmt::Display for Angle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}rad", self.radians)
    }
}

impl std::str::FromStr for Angle {
    type Err = Error;

    /// `"28.6deg"` or `"0.5rad"`.
    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.trim().parse::<f64>().ok().filter(|v| v.is_finite());
        let angle = match (text.strip_suffix("deg"), text.strip_suffix("rad")) {
            (Some(digits), _) => number(digits).map(Self::degrees),
            (_, Some(digits)) => number(digits).map(Self::radians),
            _ => None,
        };
        angle.ok_or_else(|| Error::Option {
            option: "margin",
            value: text.to_owned(),
            reason: "an angle needs its unit: write \"28.6deg\" or \"0.5rad\"".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_need_their_unit_and_survive_printing() {
        for (text, radians) in
            [("28.6deg", 28.6f64.to_radians()), ("0.5rad", 0.5), ("180 deg", std::f64::consts::PI)]
        {
            let angle: Angle = text.parse().unwrap();
            assert!((angle.as_radians() - radians).abs() < 1e-12, "{text}");
            assert_eq!(angle.to_string().parse::<Angle>().unwrap(), angle);
        }
        for text in ["0.5", "deg", "x rad", "", "infrad"] {
            assert!(text.parse::<Angle>().is_err(), "{text}");
        }
    }
}
