//! Margins carry their unit.

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
}
