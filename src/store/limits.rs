//! What limits of a store may be.

use crate::error::ConfigError;

/// Most of anything. In memory slots have 32-bit numbers, and all of them could fall into one bucket; in Redis all are counted in 53
/// bits.
pub(super) const MOST: usize = 1 << 31;

/// # Errors
/// [`ConfigError::OutOfRange`] for the first that is zero, or above 2^31.
pub(super) fn check_limits(limits: &[(&'static str, usize)]) -> Result<(), ConfigError> {
    for (what, value) in limits {
        if *value == 0 || *value > MOST {
            return Err(ConfigError::OutOfRange {
                what,
                value: value.to_string(),
                allowed: "1 to 2^31",
            });
        }
    }
    Ok(())
}
